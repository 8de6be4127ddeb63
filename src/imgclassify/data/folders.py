"""Folders: a user's own pictures as a data set, one subfolder per class."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imgclassify.data.dataset import Dataset, DatasetError, named_parts, split_off_test
from imgclassify.data.images import IMAGE_SUFFIXES, ImageError, decode_image, prepare_image

BUILT_IN = ("cifar10", "digits", "arrays")  # names of other data sets, which a folder must not have


def load_folder(folder: Path) -> Dataset:
    """The pictures in a folder of class folders, prepared as at prediction.

    Args:
        folder: One subfolder per class, or `train/` and `test/` with one subfolder per class each. Without
            `test/`, one picture in five becomes test data.

    Raises:
        DatasetError: There are fewer than two classes, or a class has too few readable pictures.
    """
    folder = folder.resolve()
    name = folder.name + "-folder" if folder.name in BUILT_IN else folder.name
    about: dict[str, Any] = {"name": name, "source": f'folder "{folder.name}"', "folder": str(folder)}
    if {"train", "test"} <= set(_subfolders(folder)):
        class_names = _class_names(folder / "train")
        if (others := _class_names(folder / "test")) != class_names:
            raise DatasetError(
                f"{folder}: train/ and test/ must contain the same classes. Found: {class_names} and {others}"
            )
        skipped: list[str] = []
        arrays = [array for part in ("train", "test") for array in _read_pictures(folder / part, class_names, skipped)]
        return named_parts(arrays, class_names=class_names, skipped=tuple(skipped), **about)
    class_names, skipped = _class_names(folder), []
    x, y = _read_pictures(folder, class_names, skipped)
    few = [name for number, name in enumerate(class_names) if np.sum(y == number) < 2]
    if few:
        raise DatasetError(f"{folder / few[0]} has a single readable picture: each class needs at least 2.")
    return split_off_test(x, y, class_names, skipped=tuple(skipped), **about)


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
