"""All cases in the order in which they are run: what is right, then what matters most."""

from __future__ import annotations

import re
from functools import partial

from benchmarks.gpu import check_loss, check_mix, sweep, time_loss, time_mix
from benchmarks.gpu.bench import Case

# First, while the device does nothing else; whoever needs them before asks the bench as well.
CEILINGS = Case("ceilings", lambda bench: {"rates": bench.rates})
LOSS = [*check_loss.CASES, *time_loss.CASES]
MIXING = [*check_mix.CASES, *time_mix.CASES]
CASES = [
    CEILINGS,
    *check_loss.CASES,
    *check_mix.CASES,
    *time_loss.CASES[: time_loss.FIRST],
    *time_mix.CASES,
    *time_loss.CASES[time_loss.FIRST :],
]


def matching(pattern: str, *, is_sweep: bool = False) -> list[Case]:
    return [case for case in (sweep.CASES if is_sweep else CASES) if re.search(pattern, case.name)]


def one_of_each_kind(cases: list[Case]) -> list[Case]:
    """The cases of a smoke run, in which all sizes are tiny and only the code is tried."""
    found: dict[object, Case] = {}
    for case in cases:
        kind: object = case.name
        if isinstance(case.run, partial):
            kind = (case.run.func, *(getattr(v, "kind", v) for v in case.run.keywords.values()))
        found.setdefault((kind, case.needs_cuda), case)
    return list(found.values())
