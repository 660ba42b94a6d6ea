"""mixnoise: contrastive pre-training by mixup noise, for data without known augmentations."""

from mixnoise import metrics
from mixnoise._version import __version__ as __version__
from mixnoise.draw import Draw
from mixnoise.evaluate import knn_probe, linear_probe
from mixnoise.losses import NTXentLoss
from mixnoise.model import DACL
from mixnoise.noises.base import Noise
from mixnoise.ops import nt_xent
from mixnoise.plugins import NoisePluginError
from mixnoise.registry import get_noise, list_noises, register_noise
from mixnoise.train import pretrain

__all__ = [
    "DACL",
    "Draw",
    "NTXentLoss",
    "Noise",
    "NoisePluginError",
    "get_noise",
    "knn_probe",
    "linear_probe",
    "list_noises",
    "metrics",
    "nt_xent",
    "pretrain",
    "register_noise",
]
