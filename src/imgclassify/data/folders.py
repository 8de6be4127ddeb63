"""Folders: a user's own pictures, one subfolder per class."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imgclassify.data.dataset import Dataset, named_parts
from imgclassify.data.duplicates import group_rows
from imgclassify.data.images import IMAGE_SUFFIXES, ImageError
from imgclassify.data.photos import Photo, PhotoCache, Pictures, read_photos
from imgclassify.data.splits import DatasetError, grouped_split
from imgclassify.progress import Progress

BUILT_IN = ("cifar10", "cifar100", "clothing", "digits", "arrays")  # data sets whose name a folder must not have

_PARTS = {"train": ("train", "training"), "validation": ("validation", "valid", "val"), "test": ("test", "testing")}
_MOST_CLASSES = 2000
_IN_MEMORY = 64  # pixels; pictures up to this side are read into memory as a whole


@dataclass(frozen=True, eq=False)
class Contents:
    """The pictures in a folder of class folders."""

    class_names: tuple[str, ...]
    photos: Sequence[Photo]  # those that can be used, by part, class and path
    labels: np.ndarray  # their class numbers, int64 (N,)
    parts: np.ndarray  # the part of each, (N,): "train", "validation" or "test"
    all_parts: tuple[str, ...]  # those that the folder has
    skipped: tuple[str, ...]  # one sentence for each file that cannot be read

    def count(self, part: str) -> np.ndarray:
        """Number of photos of each class in a part."""
        return np.bincount(self.labels[self.parts == part], minlength=len(self.class_names))


def name_of_folder(folder: Path) -> str:
    """The name of the data set that `load_folder` makes of a folder."""
    name = folder.expanduser().resolve().name
    return f"{name}-folder" if name in BUILT_IN else name


def load_folder(folder: Path, *, size: int | None = None, progress: Progress | None = None) -> Dataset:
    """The pictures in a folder of class folders, prepared as at prediction.

    Near-duplicates stay on the same side when test data is split off, as far as every class keeps a place on both.

    Args:
        folder: One subfolder per class; or `train/`, and `validation/` or `test/` or both, with one subfolder per class
            each, in their usual spellings. Without `test/`, one picture in five of the training data becomes test data.
        size: Side of the pictures in pixels; default: 32.
        progress: Where to show how long the decoding takes.

    Raises:
        DatasetError: There are fewer than two classes, or more than 2,000; a class has too few readable pictures; or
            the disk is full.
    """
    folder = folder.resolve()
    folders, cache = _parts(folder), PhotoCache(size or 32)
    found = read_folder(folder, cache, progress=progress)
    for part, path in folders.items():
        counts = found.count(part)
        few = path / found.class_names[counts.argmin()]
        if counts.min() == 0:
            endings = ", ".join(IMAGE_SUFFIXES)
            raise DatasetError(f"{few} contains no readable picture: expected files ending in {endings}.")
        if counts.min() < 2 and "test" not in folders and part == "train":
            raise DatasetError(f"{few} has a single readable picture: each class needs at least 2.")
    groups = group_rows(np.stack([photo.look for photo in found.photos]), [photo.sha256 for photo in found.photos])
    parts, notices, val_rows = found.parts.copy(), [], None
    if "test" not in folders:
        train = np.flatnonzero(parts == "train")
        _, test, divided = grouped_split(found.labels[train], groups[train], 0.2, seed=0)
        parts[train[test]] = "test"
        if divided:
            names = ", ".join(found.class_names[label] for label in divided)
            shared = f"test and training data share near-duplicates of {names}, because there are no other pictures"
            notices.append(f"{folder}: {shared}.")
    rows, test = np.flatnonzero(parts != "test"), np.flatnonzero(parts == "test")
    if "validation" in folders:
        val_rows = np.flatnonzero(parts[rows] == "validation")
        notices.append(f"{folder}: the pictures in its validation part are used for validation.")
    pictures = Pictures(found.photos, cache)
    arrays: list = [pictures.take(rows), found.labels[rows], pictures.take(test), found.labels[test]]
    if pictures.shape[1] <= _IN_MEMORY:
        arrays = [np.asarray(array) for array in arrays]
    about: dict[str, Any] = {"name": name_of_folder(folder), "source": f'folder "{folder.name}"', "folder": str(folder)}
    about |= {"class_names": found.class_names, "skipped": found.skipped, "notice": " ".join(notices)}
    about |= {"groups": groups[rows], "val_rows": val_rows}
    return named_parts(arrays, **about)


def save_as_folder(data: Dataset, folder: Path) -> Path:
    """Write a data set as PNG files, `folder/train/<class>/<number>.png` and `folder/test/...`; returns the folder.

    Raises:
        DatasetError: The folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DatasetError(f"{folder} is not empty: choose another folder.")
    for part, pictures, labels in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        for row, label in enumerate(labels):
            path = folder / part / data.class_names[label] / f"{row:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures[row]).save(path)
    return folder


