"""Cells of tables that take long: a JSON file each, filled seed by seed, so that what was
interrupted goes on with what is missing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from mixnoise.atomic import replacing

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Cell:
    """``settings`` is everything that its runs depend on but for the seed, as JSON has it."""

    table: str
    name: str
    settings: dict[str, Any]

    @property
    def path(self) -> Path:
        return RESULTS / self.table / f"{self.name}.json"

    def runs(self) -> list[dict[str, Any]]:
        """Those that were made, in the order of their seeds.

        Raises:
            ValueError: they were made with other settings.
        """
        if not self.path.exists():
            return []
        found = json.loads(self.path.read_text())
        if found["settings"] != self.settings:
            raise ValueError(
                f"{self.path} was made with other settings; delete it, and it is made again: "
                f"{found['settings']} instead of {self.settings}"
            )
        runs: list[dict[str, Any]] = found["runs"]
        return runs

    def missing(self, seeds: Iterable[int]) -> list[int]:
        made = {run["seed"] for run in self.runs()}
        return [seed for seed in seeds if seed not in made]

    def fill(self, seeds: Iterable[int], run: Callable[[int], dict[str, Any]]) -> None:
        """Make the runs that are missing; each is written as soon as it is there."""
        runs = self.runs()
        for seed in self.missing(seeds):
            started = time.perf_counter()
            found = run(seed)
            seconds = round(time.perf_counter() - started, 2)
            runs.append({"seed": seed, **found, "seconds": seconds, "machine": describe()})
            runs.sort(key=lambda made: made["seed"])
            write(self.path, {"settings": self.settings, "runs": runs})


def write(path: Path, content: Any) -> None:
    """Who is killed leaves the old file or the new one."""
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")
