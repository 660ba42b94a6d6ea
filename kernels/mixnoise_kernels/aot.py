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
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mixnoise_kernels import blocks, mix
from mixnoise_kernels.gradient import gradient_kernel
from mixnoise_kernels.loss import loss_kernel, weights_kernel
from mixnoise_kernels.normalize import normalize_backward_kernel, normalize_kernel
from mixnoise_kernels.rows import rows_kernel
from mixnoise_kernels.triangle import triangle_kernel
from mixnoise_kernels.views import views_kernel
from mixnoise_kernels.views_gradient import views_gradient_kernel

# Shared memory of one program: CUDA C++ Programming Guide, compute capabilities.
CHIPS = {
    80: blocks.Chip(8, 163 * 1024, 108),
    90: blocks.Chip(9, 227 * 1024, 132),
    100: blocks.Chip(10, 227 * 1024, 148),
}
ROW_LENGTHS = (64, 128, 256, 512)
_ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
_TENSOR_CORE = re.compile(r"(HGMMA|HMMA|UTC\w*MMA)")
_BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

KERNELS = {
    "normalize": normalize_kernel,
    "triangle": triangle_kernel,
    "rows": rows_kernel,
    "loss": loss_kernel,
    "weights": weights_kernel,
    "gradient": gradient_kernel,
    "normalize_backward": normalize_backward_kernel,
    "views": views_kernel,
    "views_gradient": views_gradient_kernel,
}
# Pointers to the input's dtype; others are to float32, but for these.
_INPUTS = {"z1_ptr", "z2_ptr", "dz1_ptr", "dz2_ptr", "unit_ptr", "own_ptr"}
_INPUTS |= {"x_ptr", "views_ptr", "dx_ptr"}
_POINTERS = {
    "seed_ptr": "i64",
    "partner_ptr": "i64",
    "kind_ptr": "u8",
    "order_ptr": "i64",
    "start_ptr": "i64",
    "share_ptr": "fp64",
}
# Multiples of 16 as a rule, of which the compiler is told when a kernel is launched.
_EVEN = {"d", "n_padded", "own_padded", "stride1", "stride2", "n_columns", "row_stride"}
_EVEN |= {"view_stride", "out_row_stride", "grad_view_stride", "grad_row_stride"}
# What may be 1, which the compiler then takes for a constant.
_MAY_BE_ONE = {"d", "stride1", "stride2", "grad_stride", "n_columns", "row_stride", "view_stride"}
_MAY_BE_ONE |= {"out_row_stride", "grad_view_stride", "grad_row_stride"}


@dataclass(frozen=True)
class Case:
    """A kernel with everything its compilation depends on."""

    kernel: str
    arch: int
    dtype: str
    config: dict[str, Any]
    # What a thread block has of the main loop's products, or of elements of a batch.
    elements: int
    # Whether sizes are 1 that may be, and the temperature a tensor.
    is_tiny: bool = False


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
    # Of the main loop of kernels over pairs of rows; an element is one product.
    loop_instructions: int | None
    loop_spills: int | None
    exponentials_per_element: float | None
    instructions_per_element: float


def row_lengths(dtype: str) -> tuple[int, ...]:
    """Half types have blocks for each; float32 has one choice of blocks, whatever the length."""
    return ROW_LENGTHS[1::2] if dtype == "fp32" else ROW_LENGTHS


def cases(arches: tuple[int, ...], dtypes: tuple[str, ...]) -> Iterator[Case]:
    for arch in arches:
        for dtype in dtypes:
            for d in row_lengths(dtype):
                yield from _loss_cases(arch, dtype, d)
            for function in (-1, *range(len(mix.FUNCTIONS))):
                yield from _mix_cases(arch, dtype, function)
    for case in (*_loss_cases(90, "bf16", 64), *_mix_cases(90, "bf16", -1)):
        tensor = {"FROM_TENSOR": True} if "FROM_TENSOR" in case.config else {}
        yield replace(case, config=case.config | tensor, is_tiny=True)


