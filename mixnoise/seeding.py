"""Seeds for every purpose from one, and a global random state that is left as it was."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, index: int) -> int:
    """An unrelated 63-bit seed for each purpose and index."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_globally(seed: int) -> None:
    """Seed torch on every device, numpy and random; in about 10 microseconds."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or accelerator.type == "cuda":
        # torch.manual_seed writes down the stack for every kind of device that is not in use, which
        # takes twenty times as long as all of this.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
    else:
        torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - numpy's global state is what datasets draw from
    random.seed(seed)


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restores the global random states of torch, numpy and random on the way out."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - as above
    restore_accelerator = _accelerator_state()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - as above
        random.setstate(states[2])
        restore_accelerator()


def _accelerator_state() -> Callable[[], None]:
    """A function that restores the random state that the accelerator has now, if it is in use.

    One that is not must not be asked: starting it takes seconds, and is an error in a process that
    was forked from one that uses it.
    """
    accelerator = torch.accelerator.current_accelerator()
    device: Any = None if accelerator is None else torch.get_device_module(accelerator)
    if device is None:
        in_use = False
    elif hasattr(device, "is_initialized"):
        in_use = device.is_initialized()
    else:  # MPS
        in_use = not device._is_in_bad_fork()
    if not in_use:
        return lambda: None
    if hasattr(device, "get_rng_state_all"):
        return partial(device.set_rng_state_all, device.get_rng_state_all())
    return partial(device.set_rng_state, device.get_rng_state())
