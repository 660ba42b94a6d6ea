"""The random numbers and the mixing functions once more, from their definitions, slowly.

Nothing here is shared with mixnoise. The hash is pcg4d as printed in Jarzynski and Olano, "Hash
Functions for GPU Rendering" (JCGT 9(3), 2020) on uint32; the keys are Python integers through the
finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); the mixing functions are loops over
Python floats.
"""

from __future__ import annotations

import math

import numpy as np

ROW, KIND, ELEMENT = 0, 1, 2  # streams
N_STREAMS = 4
FUNCTIONS = ("linear", "geometric", "binary", "gaussian")
GOLDEN = 0x9E3779B97F4A7C15
MASK64 = 2**64 - 1


def mix64(k: int) -> int:
    """SplitMix64's finaliser."""
    k = (k ^ (k >> 30)) * 0xBF58476D1CE4E5B9 & MASK64
    k = (k ^ (k >> 27)) * 0x94D049BB133111EB & MASK64
    return k ^ (k >> 31)


def key(seed: int, stream: int, view: int) -> tuple[int, int]:
    """Low and high half of the 64-bit key of a stream and view."""
    root = mix64((seed + GOLDEN) & MASK64)
    k = mix64((root + (view * N_STREAMS + stream + 1) * GOLDEN) & MASK64)
    return k & 0xFFFFFFFF, k >> 32


def pcg4d(*words) -> list[np.ndarray]:
    """Four uint32 words from four, which broadcast against each other."""
    # Arrays of at least one dimension, since numpy warns where a scalar wraps around.
    x, y, z, w = (
        np.atleast_1d(np.asarray(v, np.uint32)) * np.uint32(1664525) + np.uint32(1013904223)
        for v in words
    )
    x = x + y * w
    y = y + z * x
    z = z + x * y
    w = w + y * z
    x, y, z, w = (v ^ (v >> np.uint32(16)) for v in (x, y, z, w))
    x = x + y * w
    y = y + z * x
    z = z + x * y
    w = w + y * z
    return [x, y, z, w]


def hash4(*words) -> list[np.ndarray]:
    """pcg4d, and the upper half of each word folded into its lower half."""
    return [w ^ (w >> np.uint32(16)) for w in pcg4d(*words)]


def row_words(seed: int, stream: int, view: int, n_rows: int) -> list[np.ndarray]:
    """Four words for each row, each ``(N,)``."""
    return hash4(*key(seed, stream, view), np.arange(n_rows), 0)


def partners(seed: int, views: int, n_rows: int) -> np.ndarray:
    """``(views, N)``: 64 bits as a share of 2^64, times the other rows, past the row itself."""
    found = []
    for view in range(views):
        w0, w1, *_ = row_words(seed, ROW, view, n_rows)
        for i, (a, b) in enumerate(zip(w0.tolist(), w1.tolist(), strict=True)):
            other = (a * 2**32 + b) * (n_rows - 1) >> 64
            found.append(other if other < i else other + 1)
    return np.array(found).reshape(views, n_rows)


def coefficients(
    seed: int, views: int, n_rows: int, alpha: float, per_batch: bool = False
) -> np.ndarray:
    """``(views, N)`` float32: c = 1 - (1 - alpha) u with 24 bits in u, kept above alpha."""
    f32 = np.float32
    c = []
    for view in range(views):
        word = row_words(seed, ROW, view, n_rows)[2]
        u = (word >> np.uint32(8)).astype(f32) * f32(2.0**-24)
        row = f32(1) - u * f32(1 - alpha)
        c.append(np.full(n_rows, row[0]) if per_batch else row)
    return np.maximum(np.stack(c), f32(min(1.0, alpha * (1 + 2.0**-23))))


def kinds(seed: int, n_rows: int, per_batch: bool = False) -> np.ndarray:
    """``(N,)``: the word, as a share of 2^32, times three."""
    word = row_words(seed, KIND, 0, n_rows)[0].astype(np.uint64)
    kind = word * np.uint64(3) >> np.uint64(32)
    return np.full(n_rows, kind[0]) if per_batch else kind