def _loss_cases(arch: int, dtype: str, d: int) -> Iterator[Case]:
    size, chip = _ELEMENT_BYTES[dtype], CHIPS[arch]
    number = {"FROM_TENSOR": False}

    def case(kernel: str, elements: int, *parts: dict[str, Any]) -> Case:
        return Case(
            kernel, arch, dtype, {k: v for part in parts for k, v in part.items()}, elements
        )

    rows = blocks.rows_at_a_time(d)
    each = {"BLOCK_ROWS": rows, "BLOCK_D": d}
    yield case("normalize", rows * d, each, number, {"TINY": 1e-38, "ROUND_TO": ""})
    yield case("normalize_backward", rows * d, each, {"PARTS": 2})
    yield case("loss", 32 * d, number, {"BLOCK_ROWS": 32, "BLOCK_SUMS": 16}, _row(d, min(d, 64)))
    if d == row_lengths(dtype)[0]:  # rows do not matter to it
        yield case("weights", 128, number, {"BLOCK_ROWS": 128, "WEIGHT_SCALE": 1.0})

    products = {"PRECISION": "tf32x3" if dtype == "fp32" else "ieee"}
    t = blocks.triangle(size, d, chip)
    square = {"WARPS": min(t.warps, t.rows // 16), "BLOCK": t.rows}
    yield case("triangle", t.rows**2, products, number, square, _tile(t, d))
    for kernel in ("rows", "gradient"):
        for running in (False, True):
            r = blocks.rows(size, d, running, chip)
            tile = {"RUNNING": running, "BLOCK": r.rows, "BLOCK_COLUMNS": r.columns}
            out = {"BLOCK_OUT": r.out, "PARTS": 2} if kernel == "gradient" else {}
            yield case(kernel, r.rows * r.columns, products, number, tile, out, _tile(r, d))


def _row(d: int, k: int) -> dict[str, Any]:
    return {"BLOCK_D": d, "BLOCK_K": k}


def _tile(chosen: blocks.Blocks, d: int) -> dict[str, Any]:
    return _row(d, chosen.k) | {"STAGES": chosen.stages, "num_warps": chosen.warps}


def _mix_cases(arch: int, dtype: str, function: int) -> Iterator[Case]:
    block = mix.block_of(1024)
    rows, warps = mix.rows_and_warps(block, function < 0)
    common = {"FUNCTION": function, "WIDE": tl.float32, "BLOCK": block}
    views = {"VIEWS": 2, "APPROXIMATE": dtype != "fp32", "BLOCK_ROWS": rows, "num_warps": warps}
    gradient: dict[str, Any] = {"LARGEST": 3e38, "num_warps": 1}
    contiguous = {"column_stride": 1}
    for low in ("", "columns") if function in (-1, 1) else ("",):
        config = common | contiguous | {"LOW": low}
        out = views | {"out_column_stride": 1}
        yield Case("views", arch, dtype, config | out, 4 * rows * block)
        out = gradient | {"grad_column_stride": 1}
        yield Case("views_gradient", arch, dtype, config | out, block)


def compiler() -> dict[str, str]:
    """What decides the machine code: Triton, and the kernels' sources."""
    sources = sorted(p for p in Path(__file__).parent.glob("*.py") if p.name != "aot.py")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return {"triton": triton.__version__, "sources": digest}


def compile_case(case: Case) -> Report:
    kernel = KERNELS[case.kernel]
    constants = {k: v for k, v in case.config.items() if k != "num_warps"}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[object]]] = {}
    for i, name in enumerate(kernel.arg_names):
        if case.is_tiny and name in _MAY_BE_ONE:
            constants[name] = 1
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = "*" + _element(case, name)
        else:
            signature[name] = "fp32" if name == "temperature" else "i32"
        if name.endswith("_ptr") or (name in _EVEN and name not in constants):
            attributes[(i,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", case.arch, 32),
        options={"num_warps": _warps(case)},
    )
    return _read(case, compiled)


def _element(case: Case, pointer: str) -> str:
    if pointer in _INPUTS or (pointer == "grad_ptr" and case.kernel == "views_gradient"):
        return case.dtype
    if pointer == "log2_l_ptr" and case.kernel != "gradient":
        return "fp64"
    return _POINTERS.get(pointer, "fp32")


def _warps(case: Case) -> int:
    return int(case.config.get("num_warps", 4))


def _read(case: Case, compiled: Any) -> Report:
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
    per_element = 32 * _warps(case) / case.elements
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
    parser.add_argument("--dtype", nargs="+", default=["bf16", "fp32"], choices=_ELEMENT_BYTES)
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
        reports = list(pool.map(compile_case, chosen))
    lines = "[\n" + ",\n".join(json.dumps(asdict(report)) for report in reports) + "\n]"
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
