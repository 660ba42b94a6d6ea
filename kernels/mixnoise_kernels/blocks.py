"""Block sizes by element size and row length: data, so that a new chip is a change of one line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

# Both views are padded to a multiple of it, and every block size divides it.
ALIGNMENT = 128
LONGEST_ROW = 1024


@dataclass(frozen=True)
class Blocks:
    """How a kernel over pairs of rows cuts its work."""

    rows: int  # of a program
    columns: int  # that it takes at a time
    k: int  # elements of a row that it multiplies at a time; if not all, rows are not held
    out: int  # elements of a gradient's row that it computes
    warps: int
    stages: int  # loads in flight

    def shared_bytes(self, operands: str, row_length: int) -> int:
        """About so much shared memory is taken; that of sm_100's tensor cores comes on top."""
        if self.k == row_length:
            elements = (self.rows + self.columns * self.stages) * row_length
            if self.out < row_length:
                elements += self.columns * self.out * self.stages
        else:
            elements = (self.rows + self.columns) * self.k * self.stages
            elements += self.columns * self.out
        # Some more for sums over threads, and for products that are not the tensor cores'.
        products = self.rows * self.columns * 4 if operands == "float32" else 0
        return elements * BYTES[operands] + products + 2048


# Bytes of a number, in all its terms, by what is multiplied.
BYTES = {"half": 2, "float32": 4, "bf16x3": 4, "bf16x6": 6}
# By the chip's tensor-core instructions and what is multiplied, then by the row length up to which
# they hold; in order of preference, the first that fits into shared memory is taken. Those of
# "wgmma" were the fastest on an H200 among what does not spill registers in the main loop, see
# aot.py; the others, and those of "bf16x3", are chosen by that alone. Rows are held where registers
# allow, which saves loading them again for each tile. Two programs of four warps share a
# multiprocessor: while one waits for the tensor cores, the other computes exponentials.
_Table = dict[tuple[str, str], dict[int, list[Blocks]]]
_TRIANGLE: _Table = {
    ("wgmma", "half"): {
        128: [Blocks(128, 128, 128, 0, 4, 2)],
        256: [Blocks(128, 128, 256, 0, 8, 2)],
        1024: [Blocks(128, 128, 64, 0, 8, 3)],
    },
    ("wgmma", "float32"): {1024: [Blocks(128, 128, 32, 0, 8, 2)]},
    ("wgmma", "bf16x3"): {
        64: [Blocks(128, 128, 64, 0, 8, 2)],
        128: [Blocks(128, 128, 128, 0, 8, 2)],
        1024: [Blocks(128, 128, 64, 0, 8, 2)],
    },
    ("wgmma", "bf16x6"): {
        64: [Blocks(128, 128, 64, 0, 8, 2)],
        128: [Blocks(128, 128, 128, 0, 8, 1)],
        1024: [Blocks(128, 128, 64, 0, 8, 2)],
    },
    ("tcgen05", "half"): {
        256: [Blocks(128, 128, 256, 0, 8, 2)],
        1024: [Blocks(128, 128, 64, 0, 8, 3)],
    },
    ("tcgen05", "float32"): {1024: [Blocks(128, 128, 32, 0, 8, 2)]},
    ("tcgen05", "bf16x3"): {1024: [Blocks(64, 64, 64, 0, 4, 2)]},
    ("tcgen05", "bf16x6"): {1024: [Blocks(64, 64, 64, 0, 4, 1)]},
    ("mma", "half"): {
        128: [Blocks(128, 128, 128, 0, 4, 2)],
        1024: [Blocks(128, 128, 64, 0, 8, 1)],
    },
    ("mma", "float32"): {1024: [Blocks(128, 128, 16, 0, 8, 2)]},
    ("mma", "bf16x3"): {1024: [Blocks(64, 64, 64, 0, 4, 2)]},
    ("mma", "bf16x6"): {1024: [Blocks(64, 64, 64, 0, 4, 2)]},
}
# The gradient has (rows, out) sums in registers, beside the tile of (rows, columns).
_ROWS: _Table = {
    ("wgmma", "half"): {
        64: [Blocks(128, 64, 64, 64, 4, 2)],
        128: [Blocks(64, 128, 128, 128, 4, 2)],
        256: [Blocks(128, 64, 256, 256, 8, 2)],
        512: [Blocks(128, 32, 512, 256, 8, 2)],
        1024: [Blocks(128, 64, 128, 256, 8, 2)],
    },
    ("wgmma", "float32"): {1024: [Blocks(128, 64, 32, 128, 8, 2)]},
    ("wgmma", "bf16x3"): {
        64: [Blocks(64, 64, 64, 64, 4, 2)],
        128: [Blocks(128, 64, 128, 128, 8, 2)],
        1024: [Blocks(128, 64, 64, 128, 8, 2)],
    },
    ("wgmma", "bf16x6"): {
        64: [Blocks(64, 64, 64, 64, 4, 2)],
        128: [Blocks(128, 64, 128, 128, 8, 1)],
        1024: [Blocks(128, 64, 64, 128, 8, 2)],
    },
    ("tcgen05", "half"): {
        64: [Blocks(128, 64, 64, 64, 4, 2)],
        128: [Blocks(64, 128, 128, 128, 4, 2)],
        256: [Blocks(128, 64, 256, 256, 8, 2)],
        1024: [Blocks(128, 64, 128, 256, 8, 2)],
    },
    ("tcgen05", "float32"): {1024: [Blocks(128, 64, 32, 64, 8, 2)]},
    ("tcgen05", "bf16x3"): {1024: [Blocks(64, 32, 32, 64, 4, 2)]},
    ("tcgen05", "bf16x6"): {1024: [Blocks(64, 32, 32, 64, 4, 1)]},
    ("mma", "half"): {
        64: [Blocks(128, 64, 64, 64, 4, 2)],
        128: [Blocks(64, 128, 128, 128, 4, 2)],
        256: [Blocks(128, 64, 256, 256, 8, 2), Blocks(64, 64, 64, 128, 4, 2)],
        1024: [Blocks(64, 64, 64, 128, 4, 2)],
    },
    ("mma", "float32"): {1024: [Blocks(64, 32, 32, 128, 4, 2)]},
    ("mma", "bf16x3"): {1024: [Blocks(64, 64, 32, 128, 4, 2)]},
    ("mma", "bf16x6"): {1024: [Blocks(64, 64, 32, 128, 4, 2)]},
}
# The running form has twice the exponentials and more numbers for each row.
_RUNNING: _Table = {
    **{(i, "half"): {128: [Blocks(128, 64, 128, 128, 8, 2)]} for i in ("wgmma", "tcgen05", "mma")},
    ("wgmma", "bf16x3"): {128: [Blocks(128, 64, 128, 128, 8, 1)]},
}


