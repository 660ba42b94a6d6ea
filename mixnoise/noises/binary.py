"""Binary mixing: swap some elements for the partner's."""

from torch import Tensor

from mixnoise.noises.base import Mixup


class Binary(Mixup):
    """x+ = m x + (1-m) x_j, with m ~ Bernoulli(c) per element.

    A pure swap, so it takes any dtype, integers and bool too, and every element is one of the two
    rows' own, bit for bit. c is rounded to 2^-16.

    Args:
        alpha: lower end of the share kept, c ~ U(alpha, 1), in [0, 1]; 1 changes nothing.
        granularity: "sample" draws c per row, "batch" once a view.

    Raises:
        TypeError, ValueError: alpha is not in [0, 1], or the granularity is unknown; from
            ``sample``, if x has fewer than two rows.

    Example:
        >>> import torch
        >>> from mixnoise import get_noise
        >>> get_noise("binary")(torch.tensor([[1, 2], [3, 4]])).dtype
        torch.int64

    Source: Verma et al., DACL, arXiv 2011.04419.
    """

    name = "binary"
    function = "binary"

    def check_data(self, x: Tensor) -> None:
        pass
