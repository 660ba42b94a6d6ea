"""What aot.py compiles: every kernel with everything that its machine code depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mixnoise_kernels import blocks, mix
from mixnoise_kernels.gradient import gradient_kernel
from mixnoise_kernels.loss import loss_kernel, weights_kernel
from mixnoise_kernels.normalize import normalize_backward_kernel, normalize_kernel
from mixnoise_kernels.partners import draw_kinds_kernel, draw_rows_kernel
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
# Rows of float32 are multiplied in three terms of bfloat16; as "bf16x3" in two.
DTYPES = ("bf16", "fp16", "fp32", "bf16x3")
_OPERANDS = {"fp32": "bf16x6", "bf16x3": "bf16x3"}
_TERMS = {"fp32": 3, "bf16x3": 2}

KERNELS = {
    "normalize": normalize_kernel,
    "triangle": triangle_kernel,
    "rows": rows_kernel,
    "loss": loss_kernel,
    "weights": weights_kernel,
    "gradient": gradient_kernel,
    "normalize_backward": normalize_backward_kernel,
    "draw_rows": draw_rows_kernel,
    "draw_kinds": draw_kinds_kernel,
    "views": views_kernel,
    "views_gradient": views_gradient_kernel,
}
# Pointers to the input's dtype; others are to float32, but for these.
_INPUTS = {"z1_ptr", "z2_ptr", "dz1_ptr", "dz2_ptr", "x_ptr", "views_ptr", "dx_ptr"}
_UNIT_ROWS = {"unit_ptr", "own_ptr"}
_NUMBERS = {"temperature", "width", "least"}
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

    @property
    def warps(self) -> int:
        return int(self.config.get("num_warps", 4))


def cases(arches: tuple[int, ...], dtypes: tuple[str, ...]) -> Iterator[Case]:
    for arch in arches:
        for dtype in dtypes:
            for d in ROW_LENGTHS:
                yield from _loss_cases(arch, dtype, d)
            if dtype == "bf16x3":  # mixing has no products
                continue
            for function in (-1, *range(len(mix.FUNCTIONS))):
                yield from _mix_cases(arch, dtype, function)
        yield from _draw_cases(arch)
    for case in (*_loss_cases(90, "bf16", 64), *_mix_cases(90, "bf16", -1)):
        tensor = {"FROM_TENSOR": True} if "FROM_TENSOR" in case.config else {}
        yield replace(case, config=case.config | tensor, is_tiny=True)


def _loss_cases(arch: int, dtype: str, d: int) -> Iterator[Case]:
    terms, operands, chip = _TERMS.get(dtype, 1), _OPERANDS.get(dtype, "half"), CHIPS[arch]
    number = {"FROM_TENSOR": False}

    def case(kernel: str, elements: int, *parts: dict[str, Any]) -> Case:
        return Case(
            kernel, arch, dtype, {k: v for part in parts for k, v in part.items()}, elements
        )

    rows = blocks.rows_at_a_time(d)
    each = {"BLOCK_ROWS": rows, "BLOCK_D": d, "TERMS": terms}
    yield case("normalize", rows * d, each, number, {"TINY": 1e-38, "ROUND": False})
    yield case("normalize_backward", rows * d, each, {"PARTS": 2})
    some = {"BLOCK_ROWS": 32, "BLOCK_SUMS": 16}
    yield case("loss", 32 * d, number, some, _row(d, min(d, 64), terms))
    if d == ROW_LENGTHS[0]:  # rows do not matter to it
        yield case("weights", 128, number, {"BLOCK_ROWS": 128, "WEIGHT_SCALE": 1.0})

    t = blocks.triangle(operands, d, chip)
    square = {"WARPS": min(t.warps, t.rows // 16), "BLOCK": t.rows}
    yield case("triangle", t.rows**2, number, square, _tile(t, d, terms))
    for kernel in ("rows", "gradient"):
        for running in (False, True):
            r = blocks.rows(operands, d, running, chip)
            tile = {"RUNNING": running, "BLOCK": r.rows, "BLOCK_COLUMNS": r.columns}
            out = {"BLOCK_OUT": r.out, "PARTS": 2} if kernel == "gradient" else {}
            yield case(kernel, r.rows * r.columns, number, tile, out, _tile(r, d, terms))


def _row(d: int, k: int, terms: int) -> dict[str, Any]:
    return {"BLOCK_D": d, "BLOCK_K": k, "TERMS": terms}


def _tile(chosen: blocks.Blocks, d: int, terms: int) -> dict[str, Any]:
    return _row(d, chosen.k, terms) | {"STAGES": chosen.stages, "num_warps": chosen.warps}


def _mix_cases(arch: int, dtype: str, function: int) -> Iterator[Case]:
    block = mix.block_of(1024)
    rows, warps = mix.rows_and_warps(block, 4 if dtype == "fp32" else 2, function < 0)
    common = {"FUNCTION": function, "WIDE": tl.float32, "BLOCK": block}
    views = {"VIEWS": 2, "APPROXIMATE": dtype != "fp32", "BLOCK_ROWS": rows, "num_warps": warps}
    gradient: dict[str, Any] = {"LARGEST": 3e38, "num_warps": 1}
    contiguous = {"column_stride": 1}
    for low in ("", "columns") if function in (-1, 1) else ("",):
        config = common | contiguous | {"LOW": low}
        out = views | {"out_column_stride": 1}
        yield Case("views", arch, dtype, config | out, 4 * rows * block)
        if function < mix.FUNCTIONS.index("gaussian"):
            out = gradient | {"grad_column_stride": 1}
            yield Case("views_gradient", arch, dtype, config | out, block)


def _draw_cases(arch: int) -> Iterator[Case]:
    """They touch no data, so no dtype matters."""
    drawing = {"PER_BATCH": False, "BLOCK": 256}
    yield Case("draw_rows", arch, "", drawing | {"enable_fp_fusion": False}, 256)
    yield Case("draw_kinds", arch, "", drawing, 256)


def compile_case(case: Case) -> Any:
    """What Triton makes of it: ``asm`` and ``metadata``."""
    kernel = KERNELS[case.kernel]
    options = {k: v for k, v in case.config.items() if k in ("num_warps", "enable_fp_fusion")}
    constants = {k: v for k, v in case.config.items() if k not in options}
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
            signature[name] = "fp32" if name in _NUMBERS else "i32"
        if name.endswith("_ptr") or (name in _EVEN and name not in constants):
            attributes[(i,)] = [["tt.divisibility", 16]]
    return triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", case.arch, 32),
        options=options,
    )


def _element(case: Case, pointer: str) -> str:
    if pointer in _UNIT_ROWS and case.config["TERMS"] > 1:
        return "bf16"
    if pointer in _INPUTS | _UNIT_ROWS or (
        pointer == "grad_ptr" and case.kernel == "views_gradient"
    ):
        return "fp32" if case.dtype == "bf16x3" else case.dtype
    if pointer == "log2_l_ptr" and case.kernel != "gradient":
        return "fp64"
    return _POINTERS.get(pointer, "fp32")
