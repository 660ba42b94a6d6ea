"""Noises of other distributions: found by their metadata, imported when one is asked for.

A distribution names its noises in the entry-point group ``mixnoise.noises``::

    [project.entry-points."mixnoise.noises"]
    scarf = "mixnoise_scarf:Scarf"

Source: PyPA, entry points specification.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixnoise.noises.base import Noise

if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint

#: The version of the plugin interface that this release speaks, see ``Noise.api_version``.
API_VERSION = 1
GROUP = "mixnoise.noises"
_SEPARATORS = re.compile("[-_.]+")
_NAME = re.compile(rb"^Name:\s*([\w.-]+)", re.IGNORECASE | re.MULTILINE)
#: What follows the name in that of a folder.
_VERSION = re.compile(r"-\d|\.(?:dist|egg)-info$")


class NoisePluginError(RuntimeError):
    """A noise cannot be used: its module cannot be imported, it is not a Noise, it was made for
    another version of the plugin interface, or two distributions have one of that name."""


@dataclass(frozen=True)
class Plugin:
    """What the metadata of a distribution say about one of its noises."""

    name: str
    distribution: str  # its name in canonical form
    entry_point: EntryPoint

    @property
    def version(self) -> str:
        return self._header("Version")

    @property
    def summary(self) -> str:
        return self._header("Summary")

    def _header(self, name: str) -> str:
        assert self.entry_point.dist  # it was found by its distribution
        values = self.entry_point.dist.metadata.get_all(name)
        return values[0] if values else ""

    @property
    def full_name(self) -> str:
        """What no other distribution can take."""
        return f"{self.distribution}/{self.name}"

    def __str__(self) -> str:
        return f"noise {self.name!r} of {self.distribution} {self.version}"

    def load(self) -> Callable[..., Any]:
        """Import it: a subclass of Noise, or a function that returns one."""
        try:
            factory: Callable[..., Any] = self.entry_point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # an import can raise anything, such as pytest.skip's
            raise NoisePluginError(
                f"{self} cannot be imported from {self.entry_point.value!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not is_factory(factory):
            raise NoisePluginError(
                f"{self} must be a subclass of mixnoise.Noise or a function that returns one, but "
                f"{self.entry_point.value!r} is {factory!r}"
            )
        return factory


def is_factory(value: object) -> bool:
    """Whether it makes noises: a subclass of Noise or a function; a noise itself does not."""
    if isinstance(value, type):
        return issubclass(value, Noise)
    return callable(value) and not isinstance(value, Noise)


def build(what: str, factory: Callable[..., Any], arguments: dict[str, Any]) -> Noise:
    """A noise, if the factory makes one for this version; ``what`` it is called in errors."""
    if isinstance(factory, type):
        _check_version(what, factory)  # before its constructor expects another interface
    noise = factory(**arguments)
    if not isinstance(noise, Noise):
        raise NoisePluginError(
            f"{what} must be a mixnoise.Noise, its factory returned {type(noise).__name__}"
        )
    _check_version(what, noise)
    return noise


def _check_version(what: str, noise: Any) -> None:
    if noise.api_version != API_VERSION:
        raise NoisePluginError(
            f"{what} was made for plugin API version {noise.api_version!r}, this is {API_VERSION}"
        )


def are_disabled() -> bool:
    return os.environ.get("MIXNOISE_DISABLE_PLUGINS", "") not in ("", "0")


def canonical(distribution: str) -> str:
    """The form in which names of distributions are compared: My_Noises is my-noises."""
    return _SEPARATORS.sub("-", distribution).lower()


def find_plugins() -> list[Plugin]:
    """All that is installed now, sorted; nothing is imported.

    Nothing is remembered either, so that what was installed or removed since is seen.
    """
    if are_disabled():
        return []
    plugins = []
    for name, distribution in _distributions_with_noises():
        try:
            entry_points = distribution.entry_points.select(group=GROUP)
        except Exception as error:  # nobody else is to suffer from a file that was written by hand
            warnings.warn(
                f"the entry points of {name} cannot be read: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        plugins += [Plugin(entry.name, name, entry) for entry in entry_points]
    return sorted(plugins, key=lambda plugin: (plugin.name, plugin.distribution))


def _distributions_with_noises() -> Iterator[tuple[str, Distribution]]:
    """Those of ``importlib.metadata.distributions``, without its detours: nearly all have none.

    Of two with one name the first on the path is found: it is the one that can be imported.
    """
    from importlib import metadata

    seen = set()
    for folder in sys.path:
        try:
            entries = os.listdir(folder or os.curdir)
        except OSError:  # an archive, or nothing
            for distribution in metadata.distributions(path=[folder]):
                if GROUP in (distribution.read_text("entry_points.txt") or ""):
                    name = canonical(distribution.name)
                    if name not in seen:
                        seen.add(name)
                        yield name, distribution
            continue
        for entry in entries:
            if entry.endswith((".dist-info", ".egg-info")):
                path = os.path.join(folder, entry)
                named = _name_with_noises(path)
                # Of most the folder's name has to do: reading the metadata of all would take long.
                name = canonical(named or _VERSION.split(entry, 1)[0])
                if named is not None and name not in seen:
                    yield name, metadata.Distribution.at(path)
                seen.add(name)


def _name_with_noises(path: str) -> str | None:
    """The name of a distribution that mentions noises, empty if its metadata have none."""
    if GROUP.encode() not in (_read(os.path.join(path, "entry_points.txt")) or b""):
        return None
    for file in ("METADATA", "PKG-INFO"):
        text = _read(os.path.join(path, file))
        if text is not None:
            name = _NAME.search(text)
            return name[1].decode() if name else ""
    return None  # an interrupted uninstall may leave the one without the other


def _read(path: str) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    with open(file, "rb", buffering=0) as opened:
        return opened.read()
