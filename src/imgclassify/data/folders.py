"""Folders: a user's own pictures as a data set, one subfolder per class."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imgclassify.data.dataset import Dataset, DatasetError, named_parts, split_off_test
from imgclassify.data.images import IMAGE_SUFFIXES, ImageError, decode_image, prepare_image

BUILT_IN = ("cifar10", "digits", "arrays")  # names of other data sets, which a folder must not have

_PARTS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}


def load_folder(folder: Path) -> Dataset:
    """The pictures in a folder of class folders, prepared as at prediction.

    Args:
        folder: One subfolder per class; or `train/`, and `validation/` or `test/` or both, with one subfolder per class
            each, in their usual spellings. Without `test/`, one picture in five becomes test data. Pictures in
            `validation/` are added to the training data, of which each training holds out its own part.

    Raises:
        DatasetError: There are fewer than two classes, or a class has too few readable pictures.
    """
    folder = folder.resolve()
    name = folder.name + "-folder" if folder.name in BUILT_IN else folder.name
    about: dict[str, Any] = {"name": name, "source": f'folder "{folder.name}"', "folder": str(folder)}
    parts = _parts(folder)
    skipped: list[str] = []
    class_names = _class_names(parts[0])
    for part in parts[1:]:
        if (others := _class_names(part)) != class_names:
            raise DatasetError(f"{part} must contain the same classes as {parts[0]}. Found: {others} and {class_names}")
    whole = len(parts) == 1
    read = {"train" if whole else _part_named(part.name): _read_pictures(part, class_names, skipped) for part in parts}
    test = read.pop("test", None)
    x, y = (np.concatenate(arrays) for arrays in zip(*read.values(), strict=True))
    about |= {"class_names": class_names, "skipped": tuple(skipped)}
    if "validation" in read:
        about["notice"] = f"{folder}: the pictures in validation/ are used for training, which holds out its own part."
    if test is not None:
        return named_parts((x, y, *test), **about)
    few = [name for number, name in enumerate(class_names) if np.sum(y == number) < 2]
    if few:
        raise DatasetError(f"{parts[0] / few[0]} has a single readable picture: each class needs at least 2.")
    return split_off_test(x, y, **about)


def _parts(folder: Path) -> list[Path]:
    """The folders that hold class folders: `folder` itself, or its parts, the one for training first."""
    found = {name: _part_named(name) for name in _subfolders(folder)}
    kinds = sorted(filter(None, found.values()))
    if "train" not in kinds or len(kinds) < 2:
        return [folder]
    if others := [name for name, kind in found.items() if kind is None]:
        raise DatasetError(
            f"{folder} has the parts {', '.join(name for name in found if found[name])}, and beside them "
            f"{', '.join(others)}: expected parts only, or class folders only."
        )
    if len(set(kinds)) < len(kinds):
        raise DatasetError(f"{folder} has several folders for the same part: {', '.join(found)}. Keep one of each.")
    return [folder / name for kind in ("train", "validation", "test") for name in found if found[name] == kind]


def _part_named(name: str) -> str | None:
    """Which part of a data set a folder of this name usually holds; None for another name."""
    return next((part for part, spellings in _PARTS.items() if name.lower() in spellings), None)


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(_subfolders(folder))
    if len(names) < 2:
        raise DatasetError(f"{folder} must contain one subfolder per class, at least two. Found: {list(names)}")
    return names


def _picture_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _read_pictures(folder: Path, class_names: tuple[str, ...], skipped: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """All readable pictures in the class folders; a sentence about each of the others is added to `skipped`."""
    pictures, labels = [], []
    for number, name in enumerate(class_names):
        for path in _picture_files(folder / name):
            try:
                pictures.append(prepare_image(decode_image(path)))
                labels.append(number)
            except ImageError as error:
                skipped.append(str(error))
        if number not in labels:
            raise DatasetError(
                f"{folder / name} contains no readable picture: expected files ending in {', '.join(IMAGE_SUFFIXES)}."
            )
    return np.stack(pictures), np.asarray(labels, dtype=np.int64)