def element_words(
    seed: int, view: int, n_rows: int, n_columns: int, columns_per_word: int
) -> np.ndarray:
    """``(4, N, B)`` words for the elements of a view: word q of all blocks for the q-th quarter.

    A quarter is a multiple of 8 columns long, so the last of them may be cut short.
    """
    n_blocks = -(-n_columns // 32) * 8 // columns_per_word
    low, high = key(seed, ELEMENT, view)
    return np.stack(hash4(low, high, np.arange(n_rows)[:, None], np.arange(n_blocks)))


def lanes(seed: int, view: int, n_rows: int, n_columns: int) -> np.ndarray:
    """``(N, F)`` numbers of 16 bits, two of each word, in offset binary.

    Quarter q of the columns belongs to word q, neighbours to the low and the high half of one word.
    """
    words = element_words(seed, view, n_rows, n_columns, 2)
    halves = np.stack((words & np.uint32(0xFFFF), words >> np.uint32(16)), -1)
    flat = halves.transpose(1, 0, 2, 3).reshape(n_rows, -1)[:, :n_columns]
    return (flat ^ np.uint32(0x8000)).astype(np.int64)


def keep(seed: int, view: int, coef: np.ndarray, n_columns: int) -> np.ndarray:
    """``(N, F)`` bool: Bernoulli(coef) per element, coef ``(N,)`` rounded to 2^-16."""
    threshold = np.rint(coef.astype(np.float64) * 65536).astype(np.int64)
    return lanes(seed, view, len(coef), n_columns) < threshold[:, None]


def normals(seed: int, view: int, n_rows: int, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Box and Muller: ``(N, F)`` deviates and the radius each one has.

    A quarter of the columns each: cos and radius 0, cos and radius 1, sin 0, sin 1.
    """
    words = element_words(seed, view, n_rows, n_columns, 1)
    # float32 here is part of the definition: close to 1 it decides how small a radius can be.
    fraction = (words[:2] % np.uint32(2**31)).astype(np.float32) + np.float32(0.5)
    radius = np.sqrt(-2 * np.log(fraction.astype(np.float64) / 2**31))
    angle = words[2:].view(np.int32) * (math.pi / 2**31)
    deviate = np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))
    flat = [
        a.transpose(1, 0, 2).reshape(n_rows, -1)[:, :n_columns]
        for a in (deviate, np.concatenate((radius, radius)))
    ]
    return flat[0], flat[1]


def geometric(c: float, a: float, b: float) -> float:
    """a^c b^(1-c) for a, b >= 0, where zero wins over everything but an exponent of 0."""
    if c in (0, 1):
        return a if c else b
    return 0.0 if 0 in (a, b) else a**c * b ** (1 - c)


def geometric_gradient(c: float, a: float, b: float) -> tuple[float, float]:
    """Its derivatives with respect to a and b, 0 where the number itself is 0."""
    if c == 1:
        return 1.0, 0.0
    to_a = c * (b / a) ** (1 - c) if a else 0.0
    to_b = (1 - c) * (a / b) ** c if b else 0.0
    return to_a, to_b


def mix(x, seed, partner, coef, kind=None, low=None, function="linear") -> np.ndarray:
    """Views ``(V, N, F)`` of x ``(N, F)``; arithmetic in float64, except binary in x's own dtype.

    low is 0-d or ``(F,)``; kind ``(N,)`` holds indices into FUNCTIONS.
    """
    (n_rows, n_columns), n_views = x.shape, len(partner)
    only_binary = kind is None and function == "binary"
    out = np.empty((n_views, n_rows, n_columns), x.dtype if only_binary else np.float64)
    low = np.broadcast_to(0.0 if low is None else low, n_columns)
    for v in range(n_views):
        kept = keep(seed, v, coef[v], n_columns)
        deviates, _ = normals(seed, v, n_rows, n_columns)
        for i in range(n_rows):
            name = function if kind is None else FUNCTIONS[kind[i]]
            j, c = partner[v][i], float(coef[v][i])
            for f in range(n_columns):
                if name == "binary":
                    out[v, i, f] = x[i, f] if kept[i, f] else x[j, f]
                    continue
                a, b, origin = float(x[i, f]), float(x[j, f]), float(low[f])
                if name == "gaussian":
                    out[v, i, f] = a + c * deviates[i, f]
                elif name == "linear":
                    out[v, i, f] = c * a + (1 - c) * b
                elif c == 1:
                    out[v, i, f] = a
                else:
                    out[v, i, f] = geometric(c, a - origin, b - origin) + origin
    return out


def mix_gradient(
    grad, x, seed, partner, coef, kind=None, low=None, function="linear"
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient ``(N, F)`` of x from that of its views ``(V, N, F)``, and the size of its terms.

    The size is the sum of |term| (1 + |log2 of what a geometric term is a power of|): rounding
    errors are in proportion to it.
    """
    (n_rows, n_columns), n_views = x.shape, len(partner)
    total, size = np.zeros(x.shape), np.zeros(x.shape)
    low = np.broadcast_to(0.0 if low is None else low, n_columns)

    for v in range(n_views):
        kept = keep(seed, v, coef[v], n_columns)
        for i in range(n_rows):
            name = function if kind is None else FUNCTIONS[kind[i]]
            j, c = partner[v][i], float(coef[v][i])
            for f in range(n_columns):
                log = 0.0
                if name == "gaussian":
                    to_own, to_other = 1.0, 0.0
                elif name == "binary":
                    to_own, to_other = float(kept[i, f]), float(not kept[i, f])
                elif name == "linear":
                    to_own, to_other = c, 1 - c
                else:
                    a, b = float(x[i, f]) - float(low[f]), float(x[j, f]) - float(low[f])
                    to_own, to_other = geometric_gradient(c, a, b)
                    log = sum(abs(math.log2(value)) for value in (a, b) if value > 0)
                for row, derivative in ((i, to_own), (j, to_other)):
                    term = float(grad[v, i, f]) * derivative
                    total[row, f] += term
                    size[row, f] += abs(term) * (1 + log)
    return total, size


# How far a result may lie from the oracle. Arithmetic is float32 for half types; EPS is the
# distance from 1 to the next number, TINY the smallest subnormal.
EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
TINY = {"float64": 2.0**-1074, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}


def arithmetic_eps(dtype: str) -> float:
    return min(EPS[dtype], EPS["float32"])


def slack(dtype, x, expected, seed, partner, coef, kind=None, low=None, function="linear"):
    """Largest error allowed for every element of ``mix``, with the same arguments.

    ========= =======================================================================
    binary    nothing
    linear    2 eps of the larger of the two values, since they may cancel
    geometric (2 + L) eps, where L is the larger |log2| of the two: exp2 turns the
              rounding of a logarithm into a relative error; and 1 eps of low
    gaussian  1 eps of the result; 6 of sigma times the radius, since the angle, up to
              pi, is itself float32
    ========= =======================================================================

    eps is that of the arithmetic; storing in x's dtype adds half of its own.
    """
    own, other = np.abs(x)[None], np.abs(x[partner])
    low = np.broadcast_to(0.0 if low is None else low, x.shape[1:])
    eps = arithmetic_eps(dtype)
    bounds = {"binary": np.zeros_like(expected), "linear": 2 * eps * np.maximum(own, other)}
    if kind is not None or function == "geometric":
        shifted = x - low
        log = np.abs(np.log2(np.where(shifted > 0, shifted, 1)))
        power = (2 + np.maximum(log[None], log[partner])) * np.abs(expected - low)
        bounds["geometric"] = eps * (power + np.abs(low) + np.abs(expected))
    if kind is not None or function == "gaussian":
        radius = np.stack([normals(seed, v, *x.shape)[1] for v in range(len(partner))])
        # The deviate is float32 even where x is float64.
        noise = 6 * EPS["float32"] * np.abs(coef)[..., None] * radius
        bounds["gaussian"] = noise + eps * np.abs(expected)
    if kind is None:
        bound = bounds[function]
    else:
        code = np.broadcast_to(np.asarray(kind)[None, :, None], expected.shape)
        bound = np.choose(code, [bounds[name] for name in FUNCTIONS])
    stored = EPS[dtype] / 2 * np.abs(expected) if dtype in ("float16", "bfloat16") else 0.0
    return np.where(bound > 0, bound + stored + TINY[dtype], 0)
