"""Names to noises. Listing imports nothing; getting a noise imports just that one.

A name means a noise of mixnoise's own, else one that was registered in this process, else one of an
installed distribution; ``distribution/name`` always means the last.
"""

from __future__ import annotations

import copy
import difflib
import importlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from mixnoise._version import __version__
from mixnoise.noises.base import Noise
from mixnoise.plugins import (
    NoisePluginError,
    Plugin,
    are_disabled,
    build,
    canonical,
    find_plugins,
    is_factory,
)

_BUILT_IN = {
    "augment": "mixnoise.noises.augment:Augment",
    "binary": "mixnoise.noises.binary:Binary",
    "dacl+": "mixnoise.noises.dacl_plus:DaclPlus",
    "gaussian": "mixnoise.noises.gaussian:Gaussian",
    "geometric": "mixnoise.noises.geometric:Geometric",
    "hidden": "mixnoise.noises.hidden:Hidden",
    "linear": "mixnoise.noises.linear:Linear",
}
_registered: dict[str, Callable[..., Any]] = {}

F = TypeVar("F", bound=Callable[..., Any])


def get_noise(name: str, **kwargs: Any) -> Noise:
    """Build a noise by name.

    Args:
        name: one of :func:`list_noises`, or "distribution/name" for a noise of an installed
            distribution. Only its module is imported.
        **kwargs: arguments of the noise, such as ``alpha`` or ``sigma``.

    Returns:
        An ``nn.Module`` that turns x ``(N, *features)`` into one positive per row.

    Raises:
        ValueError: unknown name (the message has close matches), or an argument out of range.
        NoisePluginError: what stands under the name cannot be imported or is not a noise for this
            version, or two distributions have a noise of that name.

    Example:
        >>> from mixnoise import get_noise
        >>> get_noise("linear", alpha=0.5).config()
        {'name': 'linear', 'alpha': 0.5, 'granularity': 'sample'}
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    if name in _BUILT_IN:
        noise: Noise = _built_in(name)(**kwargs)
        return noise
    if name in _registered:
        noise = build(f"noise {name!r}", _registered[name], kwargs)
    else:
        plugin = _find(name)
        noise = build(str(plugin), plugin.load(), kwargs)
    if "name" in vars(noise) and noise.name != name:  # one that its factory gave out before
        noise = copy.copy(noise)
    noise.name = name
    return noise


def _built_in(name: str) -> type[Noise]:
    module, _, attribute = _BUILT_IN[name].partition(":")
    noise: type[Noise] = getattr(importlib.import_module(module), attribute)
    return noise


def _find(name: str) -> Plugin:
    found = _plugins_called(name)
    if not found:
        # Python remembers folders and archives, and may not have seen a fresh install.
        importlib.invalidate_caches()
        found = _plugins_called(name)
    if not found:
        raise ValueError(_unknown_name(name, list_noises()))
    if len(found) > 1:
        owners = " and ".join(f"{p.distribution} {p.version}" for p in found)
        full_names = " or ".join(repr(p.full_name) for p in found)
        raise NoisePluginError(f"noise {name!r} is both in {owners}; ask for {full_names}")
    return found[0]


def _plugins_called(name: str) -> list[Plugin]:
    plugins = find_plugins()
    distribution, slash, rest = name.partition("/")
    by_full_name = [
        p for p in plugins if slash and p.name == rest and p.distribution == canonical(distribution)
    ]
    return by_full_name or [p for p in plugins if p.name == name]


@dataclass(frozen=True)
class NoiseEntry:
    """A noise that :func:`get_noise` finds by ``name``, as far as can be said without importing it.

    Args:
        name: what to ask for.
        distribution: where it comes from; empty if it was registered in this process.
        version: of the distribution.
        state: "built in", "registered", "installed", or why it has only its full name: "conflict"
            (another distribution has one of that name) or "reserved" (mixnoise or this process
            does).
        description: one line: of the class, or the distribution's summary.
    """

    name: str
    distribution: str
    version: str
    state: str
    description: str


def noise_entries() -> list[NoiseEntry]:
    """Everything :func:`get_noise` can find, in order of names; no plugin is imported."""
    entries = [
        NoiseEntry(name, "mixnoise", __version__, "built in", _first_line(_built_in(name)))
        for name in _BUILT_IN
    ]
    entries += [
        NoiseEntry(name, "", "", "registered", _first_line(factory))
        for name, factory in _registered.items()
    ]
    entries += [
        NoiseEntry(
            p.name if state == "installed" else p.full_name,
            p.distribution,
            p.version,
            state,
            p.summary,
        )
        for p, state in _plugins_and_states()
    ]
    return sorted(entries, key=lambda entry: entry.name)


def _plugins_and_states() -> list[tuple[Plugin, str]]:
    plugins = find_plugins()
    count = Counter(plugin.name for plugin in plugins)

    def state(name: str) -> str:
        if name in _BUILT_IN or name in _registered:
            return "reserved"
        return "conflict" if count[name] > 1 else "installed"

    return [(plugin, state(plugin.name)) for plugin in plugins]


def _first_line(factory: Callable[..., Any]) -> str:
    return (factory.__doc__ or "").strip().partition("\n")[0]


def list_noises() -> list[str]:
    """The names that :func:`get_noise` knows, sorted.

    Noises of installed distributions are among them, by their metadata: none is imported. One whose
    name is taken has its full name, "distribution/name". ``MIXNOISE_DISABLE_PLUGINS=1`` in the
    environment leaves them out.

    Returns:
        Each name once: built in, registered in this process or installed.

    Example:
        >>> from mixnoise import list_noises
        >>> list_noises()
        ['augment', 'binary', 'dacl+', 'gaussian', 'geometric', 'hidden', 'linear']
    """
    plugins = (p.name if s == "installed" else p.full_name for p, s in _plugins_and_states())
    return sorted({*_BUILT_IN, *_registered, *plugins})


def register_noise(name: str) -> Callable[[F], F]:
    """Class decorator: make a noise, or a function that returns one, known in this process.

    A function has to accept every argument that the ``config`` of its noise holds, or
    ``get_noise(**noise.config())`` fails.

    Args:
        name: what :func:`get_noise` will find it by; must be free.

    Raises:
        ValueError: the name is taken or empty.
        TypeError: what is decorated is neither a subclass of Noise nor a function.

    Example:
        >>> import torch
        >>> from mixnoise import Noise, get_noise, register_noise
        >>> @register_noise("flip")
        ... class Flip(Noise):
        ...     def sample(self, x, *, views=1, generator=None, seed=None):
        ...         if seed is not None:
        ...             generator = torch.Generator(x.device).manual_seed(int(seed))
        ...         device = generator.device if generator else x.device
        ...         size = views, len(x), *[1] * (x.ndim - 1)
        ...         return 1 - 2 * torch.randint(2, size, generator=generator, device=device)
        ...     def apply(self, x, draw):
        ...         return x * draw.to(x)
        >>> get_noise("flip").views(torch.randn(8, 3)).shape
        torch.Size([2, 8, 3])
    """
    if not isinstance(name, str):
        raise TypeError(
            f"name must be a string, got {type(name).__name__}; use @register_noise('x')"
        )
    if not name:
        raise ValueError("name must not be empty")
    _check_free(name)

    def decorate(factory: F) -> F:
        _check_free(name)
        if not is_factory(factory):
            raise TypeError(
                f"noise {name!r} must be a subclass of mixnoise.Noise or a function that returns "
                f"one, got {factory!r}"
            )
        if isinstance(factory, type):
            factory.name = name  # type: ignore[attr-defined]
        _registered[name] = factory
        return factory

    return decorate


def _check_free(name: str) -> None:
    if name in _BUILT_IN or name in _registered:
        raise ValueError(f"name {name!r} is already registered")


def _unknown_name(name: str, known: Iterable[str]) -> str:
    known = list(known)
    by_lower = {each.lower(): each for each in known}
    close = [by_lower[c] for c in difflib.get_close_matches(name.lower(), by_lower, n=3)]
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    disabled = " (plugins are turned off by MIXNOISE_DISABLE_PLUGINS)" if are_disabled() else ""
    return f"unknown noise {name!r}; {hint}known: {', '.join(known)}{disabled}"