def read_folder(folder: Path, cache: PhotoCache, *, progress: Progress | None = None) -> Contents:
    """Everything in a folder of class folders, however few pictures a class has; `cache` is where the pixels go.

    Raises:
        DatasetError: There are no class folders, too many, or different ones in each part; or the disk is full.
    """
    folders = _parts(folder)
    class_names = _class_names(folders["train"])
    for path in folders.values():
        if (others := _class_names(path)) != class_names:
            expected = f"{path} must contain the same classes as {folders['train']}."
            raise DatasetError(f"{expected} Found: {others} and {class_names}")
    skipped: list[str] = []
    files = [
        (path, number, part)
        for part, place in folders.items()
        for number, name in enumerate(class_names)
        for path in _picture_files(place / name, skipped)
    ]
    with progress or Progress() as progress:
        results = read_photos([path for path, _, _ in files], cache, progress)
    skipped += [str(result) for result in results if isinstance(result, ImageError)]
    photos = [result for result in results if isinstance(result, Photo)]
    kept = [file for file, result in zip(files, results, strict=True) if isinstance(result, Photo)]
    labels, parts = np.array([file[1] for file in kept], np.int64), np.array([file[2] for file in kept], "U10")
    return Contents(class_names, photos, labels, parts, tuple(folders), tuple(skipped))


def _parts(folder: Path) -> dict[str, Path]:
    """The folders that hold class folders, by part: `folder` itself for training, or its parts, in order."""
    part_of = {spelling: part for part, spellings in _PARTS.items() for spelling in spellings}
    found = {name: part_of.get(name.lower()) for name in subfolders(folder)}
    kinds = sorted(filter(None, found.values()))
    if "train" not in kinds or len(kinds) < 2:
        return {"train": folder}
    if others := [name for name, kind in found.items() if kind is None]:
        raise DatasetError(
            f"{folder} has the parts {', '.join(name for name in found if found[name])}, and beside them "
            f"{', '.join(others)}: expected parts only, or class folders only."
        )
    if len(set(kinds)) < len(kinds):
        raise DatasetError(f"{folder} has several folders for the same part: {', '.join(found)}. Keep one of each.")
    return {kind: folder / name for kind in _PARTS for name in found if found[name] == kind}


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted; those that begin with a dot or two underscores are left out."""
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    except OSError as error:
        raise DatasetError(_unreadable(error)) from error


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(subfolders(folder))
    if len(names) < 2:
        raise DatasetError(f"{folder} must contain one subfolder per class, at least two. Found: {list(names)}")
    if unreadable := [name for name in names if _as_text(name) != name]:
        raise DatasetError(f"{folder} has a subfolder whose name is not UTF-8: rename {unreadable[0]!a}.")
    if len(names) > _MOST_CLASSES:
        raise DatasetError(f"{folder} has {len(names):,} subfolders: at most {_MOST_CLASSES:,} classes are accepted.")
    return names


def _picture_files(folder: Path, skipped: list[str]) -> list[str]:
    """The picture files in a folder and those inside it, sorted; unreadable folders are added to `skipped`."""
    found: list[str] = []
    for place, _, names in os.walk(folder, onerror=lambda error: skipped.append(_unreadable(error))):
        pictures = (name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."))
        for path in (f"{place}{os.sep}{name}" for name in pictures):
            if _as_text(path) == path:
                found.append(path)
            else:
                skipped.append(f"A picture in {_as_text(place)} has a name that is not UTF-8: rename {_as_text(path)}.")
    return sorted(found)


def _as_text(name: str) -> str:
    """A name from the file system, with a replacement character for each byte that is not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _unreadable(error: OSError) -> str:
    return f"{error.filename} cannot be read: {error.strerror}"
