"""Noises that keep the contract, and noises that break one law of it each."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mixnoise import Noise, get_noise


def source(x, generator, seed):
    """A generator, and the device on which it draws."""
    if seed is not None:
        generator = torch.Generator().manual_seed(int(seed))
    return generator, x.device if generator is None else generator.device


def check_rows(x, at_least):
    if not x.is_floating_point():
        raise TypeError(f"x must be floating point, got {x.dtype}")
    if len(x) < at_least:
        raise ValueError(f"x must have at least {at_least} rows, got {len(x)}")


class Jitter(Noise):
    """Normal deviates of its own for each element; the draw is a tensor."""

    identity = {"scale": 0.0}  # noqa: RUF012
    at_least = 1

    def __init__(self, scale=0.5):
        super().__init__()
        self.scale = scale

    def sample(self, x, *, views=1, generator=None, seed=None):
        check_rows(x, self.at_least)
        return self.deviates(x, views, *source(x, generator, seed))

    def deviates(self, x, views, generator, device):
        shape = (views, *x.shape)
        return torch.randn(shape, generator=generator, device=device, dtype=x.dtype).to(x.device)

    def apply(self, x, draw):
        return x + self.scale * draw


@dataclass(frozen=True)
class Partners:
    row: Tensor
    share: Tensor


class Mix(Noise):
    """Half of another row, or so; the draw is an object of its own kind."""

    identity = {"strength": 0.0}  # noqa: RUF012

    def __init__(self, strength=0.5):
        super().__init__()
        self.strength = strength

    def sample(self, x, *, views=1, generator=None, seed=None):
        check_rows(x, 2)
        generator, device = source(x, generator, seed)
        n = x.shape[0]
        shift = torch.randint(1, n, (views, n), generator=generator, device=device).to(x.device)
        share = torch.rand(views, n, generator=generator, device=device).to(x.device)
        row = (torch.arange(n, device=x.device) + shift) % n
        return Partners(row, self.strength * share.to(x.dtype))

    def apply(self, x, draw):
        share = draw.share.reshape(*draw.share.shape, *[1] * (x.ndim - 1))
        return x + share * (x[draw.row] - x)


class RollColumns(Noise):
    """The whole batch's columns turned by one number a view; the draw is a tuple of integers."""

    def sample(self, x, *, views=1, generator=None, seed=None):
        if x.ndim == 0:
            raise ValueError("x must have rows")
        generator, device = source(x, generator, seed)
        return tuple(torch.randint(8, (views,), generator=generator, device=device).tolist())

    def apply(self, x, draw):
        flat = x.reshape(x.shape[0], x[:1].numel())
        return torch.stack([flat.roll(shift, 1).reshape(x.shape) for shift in draw])


class Learned(Jitter):
    """Has a parameter, and a buffer that its arguments do not decide."""

    def __init__(self, scale=0.5):
        super().__init__(scale)
        self.gain = nn.Parameter(torch.ones(()))
        self.register_buffer("tilt", torch.rand(()))

    def apply(self, x, draw):
        return x + (self.scale * (self.gain + self.tilt)).to(x.dtype) * draw


class InARow(Noise):
    """One noise after the other; its arguments are noises."""

    def __init__(self, first, second):
        super().__init__()
        self.first = first
        self.second = second

    def sample(self, x, *, views=1, generator=None, seed=None):
        if seed is not None:
            generator = torch.Generator().manual_seed(int(seed))
        first = self.first.sample(x, views=views, generator=generator)
        second = self.second.sample(x, views=views, generator=generator)
        return first, second

    def apply(self, x, draw):
        first, second = draw
        return self.first.apply(x, first) + self.second.apply(x, second) - x


class Tokens(Noise):
    """Takes integers only."""

    def sample(self, x, *, views=1, generator=None, seed=None):
        if x.dtype != torch.int64:
            raise TypeError(f"x must be int64, got {x.dtype}")
        generator, device = source(x, generator, seed)
        shape = (views, *x.shape)
        return torch.randint(10, shape, generator=generator, device=device).to(x.device)

    def apply(self, x, draw):
        return torch.where(draw < 3, draw, x)


class Columns(Jitter):
    """Takes tables of 30 columns only, and says so."""

    def sample(self, x, *, views=1, generator=None, seed=None):
        if x.shape[1:] != (30,):
            raise ValueError(f"x must have 30 columns, got {tuple(x.shape)}")
        return super().sample(x, views=views, generator=generator, seed=seed)


class Crashes(Noise):
    def sample(self, x, *, views=1, generator=None, seed=None):
        raise RuntimeError("out of order")


class RefusesAll(Noise):
    def sample(self, x, *, views=1, generator=None, seed=None):
        raise ValueError("x must be something else")


