"""Two views of rows, and mixing them in the middle of an encoder."""

from __future__ import annotations

import difflib
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from mixnoise.noises.base import Noise
from mixnoise.noises.hidden import Hidden


class HiddenSite:
    """The forward hook that mixes one submodule's output, and does so only while ``run`` runs.

    It stays registered instead of coming and going with each step: that is what a compiled
    encoder's guards can follow.
    """

    def __init__(self, noise: Hidden) -> None:
        self.noise = noise
        self.active = False
        self.n_calls = 0
        self.n_rows = 0
        self.generator: torch.Generator | None = None
        self.draw: Any = None

    def run(
        self,
        encoder: nn.Module,
        inputs: tuple[Any, ...],
        kwargs: dict[str, Any],
        generator: torch.Generator | None,
        draw: Any,
    ) -> Tensor:
        """The encoder's output for two views mixed at the site, ``(2N, ...)``."""
        if self.active:
            raise RuntimeError(
                f"the submodule {self.noise.at!r} is mixed for another thread now: give each "
                "thread a copy of the model"
            )
        self.active, self.n_calls, self.generator, self.draw = True, 0, generator, draw
        try:
            h: Tensor = encoder(*inputs, **kwargs)
        except Exception as error:  # PyTorch's, which knows nothing of views, or the encoder's own
            if self.n_calls:
                error.add_note(
                    f"If sizes do not match: behind the submodule {self.noise.at!r}, whose output "
                    f"is mixed, there are two rows for each of {self.n_rows}, and what the encoder "
                    "brings past it (masks, indices of graphs, residual branches) has one."
                )
            raise
        finally:
            self.active, self.generator, self.draw = False, None, None
        if self.n_calls != 1:
            raise ValueError(
                f"the submodule {self.noise.at!r} must run exactly once a step, it was seen to run "
                f"{self.n_calls} times; if the encoder was compiled before DACL was made, its "
                "hooks are ignored: compile it, or the whole model, afterwards; if the encoder or "
                "the submodule was replaced, make another DACL"
            )
        check_rows("encoder", h, 2 * self.n_rows)
        # Where time is the first dimension at the site, two views of T steps pass for 2 T samples.
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].shape[:1] == h.shape[:1]:
            raise ValueError(
                f"the output of submodule {self.noise.at!r} must have one row per sample in its "
                f"first dimension, it has {self.n_rows}, and the encoder made of {len(inputs[0])} "
                "rows no more of them than it got; is time the first dimension there?"
            )
        return h

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        if not self.active:
            return None
        what = f"the output of submodule {self.noise.at!r}"
        views = two_views(self.noise, output, what, self.generator, self.draw)
        self.n_calls += 1
        self.n_rows = output.shape[0]
        return views


def site_of(model: nn.Module, encoder: nn.Module, noise: Noise) -> HiddenSite | None:
    """Where a noise mixes within the encoder, if it does. The hook goes when the model goes."""
    if not isinstance(noise, Hidden) or noise.at is None:
        return None
    site = HiddenSite(noise)
    hook = _submodule(encoder, noise.at).register_forward_hook(site)
    weakref.finalize(model, hook.remove).atexit = False
    return site


def check_site(site: HiddenSite | None, noise: Noise) -> None:
    """Raise if the site is not where the noise mixes."""
    inside = noise if isinstance(noise, Hidden) and noise.at is not None else None
    if inside is not (None if site is None else site.noise):
        raise RuntimeError(
            "the model's noise was replaced though the old one or the new one mixes in the middle "
            "of the encoder, by a hook that is set when a model is made: make another DACL"
        )


def two_views(
    noise: Noise, x: Any, what: str, generator: torch.Generator | None, draw: Any
) -> Tensor:
    """Both views of x, one below the other: ``(2N, ...)``."""
    if not isinstance(x, Tensor):
        hint = "" if what == "x" else "; let a module return the one that is to be mixed"
        raise TypeError(f"{what} must be a tensor to be mixed, got {type(x).__name__}{hint}")
    if draw is None:
        draw = noise.sample(x, views=2, generator=generator)
    views: Any = noise.apply(x, draw)
    if not isinstance(views, Tensor):
        raise TypeError(f"noise {noise.name!r} must make a tensor, got {type(views).__name__}")
    # Two views of other rows, or more of them, would be cut into pairs of strangers.
    n_rows = x.shape[0]  # len(x) would be a number, and torch.export fix it
    if views.ndim < 2 or views.shape[:2] != (2, n_rows):
        raise ValueError(
            f"noise {noise.name!r} must make two views of each row, (2, {n_rows}, ...), got "
            f"{tuple(views.shape)}; a draw of your own needs views=2"
        )
    return views.flatten(0, 1)


def check_rows(name: str, h: Any, n_rows: int) -> None:
    if not isinstance(h, Tensor):
        raise TypeError(
            f"the {name} must return a tensor, got {type(h).__name__}: wrap it in a module that "
            "returns the one you want"
        )
    if h.ndim == 0 or h.shape[0] != n_rows:
        raise ValueError(
            f"the {name} must return one row per sample and view, {n_rows}, got shape "
            f"{tuple(h.shape)}"
        )


def _submodule(encoder: nn.Module, name: str) -> nn.Module:
    """The submodule of that name, whether or not the encoder, or a part of it, is compiled."""
    modules: dict[str, nn.Module] = {}
    for path, module in encoder.named_modules(remove_duplicate=False):
        # A compiled submodule is found twice; the hooks of its wrapper, which comes first, are
        # obeyed whenever they are added.
        modules.setdefault(".".join(p for p in path.split(".") if p != "_orig_mod"), module)
    plain = ".".join(p for p in name.split(".") if p != "_orig_mod")
    if not plain or plain not in modules:
        close = difflib.get_close_matches(plain, [m for m in modules if m], n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"at must name a submodule of the encoder, got {name!r}{hint}")
    return modules[plain]
