"""Peak memory of one forward and backward above the start: ``... memory {ours,eager} ROWS``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from benchmarks.speed import peers
from benchmarks.speed.test_loss import inputs, value_and_grads
from mixnoise import nt_xent

_STATUS, _RESET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(field: str) -> int:
    match = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.M)
    assert match
    return int(match[1]) * 1024


def main() -> None:
    which, rows = sys.argv[1], int(sys.argv[2])
    loss = {"ours": nt_xent, "eager": peers.nt_xent}[which]
    value_and_grads(loss, *inputs(512))  # loads what is loaded once
    z1, z2 = inputs(rows)
    _RESET_PEAK.write_text("5")
    start = _status("VmRSS")
    value_and_grads(loss, z1, z2)
    print(json.dumps(_status("VmHWM") - start))


if __name__ == "__main__":
    main()
