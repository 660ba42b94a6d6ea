"""Real data for the demo and the benchmarks, split the same way every time.

A file a set. They are looked for in ``$MIXNOISE_DATA``, by default ``~/.cache/mixnoise``; what is
missing or is not what its authors published is a ValueError that says how to get it.
"""

from mixnoise.datasets.adult import load_adult, load_adult_table
from mixnoise.datasets.cifar import load_cifar10, load_cifar100
from mixnoise.datasets.digits import load_digits
from mixnoise.datasets.fashion_mnist import load_fashion_mnist
from mixnoise.datasets.image_folder import ImageFolder
from mixnoise.datasets.keel import load_keel
from mixnoise.datasets.split import Split
from mixnoise.datasets.tu_graphs import load_tu_graphs

__all__ = [
    "ImageFolder",
    "Split",
    "load_adult",
    "load_adult_table",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "load_keel",
    "load_tu_graphs",
]
