"""What a noise is: its calls, what they return, and what rebuilds it."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from mixnoise.noises.base import Noise
from mixnoise.registry import get_noise, list_noises
from mixnoise.seeding import preserved_random_state
from mixnoise.testing.compare import describe_error, difference, equal
from mixnoise.testing.report import CheckFailed
from mixnoise.testing.state import pin
from mixnoise.testing.subject import Subject, as_tensor, expect_shape

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.bool,
)


def interface(subject: Subject) -> None:
    """The noise is made for this plugin API version, sample makes one view unless told otherwise,
    and noise(x) and noise.views(x, n) return what sample and apply make."""
    noise, x = subject.noise, subject.batch()
    if noise.api_version != Noise.api_version:
        raise CheckFailed(f"expected api_version {Noise.api_version}, got {noise.api_version!r}")

    def sampled(**views: Any) -> Tensor:
        pin(0)
        own = x.clone()
        return as_tensor(noise.apply(own, noise.sample(own, **views)))

    def called(method: Any, *views: int) -> Tensor:
        pin(0)
        return as_tensor(method(x.clone(), *views))

    one, two, three = sampled(views=1), sampled(views=2), sampled(views=3)
    for call, got, expected in (
        ("apply(x, sample(x)) without views=", sampled(), one),
        ("noise(x)", called(noise), one[0]),
        ("noise.views(x)", called(noise.views), two),
        ("noise.views(x, 3)", called(noise.views, 3), three),
    ):
        if not equal(got, expected):
            raise CheckFailed(
                f"{call} must be what sample and apply make: {difference(got, expected)}"
            )
    visited: list[torch.nn.Module] = []
    as_module: Any = noise
    with suppress(TypeError):  # apply without a draw
        as_module.apply(visited.append)
    if set(visited) != set(noise.modules()):
        raise CheckFailed(
            "noise.apply(function) must visit the submodules, as nn.Module.apply does, or "
            "model.apply(function) breaks on every model that holds the noise"
        )


def shape(subject: Subject) -> None:
    """n views of x (N, *features) are (n, N, *features), for rows of any number of dimensions that
    sample does not refuse by a ValueError or TypeError."""
    for i, x in enumerate(subject.batches()):
        for n_views in (1, 2, 3):
            if i > 0 and _is_refused(subject, x):
                break
            try:
                views = subject.views(x, n_views)
            except Exception as error:  # whatever a noise raises is a result
                raise CheckFailed(
                    f"{n_views} views of x {tuple(x.shape)} must be made, or sample refuse x by a "
                    f"ValueError or TypeError; got {describe_error(error)}"
                ) from error
            expect_shape(views, n_views, x)


def dtype(subject: Subject) -> None:
    """Views have x's dtype and, where x is finite, are finite; dtypes that the noise cannot take
    are refused by sample with a ValueError or TypeError."""
    for wanted in DTYPES:
        x = subject.batch(dtype=wanted)
        if _is_refused(subject, x):
            continue
        try:
            views = subject.views(x)
        except Exception as error:  # whatever a noise raises is a result
            raise CheckFailed(
                f"views of {wanted} data must be made, or sample refuse it by a TypeError or "
                f"ValueError; got {describe_error(error)}"
            ) from error
        if views.dtype != wanted:
            raise CheckFailed(
                f"views of {wanted} data must be {wanted}, got {views.dtype}; a noise that cannot "
                "take them must raise a TypeError in sample"
            )
        n_bad = int((~views.isfinite()).sum())
        if n_bad and x.isfinite().all():  # the caller's x may be too large for half precision
            raise CheckFailed(
                f"views of finite {wanted} data must be finite, got {n_bad} NaN or infinite "
                f"elements of {views.numel()}"
            )


def _is_refused(subject: Subject, x: Tensor) -> bool:
    try:
        return subject.refusal(x) is not None
    except Exception:  # not a refusal but a crash
        return False


def device(subject: Subject) -> None:
    """Views are on x's device, whatever device the generator is on; without a GPU only the CPU is
    tried, and the device 'meta' as far as the noise can work without data."""
    x = subject.batch()
    _expect_device(subject.views(x), x)
    if torch.cuda.is_available():
        torch.cuda.init()
        with preserved_random_state():
            _check_cuda(copy.deepcopy(subject.noise).to("cuda"), x.to("cuda"))
        return
    try:
        noise, elsewhere = copy.deepcopy(subject.noise).to("meta"), x.to("meta")
        views = as_tensor(noise.apply(elsewhere, noise.sample(elsewhere, views=2)))
    except Exception as error:  # whatever a noise raises is a result
        # Values cannot be read on "meta", which is no fault; mixing devices would be one anywhere.
        if re.search(r"(expected|same) device", str(error)):
            raise CheckFailed(
                "with x on another device (here 'meta'), tensors of both devices met: are some "
                f"made without device=x.device? {describe_error(error)}"
            ) from error
    else:
        _expect_device(views, elsewhere)


def _check_cuda(noise: Noise, x: Tensor) -> None:
    cpu, cuda = torch.Generator(), torch.Generator("cuda")
    sources: list[dict[str, Any]] = [{}, {"generator": cpu}, {"generator": cuda}, {"seed": 3}]
    for source in sources:
        pair = []
        for _ in range(2):
            torch.cuda.manual_seed(0)
            cpu.manual_seed(1)
            cuda.manual_seed(1)
            pair.append(as_tensor(noise.apply(x, noise.sample(x, views=2, **source))))
        _expect_device(pair[0], x)
        if not equal(*pair):
            raise CheckFailed(
                f"on {x.device} with {source or 'the default generator'}, the same state must make "
                f"the same views: {difference(pair[1], pair[0])}"
            )


def _expect_device(views: Tensor, x: Tensor) -> None:
    if views.device != x.device:
        raise CheckFailed(f"views of x on {x.device} must be there, got {views.device}")


def config(subject: Subject) -> None:
    """noise.config() holds the name and every constructor argument, and get_noise(**config) (or
    the class, if it is not registered), with the state_dict, rebuilds a noise that makes the same
    views."""
    noise, x = subject.noise, subject.batch()
    kept = noise.config()
    if kept.get("name") != noise.name:
        raise CheckFailed(f"config()['name'] must be {noise.name!r}, got {kept.get('name')!r}")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for parameter in list(inspect.signature(type(noise).__init__).parameters.values())[1:]:
        if parameter.kind not in variadic and parameter.name not in kept:
            raise CheckFailed(
                f"config() must hold every constructor argument, {parameter.name!r} is missing "
                f"from {sorted(kept)}"
            )
    repr(noise)
    rebuilt = _rebuild(noise, kept)
    _expect_same_class("get_noise(**config())", rebuilt, noise)
    again = rebuilt.config()
    if not equal(again, kept):
        raise CheckFailed(f"the noise rebuilt from config() must have it, too: {kept}, got {again}")
    rebuilt.load_state_dict(noise.state_dict())
    _expect_same_views("the noise rebuilt from config()", rebuilt, noise, x)


def _rebuild(noise: Noise, config: dict[str, Any]) -> Noise:
    pin(0)
    if noise.name and (noise.name in list_noises() or "/" in noise.name):
        return get_noise(**config)
    return type(noise)(**{name: value for name, value in config.items() if name != "name"})


def pickling(subject: Subject) -> None:
    """Pickling and unpickling the noise, and copy.deepcopy, give a noise that makes the same
    views."""
    # The noise itself is only looked at: calling it would change it, should it keep state.
    noise, x = subject.original, subject.batch()
    copied, unpickled = copy.deepcopy(noise), pickle.loads(pickle.dumps(noise))
    for what, got in (("the deep copy", copied), ("the unpickled noise", unpickled)):
        _expect_same_class(what, got, noise)
        before, after = _contents(noise), _contents(got)
        if not equal(after, before):
            raise CheckFailed(
                f"{what} must have the same arguments and state: {before}, got {after}"
            )
    _expect_same_views("the unpickled noise", unpickled, copied, x)


def _contents(noise: Noise) -> dict[str, Any]:
    try:
        arguments = noise.config()
    except Exception:  # "config" reports it
        arguments = {}
    return {**arguments, **noise.state_dict(prefix="state.")}


def _expect_same_class(what: str, got: object, noise: Noise) -> None:
    if type(got) is not type(noise):
        raise CheckFailed(f"{what} must be a {type(noise).__name__}, got {type(got).__name__}")


def _expect_same_views(what: str, got: Noise, noise: Noise, x: Tensor) -> None:
    made = []
    for each in (got, noise):
        pin(0)
        draw = each.sample(x.clone(), views=2)
        pin(0)
        made.append(as_tensor(each.apply(x.clone(), draw)))
    if not equal(*made):
        raise CheckFailed(f"{what} must make the same views: {difference(*made)}")
