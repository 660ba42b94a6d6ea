"""All views of a batch by the kernels, and their gradient: the launches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mixnoise_kernels.device import INTERPRETED
from mixnoise_kernels.launch import launch
from mixnoise_kernels.views import views_kernel
from mixnoise_kernels.views_gradient import views_gradient_kernel

# In the order of their codes.
FUNCTIONS = ("linear", "geometric", "binary", "gaussian")
_VIEWS_AT_A_TIME = 2
_INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _quarter(n_columns: int) -> int:
    return -(-n_columns // 32) * 8


def block_of(n_columns: int) -> int:
    """Positions of each quarter that a program has at most."""
    return min(256, 1 << (_quarter(n_columns) - 1).bit_length())


def rows_and_warps(block: int, element_bytes: int, function_of_each_row: bool) -> tuple[int, int]:
    """Those of a program: one row where each may have a function of its own, else some positions.

    A thread has 16 bytes of each quarter: what is loaded and stored at once.
    """
    some = 1024 if element_bytes <= 2 else 256
    rows = 1 if function_of_each_row else some // block
    return rows, max(1, rows * block * element_bytes // 512)


def mix(
    x: Tensor,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> Tensor:
    """Views ``(V, N, F)`` of x ``(N, F)``; low is None, 0-d or ``(F,)``.

    A partner or kind that does not exist gives NaN (or zeros, where bits are selected), a share
    beyond [0, 1] what it gives; on the CPU an error: on a GPU, looking would wait for it.
    """
    if x.is_cpu:
        _check("partner", "a row in", partner, x.shape[0] - 1)
        if kind is not None:
            _check("kind", "in", kind, len(FUNCTIONS) - 1)
        _check_shares(coef, kind, function)
    views = x.new_empty(partner.shape[0], *x.shape)
    if kind is None and function == "binary":
        # A swap of bits, whatever they mean.
        integer = _INTEGER_OF_SIZE[x.element_size()]
        _launch(x.view(integer), views.view(integer), seed, partner, coef, kind, low, function)
        return views
    _launch(x, views, seed, partner, coef, kind, low, function)
    return views


def _check(name: str, rule: str, values: Tensor, largest: int) -> None:
    if values.numel():
        ends = [int(value) for value in values.aminmax()]
        wrong = ends[0] if ends[0] < 0 else ends[1]
        if wrong < 0 or wrong > largest:
            raise ValueError(f"draw.{name} must be {rule} 0..{largest}, got {wrong}")


def _check_shares(coef: Tensor, kind: Tensor | None, function: str) -> None:
    """Raise if a share is beyond [0, 1]; the coef of Gaussian rows is a standard deviation."""
    if kind is not None:
        coef = coef.masked_fill(kind == FUNCTIONS.index("gaussian"), 1)
    elif function == "gaussian":
        return
    if coef.numel():
        low, high = (float(value) for value in coef.aminmax())  # NaN if there is one
        if not (low >= 0 and high <= 1):
            raise ValueError(f"draw.coef must be in [0, 1], got {high if low >= 0 else low}")


def _launch(
    x: Tensor,
    views: Tensor,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> None:
    n_views, n_rows, n_columns = views.shape
    if views.numel() == 0:
        return
    block = block_of(n_columns)
    rows, warps = rows_and_warps(block, x.element_size(), kind is not None)
    at_a_time = min(n_views, _VIEWS_AT_A_TIME)
    grid = (
        triton.cdiv(n_rows, rows),
        triton.cdiv(_quarter(n_columns), block),
        triton.cdiv(n_views, at_a_time),
    )
    launch(
        views_kernel,
        grid,
        x,
        views,
        n_rows=n_rows,
        n_columns=n_columns,
        n_views=n_views,
        row_stride=x.stride(0),
        column_stride=x.stride(1),
        view_stride=views.stride(0),
        out_row_stride=views.stride(1),
        out_column_stride=views.stride(2),
        **_draw_arguments(x, seed, partner, coef, kind, low, function),
        VIEWS=at_a_time,
        APPROXIMATE=x.element_size() == 2 and not INTERPRETED,
        BLOCK_ROWS=rows,
        BLOCK=block,
        num_warps=warps,
    )


def _draw_arguments(
    x: Tensor,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> dict[str, object]:
    """What both kernels take of a draw, and of x's dtype."""
    return {
        "seed_ptr": seed,
        "partner_ptr": partner.contiguous(),
        "coef_ptr": coef.contiguous(),
        # A pointer has to be given in any case.
        "kind_ptr": seed if kind is None else kind.contiguous(),
        "low_ptr": seed if low is None else low.contiguous(),
        "FUNCTION": FUNCTIONS.index(function) if kind is None else -1,
        "LOW": "" if low is None else "columns" if low.ndim else "number",
        "WIDE": tl.float64 if x.dtype == torch.float64 else tl.float32,
    }


def mix_backward(
    grad: Tensor,
    x: Tensor | None,
    seed: Tensor,
    partner: Tensor,
    coef: Tensor,
    kind: Tensor | None,
    low: Tensor | None,
    function: str,
) -> Tensor:
    """Gradient of x ``(N, F)``, which only geometric mixing needs, from that of the views."""
    n_views, n_rows, n_columns = grad.shape
    dx = grad.new_empty(n_rows, n_columns)
    if dx.numel() == 0:
        return dx
    if x is None:
        x = dx  # a pointer has to be given in any case
    drawn, order = partner.flatten().sort(stable=True)
    start = torch.searchsorted(drawn, torch.arange(n_rows + 1, device=grad.device))
    block = block_of(n_columns)
    launch(
        views_gradient_kernel,
        (n_rows, triton.cdiv(_quarter(n_columns), block), 4),
        grad,
        x,
        dx,
        order_ptr=order,
        start_ptr=start,
        n_rows=n_rows,
        n_columns=n_columns,
        n_views=n_views,
        grad_view_stride=grad.stride(0),
        grad_row_stride=grad.stride(1),
        grad_column_stride=grad.stride(2),
        row_stride=x.stride(0),
        column_stride=x.stride(1),
        **_draw_arguments(x, seed, partner, coef, kind, low, function),
        LARGEST=torch.finfo(x.dtype).max,
        BLOCK=block,
        num_warps=1,
    )
    return dx
