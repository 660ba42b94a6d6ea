"""What a rank receives, computes and keeps for NT-Xent: ``python -m benchmarks.scaling``.

Formulas, not measurements, for three ways to take negatives from all ranks; the bytes of the first
two are counted in ``tests/test_scaling.py``. A rank has n samples, so 2n rows of D columns, and
M = 2nR are the rows of all R ranks. Times follow from rates that are assumed (the options): those
of the matrix products and of what is received, and nothing else.

- ours: z is gathered once; in the backward g/l of each row is. Nothing is sent back.
- gather with gradient: z is gathered, the loss is a dense 2n x M matrix, and in the backward every
  rank sends the gradient of all rows, which are summed.
- ring: blocks of z go from rank to rank while they are used, and again in the backward, with g/l.
  It keeps no more than three of them. It stands here for comparison, and is not in the library.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import tables

RANKS = [2**i for i in range(11)]
DTYPES = {"float32": 4, "float16": 2, "bfloat16": 2}
# Of vectors, sums and dense matrices: float32.
_WIDE = 4
# The integers by which the ranks agree before the loss: nine of eight bytes.
_WORDS = 9 * 8


@dataclass(frozen=True)
class Problem:
    """One step.

    Args:
        ranks: R.
        samples: n of a rank; of ranks that differ, the largest: others are padded to it.
        d: columns of z.
        element: bytes of an element of z.
        vectors: numbers that go with a sample in the backward: g/l of both views, and log2 l of
            both where the temperature is a tensor or too small to do without.
    """

    ranks: int
    samples: int
    d: int
    element: int
    vectors: int = 2

    @property
    def own(self) -> int:
        """Rows of a rank."""
        return 2 * self.samples

    @property
    def all(self) -> int:
        """Rows of all ranks, M."""
        return self.own * self.ranks

    @property
    def others(self) -> int:
        """Ranks besides this one."""
        return self.ranks - 1

    @property
    def block(self) -> int:
        """Bytes of a rank's rows."""
        return self.own * self.d * self.element

    @property
    def matrix(self) -> int:
        """Bytes of own rows x all."""
        return self.own * self.all * _WIDE


