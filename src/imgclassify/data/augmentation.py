"""Data augmentation: random variants of the training pictures.

Drawing variations (numpy) and applying them (TensorFlow, inside the compiled training step) are two functions, so that
the caller who draws decides what happens to each picture: see `Batches`.
"""

from typing import NamedTuple

import numpy as np

from imgclassify.backend import tensorflow

AUGMENTATIONS = ("none", "flip", "flip+shift", "flip+shift+cutout", "flip+crop")
_SHIFT = 2  # pixels, for 32 x 32 pictures; as in airbench (Jordan, 2024)
_CUTOUT = 12  # side of the square in pixels, for 32 x 32 pictures; as in airbench96
_GREY = 127  # fills the square that is cut out
_AREAS = (0.25, 1.0)  # of a random crop, as shares of the picture
_STRETCH = np.log(4 / 3)  # of its width to its height, at most, either way


class Variations(NamedTuple):
    """How to vary each of N pictures; None leaves that part out."""

    mirrored: np.ndarray | None = None  # whether to mirror it left to right, bool (N,)
    shift: np.ndarray | None = None  # how far to move the view, int32 (N, 2): pixels down and to the right
    corner: np.ndarray | None = None  # upper left one of the square to cut out, int32 (N, 2): row and column
    box: np.ndarray | None = None  # part to show, enlarged, float32 (N, 4): top, left, bottom, right, from 0 to 1

    def at(self, rows: np.ndarray) -> "Variations":
        """The variations of some of the pictures."""
        return Variations(*(None if part is None else part[rows] for part in self))


def check_augmentation(augmentation: str) -> None:
    """Raise `ValueError` if the augmentation is unknown.

    Example:
        >>> check_augmentation("flip")
    """
    if augmentation not in AUGMENTATIONS:
        raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}. Received: {augmentation!r}")


def draw_variations(
    augmentation: str, count: int, size: tuple[int, int], random: np.random.Generator, *, mirrored=None
) -> Variations:
    """Draw random variations for `count` pictures.

    "flip" mirrors a picture left to right; "shift" moves it by up to 1/16 of its size along each axis; "cutout" greys
    out a square of three eighths of its size (DeVries and Taylor, 2017); "crop" shows a random part of at least a
    quarter of its area, up to a third wider or higher than square, enlarged to the full size (Szegedy et al., 2015).

    Args:
        augmentation: One of `AUGMENTATIONS`.
        count: How many pictures.
        size: Their height and width in pixels.
        random: Generator of the random numbers.
        mirrored: Which pictures "flip" mirrors, bool (count,); default: half of them, drawn at random.

    Raises:
        ValueError: The augmentation is unknown.
    """
    check_augmentation(augmentation)
    if augmentation == "none":
        return Variations()
    if mirrored is None:
        mirrored = random.random(count) < 0.5
    shift = corner = box = None
    if "shift" in augmentation:
        reach = [max(1, side * _SHIFT // 32) for side in size]
        shift = np.stack([random.integers(-far, far + 1, count) for far in reach], axis=1).astype(np.int32)
    if "cutout" in augmentation:
        ends = [side - side * _CUTOUT // 32 for side in size]
        corner = np.stack([random.integers(0, end + 1, count) for end in ends], axis=1).astype(np.int32)
    if "crop" in augmentation:
        area, ratio = random.uniform(*_AREAS, count), np.exp(random.uniform(-_STRETCH, _STRETCH, count))
        sides = np.minimum(1, np.sqrt(np.stack([area / ratio, area * ratio], axis=1)))
        start = random.random((count, 2)) * (1 - sides)
        box = np.concatenate([start, start + sides], axis=1).astype(np.float32)
    return Variations(mirrored, shift, corner, box)


def vary(pictures, variations: Variations):
    """Apply variations to pictures, as a uint8 tensor of the same shape; places outside one show its reflection.

    Args:
        pictures: uint8 (N, H, W, C), a tensor of known H and W, or an array.
        variations: One for each picture, tensors or arrays.
    """
    tf = tensorflow()
    pictures = tf.convert_to_tensor(pictures)
    height, width = pictures.shape[1:3]
    rows, columns = tf.range(height)[None, :], tf.range(width)[None, :]
    if variations.box is not None:
        floats, every = tf.cast(pictures, tf.float32), tf.range(tf.shape(pictures)[0])
        shown = tf.image.crop_and_resize(floats, variations.box, every, (height, width))
        pictures = tf.cast(tf.round(shown), tf.uint8)
    if variations.mirrored is not None:
        columns = tf.where(variations.mirrored[:, None], width - 1 - columns, columns)
    if variations.shift is not None:
        rows = _reflect(rows + variations.shift[:, :1], height)
        columns = _reflect(columns + variations.shift[:, 1:], width)
        pictures = tf.gather(pictures, rows, axis=1, batch_dims=1)
    if variations.mirrored is not None or variations.shift is not None:
        pictures = tf.gather(pictures, columns, axis=2, batch_dims=1)
    if variations.corner is not None:
        inside = []
        for side, start in zip((height, width), tf.unstack(variations.corner[:, :, None], axis=1), strict=True):
            places = tf.range(side)[None, :]
            inside.append((places >= start) & (places < start + side * _CUTOUT // 32))
        hidden = inside[0][:, :, None, None] & inside[1][:, None, :, None]
        pictures = tf.where(hidden, tf.constant(_GREY, pictures.dtype), pictures)
    return pictures


def augment(pictures, augmentation: str, *, seed: int = 0):
    """Random variants of pictures, uint8 (N, H, W, C), one for each, as a tensor: `draw_variations`, then `vary`.

    The same seed gives the same variants. An unknown augmentation is a `ValueError`.
    """
    count, *size = np.shape(pictures)[:3]
    return vary(pictures, draw_variations(augmentation, count, tuple(size), np.random.default_rng(seed)))


def _reflect(at, side: int):
    """Rows or columns, with those outside the picture reflected at its border: -1 becomes 1, -2 becomes 2."""
    tf = tensorflow()
    return side - 1 - tf.abs(side - 1 - tf.abs(at))
