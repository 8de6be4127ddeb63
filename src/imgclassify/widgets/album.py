"""The album: photos by class, in a folder of class folders of its own."""

import contextlib
import itertools
import os
import re
import shutil
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imgclassify.atomic import replacing
from imgclassify.data.dataset import Dataset, DatasetError, named_parts
from imgclassify.data.duplicates import group_rows
from imgclassify.data.folders import read_folder, subfolders
from imgclassify.data.images import IMAGE_SUFFIXES, ImageError
from imgclassify.data.photos import Photo, PhotoCache, Pictures, read_photos
from imgclassify.progress import Progress
from imgclassify.settings import artifacts_dir

ENOUGH = 2  # photos that a class needs to take part in a training
NOT_YET = "Training needs two classes with at least two photos each."
_MOST_CLASSES = 50
_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]|^\.|^__|\.$|^.{81}|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I)


class Album:
    """Photos by class in `folder/<class>/<photo>`. Every change is on the disk at once, where the next album finds it.

    Args:
        folder: Its own folder; what is in it may be renamed and deleted.
        size: Side at which the photos are prepared, in pixels.

    Attributes:
        photos: The photos of each class.
        cache: Has their pixels.
        problems: One sentence for each photo that cannot be read; its file stays.

    Raises:
        DatasetError: By every method: the disk is full, or what is asked for is not possible.
    """

    def __init__(self, folder: Path, size: int):
        self.folder = folder = folder.resolve()
        self.cache, self._lock = PhotoCache(size), threading.RLock()
        self.photos: dict[str, list[Photo]] = {}
        self.problems: list[str] = []
        with _writing(folder), Progress() as progress:
            folder.mkdir(parents=True, exist_ok=True)
            for name in subfolders(folder):
                found = read_photos(_files_in(folder / name), self.cache, progress)
                self.photos[name] = [each for each in found if isinstance(each, Photo)]
                self.problems += [str(each) for each in found if isinstance(each, ImageError)]

    def __len__(self) -> int:
        """Number of photos."""
        return sum(map(len, self.photos.values()))

    def add_class(self, name: str) -> str:
        """Add a class; returns its name without spaces around it."""
        name = self._checked(name)
        if len(self.photos) >= _MOST_CLASSES:
            raise DatasetError(f'At most {_MOST_CLASSES} classes fit here: use train_model("head", folder) for more.')
        with self._lock, _writing(self.folder / name):
            (self.folder / name).mkdir(exist_ok=True)
            self.photos[name] = []
        return name

    def rename_class(self, old: str, new: str) -> str:
        """Give a class another name, which is returned."""
        new = self._checked(new, but=old)
        with self._lock, _writing(self.folder / new):
            (self.folder / old).rename(self.folder / new)
            moved = [each._replace(path=str(self.folder / new / Path(each.path).name)) for each in self.photos[old]]
            self.photos = {new if name == old else name: some for name, some in self.photos.items()} | {new: moved}
        return new

    def delete_class(self, name: str) -> None:
        """Delete a class with its photos for good."""
        with self._lock, _writing(self.folder / name):
            shutil.rmtree(self.folder / name)
            del self.photos[name]

    def add(self, label: str, name: str, source: bytes | Path) -> None:
        """Add a photo to a class: the content of a file of this name, or its path.

        Raises:
            ImageError: It is no photo that can be used, or it is in a class already.
        """
        with self._lock:
            if label not in self.photos:
                raise DatasetError(f"There is no class {label} any more.")
            path = self._free_path(label, name)
            try:
                with _writing(path), replacing(path) as part:
                    part.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
                photo = self.cache.add(str(path))
                for each, photos in self.photos.items():
                    if any(other.sha256 == photo.sha256 for other in photos):
                        raise ImageError(f"{name} is in {each} already.")
            except ValueError as error:
                path.unlink(missing_ok=True)
                raise type(error)(str(error).replace(str(path), name)) from None
            self.photos[label].append(photo)

    def remove(self, photo: Photo) -> None:
        """Delete one photo for good."""
        with self._lock, _writing(Path(photo.path)):
            for photos in self.photos.values():
                photos[:] = [each for each in photos if each.sha256 != photo.sha256]
            Path(photo.path).unlink(missing_ok=True)

    def move(self, photo: Photo, label: str) -> None:
        """Move a photo to another class."""
        with self._lock, _writing(self.folder / label):
            path = Path(photo.path).rename(self._free_path(label, Path(photo.path).name))
            for name, photos in self.photos.items():
                moved = [photo._replace(path=str(path))] if name == label else []
                photos[:] = [each for each in photos if each.sha256 != photo.sha256] + moved

    def add_folder(self, folder: Path, *, progress: Progress | None = None) -> str:
        """Add the photos of a folder, which is not changed; returns what was added, in a sentence.

        The folder holds class folders, or photos of one class that has its name.
        """
        before, names, lost = len(self), {name.casefold(): name for name in self.photos}, 0
        if folder.is_dir() and (files := _files_in(folder)):
            pairs = [(folder.name, path) for path in files]
        elif folder.is_dir() and len(inside := subfolders(folder)) == 1:
            return self.add_folder(folder / inside[0], progress=progress)
        else:
            found = read_folder(folder, self.cache, progress=progress)
            pairs = [(found.class_names[i], each.path) for i, each in zip(found.labels, found.photos, strict=True)]
            lost = len(found.skipped)
        for label, path in pairs:
            if label.casefold() not in names:
                names[label.casefold()] = self.add_class(label)
            try:
                self.add(names[label.casefold()], Path(path).name, Path(path))
            except ImageError:
                lost += 1
        left_out = f" Left out, because they are here already or cannot be read: {lost:,}." if lost else ""
        return f"Added {counted(len(self) - before)} of {folder}.{left_out}"

    def save(self, folder: Path) -> str:
        """Copy everything to a new folder; returns where it is, in a sentence."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DatasetError(f"{folder} exists already, and is not overwritten: choose another name.")
        with _writing(folder):
            shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return f"Copied {counted(len(self))} to {folder}."

    def dataset(self) -> Dataset:
        """All photos of the classes that have at least two, as training data; there is no test data."""
        with self._lock:
            parts = {name: list(photos) for name, photos in sorted(self.photos.items()) if len(photos) >= ENOUGH}
        if len(parts) < 2:
            raise DatasetError(NOT_YET)
        photos = [photo for some in parts.values() for photo in some]
        pictures, none = Pictures(photos, self.cache), np.arange(0)
        labels = np.repeat(np.arange(len(parts)), [*map(len, parts.values())])
        arrays: list = [pictures, labels, pictures.take(none), none]
        return named_parts(
            arrays,
            name=self.folder.name,
            source=f'folder "{self.folder.name}"',
            folder=str(self.folder),
            class_names=tuple(parts),
            groups=group_rows(np.stack([photo.look for photo in photos]), [photo.sha256 for photo in photos]),
        )

    def _checked(self, name: str, *, but: str = "") -> str:
        """A name for a class that is possible and not taken."""
        if not (name := name.strip()):
            raise DatasetError("A class needs a name: type one, such as cup.")
        _check_name(name)
        if name.casefold() in {each.casefold() for each in self.photos if each != but}:
            raise DatasetError(f"There is a class {name} already: choose another name.")
        return name

    def _free_path(self, label: str, name: str) -> Path:
        stem, suffix = Path(name).stem.strip(". ")[:50] or "photo", Path(name).suffix.lower()
        suffix = suffix if suffix in IMAGE_SUFFIXES else ".jpg"
        numbers = itertools.chain([""], map("-{}".format, itertools.count(2)))
        paths = (self.folder / label / f"{stem}{number}{suffix}" for number in numbers)
        return next(path for path in paths if not path.exists())


def open_album(folder: str | Path | None, size: int) -> Album:
    """The album of a name, or of a folder of class folders, whose photos are added if the album is empty."""
    own, source = artifacts_dir() / "photos", Path(folder or "my-classes").expanduser()
    if folder is None or not source.is_dir():
        _check_name(str(source))
        return Album(own / source, size)
    source = source.resolve()
    if source.parent == own.resolve():
        return Album(source, size)
    album = Album(own / f"{source.name}-{zlib.crc32(os.fsencode(source)):08x}", size)
    if not album.photos:
        album.add_folder(source)
    return album


def counted(count: int) -> str:
    """A number of photos in words."""
    return f"{count:,} photo{'s' * (count != 1)}"


def _check_name(name: str) -> None:
    if _FORBIDDEN.search(name):
        accepted = 'at most 80 characters, none of / \\ : * ? " < > |, no dot at either end, no __ at the beginning'
        raise DatasetError(
            f"{name} cannot be a name here: {accepted}, and not a name such as CON, which Windows keeps."
        )


def _files_in(folder: Path) -> list[str]:
    """Picture files in a folder, in the order in which they came."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    return [str(path) for path in sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))]


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in one sentence that the disk does not take it."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be written ({error.strerror}): make room, or choose another place."
        ) from error
