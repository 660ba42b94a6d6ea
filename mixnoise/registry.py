"""Names to noises. Listing imports nothing; getting a noise imports just that one."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, TypeVar

from mixnoise.noises.base import Noise

#: The plugin interface version that this release speaks, see ``Noise.api_version``.
API_VERSION = 1

_BUILT_IN = {
    "binary": "mixnoise.noises.binary:Binary",
    "dacl+": "mixnoise.noises.dacl_plus:DaclPlus",
    "gaussian": "mixnoise.noises.gaussian:Gaussian",
    "geometric": "mixnoise.noises.geometric:Geometric",
    "hidden": "mixnoise.noises.hidden:Hidden",
    "linear": "mixnoise.noises.linear:Linear",
}
_registered: dict[str, Callable[..., Any]] = {}

F = TypeVar("F", bound=Callable[..., Any])


class NoisePluginError(RuntimeError):
    """A registered noise cannot be used: it is not a Noise, or was made for another version."""


def get_noise(name: str, **kwargs: Any) -> Noise:
    """Build a noise by name.

    Args:
        name: one of :func:`list_noises`.
        **kwargs: arguments of the noise, such as ``alpha`` or ``sigma``.

    Returns:
        An ``nn.Module`` that turns x ``(N, *features)`` into one positive per row.

    Raises:
        ValueError: unknown name (the message has close matches), or an argument out of range.
        NoisePluginError: what is registered under the name is not a noise for this version.

    Example:
        >>> from mixnoise import get_noise
        >>> get_noise("linear", alpha=0.5).config()
        {'name': 'linear', 'alpha': 0.5, 'granularity': 'sample'}
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {type(name).__name__}")
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        noise: Noise = getattr(import_module(module), attribute)(**kwargs)
        return noise
    if name not in _registered:
        raise ValueError(_unknown_name("noise", name, list_noises()))
    noise = _registered[name](**kwargs)
    if not isinstance(noise, Noise):
        raise NoisePluginError(
            f"noise {name!r} must be a mixnoise.Noise, its factory returned {type(noise).__name__}"
        )
    if noise.api_version != API_VERSION:
        raise NoisePluginError(
            f"noise {name!r} was made for plugin API version {noise.api_version}, this is "
            f"{API_VERSION}"
        )
    noise.name = name
    return noise


def list_noises() -> list[str]:
    """The names that :func:`get_noise` knows, sorted.

    Example:
        >>> from mixnoise import list_noises
        >>> list_noises()
        ['binary', 'dacl+', 'gaussian', 'geometric', 'hidden', 'linear']
    """
    return sorted({*_BUILT_IN, *_registered})


def register_noise(name: str) -> Callable[[F], F]:
    """Class decorator: make a noise, or a function that returns one, known in this process.

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
        ...         return torch.rand(views, x.shape[0], generator=generator) < 0.5
        ...     def apply(self, x, draw):
        ...         return torch.where(draw[..., None], x.flip(-1), x)
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
        is_noise = isinstance(factory, type) and issubclass(factory, Noise)
        is_function = callable(factory) and not isinstance(factory, (type, Noise))
        if not is_noise and not is_function:
            raise TypeError(
                f"noise {name!r} must be a subclass of mixnoise.Noise or a function that returns "
                f"one, got {factory!r}"
            )
        if is_noise:
            factory.name = name  # type: ignore[attr-defined]
        _registered[name] = factory
        return factory

    return decorate


def _check_free(name: str) -> None:
    if name in _BUILT_IN or name in _registered:
        raise ValueError(f"name {name!r} is already registered")


def _unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"unknown {what} {name!r}; {hint}known: {', '.join(known)}"
