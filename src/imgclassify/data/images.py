"""Pictures: the only way from any picture to model input. Decode safely, turn upright, crop, resize."""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from imgclassify.backend import in_parallel, tensorflow

Picture = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
MAX_PIXELS = 80_000_000  # below the 89 million at which Pillow warns of a decompression bomb
MAX_BYTES = 200_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF are accepted, and HEIC where pillow-heif is installed"
_TOO_MANY = "{} has too many pixels: at most {:g} million are accepted."
_DRAFT_SIDE = 512  # JPEGs are decoded at the smallest scale that keeps both sides at least this long
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_LARGE = 25_000_000  # pixels; larger pictures are decoded one at a time, however many threads there are
_large = threading.Lock()


class ImageError(ValueError):
    """A picture that cannot be used; the message says which one, why, and what would be accepted."""


def decode_image(
    picture: Picture, *, name: str | None = None, size: int = _DRAFT_SIDE, most_pixels: int | None = None
) -> Image.Image:
    """Decode a picture from any source, upright and with eight bits per channel.

    EXIF rotation is applied, transparency is put on white, palettes and CMYK become RGB, and 16 bits are scaled
    to eight. The first frame of an animation is used. A large JPEG is decoded at a reduced scale. The pixels
    of a file are in memory only once. What is passed in is not modified. HEIC photos need the package pillow-heif.

    Args:
        picture: A path, the bytes of a file, a binary file object, a Pillow image, or an array: uint8, uint16
            or bool, or float in [0, 1], of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
        name: Name of the picture in messages, if it is not a path.
        size: Side in pixels that the picture is to be resized to. It matters only above 512: both sides of a reduced
            JPEG keep at least 512 pixels, or `size` if that is more.
        most_pixels: A lower limit than 80 million, for a file or its bytes.

    Returns:
        A Pillow image of mode "RGB". For a file, `info["full_size"]` holds its stored width and height.

    Raises:
        ImageError: The file is missing, empty, damaged, too large (80 million pixels, 200 MB) or in a format
            that is not accepted; or the array has another shape, type or range.

    Example:
        >>> decode_image(np.zeros((20, 30), np.uint8)).size
        (30, 20)
    """
    if isinstance(picture, np.ndarray):
        return _to_rgb(_image_from_array(picture, name or "The array"))
    if isinstance(picture, Image.Image):
        with _named_errors(name or "The image"):
            _check_size(*picture.size, name or "The image")
            return _finish(picture.copy())
    if isinstance(picture, (str, os.PathLike)):
        return _decode_file(Path(picture).expanduser(), name or os.fspath(picture), size, most=most_pixels)
    if hasattr(picture, "read"):
        name = name or getattr(picture, "name", None)
        picture = picture.read(MAX_BYTES + 1)
        if isinstance(picture, str):
            raise ImageError(f"{name or 'The file'} was opened as text: open it with mode 'rb'.")
    if not isinstance(picture, (bytes, bytearray, memoryview)):
        accepted = "A picture is a path, bytes, a binary file, a Pillow image or an array."
        raise ImageError(f"{accepted} Received: {type(picture).__name__}")
    content = bytes(picture)
    return _decode(io.BytesIO(content), len(content), str(name or "The picture"), size, most=most_pixels)


