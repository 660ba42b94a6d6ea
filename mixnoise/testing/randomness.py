"""Where randomness comes from: all of it from sample, and there from one source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mixnoise.testing.compare import difference, equal
from mixnoise.testing.report import CheckFailed, CheckSkipped
from mixnoise.testing.state import moved_generators, pin, random_states
from mixnoise.testing.subject import Subject, as_tensor

#: Largest correlation of two views' changes that passes for chance.
MAX_CORRELATION = 0.5
#: Multiples have the same last digits, binary or decimal. Of their lowest 32 bits, which are all
#: that PyTorch's generator on a CPU takes of a seed, the upper three differ.
_FAR = 10**12 * 2**17


def same_draw_same_views(subject: Subject) -> None:
    """Applying a draw twice gives the same views bit for bit, and apply neither uses nor moves the
    global generators of torch, NumPy and Python."""
    x = subject.batch()
    draw = subject.sample(x)
    first = subject.apply(x, draw, pin_=1)
    pin(2)
    before = random_states()
    second = as_tensor(subject.noise.apply(x.clone(), draw))
    _expect_unmoved(before, "apply")
    if not equal(second, first):
        raise CheckFailed(
            f"applying the same draw again must give the same views: {difference(second, first)}"
        )


def seed(subject: Subject) -> None:
    """The same seed, an integer in [-2^63, 2^63) or a 0-d int64 tensor, gives the same views
    whatever the global generators' states, and moves none of them."""
    x = subject.batch()
    for number in (0, -7, 2**63 - 1):
        first = subject.views(x, pin_=1, seed=number)
        for value in (number, torch.tensor(number, device="cpu")):
            pin(2)
            before = random_states()
            draw = subject.noise.sample(x.clone(), views=2, seed=value)
            _expect_unmoved(before, f"sample with seed={value!r}")
            again = subject.apply(x, draw, pin_=1)
            if not equal(again, first):
                raise CheckFailed(
                    f"seed={value!r} must give the same views as seed={number} did, whatever the "
                    f"global generators: {difference(again, first)}"
                )


def different_seeds(subject: Subject) -> None:
    """Different seeds give different views, also where they only differ far from their last digits
    or in their sign."""
    _skip_identity(subject)
    x = subject.batch()

    def views_of(seeds: Sequence[int]) -> list[Tensor]:
        # A pin each: a noise that draws from the global generators instead fails "seed" alone.
        return [subject.views(x, pin_=i, seed=number) for i, number in enumerate(seeds)]

    _expect_some_change(views_of(range(8)), "seeds 0 to 7")
    try:
        multiples = views_of(range(0, 8 * _FAR, _FAR))
        positive_and_negative = views_of([number for s in range(1, 9) for number in (s, -s)])
    except Exception:  # "seed" reports it
        return
    _expect_some_change(multiples, "multiples of 10^12 2^17")
    pairs = zip(positive_and_negative[::2], positive_and_negative[1::2], strict=True)
    if all(equal(*pair) for pair in pairs):
        raise CheckFailed("seeds s and -s must not all give the same views, but they did")


def generator(subject: Subject) -> None:
    """With generator=, its state alone decides the views: the same state gives the same ones,
    whatever the global generators' states, which stay as they are; and it moves on."""
    x = subject.batch()
    source = torch.Generator().manual_seed(5)
    first = subject.views(x, pin_=1, generator=source)
    source.manual_seed(5)
    pin(2)
    before = random_states()
    draw = subject.noise.sample(x.clone(), views=2, generator=source)
    _expect_unmoved(before, "sample with generator=")
    again = subject.apply(x, draw, pin_=1)
    if not equal(again, first):
        raise CheckFailed(
            "a generator in the same state must give the same views, whatever the global "
            f"generators: {difference(again, first)}"
        )
    if not subject.is_identity:
        views = [subject.views(x, generator=source) for _ in range(8)]
        _expect_some_change(views, "8 draws in a row from one generator")


def default_generator(subject: Subject) -> None:
    """Without seed= and generator=, torch's default generator decides, so that torch.manual_seed
    reproduces the views; and it moves on."""
    x = subject.batch()

    def views_of(prepare: Callable[[], None]) -> Tensor:
        prepare()
        draw = subject.noise.sample(x.clone(), views=2)
        state = torch.get_rng_state()
        views = subject.apply(x, draw)
        torch.set_rng_state(state)
        return views

    first = views_of(lambda: pin(3, others=1))
    again = views_of(lambda: pin(3, others=2))
    if not equal(again, first):
        raise CheckFailed(
            "after torch.manual_seed, the same views must be made whatever the states of NumPy's "
            f"and Python's generators: {difference(again, first)}"
        )
    if not subject.is_identity:
        _expect_some_change(
            [views_of(lambda: None) for _ in range(8)], "8 draws in a row from the default one"
        )


def independent_views(subject: Subject) -> None:
    """The views that are made together are independent of each other: neither the same nor
    otherwise tied together."""
    _skip_identity(subject)
    x = subject.batch()
    views = torch.stack([subject.views(x, 2, pin_) for pin_ in range(48)]).double()
    change = views - views.mean(0)
    first, second = change[:, 0], change[:, 1]
    size = (first.square().sum() * second.square().sum()).sqrt()
    if size == 0:  # nothing varies between draws: a fault of the seeds, not of the views
        return
    correlation = float((first * second).sum() / size)
    if abs(correlation) > MAX_CORRELATION:
        raise CheckFailed(
            "the two views of 48 draws must differ from their mean independently, with a "
            f"correlation near 0, got {correlation:.2f}; are they made by the same noise?"
        )


def _skip_identity(subject: Subject) -> None:
    if subject.is_identity:
        raise CheckSkipped(
            f"the noise's arguments are those with which it declares to change nothing: "
            f"{dict(subject.noise.identity or {})}"
        )


def _expect_unmoved(before: dict[str, object], call: str) -> None:
    moved = moved_generators(before)
    if moved:
        raise CheckFailed(f"{call} must leave global generators alone, but moved {moved}")


def _expect_some_change(views: list[Tensor], where: str) -> None:
    if all(equal(view, views[0]) for view in views[1:]):
        raise CheckFailed(f"{where} must not all give the same views, but they did")
