"""Linear mixing, the paper's main noise."""

from mixnoise.noises.base import Mixup


class Linear(Mixup):
    """x+ = c x + (1-c) x_j, with one coefficient per row and view.

    A row of floating-point data of any shape. Equal values stay exactly equal, and a result never
    leaves the interval between the two values, where 1-c is exact, as it is for all c that are
    drawn. Values of opposite signs that both exceed half the dtype's largest number overflow, and
    an infinite value may become NaN.

    Args:
        alpha: lower end of c ~ U(alpha, 1), in [0, 1]; 1 changes nothing.
        granularity: "sample" draws c per row, "batch" once a view; partners are always per row.

    Raises:
        TypeError, ValueError: alpha is not in [0, 1], or the granularity is unknown; from
            ``sample``, if x is not floating point or has fewer than two rows.

    Example:
        >>> import torch
        >>> from mixnoise import get_noise
        >>> x = torch.randn(256, 30)
        >>> get_noise("linear", alpha=0.7)(x).shape
        torch.Size([256, 30])

    Source: Verma et al., DACL, arXiv 2011.04419, Algorithm 1.
    """

    name = "linear"
    function = "linear"
