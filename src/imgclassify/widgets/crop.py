"""The crop box: a photo with a movable square, the part of it that a model sees. `crop.js` is its other half."""

import math
from collections.abc import Sequence

import anywidget
import traitlets
from PIL import Image

from imgclassify import display
from imgclassify.settings import PACKAGE
from imgclassify.widgets.handlers import script

MIN_SIDE = 0.05  # of the smallest square, as a share of the picture's shorter side
_PREVIEW_SIDE = 384  # pixels

Square = tuple[float, float, float]


class CropBox(anywidget.AnyWidget):
    """A photo with a square on it that can be moved and resized by mouse, touch and keyboard.

    A square is (left, top, side), in units of the picture's shorter side: (0.5, 0, 1) is the central square of a
    picture that is twice as wide as high.

    Args:
        image: The photo, upright.
        name: Its name, for screen readers.
        share: Side of the central square that is shown first, above 0 and at most 1.

    Attributes:
        square: The square as the browser sent it, once it has come to rest; `fit_square` brings it inside the picture.
        said: What screen readers are told after a move.
    """

    _esm = script("crop.js")
    _css = PACKAGE / "widgets" / "crop.css"
    photo = traitlets.Bytes().tag(sync=True)
    name = traitlets.Unicode().tag(sync=True)
    size = traitlets.List(traitlets.Int()).tag(sync=True)
    square = traitlets.List(traitlets.Float(), minlen=3, maxlen=3).tag(sync=True)
    start = traitlets.List(traitlets.Float()).tag(sync=True)
    min_side = traitlets.Float(MIN_SIDE).tag(sync=True)
    said = traitlets.Unicode().tag(sync=True)

    def __init__(self, image: Image.Image, name: str, *, share: float = 1.0):
        start = list(central_square(image.size, share))
        photo = display.thumbnail(image, _PREVIEW_SIDE)
        super().__init__(photo=photo, name=name, size=list(image.size), square=start, start=start)


def central_square(size: tuple[int, int], share: float = 1.0) -> Square:
    """The central square of a picture, in units of its shorter side.

    Example:
        >>> central_square((400, 200))
        (0.5, 0.0, 1.0)
        >>> central_square((200, 200), 0.5)
        (0.25, 0.25, 0.5)
    """
    shorter = min(size)
    return (size[0] / shorter - share) / 2, (size[1] / shorter - share) / 2, share


def fit_square(size: tuple[int, int], square: Sequence[float]) -> Square:
    """A square brought inside a picture of this size; one that is not made of three finite numbers becomes the central.

    Example:
        >>> fit_square((400, 200), (1.5, -1, 0.5))
        (1.5, 0.0, 0.5)
        >>> fit_square((400, 200), (float("nan"), 0, 1))
        (0.5, 0.0, 1.0)
    """
    if len(square) != 3 or not all(map(math.isfinite, square)):
        return central_square(size)
    shorter = min(size)
    side = float(min(max(square[2], MIN_SIDE), 1))
    left, top = (float(min(max(at, 0), length / shorter - side)) for at, length in zip(square[:2], size, strict=True))
    return left, top, side


def cut(image: Image.Image, square: Square) -> Image.Image:
    """The part of a picture inside a square, in whole pixels, at least one; the picture is not modified."""
    shorter = min(image.size)
    side = max(round(square[2] * shorter), 1)
    left, top = (min(round(at * shorter), length - side) for at, length in zip(square[:2], image.size, strict=True))
    return image.crop((left, top, left + side, top + side))
