"""Batches as sets of rows: their order, their size, and rows that are broken."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from mixnoise.testing.compare import describe_error
from mixnoise.testing.data import N_ROWS
from mixnoise.testing.report import CheckFailed
from mixnoise.testing.subject import Subject, expect_shape

#: Moves every row. Of the pairs that a fixed rule makes (neighbours at any distance, opposites,
#: even and odd ones), at most one stays a pair.
ORDER = (14, 10, 5, 2, 8, 11, 13, 4, 0, 3, 7, 12, 9, 15, 1, 6)
N_DRAWS = 32
N_VIEWS = 8
#: Standard errors by which two means may differ; chance reaches that about once in 1e8.
MAX_DEVIATION = 7.0


def batch_permutation(subject: Subject) -> None:
    """Permuting the rows of x permutes the distribution of the views: no position in the batch is
    special, and no two positions belong together."""
    # Draws are opaque, so they cannot be permuted along with the rows. What can be seen is the
    # mean change of each element over many draws, which must not depend on where its row stands.
    x, order = subject.batch(), torch.tensor(ORDER, device="cpu")
    here = _changes(subject, x, range(N_DRAWS))
    there = _changes(subject, x[order], range(N_DRAWS, 2 * N_DRAWS))[:, :, order.argsort()]
    gap = here.mean(0) - there.mean(0)
    error = ((here.var(0) + there.var(0)) / N_DRAWS).sqrt()
    # A change that is the same in all draws has no error but that of rounding.
    slack = 1e-3 * torch.stack((here, there)).abs().amax()
    excess = (gap.abs() - MAX_DEVIATION * error - slack).nan_to_num(nan=0.0)
    at = (excess == excess.amax()).nonzero()[0].unbind()
    if excess[at] > 0:
        what, row = ("change", "size of the change")[int(at[0])], int(at[1])
        raise CheckFailed(
            f"the mean {what} of a row must not depend on its position: an element of the same row "
            f"got {here.mean(0)[at]:.3g} at position {row} and {there.mean(0)[at]:.3g} at position "
            f"{ORDER.index(row)}, among the same other rows ({N_DRAWS} draws of {N_VIEWS} views "
            f"each, standard error {error[at]:.2g})"
        )


def _changes(subject: Subject, x: Tensor, pins: Sequence[int]) -> Tensor:
    """Mean change and its mean size, for every draw and element: ``(draws, 2, N, *features)``."""
    made = []
    for pin_ in pins:
        change = subject.views(x, N_VIEWS, pin_).double() - x.double()
        made.append(torch.stack((change.mean(0), change.abs().mean(0))))
    return torch.stack(made)


def odd_batches(subject: Subject) -> None:
    """Batches of odd size are taken where even ones are, and no row of them is left over."""
    for n_rows in (3, 9, 17):
        x, even = subject.batch(n_rows), subject.batch(n_rows - 1)
        refusal, refusal_of_even = subject.refusal(x), subject.refusal(even)
        if refusal is not None and refusal_of_even is None:
            raise CheckFailed(
                f"sample takes {n_rows - 1} rows, so it must take {n_rows}, got "
                f"{describe_error(refusal)}"
            ) from refusal
        if refusal is None:
            left = _never_changed(subject, x)
            if left and (refusal_of_even is not None or not _never_changed(subject, even)):
                raise CheckFailed(
                    f"of {n_rows} rows, those at {left} were never changed in {8 * N_VIEWS} views, "
                    "while all others were"
                )


def _never_changed(subject: Subject, x: Tensor) -> list[int]:
    """Rows that stay as they are though the others change often."""
    n_changed = torch.zeros(x.shape[0], device="cpu")
    for pin_ in range(8):
        changed = _views_of_size(subject, x, pin_) != x
        n_changed += changed.reshape(*changed.shape[:2], -1).any(2).sum(0)
    n_views = 8 * N_VIEWS
    return [] if n_changed.mean() < n_views / 3 else (n_changed == 0).nonzero()[:, 0].tolist()


def single_row(subject: Subject) -> None:
    """A batch of one row gives views that differ from x, or a ValueError or TypeError from sample
    that names the rule; a noise that needs other rows must not return the row as it is."""
    x = subject.batch(1)
    if _is_refused_with_reason(subject, x):
        return
    changed = any(bool((_views_of_size(subject, x, pin_) != x).any()) for pin_ in range(64))
    if not changed and not subject.is_identity:
        raise CheckFailed(
            f"all of {64 * N_VIEWS} views of a single row equal x; a noise that mixes rows must "
            "raise a ValueError in sample that asks for at least 2"
        )


def empty_batch(subject: Subject) -> None:
    """A batch without rows gives views without rows, or a ValueError or TypeError from sample that
    names the rule."""
    x = subject.batch(0)
    if not _is_refused_with_reason(subject, x):
        _views_of_size(subject, x, 0)


def _views_of_size(subject: Subject, x: Tensor, pin_: int) -> Tensor:
    try:
        views = subject.views(x, N_VIEWS, pin_)
    except Exception as error:  # whatever a noise raises is a result
        raise CheckFailed(
            f"x with {x.shape[0]} rows must give views, or a ValueError or TypeError from sample "
            f"that names the rule; got {describe_error(error)}"
        ) from error
    expect_shape(views, N_VIEWS, x)
    return views


def _is_refused_with_reason(subject: Subject, x: Tensor) -> bool:
    refusal = subject.refusal(x)
    if refusal is None:
        return False
    if not re.search(r"\b(x|rows?|batch(es)?|samples?|examples?|empty)\b", str(refusal), re.I):
        raise CheckFailed(
            f"the error for x with {x.shape[0]} rows must name the rule (which argument, how many "
            f"rows it must have), got {describe_error(refusal)}"
        ) from refusal
    return True


def nan_policy(subject: Subject) -> None:
    """NaN in a row shows as NaN in the views that use it, is never replaced by a number silently
    and never spreads over the batch; or sample refuses it with a ValueError or
    TypeError that says so."""
    # Statistics of the batch, such as the smallest value, have to pass over NaN for this.
    given = subject.rows.pool.dtype
    x = subject.batch_or_skip(given if given.is_floating_point else torch.float32)
    broken = 3
    row = x[broken].reshape(-1)
    row[: math.ceil(row.numel() / 2)] = torch.nan
    refusal = subject.refusal(x)
    if refusal is not None:
        if not re.search(r"nan|finite|missing|number", str(refusal), re.I):
            raise CheckFailed(
                f"an error for NaN in x must say so, got {describe_error(refusal)}"
            ) from refusal
        return
    views = torch.cat([subject.views(x, N_VIEWS, pin_) for pin_ in range(16)])
    has_nan = views.reshape(*views.shape[:2], -1).isnan().any(2)
    if not has_nan.any():
        raise CheckFailed(
            f"row {broken} has NaN, but none of {len(views)} views of the batch has any: NaN must "
            "not be replaced silently"
        )
    lost = [row for row in range(N_ROWS) if row != broken and has_nan[:, row].all()]
    if 2 * len(lost) > N_ROWS:
        raise CheckFailed(
            f"only row {broken} has NaN, but all of {len(views)} views of the rows {lost} have "
            "some, too; statistics of the batch must pass over NaN, or sample refuse it"
        )