def prepare_image(image: Image.Image, *, size: int = 32, crop: float = 1.0) -> np.ndarray:
    """Crop a decoded picture to its central square and resize it with antialiasing, as input for a network.

    This is the only way from a picture to model input, for both training and prediction.

    Args:
        image: As `decode_image` returns it; not modified.
        size: Side of the result in pixels, at least 1.
        crop: Side of the square as a share of the picture's shorter side, above 0 and at most 1.

    Returns:
        uint8, (size, size, 3), RGB. A picture that already has this size is returned pixel for pixel.

    Raises:
        ValueError: `size` or `crop` is out of range.

    Example:
        >>> prepare_image(Image.new("RGB", (300, 200), "red"), size=2).tolist()
        [[[255, 0, 0], [255, 0, 0]], [[255, 0, 0], [255, 0, 0]]]
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel. Received: size={size}")
    if not 0 < crop <= 1:
        raise ValueError(f"crop must be above 0 and at most 1. Received: crop={crop}")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return np.asarray(ImageOps.fit(rgb, (size, size), method=Image.Resampling.LANCZOS, bleed=(1 - crop) / 2))


def scale_pixels(x):
    """Pictures, an array or a tensor, as float32 for a network: uint8 is scaled to [0, 1]; floats keep their values.

    No other function scales pixels for a network.
    """
    if isinstance(x, np.ndarray):
        return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else np.asarray(x, np.float32)
    tf = tensorflow()
    scaled = tf.cast(x, tf.float32)
    # TensorFlow would turn a plain division into a multiplication, which rounds differently from numpy.
    return tf.math.divide_no_nan(scaled, 255.0) if x.dtype == tf.uint8 else scaled


def to_bytes(x: np.ndarray) -> np.ndarray:
    """Pictures as uint8, (..., 3): floats in [0, 1] are scaled and rounded; uint8 stays as it is."""
    return x if x.dtype == np.uint8 else np.round(x * 255).astype(np.uint8)


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


def _decode_file(path: Path, name: str, size: int, *, most: int | None) -> Image.Image:
    try:
        if path.is_dir():
            raise ImageError(f"{name} is a folder, expected a picture file.")
        with path.open("rb") as file:
            return _decode(file, path.stat().st_size, name, size, most=most)
    except FileNotFoundError:
        if name.lower().startswith(("http://", "https://")):
            raise ImageError(f"{name} is a web address: save the picture as a file and give its path.") from None
        raise ImageError(f"{name} does not exist: expected a picture file.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decode(file: BinaryIO, length: int, name: str, size: int, *, most: int | None) -> Image.Image:
    if length == 0:
        raise ImageError(f"{name} is empty: expected a picture file.")
    if length > MAX_BYTES:
        raise ImageError(f"{name} is too large: at most {MAX_BYTES / 1e6:.0f} MB are accepted.")
    head = file.read(12)
    file.seek(0)
    heic = [_heic_format(name)] if head[4:8] == b"ftyp" and head[8:] in _HEIC_BRANDS else []
    with _named_errors(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for odd metadata; our own limit stops bombs
        image: Image.Image = Image.open(file, formats=(*_FORMATS, *heic))
        _check_size(*image.size, name, most=most)
        full_size = image.size
        image.draft("RGB", (max(size, _DRAFT_SIDE),) * 2)
        with _large if image.width * image.height > _LARGE else contextlib.nullcontext():
            image = _finish(image)
        image.info["full_size"] = full_size
        return image


def _heic_format(name: str) -> str:
    """Pillow's name of the HEIC format, which pillow-heif adds to Pillow."""
    try:
        import pillow_heif
    except ImportError:
        advice = "to read it, run `pip install pillow-heif`, or export it as JPEG"
        raise ImageError(f"{name} is a HEIC photo: {advice}.") from None
    pillow_heif.register_heif_opener()  # does nothing the second time
    return "HEIF"


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Say in one sentence what is wrong with this picture."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture of a known format: {_ACCEPTED}.") from None
    except Image.DecompressionBombError:
        raise ImageError(_TOO_MANY.format(name, MAX_PIXELS / 1e6)) from None
    except Exception as error:  # decoders raise many kinds of errors for a damaged file
        raise ImageError(f"{name} is damaged or cut off ({error}): {_ACCEPTED}.") from error


def _check_size(width: int, height: int, name: str, *, most: int | None = None) -> None:
    if width * height > (most := min(most or MAX_PIXELS, MAX_PIXELS)):
        raise ImageError(_TOO_MANY.format(name, most / 1e6))
    if 0 in (width, height):
        raise ImageError(f"{name} has no pixels: its size is {width} x {height}.")


def _finish(image: Image.Image) -> Image.Image:
    """The pixels of an opened picture, upright and in RGB; the picture itself may be modified."""
    ImageOps.exif_transpose(image, in_place=True)
    return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture with more than eight bits, scaled to eight; Pillow's own conversion would clip it to white."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it contains values that are not finite numbers")
    low, high = 0.0, 255.0
    if image.mode != "F":
        high = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
    elif values.min() < 0 or values.max() > 255:  # floats have no standard range: 0 to 1, else 0 to 255, else their own
        low, high = values.min(), values.max()
    elif values.max() <= 1:
        high = 1.0
    return Image.fromarray(np.clip(np.round((values - low) * (255 / ((high - low) or 1))), 0, 255).astype(np.uint8))


def _image_from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        accepted = "(H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        raise ImageError(f"{name} must have the shape {accepted}. Received: {array.shape}")
    _check_size(array.shape[1], array.shape[0], name)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        array = np.round(array / 257)
    elif array.dtype.kind in "fb":
        if not (array.min() >= 0 and array.max() <= 1):  # also false for NaN
            received = f"{array.min()} to {array.max()}"
            raise ImageError(f"{name} of {array.dtype} must lie in [0, 1] (uint8: 0 to 255). Received: {received}")
        array = np.round(array * 255.0)
    elif array.dtype != np.uint8:
        raise ImageError(f"{name} must be uint8, uint16, bool or float in [0, 1]. Received: {array.dtype}")
    return Image.fromarray(array.astype(np.uint8))