def received_by_all_reduce(elements: int, ranks: int) -> int:
    """Elements that each rank receives at least: its part from all others, then their parts."""
    return -(-2 * (ranks - 1) * elements // ranks)


# Bytes that a rank receives, forward and backward.


def received_by_ours(p: Problem) -> tuple[int, int]:
    if p.ranks == 1:
        return 0, 0
    largest_gradient = received_by_all_reduce(1, p.ranks) * _WIDE
    weights = p.others * p.samples * p.vectors * _WIDE
    return p.others * (_WORDS + p.block), largest_gradient + weights


def received_by_gather_with_gradient(p: Problem, *, all_reduce: bool = False) -> tuple[int, int]:
    """The gradient of own rows from each rank; an all-reduce sums that of all rows instead."""
    if not all_reduce:
        return p.others * p.block, p.others * p.block
    elements = received_by_all_reduce(p.all * p.d, p.ranks)
    return p.others * p.block, elements * p.element


def received_by_ring(p: Problem) -> tuple[int, int]:
    forward, backward = received_by_ours(p)
    return forward, backward + p.others * p.block


# FLOP of the matrix products.


def flop_of_ours(p: Problem) -> int:
    """2 for each pair of rows and column forward, 4 backward; alone, a pair counts once forward."""
    return (5 if p.ranks == 1 else 6) * p.own * p.all * p.d


def flop_of_gather_with_gradient(p: Problem) -> int:
    """2 forward, and 2 backward for own rows and for all."""
    return 6 * p.own * p.all * p.d


# Bytes at the peak that grow with the rows, beside the rank's own z and its gradient.


def kept_by_ours(p: Problem) -> int:
    """All rows as they came and as unit rows, and own unit rows; alone, these."""
    return p.block if p.ranks == 1 else (2 * p.ranks + 1) * p.block


def kept_by_gather_with_gradient(p: Problem) -> int:
    """All rows, their gradient, and no less than two matrices: log-softmax and its gradient."""
    return 2 * p.ranks * p.block + 2 * p.matrix


def kept_by_ring(p: Problem) -> int:
    """Own unit rows, the block that is used and the one that arrives."""
    return min(3, p.ranks) * p.block


@dataclass(frozen=True)
class Rates:
    """Assumed, a GPU: FLOP and bytes received per second."""

    flop: float = 790e12
    inside: float = 450e9
    between: float = 50e9
    gpus: int = 8  # of a machine

    def receiving(self, received: int, ranks: int) -> float:
        """Seconds, if whatever comes from another machine comes once, by all network cards."""
        if ranks <= self.gpus:
            return received / self.inside
        others = (ranks - self.gpus) / (ranks - 1)
        return max(received / self.inside, received * others / (self.gpus * self.between))


@dataclass(frozen=True)
class Form:
    """One way to take negatives from all ranks."""

    received: Callable[[Problem], tuple[int, int]]
    flop: Callable[[Problem], int]
    kept: Callable[[Problem], int]
    overlaps: bool  # whether it computes with what has arrived while the rest arrives

    def step(self, p: Problem, rates: Rates) -> dict[str, float]:
        """Bytes received, FLOP, bytes kept, and the seconds of a step."""
        received, flop = sum(self.received(p)), self.flop(p)
        computing, receiving = flop / rates.flop, rates.receiving(received, p.ranks)
        return {
            "received": received,
            "flop": flop,
            "kept": self.kept(p),
            "computing": computing,
            "receiving": receiving,
            "seconds": max(computing, receiving) if self.overlaps else computing + receiving,
        }


FORMS = {
    "ours": Form(received_by_ours, flop_of_ours, kept_by_ours, False),
    "gather with gradient": Form(
        received_by_gather_with_gradient,
        flop_of_gather_with_gradient,
        kept_by_gather_with_gradient,
        False,
    ),
    "ring": Form(received_by_ring, flop_of_ours, kept_by_ring, True),
}


def balance(element: int, flop: float, bandwidth: float) -> float:
    """Samples of a rank at which the gather takes as long as the products.

    A sample brings 2 D elements to each other rank, and 6 (2 x 2n) D FLOP there: what is left
    depends neither on the number of ranks nor on D.
    """
    return element * flop / (12 * bandwidth)


def ranks_that_fit(p: Problem, limit: float) -> int:
    """Ranks at which ours keeps no more than so many bytes."""
    return int((limit / p.block - 1) / 2)


def compute(samples: int, d: int, dtype: str, rates: Rates, limit: float) -> dict[str, Any]:
    """All that the tables say."""
    problems = [Problem(ranks, samples, d, DTYPES[dtype]) for ranks in RANKS]
    p = problems[0]
    bandwidths = {
        "inside": rates.inside,
        "between": rates.gpus * rates.between,
        "one card": rates.between,
    }
    return {
        "command": "python -m benchmarks.scaling",
        "samples": samples,
        "d": d,
        "dtype": dtype,
        "rates": asdict(rates),
        "limit": limit,
        "rows": [
            {
                "ranks": each.ranks,
                "all_rows": each.all,
                **{name: form.step(each, rates) for name, form in FORMS.items()},
            }
            for each in problems
        ],
        "balance": {
            name: balance(DTYPES[dtype], rates.flop, bandwidth)
            for name, bandwidth in bandwidths.items()
        },
        "ranks_that_fit": ranks_that_fit(p, limit),
        # Between two messages of a ring, forward and backward: the products with one block.
        "block_seconds": [part * p.own**2 * p.d / rates.flop for part in (2, 4)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--samples", type=int, default=1024, help="of a rank")
    parser.add_argument("--d", type=int, default=128, help="columns of z")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of z")
    parser.add_argument("--flop", type=float, default=Rates.flop, help="of products, a second")
    parser.add_argument("--inside", type=float, default=Rates.inside, help="bytes a second and GPU")
    parser.add_argument(
        "--between", type=float, default=Rates.between, help="the same, from other machines"
    )
    parser.add_argument("--gpus", type=int, default=Rates.gpus, help="of a machine")
    parser.add_argument(
        "--limit", type=float, default=8e9, help="bytes that may be kept for the loss"
    )
    parser.add_argument("--output", type=Path, default=tables.RESULTS / "scaling.json")
    options = parser.parse_args()
    rates = Rates(options.flop, options.inside, options.between, options.gpus)
    result = compute(options.samples, options.d, options.dtype, rates, options.limit)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(*(make(result) for _, make in tables.SCALING_TABLES.values()), sep="\n\n")


if __name__ == "__main__":
    main()
