"""Global states: random numbers, warnings, modes of PyTorch."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mixnoise.seeding import preserved_random_state


@contextmanager
def isolated() -> Iterator[None]:
    """What a check does to global states is undone, and what was set before does not matter.

    Dynamo's caches are left as they are: ``torch._dynamo.reset()`` would empty those of the user.
    """
    with (
        preserved_random_state(),
        warnings.catch_warnings(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        warnings.simplefilter("ignore")
        yield


def pin(seed: int, others: int | None = None) -> None:
    """Seed the CPU's default generator with ``seed``; NumPy's and Python's, too, or by ``others``.

    Not ``torch.manual_seed``, which formats a stack trace where CUDA has not been started yet.
    """
    torch.default_generator.manual_seed(seed)
    others = seed if others is None else others
    np.random.seed(others)  # noqa: NPY002 - the global state is what is meant
    random.seed(others)


def moved_generators(before: dict[str, Any]) -> list[str]:
    """Which global random states differ from ``before``."""
    now = random_states()
    return [name for name, state in now.items() if state != before[name]]


def random_states() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 - as above
    return {
        "torch": bytes(torch.get_rng_state().numpy()),
        "numpy.random": (bytes(numpy_state[1]), *numpy_state[2:]),
        "random": random.getstate(),
    }
