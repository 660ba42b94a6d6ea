"""Images in folders of classes, as ImageNet is unpacked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mixnoise.checks import check_integer

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
# Of 256 pixels of the shorter side, 224 are taken: how ImageNet is evaluated.
_SHARE = 224 / 256


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """``(image, label)`` of a folder with a folder for each class.

    An image is ``(3, size, size)`` float32 in [0, 1]: the middle square, of 7/8 of the shorter
    side. Labels are those of the folders' names in order, which are ``classes``.

    Args:
        folder: its folders are the classes; what stands deeper in them counts, too.
        size: pixels, >= 1.

    Raises:
        ValueError: the folder is missing, a class has no images, or, when it is asked for, an image
            cannot be read.
        ImportError: without Pillow.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from mixnoise.datasets import ImageFolder
        >>> folder = Path(tempfile.mkdtemp()) / "cat"
        >>> folder.mkdir()
        >>> Image.new("RGB", (300, 200)).save(folder / "a.png")
        >>> image, label = ImageFolder(folder.parent)[0]
        >>> image.shape
        torch.Size([3, 224, 224])
    """

    def __init__(self, folder: str | os.PathLike[str], size: int = 224) -> None:
        try:
            import PIL.Image  # noqa: F401 - rather now than in a worker
        except ImportError as error:
            raise ImportError(
                "reading images needs Pillow: pip install 'mixnoise[data]'"
            ) from error
        root, self.size = Path(folder), check_integer("size", size, 1)
        found = sorted(path for path in root.glob("*/") if path.is_dir())
        if not found:
            raise ValueError(f"{root} is missing or has no folders of images, one a class")
        self.classes = [path.name for path in found]
        self.files: list[tuple[Path, int]] = []
        for label, path in enumerate(found):
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in _SUFFIXES)
            if not files:
                raise ValueError(f"{path} has no images ({', '.join(sorted(_SUFFIXES))})")
            self.files += [(file, label) for file in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image
        from PIL.Image import DecompressionBombError

        path, label = self.files[index]
        try:
            with Image.open(path) as opened:
                pixels = _middle(opened.convert("RGB"), self.size)
        except (OSError, DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255, label


def _middle(image: Any, size: int) -> Any:
    """``(size, size, 3)`` uint8; scaled and cropped at once."""
    from PIL import Image

    side = min(image.size) * _SHARE
    left, top = ((length - side) / 2 for length in image.size)
    box = left, top, left + side, top + side
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2))
