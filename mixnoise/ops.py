"""The operations that have backends: argument checks and the choice, nothing else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mixnoise._torch import operators as torch_operators
from mixnoise._torch.dtypes import compute_dtype
from mixnoise.backends import BACKENDS, kernels_for
from mixnoise.checks import check_batch, check_choice, check_float_tensor
from mixnoise.collectives import resolve
from mixnoise.draw import FUNCTIONS, Draw
from mixnoise.loss_arguments import check_nt_xent, check_torch_precision


def nt_xent(
    z1: Tensor,
    z2: Tensor,
    temperature: float | Tensor = 0.5,
    reduction: str = "mean",
    precision: str = "auto",
    group: object = None,
    backend: str = "auto",
) -> Tensor:
    r"""NT-Xent (normalised temperature-scaled cross entropy) between two views of a batch.

    With M = 2N rows, s_ij the cosine similarity over the temperature and p(i) row i's positive:

    .. math:: \ell_i = -\log \frac{\exp(s_{i p(i)})}{\sum_{k \ne i} \exp(s_{ik})}

    Memory is linear in N; forward and backward are deterministic. A row of zeros (norm below the
    smallest normal number of its dtype) has similarity 0 to everything and gradient 0. NaN or inf
    in the input gives NaN. Second derivatives and forward mode are not defined and raise.

    Args:
        z1: projections of the first view, ``(N, D)``, float16, bfloat16, float32 or float64, not
            yet normalised. N = 1 gives 0.
        z2: projections of the second view, same shape, dtype and device.
        temperature: a number > 0, or a 0-d tensor on the same device, which may need a gradient.
            A tensor is never read on the host: if it is not > 0 the loss is NaN. Of float32 rows,
            gradients may be NaN below about 1e-9, the loss may be inf below about 1e-35, and from
            1e-39 down it is NaN.
        reduction: "mean" over the 2N rows, "sum", or "none".
        precision: of the products of float32 rows. "auto" follows
            ``torch.get_float32_matmul_precision()``: "highest" is "bf16x6" in Triton, as exact as
            float32's own products (rows in three terms of bfloat16, the six products of these that
            count), anything else "bf16x3" (two terms, three products: 2^-16, where TF32 has 2^-11).
            "ieee" demands float32 products, the slowest. In Triton, half types are multiplied as
            they are: unit rows are rounded to them. The PyTorch backend computes half types in
            float32, with products as ``torch.get_float32_matmul_precision()`` allows.
        group: a process group, or "world" for all processes, to take negatives from all of its
            ranks, whose numbers of rows may differ. The loss is that of this rank's rows; its
            gradient is that of the sum of all ranks' losses. "mean" is the sum over this rank's
            rows times the number of ranks over the number of all rows, so that the mean over
            ranks, which ``DistributedDataParallel`` takes of gradients, is that of one process with
            all rows. All ranks must call it, and its backward, with the same settings. None, or a
            group of one: the rows given are all.
        backend: "auto" (Triton for CUDA tensors where it can: not for float64, nor D > 1024, nor
            below compute capability 8.0), "torch" or "triton".

    Returns:
        Loss in float32 (float64 for float64 input): 0-d, or ``(2N,)`` for "none", the rows of z1
        first.

    Raises:
        ValueError, TypeError: an argument breaks its rule.
        RuntimeError: the backend asked for cannot run here, or another rank failed.

    Example:
        >>> import torch
        >>> from mixnoise import nt_xent
        >>> z = torch.eye(4)
        >>> nt_xent(z, z, temperature=0.5)  # log(1 + 6 exp(-2))
        tensor(0.5944)

    Source: Chen et al., SimCLR, arXiv 2002.05709; lines 16 to 21 of Algorithm 1 in
    arXiv 2011.04419.
    """
    group = resolve(group)
    if group is not None:
        # Not at the top: its decorator imports PyTorch's compiler, and that Triton.
        from mixnoise.group_loss import nt_xent_over_group

        over_group: Tensor = nt_xent_over_group(
            z1, z2, temperature, reduction, precision, backend, group
        )
        return over_group
    tensor, number = check_nt_xent(z1, z2, temperature, reduction, precision, backend)
    for each in (z1, z2) if tensor is None else (z1, z2, tensor):
        _check_reverse_mode("nt_xent", each)
    rows: Tensor
    if kernels := kernels_for("nt_xent", backend, z1):
        rows, *_ = kernels.nt_xent_rows(z1, z2, tensor, number, precision)
    else:
        check_torch_precision(precision, z1.device)
        keep = torch.is_grad_enabled() and (z1.requires_grad or z2.requires_grad)
        rows, *_ = torch_operators.nt_xent_rows(z1, z2, tensor, number, keep)
    return rows.mean() if reduction == "mean" else rows.sum() if reduction == "sum" else rows


def draw_rows(
    seed: Tensor, views: int, n_rows: int, alpha: float, per_batch: bool
) -> tuple[Tensor, Tensor]:
    """Partners, int64, and coefficients, float32 in (alpha, 1], each ``(views, n_rows)``."""
    operators = kernels_for("draw", "auto", seed) or torch_operators
    drawn: tuple[Tensor, Tensor] = operators.draw_rows(seed, views, n_rows, alpha, per_batch)
    return drawn


def draw_kinds(seed: Tensor, n_rows: int, n_kinds: int, per_batch: bool) -> Tensor:
    """uint8 ``(n_rows,)``, uniform over 0..n_kinds-1; one for all rows with ``per_batch``."""
    operators = kernels_for("draw", "auto", seed) or torch_operators
    kinds: Tensor = operators.draw_kinds(seed, n_rows, n_kinds, per_batch)
    return kinds


def mix(x: Tensor, draw: Draw, *, backend: str = "auto") -> Tensor:
    """The views that a draw makes of a batch: a pure function of both.

    Gradients reach x from each row itself and from every row that drew it as its partner.

    Args:
        x: ``(N, *features)``. Floating point, or any dtype where ``draw.function`` is "binary" and
            ``draw.kind`` None. Never changed.
        draw: as a noise's ``sample`` makes it, see :class:`mixnoise.Draw`.
        backend: "auto" (Triton for CUDA tensors), "torch" or "triton".

    Returns:
        ``(views, N, *features)`` in x's dtype; half types are computed in float32.

    Raises:
        ValueError, TypeError: x or a field of the draw breaks its rule.
        RuntimeError: the backend asked for cannot run here.

    Example:
        >>> import torch
        >>> from mixnoise import Draw
        >>> from mixnoise.ops import mix
        >>> draw = Draw(torch.tensor(0), torch.tensor([[1, 0]]), torch.tensor([[0.75, 1.0]]))
        >>> mix(torch.tensor([[0.0], [4.0]]), draw).squeeze()
        tensor([1., 4.])
    """
    check_choice("backend", backend, BACKENDS)
    check_batch("x", x)
    if not isinstance(draw, Draw):
        raise TypeError(f"draw must be a mixnoise.Draw, got {type(draw).__name__}")
    check_choice("draw.function", draw.function, FUNCTIONS)
    if draw.kind is not None or draw.function != "binary":
        check_float_tensor("x", x)
    if x.is_complex():
        # By the same masks, which are functions of row and column; so gradients are right, too.
        return torch.complex(*(mix(part, draw, backend=backend) for part in (x.real, x.imag)))
    _check_reverse_mode("mix", x)
    n_rows, features = x.shape[0], x.shape[1:]
    _check_field("seed", draw.seed, torch.int64, (), x.device)
    _check_tensor("partner", draw.partner)
    if draw.partner.ndim != 2:
        raise ValueError(
            f"draw.partner must have shape (views, N), got {tuple(draw.partner.shape)}"
        )
    shape = (draw.partner.shape[0], n_rows)
    _check_field("partner", draw.partner, torch.int64, shape, x.device)
    _check_field("coef", draw.coef, torch.float32, shape, x.device)
    if draw.kind is not None:
        _check_field("kind", draw.kind, torch.uint8, (n_rows,), x.device)
    low = draw.low
    if low is not None:
        _check_tensor("low", low)
        if low.ndim:
            try:
                low = low.expand(features).reshape(-1)
            except RuntimeError:
                raise ValueError(
                    f"draw.low must broadcast to one row {tuple(features)}, got {tuple(low.shape)}"
                ) from None
        low = low.detach().to(x.device, compute_dtype(x.dtype))
    operators = kernels_for("mix", backend, x) or torch_operators
    views: Tensor = operators.mix_views(
        x.reshape(n_rows, features.numel()),
        draw.seed,
        draw.partner,
        draw.coef,
        draw.kind,
        low,
        draw.function,
    )
    return views.reshape(*shape, *features)


def _check_reverse_mode(operation: str, x: Tensor) -> None:
    """An operator without a forward-mode formula would drop the tangent without a word."""
    if torch.compiler.is_compiling():
        return
    if forward_ad.unpack_dual(x).tangent is not None:
        raise RuntimeError(f"{operation} has no forward-mode derivative: use reverse mode")


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"draw.{name} must be a tensor, got {type(value).__name__} {value!r}")


def _check_field(
    name: str, value: object, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    _check_tensor(name, value)
    assert isinstance(value, Tensor)
    if value.dtype != dtype or value.shape != shape or value.device != device:
        raise ValueError(
            f"draw.{name} must be {dtype} of shape {tuple(shape)} on {device}, got {value.dtype} "
            f"of shape {tuple(value.shape)} on {value.device}"
        )