#: The check that each broken noise has to fail, and no other.
BROKEN: list[tuple[str, Noise]] = []


def breaks(check, **arguments):
    def add(cls):
        BROKEN.append((check, cls(**arguments)))
        return cls

    return add


# What a noise is


@breaks("interface")
class OfALaterInterface(Jitter):
    api_version = 2


@breaks("interface")
class ForwardOfItsOwn(Jitter):
    def forward(self, x, *, generator=None, seed=None):
        return self.views(x, 2, generator=generator, seed=seed)


@breaks("interface")
class TwoViewsByDefault(Jitter):
    def sample(self, x, *, views=2, generator=None, seed=None):
        return super().sample(x, views=views, generator=generator, seed=seed)


class HidesModuleApply:
    def apply(self, x, draw):
        return x + 0.5 * draw


@breaks("interface")
class ApplyOfAMixin(HidesModuleApply, Jitter):
    identity = None


@breaks("shape")
class DropsTheViewOfOne(Jitter):
    def apply(self, x, draw):
        views = super().apply(x, draw)
        return views.squeeze(0) if len(views) == 1 else views


@breaks("shape")
class TablesOnly(Jitter):
    """One number a row, shaped for rows of one dimension."""

    def deviates(self, x, views, generator, device):
        return super().deviates(x[:, None] if x.ndim == 1 else x, views, generator, device)[..., :1]

    def apply(self, x, draw):
        return x + self.scale * draw.reshape(*draw.shape[:2], 1)


@breaks("dtype")
class FloatDeviates(Jitter):
    """float32 where x is half."""

    def deviates(self, x, views, generator, device):
        return super().deviates(x.float(), views, generator, device)


@breaks("dtype")
class OverflowsInHalf(Jitter):
    identity = None

    def apply(self, x, draw):
        return super().apply(x, draw) * 2**17 / 2**17


@breaks("device")
class DrawsOnTheCpu(Jitter):
    def deviates(self, x, views, generator, device):
        return torch.randn(views, *x.shape, generator=generator, dtype=x.dtype)


@breaks("config")
class ConfigWithoutArgument(Jitter):
    identity = None

    def config(self):
        return {"name": self.name}


@breaks("config")
class ConfigWithoutName(Jitter):
    identity = None

    def config(self):
        return {"scale": self.scale}


@breaks("config")
class ArgumentUnderAnotherName(Jitter):
    identity = None

    def __init__(self, size=0.5):
        super().__init__(size)


@breaks("config", scale=0.25)
class ConfigOfOtherValue(Jitter):
    identity = None

    def config(self):
        return {"name": self.name, "scale": round(self.scale)}


@breaks("config")
class NameOfAnother(type(get_noise("linear"))):
    """Says that it is a registered one, which its config rebuilds instead."""

    name = "linear"


@breaks("pickling")
class HoldsAFunction(Jitter):
    def __init__(self, scale=0.5):
        super().__init__(scale)
        self.function = lambda: 0


@breaks("pickling")
class CopiesWithoutScale(Jitter):
    def __setstate__(self, state):
        super().__setstate__(state)
        self.scale = 0.25


# What views depend on


@breaks("input_untouched")
class ChangesX(Jitter):
    def apply(self, x, draw):
        views = super().apply(x, draw)
        x.mul_(0.5)
        return views


