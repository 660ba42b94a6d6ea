"""A short table of the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

_START_OF_REASON, _END_OF_REASON = 80, 160


def summary(result: dict[str, Any]) -> str:
    cases = result["cases"]
    lines = [
        f"{case['name']}: {_trouble(case)}"
        for case in cases
        if case["status"] in ("failed", "error")
    ]
    skipped = Counter(case["message"] for case in cases if case["status"] == "skipped")
    lines += [f"skipped, {reason}: {count} cases" for reason, count in skipped.items()]
    passed = sum(case["status"] == "passed" for case in cases)
    lines.append(f"{passed} of {len(cases)} cases passed, {result['seconds']:.0f} s")
    for case in cases:
        lines += [line(case) for key, line in _LINES.items() if key in case]
    lines += _deviations(cases)
    for key, row, head, line in _TABLES:
        if timed := [case for case in cases if key in case]:
            lines += ["", row.format(*head), *(row.format(*line(case)) for case in timed)]
    return "\n".join(lines)


def best_of_sweep(result: dict[str, Any], few: int = 3) -> str:
    """The fastest variants of each group, and what is chosen now."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for case in result["cases"]:
        if case["status"] == "passed":
            timed = (case["time"]["median"], case["variant"])
            groups.setdefault(case["group"], []).append(timed)
    lines = []
    for group, variants in groups.items():
        kept = sorted(variants)[:few]
        kept += [v for v in variants if v[1] == "as chosen" and v not in kept]
        lines.append(f"{group}: " + "; ".join(f"{_ms(s)} ms {name}" for s, name in kept))
    counts = Counter(case["status"] for case in result["cases"])
    return "\n".join([*lines, f"{dict(counts)}, {result['seconds']:.0f} s"])


def _trouble(case: dict[str, Any]) -> str:
    if case["status"] == "failed":
        kept = ["errors", "tolerance", "finite", "same_bits", "same_draw"]
        kept += ["zero_gradients", "wrong"]
        return f"WRONG {', '.join(f'{name}: {case[name]}' for name in kept if name in case)}"
    # CUDA's messages begin with what matters, the Triton compiler's end with it.
    reason = " ".join(case["message"].split())
    if len(reason) > _START_OF_REASON + _END_OF_REASON:
        reason = f"{reason[:_START_OF_REASON]} ... {reason[-_END_OF_REASON:]}"
    return f"{case['status']}: {reason}"


def _rates(case: dict[str, Any]) -> str:
    rates = case["rates"]
    return (
        f"bf16 {rates['bf16_flop'] / 1e12:.0f}, tf32 {rates['tf32_flop'] / 1e12:.0f}, float32 "
        f"{rates['ieee_flop'] / 1e12:.0f} TFLOP/s; copy {rates['copy_bytes'] / 1e12:.2f} TB/s; "
        f"exp2 {rates['exp2'] / 1e12:.2f} T/s"
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3f}"


def _bytes(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:,.0f}"


def _largest(case: dict[str, Any]) -> str:
    return (
        f"{case['rows']:,} x {case['d']} {case['products']}: forward and backward "
        f"{case['seconds_of_both']:.2f} s (limit {case['limit']:.2f} s), "
        f"{_bytes(case['extra_bytes'])} MiB above the start"
    )


def _step(case: dict[str, Any]) -> str:
    times = ", ".join(f"{name} {_ms(time['median'])} ms" for name, time in case["step"].items())
    return (
        f"{case['depth']} layers of {case['width']:,}, batch {case['batch']:,}, "
        f"{case['precision']}: {times}; mixing and loss {case['share_of_mixing_and_loss']:.1%} of "
        "the time in kernels"
    )


def _compiled(case: dict[str, Any]) -> str:
    times = ", ".join(
        f"{mode} {_ms(found['ours']['median'])} ms"
        + (f" ({case['ratio'][mode]:.1f}x)" if mode in case["ratio"] else "")
        for mode, found in case["compiled"].items()
    )
    return f"{case['rows']:,} x {case['d']} {case['products']}, compiled, both: {times}"


def _backward(case: dict[str, Any]) -> str:
    times = case["backward"]
    return f"{case['name']}: {_ms(times['ours']['median'])} ms, eager {case['ratio']['eager']:.1f}x"


def _deviations(cases: list[dict[str, Any]]) -> Iterator[str]:
    """How far views are from their truth: the worst of each dtype."""
    found = [case for case in cases if case.get("errors", {}).get("ulps") is not None]
    for dtype in sorted({case["dtype"] for case in found}):
        each = [case for case in found if case["dtype"] == dtype]
        ulps = max(case["errors"]["ulps"] for case in each)
        share = max(case["share_off"] for case in each)
        yield f"views in {dtype}: off by {ulps:.2f} ulp at most; {share:.2%} of elements at most"


_LOSS_ROW = "{:>8} {:>4} {:<9} {:>9} {:>5} {:>9} {:>5} {:>9} {:>7} {:>9} {:>9}"
_LOSS_HEAD = ["rows", "D", "products", "forward", "limit", "backward", "limit"]
_LOSS_HEAD += ["replayed", "MiB", "eager", "compiled"]


def _loss(case: dict[str, Any]) -> list[str]:
    """Milliseconds, and the share of the limit; for a peer, how many times longer it takes."""
    ours, cells = case["ours"], [f"{case['rows']:,}", case["d"], case["products"]]
    for part in ("forward", "backward"):
        cells += [_ms(ours[part]["median"]), f"{case['fraction_of_limit'][part]:.0%}"]
    replayed = ours.get("replayed")
    cells += [_ms(replayed["median"]) if replayed else "", _bytes(ours["extra_bytes"])]
    for name in ("eager", "compiled"):
        ratio = case["ratio"].get(name)
        cells.append(f"{ratio['both']:.1f}x" if ratio else "-")
    return cells


_MIX_TIMES = ["replayed", "mixing", "drawing and mixing"]
_MIX_PEERS = ["eager", "compiled", "torchvision", "kornia"]
_MIX_ROW = "{:<9} {:>6} {:>7} {:<8} {:>8} {:>8} {:>8} {:>5} {:>6} {:>6}" + 4 * " {:>11}"
_MIX_HEAD = ["noise", "rows", "columns", "dtype", "replayed", "called", "drawn", "GB/s"]
_MIX_HEAD += ["copy 3", "copy 5", *_MIX_PEERS]


def _mixing(case: dict[str, Any]) -> list[str]:
    """Milliseconds; shares of the copy's rate if 3 or 5 units are moved, "*" at what is due."""
    ours, shares, ratio = case["mixing"], case["share_of_copy"], case["ratio"]
    return [
        case["noise"],
        f"{case['rows']:,}",
        f"{case['columns']:,}",
        case["dtype"],
        *(_ms(ours[key]["median"]) if key in ours else "" for key in _MIX_TIMES),
        f"{case['bytes_per_second'] / 1e9:.0f}",
        *(
            f"{shares[n]:.0%}{'*' * (n == case['units'])}" if n in shares else "-"
            for n in ("3", "5")
        ),
        *(f"{ratio[peer]:.1f}x" if peer in ratio else "-" for peer in _MIX_PEERS),
    ]


# By a key that only such a case has.
_LINES = {
    "rates": _rates,
    "seconds_of_both": _largest,
    "compiled": _compiled,
    "step": _step,
    "backward": _backward,
}
_TABLES = [("ours", _LOSS_ROW, _LOSS_HEAD, _loss), ("mixing", _MIX_ROW, _MIX_HEAD, _mixing)]
