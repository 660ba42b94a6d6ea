"""What a noise is, and what the four mixing noises share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mixnoise.checks import check_batch, check_choice, check_float, check_float_tensor
from mixnoise.draw import Draw
from mixnoise.ops import draw_rows, mix

GRANULARITIES = ("sample", "batch")


class Noise(nn.Module):
    """Makes positives out of a batch: ``sample`` decides, ``apply`` carries out.

    A subclass writes those two and nothing more. ``sample(x, *, views, generator, seed)`` holds
    all randomness and may return anything; ``apply(x, draw)`` is a pure function of its arguments
    that returns ``(views, N, *features)``. Constructor arguments are kept in attributes of the
    same names, as in scikit-learn, so that ``config`` works. A constructor that takes ``*args`` or
    ``**kwargs``, if only to pass them on to its base, needs a ``config`` of its own that does not
    call this one.

    Noises do not look at train or eval mode, nor at the rank: two processes with the same seed
    make the same views.

    Raises:
        NotImplementedError: from ``sample`` or ``apply``, where a subclass has none.
        AttributeError: from ``config``, if an argument is not kept in an attribute of its name, or
            the constructor takes ``*args`` or ``**kwargs``.

    Example:
        >>> import torch
        >>> from mixnoise import Noise
        >>> class Jitter(Noise):
        ...     def __init__(self, scale=0.1):
        ...         super().__init__()
        ...         self.scale = scale
        ...     def sample(self, x, *, views=1, generator=None, seed=None):
        ...         if seed is not None:
        ...             generator = torch.Generator(x.device).manual_seed(int(seed))
        ...         device = generator.device if generator else x.device
        ...         return torch.randn(views, *x.shape, generator=generator, device=device)
        ...     def apply(self, x, draw):
        ...         return x + (self.scale * draw).to(x)
        >>> noise = Jitter(scale=0.5)
        >>> noise.views(torch.zeros(8, 3), seed=0).shape
        torch.Size([2, 8, 3])
        >>> noise.config()
        {'name': '', 'scale': 0.5}
    """

    #: Version of this interface that the noise was written for.
    api_version: ClassVar[int] = 1
    #: The name the noise is registered under.
    name: str = ""
    #: Constructor arguments with which every view equals x, if there are any.
    identity: ClassVar[Mapping[str, Any] | None] = None

    def __init__(self) -> None:
        # nn.Module takes any arguments; config() would look for them in a noise without its own.
        super().__init__()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # What is registered is the base, so its name would rebuild another noise.
        if "name" not in cls.__dict__:
            cls.name = ""
        # nn.Module.apply(fn) walks all submodules to initialise weights. Our apply(x, draw) hides
        # it, so a call with a function alone still has to go there, or model.apply(fn) breaks on
        # every model that contains a noise.
        own = cls.__dict__.get("apply")
        if own is not None:

            @functools.wraps(own)
            def apply(self: Noise, *args: Any, **kwargs: Any) -> Any:
                given = (*args, *kwargs.values())
                if len(given) == 1 and callable(given[0]):
                    return nn.Module.apply(self, given[0])
                return own(self, *args, **kwargs)

            cls.apply = apply  # type: ignore[method-assign]

    def sample(
        self,
        x: Tensor,
        *,
        views: int = 1,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Any:
        """Every random decision for some views of a batch, nothing applied.

        Args:
            x: ``(N, *features)``, of which no more than shape, dtype and device may matter.
            views: how many, >= 1.
            generator: source of the seed, on the CPU or on x's device; None: the device's default
                one. In a CUDA graph one on the CPU is asked once, when the graph is captured.
            seed: in [-2^63, 2^63), or a 0-d int64 tensor, instead of a generator.

        Returns:
            What ``apply`` takes; of the built-in noises a :class:`mixnoise.Draw`.

        Raises:
            TypeError, ValueError: x has no rows, or too few, or is not what the noise mixes; views
                is less than 1; generator and seed are both given.
        """
        raise NotImplementedError(f"{type(self).__name__} must define sample")

    def apply(self, x: Tensor, draw: Any) -> Tensor:  # type: ignore[override]
        """The views that a draw makes of a batch: a pure function of both.

        Args:
            x: ``(N, *features)``, never changed.
            draw: from :meth:`sample`.

        Returns:
            ``(views, N, *features)`` in x's dtype and on its device.

        Raises:
            TypeError, ValueError: the draw does not fit x.
        """
        raise NotImplementedError(f"{type(self).__name__} must define apply")

    def views(
        self,
        x: Tensor,
        views: int = 2,
        *,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Tensor:
        """Independent positives of the same batch, ``(views, N, *features)``, made together.

        Arguments and errors are those of :meth:`sample` and :meth:`apply`.
        """
        return self.apply(x, self.sample(x, views=views, generator=generator, seed=seed))

    def forward(
        self,
        x: Tensor,
        *,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Tensor:
        """One positive per row, in x's shape; x is never changed.

        Arguments and errors are those of :meth:`sample` and :meth:`apply`.
        """
        return self.views(x, 1, generator=generator, seed=seed)[0]

    def config(self) -> dict[str, Any]:
        """What rebuilds this noise: ``get_noise(**noise.config())``."""
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        for p in parameters:
            if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                # Kept in one attribute, they would come back as a single argument of its name.
                raise AttributeError(
                    f"{type(self).__name__} must name its arguments instead of taking "
                    f"{p.replace(annotation=p.empty)}, or define config()"
                )
            if not hasattr(self, p.name):
                raise AttributeError(
                    f"{type(self).__name__} must keep its argument {p.name!r} in an attribute of "
                    "that name, or define config()"
                )
        return {"name": self.name, **{p.name: getattr(self, p.name) for p in parameters}}

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.config().items())


def check_sample_arguments(name: str, x: object, views: object, min_rows: int) -> None:
    """What every built-in noise asks of ``sample(x, views=...)``."""
    check_batch("x", x)
    assert isinstance(x, Tensor)
    if isinstance(views, bool) or not isinstance(views, Integral):
        raise TypeError(f"views must be an integer >= 1, got {views!r}")
    if views < 1:
        raise ValueError(f"views must be an integer >= 1, got {views}")
    if x.shape[0] < min_rows:
        raise ValueError(
            f"{name} noise mixes each row with another one, so x must have at least {min_rows} "
            f"rows, got {x.shape[0]}; use a larger batch, drop the last one, or use 'gaussian'"
        )


def seed_tensor(
    device: torch.device, generator: torch.Generator | None, seed: int | Tensor | None
) -> Tensor:
    """The 0-d int64 seed of a draw, on ``device``.

    Taken from ``generator`` (which may be on the CPU or on the device), else from the device's
    default generator, without waiting for the device.
    """
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if seed is None:
        source = device if generator is None else generator.device
        fresh = torch.randint(2**63 - 1, (), device=source, generator=generator)
        if source == device:
            return fresh
        # A number goes with a launch; a copy of a tensor would be waited for.
        return torch.full((), int(fresh), dtype=torch.int64, device=device)
    if generator is not None:
        raise ValueError("generator and seed exclude each other, got both")
    if isinstance(seed, Tensor):
        if seed.ndim or seed.dtype != torch.int64:
            raise ValueError(
                f"seed must be an integer or a 0-d int64 tensor, got {seed.dtype} of shape "
                f"{tuple(seed.shape)}"
            )
        return seed.detach().to(device, copy=True)
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer or a 0-d int64 tensor, got {seed!r}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must be in [-2^63, 2^63), got {seed}")
    return torch.full((), int(seed), dtype=torch.int64, device=device)


def mix_with(function: str, x: Tensor, draw: Draw) -> Tensor:
    """The views of a draw by one function, whatever function or kinds the draw names."""
    if not isinstance(draw, Draw):
        raise TypeError(f"draw must be a mixnoise.Draw, got {type(draw).__name__}")
    if draw.kind is not None or draw.function != function:
        draw = replace(draw, function=function, kind=None)
    return mix(x, draw)


class Mixup(Noise):
    """Base of the noises that mix each row with another row of the batch.

    Partners are uniform over the other rows, anew for each row and view. The coefficient
    c ~ U(alpha, 1) is in (alpha, 1].
    """

    function: ClassVar[str] = "linear"
    identity: ClassVar = {"alpha": 1.0}

    def __init__(self, alpha: float = 0.7, granularity: str = "sample") -> None:
        super().__init__()
        value = check_float("alpha", alpha, "a number in [0, 1]")
        if not 0 <= value <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        check_choice("granularity", granularity, GRANULARITIES)
        self.alpha = alpha
        self.granularity = granularity

    def sample(
        self,
        x: Tensor,
        *,
        views: int = 1,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Draw:
        check_sample_arguments(self.name, x, views, min_rows=2)
        self.check_data(x)
        root = seed_tensor(x.device, generator, seed)
        partner, coef = draw_rows(
            root, views, x.shape[0], float(self.alpha), self.granularity == "batch"
        )
        return Draw(seed=root, partner=partner, coef=coef, function=self.function)

    def check_data(self, x: Tensor) -> None:
        """Raise where x is outside the noise's domain."""
        check_float_tensor("x", x)

    def apply(self, x: Tensor, draw: Draw) -> Tensor:  # type: ignore[override]
        """Views ``(views, N, *features)`` of x: a pure function of x and draw."""
        return mix_with(self.function, x, draw)
