"""The one way from somebody's picture to model input: decode safely, turn upright, crop, shrink, scale."""

import io
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Picture = str | os.PathLike | bytes | BinaryIO | Image.Image | np.ndarray

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
MAX_PIXELS = 80_000_000  # below the 89 million at which Pillow warns of a decompression bomb
MAX_BYTES = 200_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF and AVIF are accepted"
_DRAFT_SIDE = 512  # JPEGs are decoded at the smallest scale that keeps both sides at least this long


class ImageError(ValueError):
    """A picture that cannot be used; the message says which one, why, and what would be accepted."""


def decode_image(picture: Picture, *, name: str | None = None) -> Image.Image:
    """Decode a picture from wherever it is, upright and in eight bits a channel.

    EXIF rotation is applied, transparency laid on white, palettes and CMYK turned into RGB, 16 bits scaled
    to eight; of an animation the first frame is taken. A large JPEG is decoded at reduced scale. What was
    passed in is not modified.

    Args:
        picture: A path, the bytes of a file, a binary file object, a Pillow image, or an array: uint8, uint16
            or bool, or float in [0, 1], of shape (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
        name: What to call the picture in messages, where it is no path.

    Returns:
        A Pillow image of mode "RGB".

    Raises:
        ImageError: The file is missing, empty, damaged, too large (80 million pixels, 200 MB), of a format
            that is not accepted, or the array is of another form.
    """
    if isinstance(picture, np.ndarray):
        return _to_rgb(_image_from_array(picture, name or "The array"))
    if isinstance(picture, Image.Image):
        return _finish(picture, name or "The image")
    if isinstance(picture, (str, os.PathLike)):
        name = name or os.fspath(picture)
        content = _read_file(Path(picture).expanduser(), name)
    elif isinstance(picture, (bytes, bytearray, memoryview)):
        content = bytes(picture)
    elif hasattr(picture, "read"):
        name = name or getattr(picture, "name", None)
        content = picture.read(MAX_BYTES + 1)
        if not isinstance(content, bytes):
            raise ImageError(f"{name or 'The file'} was opened as text: open it with mode 'rb'.")
    else:
        raise ImageError(
            f"A picture is a path, bytes, a binary file, a Pillow image or an array. Received: {type(picture).__name__}"
        )
    return _decode(content, str(name or "The picture"))


def fit_square(image: Image.Image, size: int = 32) -> np.ndarray:
    """The central square of a decoded picture, shrunk (or enlarged) with antialiasing.

    Args:
        image: As `decode_image` returns it; not modified.
        size: Side of the result in pixels, at least 1.

    Returns:
        uint8, (size, size, 3), RGB. A picture that has this size already comes back pixel for pixel.

    Raises:
        ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel. Received: size={size}")
    return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), method=Image.Resampling.LANCZOS))


def prepare_image(image: Image.Image, *, size: int = 32) -> np.ndarray:
    """Turn a decoded picture into the one-image batch that a classifier takes.

    Args:
        image: As `decode_image` returns it; not modified.
        size: Side of the square that the model was trained on, in pixels.

    Returns:
        float32 in [0, 1], (1, size, size, 3), channels in RGB order.

    Raises:
        ValueError: `size` is below 1.
    """
    return fit_square(image, size)[np.newaxis].astype(np.float32) / np.float32(255)


def _read_file(path: Path, name: str) -> bytes:
    try:
        if path.is_dir():
            raise ImageError(f"{name} is a folder, expected a picture file.")
        if path.stat().st_size > MAX_BYTES:
            raise ImageError(
                f"{name} has {path.stat().st_size / 1e6:.0f} MB: at most {MAX_BYTES / 1e6:.0f} MB are accepted."
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist: expected a picture file.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _decode(content: bytes, name: str) -> Image.Image:
    if not content:
        raise ImageError(f"{name} is empty: expected a picture file.")
    if len(content) > MAX_BYTES:
        raise ImageError(f"{name} has more than the {MAX_BYTES / 1e6:.0f} MB that are accepted.")
    if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"):
        raise ImageError(f"{name} is a HEIC photo, which cannot be read here: please export it as JPEG.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file's odd metadata; bombs are met by our own cap
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            _check_size(image, name)
            image.draft("RGB", (_DRAFT_SIDE, _DRAFT_SIDE))
            return _finish(image, name)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not a picture of a known format: {_ACCEPTED}.") from None
    except Image.DecompressionBombError:
        raise ImageError(_too_many_pixels(name)) from None
    except Exception as error:  # a damaged head makes some formats raise other errors on opening
        raise ImageError(_damaged(name, error)) from error


def _damaged(name: str, error: Exception) -> str:
    return f"{name} is damaged or cut off ({error}): {_ACCEPTED}."


def _too_many_pixels(name: str) -> str:
    return f"{name} has too many pixels: at most {MAX_PIXELS / 1e6:.0f} million are accepted."


def _check_size(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_too_many_pixels(name))
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: its size is {image.width} x {image.height}.")


def _finish(image: Image.Image, name: str) -> Image.Image:
    """The pixels of an opened picture, upright and in RGB, as a copy."""
    _check_size(image, name)
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file makes them raise
        raise ImageError(_damaged(name, error)) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A deep grey picture in eight bits; Pillow's own conversion would clip it to white."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are no finite numbers")
    if image.mode == "F":  # no agreed range: 0 to 1, else 0 to 255, else its own
        low, high = (
            (0, 1)
            if values.min() >= 0 and values.max() <= 1
            else (0, 255)
            if values.min() >= 0 and values.max() <= 255
            else (values.min(), values.max())
        )
    else:
        low, high = 0, 65535 if image.mode.startswith("I;16") or values.max() > 255 else 255
    return Image.fromarray(np.clip(np.round((values - low) * (255 / ((high - low) or 1))), 0, 255).astype(np.uint8))


def _image_from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ImageError(
            f"{name} must have the shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4). Received: {array.shape}"
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(_too_many_pixels(name))
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        array = np.round(array / 257)
    elif array.dtype.kind in "fb":
        if not (array.min() >= 0 and array.max() <= 1):  # also false for NaN
            raise ImageError(
                f"{name} of {array.dtype} must lie in [0, 1] (uint8: 0 to 255). "
                f"Received: {array.min()} to {array.max()}"
            )
        array = np.round(array * 255.0)
    elif array.dtype != np.uint8:
        raise ImageError(f"{name} must be uint8, uint16, bool or float in [0, 1]. Received: {array.dtype}")
    return Image.fromarray(array.astype(np.uint8))
