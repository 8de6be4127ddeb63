"""Photos: picture files that are decoded once, kept in a cache, and read from there when they are needed."""

import contextlib
import hashlib
import os
import stat
import time
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from imgclassify.atomic import replacing
from imgclassify.backend import in_parallel
from imgclassify.data.images import MAX_BYTES, ImageError, decode_image, prepare_image
from imgclassify.data.splits import DatasetError
from imgclassify.progress import Progress, format_seconds
from imgclassify.settings import cache_dir

LOOK = 16  # side of the tiny picture by which near-duplicates are found, in pixels
_PREPARATION = 2  # version of the records: to be raised when they, `decode_image` or `prepare_image` change
# The beginning of a record: SHA-256 of the file, its width and height, CRC-32 of the pixels and of all before; then
# come the pixels.
_HEAD = np.dtype(
    [("sha256", "S64"), ("size", "<u4", 2), ("look", "u1", (LOOK, LOOK, 3)), ("pixels", "<u4"), ("head", "<u4")]
)
_RECENT = 2_000_000_000  # nanoseconds in which a second change of a file may leave its time as it is


class Photo(NamedTuple):
    """A picture file whose pixels are in the cache."""

    path: str
    sha256: str  # of its content, in hex
    size: tuple[int, int]  # width and height in pixels, as stored in the file
    look: np.ndarray  # the picture at 16 x 16 pixels, uint8 (16, 16, 3)


class PhotoCache:
    """Prepared pictures of one size, one file for each, named by the SHA-256 of the picture file.

    A file is written whole or not at all, and used only if its checksums are right, so that no crash, second process
    or damaged disk leads to wrong pixels. A hard link, named by path, length and times of the picture file, leads to
    the same content without reading the picture file again.

    Args:
        size: Side of the pictures in pixels.
    """

    def __init__(self, size: int):
        self.size, self._length = size, _HEAD.itemsize + size * size * 3
        self._folder = cache_dir() / "photos" / f"{size}px-{_PREPARATION}"

    def add(self, path: str, *, unseen: bool = True) -> Photo:
        """Look up a picture file, and decode it if its content is not in the cache.

        `unseen` allows it not to read a file that has the path, length and times of an earlier one.

        Raises:
            ImageError: The file cannot be used.
            DatasetError: The cache cannot be written.
        """
        try:
            about = Path(path).stat()
            times = about.st_mtime_ns, about.st_ctime_ns
            link = hashlib.sha256(os.fsencode(path) + f" {about.st_size} {times}".encode()).hexdigest()
            if unseen and (photo := self._find(path, link)):
                return photo
            if not stat.S_ISREG(about.st_mode):
                raise ImageError(f"{path} is no file, expected a picture file.")
            if about.st_size > MAX_BYTES:
                decode_image(path)  # says that it is too large
            with Path(path).open("rb") as file:
                content = file.read(MAX_BYTES)
        except OSError as error:
            raise ImageError(f"{path} cannot be read: {error.strerror}") from error
        sha256 = hashlib.sha256(content).hexdigest()
        photo = self._find(path, sha256) if self._pixels(sha256) is not None else None
        photo = photo or self._decode(path, sha256, content)
        if time.time_ns() - max(times) > _RECENT:
            with contextlib.suppress(OSError):  # it only saves time
                (self._folder / link).unlink(missing_ok=True)
                (self._folder / link).hardlink_to(self._folder / sha256)
        return photo

    def pixels(self, photo: Photo) -> np.ndarray:
        """uint8 (size, size, 3), decoded again if the cache has lost them.

        Raises:
            DatasetError: The cache has lost them, and the file has changed or is gone.
        """
        if (pixels := self._pixels(photo.sha256)) is None:
            with contextlib.suppress(ImageError):
                self.add(photo.path, unseen=False)
            if (pixels := self._pixels(photo.sha256)) is None:
                raise DatasetError(f"{photo.path} has changed since the data was loaded: load the data again.")
        return pixels

    def _decode(self, path: str, sha256: str, content: bytes) -> Photo:
        image = decode_image(content, name=path, size=self.size)
        look = np.asarray(ImageOps.fit(image, (LOOK, LOOK), method=Image.Resampling.BOX))
        pixels = prepare_image(image, size=self.size).tobytes()
        size = image.info["full_size"]
        head = np.array((sha256, size, look, zlib.crc32(pixels), 0), _HEAD).tobytes()[:-4]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / sha256) as part:
                part.write_bytes(head + zlib.crc32(head).to_bytes(4, "little") + pixels)
        except OSError as error:
            raise DatasetError(
                f"The cache {self._folder} cannot be written: {error.strerror}. Each picture takes "
                f"{self._length / 1e3:,.0f} kB: make room, or set IMGCLASSIFY_CACHE_DIR to a folder on another disk."
            ) from error
        return Photo(path, sha256, size, look)

    def _find(self, path: str, name: str) -> Photo | None:
        """The picture file that has the content of this record, if the record is there and its head undamaged."""
        head = self._read(name, _HEAD.itemsize)
        if head is None or zlib.crc32(head[:-4]) != int.from_bytes(head[-4:], "little"):
            return None
        sha256, (width, height), look, *_ = np.frombuffer(head, _HEAD)[0]
        return Photo(path, sha256.decode(), (int(width), int(height)), look)

    def _pixels(self, sha256: str) -> np.ndarray | None:
        """The pixels in the cache; None if they are not there or damaged."""
        if (record := self._read(sha256, self._length)) is None:
            return None
        pixels = np.frombuffer(record, np.uint8, offset=_HEAD.itemsize)
        right = zlib.crc32(pixels.data) == int.from_bytes(record[_HEAD.itemsize - 8 : _HEAD.itemsize - 4], "little")
        return pixels.reshape(self.size, self.size, 3) if right else None

    def _read(self, name: str, count: int) -> bytes | None:
        with contextlib.suppress(OSError), (self._folder / name).open("rb", buffering=0) as file:
            return file.read(count) if os.fstat(file.fileno()).st_size == self._length else None
        return None


