"""Launches of a kernel on a GPU that is not there: run by test_launch.py.

Kernels are compiled for sm_90 and what would launch them is called, and keeps what it was given.
"""

import itertools
from typing import Any, ClassVar

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Launcher:
    """Triton makes one for each kernel that it compiles."""

    calls: ClassVar[list[tuple["Launcher", tuple[Any, ...]]]] = []

    def __init__(self, *_: Any) -> None: ...

    def __call__(self, *given: Any) -> None:
        self.calls.append((self, given))


class Utils:
    @staticmethod
    def load_binary(*_: Any) -> tuple[int, int, int, int, int]:
        return 0, 0, 32, 0, 1024  # module, function, registers, spills, threads

    @staticmethod
    def get_device_properties(_: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}


class Driver:
    utils, launcher_cls, device = Utils(), Launcher, 0

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@triton.jit(do_not_specialize=["n"])
def scale_kernel(
    x_ptr,
    y_ptr,
    n,
    stride,
    factor,
    NEGATIVE: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i * stride, mask=i < n).to(DTYPE)
    tl.store(y_ptr + i, (-x if NEGATIVE else x) * factor, mask=i < n)


def main() -> None:
    driver.set_active(Driver())
    from mixnoise_kernels.launch import launch

    room = torch.zeros(64)
    half, whole = room.half(), room
    cases = [
        (x[start:], n, stride, factor, negative, tl.float32, 4)
        for (x, start), (n, stride), (factor, negative) in itertools.product(
            ((whole, 0), (whole, 1), (whole, 4), (half, 0), (half, 1)),
            ((7, 1), (32, 16), (2**31, 3), (2, 2**31 + 16)),
            ((0.5, False), (2, True)),
        )
    ]
    cases += [(whole, 7, 1, 0.5, False, tl.float64, warps) for warps in (4, 8)]
    compiled = set()
    for x, n, stride, factor, negative, dtype, warps in cases:
        grid, given = (3,), (x, whole, n)
        named = {
            **{"stride": stride, "factor": factor, "NEGATIVE": negative},
            **{"DTYPE": dtype, "BLOCK": 16, "num_warps": warps},
        }
        scale_kernel[grid](*given, **named)
        expected = Launcher.calls[-1]
        for _ in range(2):  # the second is launched without Triton's help
            before = len(Launcher.calls)
            launch(scale_kernel, grid, *given, **named)
            assert len(Launcher.calls) == before + 1
            launcher, arguments = Launcher.calls[-1]
            assert launcher is expected[0], (n, stride, factor, negative, dtype, warps)
            # Between the kernel and its arguments stands what profilers look at.
            for part in (slice(6), slice(9, None)):
                for one, other in zip(arguments[part], expected[1][part], strict=True):
                    assert one is other or one == other, (one, other)
        compiled.add(launcher)
    Driver.device = 1  # compiled for each device
    launch(scale_kernel, grid, *given, **named)
    compiled.add(Launcher.calls[-1][0])
    print(len(cases), len(compiled))


if __name__ == "__main__":
    main()
