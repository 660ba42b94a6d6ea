"""Time several ways of doing one thing in turns, so that they share the machine's moods."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Candidate = Callable[[], object]


def interleave(benchmark: Any, ours: Candidate, peers: dict[str, Candidate], rounds: int) -> None:
    """Each round runs every peer once and then ours; peers' times go into ``extra_info``."""
    times: dict[str, list[float]] = {name: [] for name in peers}

    def run_peers() -> None:
        for name, peer in peers.items():
            started = time.perf_counter()
            peer()
            times[name].append(time.perf_counter() - started)

    for candidate in (*peers.values(), ours):
        candidate()  # compiles, and warms the allocator
    benchmark.pedantic(ours, setup=run_peers, rounds=rounds)
    benchmark.extra_info["peers"] = times
