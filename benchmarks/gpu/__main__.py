"""NT-Xent and mixing on an NVIDIA GPU, checked and timed: ``python -m benchmarks.gpu``.

Needs PyTorch and Triton alone; where mixnoise is not installed, ``PYTHONPATH=kernels`` finds the
kernels, and where there is no git, MIXNOISE_COMMIT names the commit. The results are written after
every case; ``--resume`` keeps those of the file that passed, if kernels and GPU are the same.
``--sweep`` times other block sizes instead. ``TRITON_INTERPRET=1 python -m
benchmarks.gpu --smoke --output FILE`` tries all of it on a CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mixnoise_kernels.aot import compiler

from benchmarks.gpu import compile_ahead
from benchmarks.gpu.bench import Bench, run_case
from benchmarks.gpu.cases import matching, one_of_each_kind
from benchmarks.gpu.report import best_of_sweep, summary
from benchmarks.gpu.timing import release_memory, synchronize
from benchmarks.machine import describe
from mixnoise.atomic import replacing

_OF_A_SWEEP = 37  # one in so many is tried on a CPU
RESULTS = Path(__file__).parent.parent / "results"


def short_name(device: str) -> str:
    """ "h100" of "NVIDIA H100 80GB HBM3": the first word with a digit in it."""
    words = re.split(r"[ -]", device.lower())
    return next((word for word in words if re.search(r"\d", word)), words[-1])


def write(result: dict[str, Any], output: Path) -> None:
    """A run that is cut off leaves a whole file."""
    with replacing(output) as part:
        part.write_text(json.dumps(result, indent=1) + "\n")


def is_lost(bench: Bench) -> bool:
    """After an illegal access the driver refuses everything that this process asks for."""
    try:
        release_memory(bench.device)
        synchronize(bench.device)
    except RuntimeError:
        return True
    return False


def kept(result: dict[str, Any], output: Path) -> dict[str, dict[str, Any]]:
    """Cases by name that passed with these kernels on such a GPU, and with what commit."""
    if not output.exists():
        return {}
    found = json.loads(output.read_text())
    same = found.get("kernels") == result["kernels"]
    if not same or found["machine"].get("gpu") != result["machine"].get("gpu"):
        return {}
    commit = {"commit": found["machine"]["commit"]}
    return {case["name"]: commit | case for case in found["cases"] if case["status"] == "passed"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "--output", type=Path, help="default: benchmarks/results/gpu-[sweep-]<device>.json"
    )
    parser.add_argument("--minutes", type=float, default=7.5, help="no case is begun after them")
    parser.add_argument(
        "-k", default="", help="a regular expression: only cases with it in the name"
    )
    parser.add_argument("--sweep", action="store_true", help="block sizes, and nothing else")
    parser.add_argument("--resume", action="store_true", help="keep what passed before")
    parser.add_argument("--smoke", action="store_true", help="tiny problems on a CPU")
    options = parser.parse_args()
    if options.smoke and (options.output is None or os.environ.get("TRITON_INTERPRET") != "1"):
        parser.error("--smoke needs --output and TRITON_INTERPRET=1 in the environment")
    if not options.smoke and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --smoke tries the cases on a CPU")
    if options.output is None:
        sweep = "sweep-" if options.sweep else ""
        options.output = RESULTS / f"gpu-{sweep}{short_name(torch.cuda.get_device_name())}.json"
    return options


def main() -> int:
    options, started = parse(), time.monotonic()
    bench = Bench(smoke=options.smoke, minutes=options.minutes)
    result: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.gpu", *sys.argv[1:]]),
        "machine": describe(),
        "kernels": compiler(),
        "cases": [],
    }
    cases = matching(options.k, is_sweep=options.sweep)
    if bench.smoke:
        cases = cases[::_OF_A_SWEEP] if options.sweep else one_of_each_kind(cases)
    done = kept(result, options.output) if options.resume else {}
    if not bench.smoke:
        missing = [case.name for case in cases if case.name not in done]
        compile_ahead.start(missing, is_sweep=options.sweep)
        result["seconds_of_compilation"] = time.monotonic() - started
    for case in cases:
        found = done.get(case.name) or run_case(bench, case)
        result["cases"].append(found)
        result["seconds"] = time.monotonic() - started
        write(result, options.output)
        print(f"{found['status']:8} {case.name}", flush=True)
        if found["status"] == "error" and is_lost(bench):
            bench.device_is_lost = True
    if options.sweep:
        print(best_of_sweep(result))
        return 0
    print(summary(result))
    return int(any(case["status"] in ("failed", "error") for case in result["cases"]))


if __name__ == "__main__":
    sys.exit(main())