@breaks("input_untouched")
class ChangesXInSample(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        draw = super().sample(x, views=views, generator=generator, seed=seed)
        x.data.mul_(0.5)
        return draw


@breaks("input_untouched")
@breaks("input_untouched", scale=0.0)
class SharesMemory(Jitter):
    def apply(self, x, draw):
        return super().apply(x, draw) if self.scale else x.expand(draw.shape)


@breaks("stateless")
class FitsItsFirstBatch(Jitter):
    unit = None

    def sample(self, x, *, views=1, generator=None, seed=None):
        draw = super().sample(x, views=views, generator=generator, seed=seed)
        if self.unit is None and x.device.type != "meta":
            self.unit = float(x.std())
        return draw * (self.unit or 1)


@breaks("stateless")
class KeepsItsDraw(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        self.draw = super().sample(x, views=views, generator=generator, seed=seed)
        return self.draw

    def apply(self, x, draw):
        return super().apply(x, self.draw)


@breaks("train_mode")
class QuietInEval(Jitter):
    def apply(self, x, draw):
        return super().apply(x, draw if self.training else draw / 2)


@breaks("identity")
class AlmostTheIdentity(Jitter):
    def apply(self, x, draw):
        return x + (self.scale + 1e-3) * draw


@breaks("identity")
class IdentityOfUnknownArgument(Jitter):
    identity = {"alpha": 1.0}  # noqa: RUF012


@breaks("non_contiguous")
class WantsOneBlock(Jitter):
    def apply(self, x, draw):
        flat = x.view(x.shape[0], x[:1].numel())
        return super().apply(flat.reshape(x.shape), draw)


@breaks("non_contiguous")
class ReadsMemoryInOrder(Jitter):
    def apply(self, x, draw):
        return super().apply(x.as_strided(x.shape, x.contiguous().stride()), draw)


# Where randomness comes from


@breaks("same_draw_same_views")
class DrawsInApply(Jitter):
    identity = None

    def apply(self, x, draw):
        return super().apply(x, draw) + 0.1 * torch.randn(x.shape, dtype=x.dtype, device=x.device)


@breaks("same_draw_same_views")
class UsesItsDrawUp(Jitter):
    def apply(self, x, draw):
        views = super().apply(x, draw)
        draw.mul_(0.5)
        return views


@breaks("same_draw_same_views")
class MovesTheGlobalOneInApply(Jitter):
    def apply(self, x, draw):
        if not torch.compiler.is_compiling():
            torch.rand(1)
        return super().apply(x, draw)


@breaks("seed")
class IgnoresSeed(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        return super().sample(x, views=views, generator=generator)


@breaks("seed")
class SeedsGlobally(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if seed is not None:
            torch.manual_seed(int(seed))
        return super().sample(x, views=views, generator=generator)


@breaks("seed")
class SeedsOfNumpy(Jitter):
    """Which have 32 bits."""

    def sample(self, x, *, views=1, generator=None, seed=None):
        if seed is not None:
            seed = int(np.random.RandomState(int(seed)).randint(2**31))
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("seed")
class RefusesNegativeSeeds(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if seed is not None:
            seed = int(np.random.default_rng(int(seed)).integers(2**63))
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("seed")
class AddsTheGlobalSeed(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if seed is not None:
            seed = (int(seed) + torch.initial_seed()) % 2**63
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("different_seeds")
class RoundsSeeds(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        seed = None if seed is None else int(seed) // 1000
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("different_seeds")
class TakesFewBitsOfSeeds(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        seed = None if seed is None else int(seed) % 8
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("different_seeds")
class TakesFewDigitsOfSeeds(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        seed = None if seed is None else int(seed) % 1000
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("different_seeds")
class TakesNoSignOfSeeds(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        seed = None if seed is None else abs(int(seed))
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("generator")
class IgnoresGenerator(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        return super().sample(x, views=views, seed=seed)


@breaks("generator")
class RestartsGenerator(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if generator is not None:
            seed = generator.initial_seed()
        return super().sample(x, views=views, seed=seed)


@breaks("generator")
class TouchesTheGlobalOne(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if generator is not None:
            torch.rand(1)
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("generator")
class AddsTheGlobalSeedToTheGenerators(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if generator is not None:
            seed = int(torch.randint(2**31, (), generator=generator)) + torch.initial_seed()
        return super().sample(x, views=views, seed=seed)


@breaks("default_generator")
class DefaultOfNumpy(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if generator is None and seed is None:
            seed = np.random.randint(2**31)  # noqa: NPY002
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("default_generator")
class DefaultOfPython(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if generator is None and seed is None:
            seed = random.getrandbits(31)
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("independent_views")
class SameNoiseTwice(Jitter):
    def deviates(self, x, views, generator, device):
        return super().deviates(x, 1, generator, device).repeat(views, *[1] * x.ndim)


@breaks("independent_views")
class Mirrored(Jitter):
    def deviates(self, x, views, generator, device):
        once = super().deviates(x, (views + 1) // 2, generator, device)
        return torch.cat((once, -once))[:views]


# Batches


@breaks("batch_permutation")
class LeavesTheLastRow(Mix):
    def apply(self, x, draw):
        views = super().apply(x, draw)
        return torch.cat((views[:, :-1], x[-1:].expand(len(views), *x[-1:].shape)), 1)


@breaks("batch_permutation")
class FirstRowWithItself(Mix):
    def sample(self, x, *, views=1, generator=None, seed=None):
        draw = super().sample(x, views=views, generator=generator, seed=seed)
        draw.row[:, 0] = 0
        return draw


@breaks("batch_permutation")
class NextRow(Mix):
    def sample(self, x, *, views=1, generator=None, seed=None):
        draw = super().sample(x, views=views, generator=generator, seed=seed)
        return Partners(
            torch.arange(len(x), device=x.device).roll(1).expand_as(draw.row), draw.share
        )


@breaks("batch_permutation")
class StrongerInFront(Jitter):
    def apply(self, x, draw):
        fade = torch.linspace(1, 0.5, max(len(x), 1), device=x.device).to(x.dtype)[: len(x)]
        return super().apply(x, draw * fade.reshape(-1, *[1] * (x.ndim - 1)))


@breaks("odd_batches")
class MixesHalves(Mix):
    """Pairs the halves of a random order."""

    def sample(self, x, *, views=1, generator=None, seed=None):
        draw = super().sample(x, views=views, generator=generator, seed=seed)
        first, second = draw.share.argsort(1).chunk(2, 1)
        row = torch.empty_like(draw.row).scatter_(1, first, second)
        return Partners(row.scatter_(1, second, first), draw.share)


@breaks("odd_batches")
class LeavesTheOddOne(LeavesTheLastRow):
    def apply(self, x, draw):
        return super().apply(x, draw) if len(x) % 2 else Mix.apply(self, x, draw)


@breaks("odd_batches")
class RefusesOddOnes(Mix):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if len(x) % 2:
            raise ValueError(f"x must have an even number of rows, got {len(x)}")
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("single_row")
class MixesARowWithItself(Mix):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if len(x) == 1:
            row = torch.zeros(views, 1, dtype=torch.int64, device=x.device)
            return Partners(row, torch.ones(views, 1, dtype=x.dtype, device=x.device))
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("single_row")
class CrashesOnOneRow(Jitter):
    def apply(self, x, draw):
        return super().apply(x, draw) + 0 * x[1]


@breaks("single_row")
class SaysNothingAboutOneRow(Mix):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if len(x) == 1:
            raise ValueError("unsupported")
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("empty_batch")
class CrashesOnNoRows(Jitter):
    at_least = 0

    def sample(self, x, *, views=1, generator=None, seed=None):
        x.amax(0)
        return super().sample(x, views=views, generator=generator, seed=seed)


@breaks("empty_batch")
class MakesARowOfNone(Jitter):
    at_least = 0

    def apply(self, x, draw):
        views = super().apply(x, draw)
        return views if len(x) else views.new_zeros(len(views), 1, *x.shape[1:])


@breaks("nan_policy")
class FillsNan(Jitter):
    def apply(self, x, draw):
        return super().apply(x.nan_to_num(), draw)


@breaks("nan_policy")
class SpreadsNan(Jitter):
    """Scaled by a statistic of the batch."""

    def deviates(self, x, views, generator, device):
        spread = x.detach().abs().mean()
        return super().deviates(x, views, generator, device) * spread


@breaks("nan_policy")
class RefusesNanVaguely(Jitter):
    def sample(self, x, *, views=1, generator=None, seed=None):
        if x.device.type != "meta" and x.isnan().any():
            raise ValueError("bad input")
        return super().sample(x, views=views, generator=generator, seed=seed)


# PyTorch


@breaks("gradients")
class Detaches(Jitter):
    def apply(self, x, draw):
        return super().apply(x.detach(), draw)


@breaks("gradients")
class StraightThrough(Jitter):
    identity = None

    def apply(self, x, draw):
        return super().apply(x + ((10 * x).round() / 10 - x).detach(), draw)


@breaks("gradients")
class DrawWithAGraph(Jitter):
    def deviates(self, x, views, generator, device):
        return super().deviates(x, views, generator, device) * (1 + x.nanmean(0))


@breaks("torch_compile")
class BranchesOnData(Jitter):
    def apply(self, x, draw):
        if x.device.type != "meta" and x.sum() > 1e6:
            return super().apply(x / 2, draw)
        return super().apply(x, draw)


@breaks("torch_compile")
class BreaksTheGraph(Jitter):
    def apply(self, x, draw):
        torch._dynamo.graph_break()
        return super().apply(x, draw)


@breaks("torch_compile")
class LouderWhenCompiled(Jitter):
    def apply(self, x, draw):
        return super().apply(x, draw * 2 if torch.compiler.is_compiling() else draw)


@breaks("torch_compile")
class OtherGradientWhenCompiled(Jitter):
    def apply(self, x, draw):
        views = super().apply(x, draw)
        return views + (x - x.detach()) if torch.compiler.is_compiling() else views


@breaks("autocast")
class LouderUnderAutocast(Jitter):
    def apply(self, x, draw):
        return super().apply(x, draw * 2 if torch.is_autocast_enabled("cpu") else draw)


@breaks("autocast")
class Turns(Jitter):
    """A matrix product, which autocast computes and returns in half precision."""

    identity = None

    def deviates(self, x, views, generator, device):
        n = x[:1].numel()
        return super().deviates(x.new_empty(n, n), views, generator, device)

    def apply(self, x, draw):
        flat = x.reshape(x.shape[0], draw.shape[-1])
        return (flat @ (self.scale * draw)).reshape(len(draw), *x.shape)
