"""README's tables of what the benchmark found on a GPU."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import table

_COLUMNS = 784  # of the batches that the table of mixing has


def _source(result: dict[str, Any]) -> str:
    machine = result["machine"]
    commits = {machine["commit"], *(case.get("commit") for case in result["cases"])} - {None}
    counts = [sum(case["status"] == s for case in result["cases"]) for s in ("passed", "skipped")]
    skipped = f", {counts[1]} were not run" if counts[1] else ""
    return (
        f"`{result['command']}` ({counts[0]} of {len(result['cases'])} cases passed{skipped}), "
        f"{machine['gpu']}, torch {machine['torch']}, Triton {machine['triton']}, Python "
        f"{machine['python']}, commit {', '.join(sorted(commits))}, {machine['date']}."
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _times(ratio: dict[str, Any], peer: str, part: str | None = None) -> str:
    found = ratio.get(peer)
    if found is None:
        return ""
    value = found if part is None else found[part]
    return f"{value:.1f}x" if value < 100 else f"{value:,.0f}x"


def loss(result: dict[str, Any]) -> str:
    cases = [case for case in result["cases"] if "ours" in case]
    products = list(dict.fromkeys(case["products"] for case in cases))
    rows = []
    for case in sorted(cases, key=lambda c: (c["d"], products.index(c["products"]), c["rows"])):
        ours = case["ours"]
        called = ours["forward"]["median"] + ours["backward"]["median"]
        replayed = ours["replayed"]["median"]
        rows.append(
            [
                f"{case['rows']:,} x {case['d']}, {case['products']}",
                _ms(called),
                *(_times(case["ratio"], peer, "both") for peer in ("eager", "compiled", "lightly")),
                _ms(replayed),
                f"{sum(case['limit'].values()) / replayed:.0%}",
                f"{ours['extra_bytes'] / 2**20:,.0f} MiB",
            ]
        )
    largest = "".join(
        f"{case['rows']:,} rows take {case['seconds_of_both']:.1f} s and "
        f"{case['extra_bytes'] / 2**30:.1f} GiB. "
        for case in result["cases"]
        if "seconds_of_both" in case
    )
    compiled = "; ".join(
        f"{case['rows']:,} rows in {case['products']} "
        f"{_ms(case['compiled']['default']['ours']['median'])}, "
        f"{_times(case['ratio'], 'default')} against the formula compiled alike"
        for case in result["cases"]
        if "compiled" in case
    )
    if compiled:
        compiled = f"Inside `torch.compile`, both in one go: {compiled}. "
    head = ["rows, products", "called", "against eager", "against compiled", "against lightly"]
    head += ["as a CUDA graph", "of the limit", "memory"]
    return (
        f"{table(head, rows)}\n\n"
        "Forward and backward, median, with equal losses on all sides; the limit is what products "
        "and exponentials take at the rates that were measured in the same run. "
        f"{largest}{compiled}{_source(result)}"
    )


def mixing(result: dict[str, Any]) -> str:
    rows = []
    for case in result["cases"]:
        if case.get("columns") != _COLUMNS or "mixing" not in case:
            continue
        ours, ratio = case["mixing"], case["ratio"]
        rows.append(
            [
                f"`{case['noise']}`, {case['dtype']}",
                _ms(ours["mixing"]["median"]),
                f"{case['share_of_copy'][case['units']]:.0%}",
                *(_times(ratio, peer) for peer in ("eager", "compiled", "torchvision", "kornia")),
            ]
        )
    step = "".join(
        f"In a DACL+ step of {case['depth']} layers of {case['width']:,} (batch "
        f"{case['batch']:,}, {case['precision']}) mixing and loss are "
        f"{case['share_of_mixing_and_loss']:.1%} of the time in kernels. "
        for case in result["cases"]
        if "share_of_mixing_and_loss" in case
    )
    head = ["two views of 65,536 x 784", "time", "of a copy's rate", "against eager"]
    head += ["against compiled", "against torchvision", "against kornia"]
    return (
        f"{table(head, rows)}\n\n"
        "Mixing with a draw that is there, median; the libraries draw as well, and are compared "
        f"with drawing and mixing. {step}{_source(result)}"
    )