@dataclass(frozen=True)
class Chip:
    major: int  # compute capability
    shared_memory: int  # bytes that one program may have
    multiprocessors: int

    @property
    def instructions(self) -> str:
        return {9: "wgmma", 10: "tcgen05"}.get(self.major, "mma")


def row_length(d: int) -> int:
    """Elements of a row of d with its padding: a power of two, as blocks must be."""
    return max(16, 1 << (d - 1).bit_length())


def rows_at_a_time(row_length: int) -> int:
    """Rows of a program that looks at each on its own: some 2,048 elements."""
    return max(1, min(16, 2048 // row_length))


@lru_cache
def triangle(operands: str, row_length: int, chip: Chip) -> Blocks:
    """The blocks of the triangle: as many rows as columns."""
    candidates = _up_to(row_length, _TRIANGLE[chip.instructions, operands])
    return _first_that_fits(candidates, operands, row_length, chip)


@lru_cache
def rows(operands: str, row_length: int, running: bool, chip: Chip) -> Blocks:
    """The blocks of some rows against all columns, for sums and gradient."""
    kind = chip.instructions, operands
    table = _ROWS[kind]
    if running and row_length <= max(_RUNNING.get(kind, [0])):
        table = _RUNNING[kind]
    candidates = _up_to(row_length, table)
    return _first_that_fits(candidates, operands, row_length, chip)


def _up_to(row_length: int, table: dict[int, list[Blocks]]) -> list[Blocks]:
    return table[min(longest for longest in table if row_length <= longest)]


def _first_that_fits(
    candidates: list[Blocks], operands: str, row_length: int, chip: Chip
) -> Blocks:
    for b in candidates:
        chosen = replace(b, k=min(b.k, row_length), out=min(b.out, row_length))
        if chosen.shared_bytes(operands, row_length) <= chip.shared_memory:
            return chosen
    raise ValueError(
        f"rows of {row_length} elements in {operands} need more than the "
        f"{chip.shared_memory} bytes of shared memory"
    )


@lru_cache
def split(n_blocks: int, programs: int) -> tuple[int, int]:
    """Programs of the triangle, and the parts that each block's tiles are cut into.

    The fewest tiles for the program that has most, with one more for starting each part.
    """
    n_tiles = n_blocks + 1

    def cost(parts: int) -> int:
        return -(-2 * n_blocks * parts // programs) * (-(-n_tiles // parts) + 1)

    parts = min(range(1, min(n_tiles, 32) + 1), key=cost)
    return min(programs, 2 * n_blocks * parts), parts
