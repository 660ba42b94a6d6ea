"""Machine code without a GPU: ``python -m mixnoise_kernels.aot [--json]``.

Compiles every kernel for several architectures and reads registers, spills, shared memory and
instructions off the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
import triton.language as tl

from mixnoise_kernels import mix
from mixnoise_kernels.aot_cases import (
    CHIPS,
    DTYPES,
    KERNELS,
    ROW_LENGTHS,
    Case,
    cases,
    compile_case,
)

_TENSOR_CORE = re.compile(r"(HGMMA|HMMA|UTC\w*MMA)")
_WRITTEN = re.compile(r"tt\.(?:store|atomic_rmw) .*?ptr<\w+>, (#[\w.]+(?:<\{.*?\}>)?)>")
_BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Report:
    kernel: str
    arch: int
    dtype: str
    config: dict[str, Any]
    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: int
    tensor_core_instructions: dict[str, int]
    memory_instructions: dict[str, int]
    # Of stores and atomic additions: if it is one, what is written twice is so by one thread.
    layouts_written: int
    # Of the main loop of kernels over pairs of rows; an element is one product.
    loop_instructions: int | None
    loop_spills: int | None
    exponentials_per_element: float | None
    instructions_per_element: float


def compiler() -> dict[str, str]:
    """What decides the machine code: Triton, the kernels' sources, and what is compiled of them."""
    sources = sorted(p for p in Path(__file__).parent.glob("*.py") if p.name != "aot.py")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return {"triton": triton.__version__, "sources": digest}


def report(case: Case) -> Report:
    compiled = compile_case(case)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _run("cuobjdump", "--dump-resource-usage", str(cubin))
        instructions, targets = _disassemble(_run("nvdisasm", "-c", str(cubin)))
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found
    operations = [_operation(i) for i in instructions]
    loop = _main_loop(operations, instructions, targets)
    body = operations if loop is None else loop
    per_element = 32 * case.warps / case.elements
    exponentials = sum(name.startswith("MUFU.EX2") for name in body)
    return Report(
        kernel=case.kernel,
        arch=case.arch,
        dtype=case.dtype,
        config={k: str(v) if isinstance(v, tl.dtype) else v for k, v in case.config.items()}
        | ({"is_tiny": True} if case.is_tiny else {}),
        registers=int(found[1]),
        spill_bytes=int(found[2]),
        shared_bytes=compiled.metadata.shared,
        instructions=len(instructions),
        tensor_core_instructions=_counts(m[1] for o in operations if (m := _TENSOR_CORE.search(o))),
        memory_instructions=_counts(o for o in operations if o.startswith(("LDG.", "STG."))),
        layouts_written=len(set(_WRITTEN.findall(compiled.asm["ttgir"]))),
        loop_instructions=None if loop is None else len(loop),
        loop_spills=None if loop is None else sum(o.startswith(("STL", "LDL")) for o in loop),
        exponentials_per_element=None if loop is None else exponentials * per_element,
        instructions_per_element=len(body) * per_element,
    )


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names))


def _run(binary: str, *arguments: str) -> str:
    command = [str(_BINARIES / binary), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _disassemble(listing: str) -> tuple[list[str], dict[str, int]]:
    """Instructions, and the index that each label stands before."""
    instructions: list[str] = []
    targets: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            targets[label[1]] = len(instructions)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            instructions.append(instruction[1])
    return instructions, targets


def _operation(instruction: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", instruction).split()[0]


def _main_loop(
    operations: list[str], instructions: list[str], targets: dict[str, int]
) -> list[str] | None:
    """The shortest loop with products and exponentials: masks make the other one longer."""
    loops = []
    for end, instruction in enumerate(instructions):
        label = re.search(r"BRA.*(\.L_x_\d+)", instruction)
        if label and targets[label[1]] <= end:
            body = operations[targets[label[1]] : end + 1]
            if any(_TENSOR_CORE.search(o) for o in body) and "MUFU.EX2" in body:
                loops.append(body)
    return min(loops, key=len, default=None)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mixnoise_kernels.aot", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a list of objects, one a compilation")
    parser.add_argument("--save", type=Path, help="a file for them and what they depend on")
    parser.add_argument("--arch", type=int, nargs="+", default=list(CHIPS))
    parser.add_argument("--dtype", nargs="+", default=["bf16", "fp32", "bf16x3"], choices=DTYPES)
    parser.add_argument("--kernel", nargs="+", default=list(KERNELS), choices=KERNELS)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROW_LENGTHS))
    options = parser.parse_args()
    chosen = [
        case
        for case in cases(tuple(options.arch), tuple(options.dtype))
        if case.kernel in options.kernel
        and case.config.get("BLOCK_D", options.rows[0]) in options.rows
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(report, chosen))
    lines = "[\n" + ",\n".join(json.dumps(asdict(each)) for each in reports) + "\n]"
    if options.save:
        options.save.write_text(f'{{"compiler": {json.dumps(compiler())}, "reports": {lines}}}\n')
    elif options.json:
        print(lines)
    else:
        _print_table(reports)
    return 0


def _print_table(reports: list[Report]) -> None:
    print(
        "kernel              arch dtype    D     tile warps registers, spills (in the loop), "
        "shared memory, tensor cores, instructions and exponentials per element"
    )
    for r in reports:
        c = r.config
        name = r.kernel + (" running" if c.get("RUNNING") else "")
        if "FUNCTION" in c:
            name += " " + ("each" if c["FUNCTION"] < 0 else mix.FUNCTIONS[c["FUNCTION"]])
        tile = f"{c['BLOCK']}x{c.get('BLOCK_COLUMNS', c['BLOCK'])}" if r.loop_instructions else ""
        where = f"{name:<24} {r.arch:>3} {r.dtype:>4} {c.get('BLOCK_D', ''):>4} {tile:>8}"
        usage = f"{c.get('num_warps', 4):>2} {r.registers:>4} {r.spill_bytes:>4}"
        cores = " ".join(f"{n} {name}" for name, n in r.tensor_core_instructions.items())
        work = f"{cores:<13} {r.instructions_per_element:>7.2f}"
        exponentials = f"{r.exponentials_per_element:.2f}" if r.loop_instructions else ""
        print(where, usage, f"({r.loop_spills or 0}) {r.shared_bytes:>7}", work, exponentials)


if __name__ == "__main__":
    sys.exit(main())
