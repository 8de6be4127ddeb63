"""Pictures of another size than a network takes, resized when they are read."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from imgclassify.backend import cores
from imgclassify.data.images import prepare_image, to_bytes


def resized(pictures, size: int):
    """Pictures as a network of this size takes them.

    Args:
        pictures: uint8, or float in [0, 1], (N, H, W, 3): an array, or anything that is indexed like one.
        size: Side of the square pictures in pixels.

    Returns:
        The pictures themselves if they have this size, else `Resized`.
    """
    return pictures if tuple(pictures.shape[1:3]) == (size, size) else Resized(pictures, size)


class Resized:
    """Pictures that are resized by `prepare_image`, those rows only that are asked for.

    Args:
        pictures: As for `resized`.
        size: As for `resized`.

    Attributes:
        shape: (N, size, size, 3).
        dtype: uint8.
        ndim: 4.
    """

    def __init__(self, pictures, size: int):
        self._pictures, self._size = pictures, size
        self.shape, self.dtype, self.ndim = (len(pictures), size, size, 3), np.dtype(np.uint8), 4

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._pictures)

    def __getitem__(self, rows) -> np.ndarray:
        """uint8 (N, size, size, 3), for a slice, an array of row numbers or a mask."""
        read = to_bytes(np.asarray(self._pictures[rows]))
        with ThreadPoolExecutor(min(cores(), 8)) as pool:
            found = list(pool.map(lambda each: prepare_image(Image.fromarray(each), size=self._size), read))
        return np.stack(found) if found else np.empty((0, *self.shape[1:]), np.uint8)
