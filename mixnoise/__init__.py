"""mixnoise: contrastive pre-training by mixup noise, for data without known augmentations."""

from mixnoise.draw import Draw
from mixnoise.noises.base import Noise
from mixnoise.ops import nt_xent
from mixnoise.registry import NoisePluginError, get_noise, list_noises, register_noise

__version__ = "0.1.0"
