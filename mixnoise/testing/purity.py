"""Views depend on x's values and the draw, and on nothing else."""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor

from mixnoise.noises.base import Noise
from mixnoise.testing.compare import describe_error, difference, equal, within
from mixnoise.testing.data import N_ROWS, copy_of
from mixnoise.testing.report import CheckFailed, CheckSkipped
from mixnoise.testing.state import pin
from mixnoise.testing.subject import Subject, as_tensor


def input_untouched(subject: Subject) -> None:
    """Neither sample nor apply changes x, and the views share no memory with it, so that working
    on them in place does not change it either; nor with the arguments that identity declares."""
    cases = [("", subject.noise)]
    if subject.noise.identity is not None:
        with suppress(Exception):  # "identity" reports it
            case = f" with {dict(subject.noise.identity)}"
            cases.append((case, _with_identity(subject.noise)))
    for case, noise in cases:
        x = subject.batch()
        kept = x.clone()
        pin(0)
        draw = noise.sample(x, views=2)
        if not equal(x, kept):
            raise CheckFailed(f"sample must not change x{case}: {difference(x, kept)}")
        pin(0)
        views = as_tensor(noise.apply(x, draw))
        if not equal(x, kept):
            raise CheckFailed(f"apply must not change x{case}: {difference(x, kept)}")
        if views.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
            raise CheckFailed(
                f"the views must not share x's memory{case}; return a copy, such as x.clone()"
            )


def _with_identity(noise: Noise) -> Noise:
    kept = {name: value for name, value in noise.config().items() if name != "name"}
    pin(0)
    return type(noise)(**{**kept, **(noise.identity or {})})


def stateless(subject: Subject) -> None:
    """What was sampled and applied before changes nothing: a noise keeps no state between calls,
    nor between sample and apply."""
    x, other = subject.batch(), subject.batch(start=N_ROWS)
    fresh = copy_of(subject.noise)

    subject.views(other, pin_=1)
    draw = subject.sample(x)
    subject.views(other, pin_=2)
    got = subject.apply(x, draw)

    subject.noise = fresh
    expected = subject.views(x)
    if not equal(got, expected):
        raise CheckFailed(
            "views must not depend on what other batches were sampled and applied before: "
            f"{difference(got, expected)}"
        )


def train_mode(subject: Subject) -> None:
    """train() and eval() change nothing: noise belongs to the method, not to a phase."""
    x = subject.batch()
    subject.noise.train()
    expected = subject.views(x)
    subject.noise.eval()
    got = subject.views(x)
    if not equal(got, expected):
        raise CheckFailed(
            f"views in eval mode must be those of train mode: {difference(got, expected)}"
        )


def identity(subject: Subject) -> None:
    """With the constructor arguments that the class attribute identity declares, every view equals
    x exactly."""
    declared = subject.noise.identity
    if declared is None:
        raise CheckSkipped("the noise declares no arguments with which it changes nothing")
    subject.noise = _with_identity(subject.noise)
    for dtype in (None, torch.float64, torch.float16, torch.bfloat16):
        x = subject.batch(dtype=dtype)
        if dtype is not None and subject.refusal(x) is not None:
            continue
        views = subject.views(x, 3)
        expected = x.expand(3, *x.shape)
        if not equal(views.double(), expected.double()):
            raise CheckFailed(
                f"with {dict(declared)} every view must equal x ({x.dtype}): "
                f"{difference(views, expected)}"
            )


def non_contiguous(subject: Subject) -> None:
    """Views depend on x's values, not on how they lie in memory: slices and transposed tensors
    give what their contiguous copies give."""
    for i, x in enumerate(subject.batches()):
        spread = torch.stack((x, x), dim=1)[:, 0]
        transposed = x.permute(*range(x.ndim)[::-1]).contiguous().permute(*range(x.ndim)[::-1])
        cases = (
            ("every second row of a tensor", spread),
            ("transposed", transposed),
        )
        for what, strided in cases:
            try:
                expected = _views_as_is(subject, strided.contiguous().clone())
            except Exception:  # "shape" asks for data of other shapes
                if i == 0:
                    raise
                break
            described = f"x {what} (shape {tuple(x.shape)}, strides {strided.stride()})"
            try:
                got = _views_as_is(subject, strided)
            except Exception as error:  # whatever a noise raises is a result
                raise CheckFailed(
                    f"{described} must give the views of x.contiguous(), got "
                    f"{describe_error(error)}"
                ) from error
            if not _close(got, expected):
                raise CheckFailed(
                    f"{described} must give the views of x.contiguous(): "
                    f"{difference(got, expected)}"
                )


def _views_as_is(subject: Subject, x: Tensor) -> Tensor:
    """The noise's views, without the copy that ``subject.views`` makes: it would be contiguous."""
    pin(0)
    draw = subject.noise.sample(x, views=2)
    pin(0)
    return as_tensor(subject.noise.apply(x, draw))


def _close(a: Tensor, b: Tensor) -> bool:
    """Vectorised loops and their remainders may differ by the last bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return equal(a, b)
    return within(a, b, 8 * torch.finfo(a.dtype).eps)