class Pictures:
    """Pictures in the cache as an array, uint8 (N, size, size, 3), of which only the rows that are asked for are read.

    It is indexed like an array, and has its `shape`, `dtype` and `ndim`; the result is in memory. `take` gives some of
    the rows without reading them. `photos` are the picture files, and `cache` has their pixels.
    """

    def __init__(self, photos: Sequence[Photo], cache: PhotoCache):
        self.photos, self._cache = tuple(photos), cache
        self.shape, self.dtype, self.ndim = (len(self.photos), cache.size, cache.size, 3), np.dtype(np.uint8), 4

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.photos)

    def __getitem__(self, key) -> np.ndarray:
        if isinstance(key, tuple):  # as x[:, :, ::-1]: the other axes are those of the pictures that are read
            first, *rest = key if key[0] is not Ellipsis else (slice(None), *key)
            read = self[first]
            return read[(slice(None),) * (read.ndim - 3) + tuple(rest)]
        rows = np.arange(len(self))[key]
        read = np.empty((rows.size, *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows.ravel()):
            read[place] = self._cache.pixels(self.photos[row])
        return read.reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("Pictures in the cache cannot be an array without being copied.")
        return self[:].astype(dtype or np.uint8, copy=False)

    def take(self, rows: np.ndarray) -> "Pictures":
        """The pictures with these row numbers, unread."""
        return Pictures([self.photos[row] for row in rows], self._cache)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the contents of the files, in order."""
        return hashlib.sha256("".join(photo.sha256 for photo in self.photos).encode()).digest()

    def __repr__(self) -> str:
        return f"Pictures of {len(self):,} files, {self.shape[1]} x {self.shape[2]} pixels"


def read_photos(paths: Sequence[str], cache: PhotoCache, progress: Progress) -> list[Photo | ImageError]:
    """For each picture file, given by its absolute path, the `Photo`, or the error that says why it cannot be used.

    They are read in parallel. Those that are not in the cache are decoded.

    Raises:
        DatasetError: The cache cannot be written.
    """

    def read(path: str) -> Photo | ImageError:
        try:
            return cache.add(path)
        except ImageError as error:
            return error

    began, found = time.monotonic(), []
    # `decode_image` silences warnings, but not safely in several threads: here they are silenced around all of them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for photo in in_parallel(read, paths):
            found.append(photo)
            left = (time.monotonic() - began) / len(found) * (len(paths) - len(found))
            progress.update(f"reading photos: {len(found):,} of {len(paths):,}, {format_seconds(left)} left")
    return found


def take_rows(pictures, rows: np.ndarray):
    """Some rows of pictures: of `Pictures` unread, else an array."""
    return pictures.take(rows) if isinstance(pictures, Pictures) else pictures[rows]
