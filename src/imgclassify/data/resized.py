"""Pictures of another size than a network takes, resized when they are read."""

import numpy as np
from PIL import Image

from imgclassify.backend import in_parallel
from imgclassify.data.images import prepare_image, to_bytes


class Resized:
    """Pictures that are resized by `prepare_image`, uint8 (N, size, size, 3), those rows only that are asked for.

    Args:
        pictures: uint8, or float in [0, 1], (N, H, W, 3): an array, or anything that is indexed like one.
        size: Side of the resized pictures in pixels.
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
        found = list(in_parallel(lambda each: prepare_image(Image.fromarray(each), size=self._size), read))
        return np.stack(found) if found else np.empty((0, *self.shape[1:]), np.uint8)
