"""Data sets: labelled pictures, and how they are split."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from imgclassify.data.images import to_bytes
from imgclassify.data.photos import Pictures, take_rows
from imgclassify.data.splits import DatasetError, grouped_split, in_proportion

_MOST_CLASSES = 10_000


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures, split into training and test data.

    Pictures are read-only if they come from the cache. Photos of more than 64 pixels are `Pictures`: read when they are
    asked for.
    """

    name: str  # short, used in file names: "cifar10", "digits" or a folder's name
    source: str  # what the pictures are, for figures and tables, for instance "CIFAR-10, JPEG mirror"
    class_names: tuple[str, ...]  # one per class; a label is an index into it
    x_train: np.ndarray  # uint8, (N, H, W, 3), RGB
    y_train: np.ndarray  # int64, (N,), class numbers
    x_test: np.ndarray  # uint8, (M, H, W, 3)
    y_test: np.ndarray  # int64, (M,)
    fingerprint: str  # SHA-256 of the four arrays, before any subset is taken, in hex; for `Pictures`, of their files
    notice: str = ""  # what the user should be told about how this data was chosen; may be empty
    skipped: tuple[str, ...] = ()  # one sentence for each picture file that could not be read
    folder: str = ""  # of class folders, that it was read from, as an absolute path; empty for other data
    groups: np.ndarray | None = None  # of photos: a number for each row of x_train, the same for near-duplicates
    val_rows: np.ndarray | None = None  # sorted rows of x_train that a folder itself sets aside for validation

    def validation_split(self, fraction: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of the training data for training and for validation; seeded and stratified.

        Near-duplicate photos are kept together. A folder's own validation part is returned as it is.

        Args:
            fraction: Share of the training data that goes to validation, between 0 and 1.
            seed: The same seed gives the same rows.

        Returns:
            Two sorted int64 arrays, which have no rows in common and together cover `x_train`.

        Raises:
            DatasetError: Some class has too few pictures for both parts.
        """
        if self.val_rows is not None:
            return np.setdiff1d(np.arange(len(self.y_train)), self.val_rows), self.val_rows
        counts = np.bincount(self.y_train, minlength=len(self.class_names))
        if self.groups is not None and counts.min() < 2:
            few = f"{self.class_names[counts.argmin()]} has fewer than 2 training pictures"
            raise DatasetError(f"{few}: a split into two parts needs 2 of each class.")
        return grouped_split(self.y_train, self.groups, fraction, seed)[:2]

    def describe_split(self, fraction: float = 0.2, seed: int = 0) -> str:
        """What `validation_split` does, in a sentence or two; arguments and errors are the same."""
        train, validation = self.validation_split(fraction, seed)
        text = f"{len(train):,} pictures are for training, {len(validation):,} for validation"
        if self.val_rows is not None:
            return text + " (the folder's own part)."
        text += ", classes in proportion."
        alike = 0 if self.groups is None else np.sum(np.bincount(self.groups)[self.groups] > 1)
        if not alike:
            return text
        names = [self.class_names[label] for label in grouped_split(self.y_train, self.groups, fraction, seed)[2]]
        text += f" {alike:,} near-duplicates are kept together"
        return text + (f", except those of {', '.join(names)}, which has no others." if names else ".")

    def subset(self, train: int, test: int, seed: int = 0) -> "Dataset":
        """A smaller data set with at most `train` training and `test` test pictures, classes in proportion; seeded."""
        parts: dict[str, Any] = {}
        for part, count in (("train", train), ("test", test)):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if count >= len(y):
                continue
            set_aside = self.val_rows if part == "train" and self.val_rows is not None else np.arange(0)
            aside = np.isin(np.arange(len(y)), set_aside)
            rows = in_proportion(2 * y + aside, count, seed)  # validation pictures in proportion too
            parts |= {f"x_{part}": take_rows(x, rows), f"y_{part}": y[rows]}
            if part == "train":
                kept = np.flatnonzero(aside[rows])
                parts["val_rows"] = kept if 0 < len(kept) < len(rows) else None
                parts["groups"] = None if self.groups is None else self.groups[rows]
        return replace(self, **parts)

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {len(self.y_train):,} training and {len(self.y_test):,} test pictures, "
            f"{len(self.class_names)} classes ({', '.join(self.class_names)})"
        ]
        if self.skipped:
            examples = " ".join(self.skipped[:3]) + (" ..." if len(self.skipped) > 3 else "")
            lines.append(f"{len(self.skipped)} files were left out: {examples}")
        return "\n".join(lines + ([self.notice] if self.notice else []))

    __repr__ = __str__


def dataset_from_arrays(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> Dataset:
    """A `Dataset` from arrays like those of `load_and_preprocess_data()`; its classes are named "0", "1", ...

    Args:
        train: Pictures, uint8 or float in [0, 1], (N, H, W, 3), and labels, one-hot or class numbers.
        test: The same for test data.

    Raises:
        DatasetError: Shapes, values or labels are not of this form.
    """
    arrays = []
    for part, (x, y) in (("training", train), ("test", test)):
        x, y = np.asarray(x), np.asarray(y)
        if x.ndim != 4 or x.shape[-1] != 3 or x.shape[:1] != y.shape[:1] or len(x) == 0:
            expected = f"The {part} data must be pictures (N, H, W, 3) with N labels."
            raise DatasetError(f"{expected} Received: shapes {x.shape} and {y.shape}")
        if x.dtype != np.uint8 and not (x.min() >= 0 and x.max() <= 1):
            expected = f"The {part} pictures must be uint8 or lie in [0, 1]."
            raise DatasetError(f"{expected} Received: {x.dtype} from {x.min()} to {x.max()}")
        arrays += [to_bytes(x), class_numbers(y)]
    classes = int(1 + max(arrays[1].max(), arrays[3].max()))
    if classes > _MOST_CLASSES:
        raise DatasetError(f"Labels must be below {_MOST_CLASSES:,}. Received: {classes - 1:,}")
    return named_parts(arrays, name="arrays", source="arrays", class_names=tuple(map(str, range(classes))))


def named_parts(arrays: Sequence[np.ndarray], **about) -> Dataset:
    """A `Dataset` from its four arrays, in order, with their fingerprint and the other attributes as given."""
    x_train, y_train, x_test, y_test = arrays
    digest = fingerprint(x_train, y_train, x_test, y_test)
    if about.get("val_rows") is not None:
        digest = hashlib.sha256(digest.encode() + about["val_rows"].tobytes()).hexdigest()
    return Dataset(x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, fingerprint=digest, **about)


def class_numbers(y: np.ndarray) -> np.ndarray:
    """Class numbers, int64 (N,), from class numbers of shape (N,) or (N, 1), or from one-hot rows (N, classes).

    Raises:
        DatasetError: The labels have another shape, or are not whole numbers from 0.

    Example:
        >>> class_numbers(np.array([[0, 1], [1, 0]])).tolist()
        [1, 0]
    """
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(axis=1)
    if y.ndim == 0 or y.size != len(y):
        raise DatasetError(f"Labels must be class numbers (N,) or one-hot (N, classes). Received: shape {y.shape}")
    numbers = y.reshape(-1)
    valid = np.zeros(len(numbers), bool)
    if numbers.dtype.kind in "iuf":
        values = numbers.astype(np.float64)
        valid = (values >= 0) & (values < 2**31) & (values == np.floor(values))
    if not valid.all():
        raise DatasetError(f"Labels must be class numbers: whole numbers from 0. Received: {numbers[~valid][0]}")
    return numbers.astype(np.int64)


def fingerprint(x_train, y_train: np.ndarray, x_test, y_test: np.ndarray) -> str:
    """SHA-256 of the shapes and contents of the four arrays of a data set, in hex; of `Pictures`, of their files."""
    digest = hashlib.sha256()
    for array in (x_train, y_train, x_test, y_test):
        digest.update(str(array.shape).encode())
        digest.update(array.digest if isinstance(array, Pictures) else np.ascontiguousarray(array).data)
    return digest.hexdigest()


def near_duplicates(data: Dataset, *, count: int = 8) -> list[tuple[int, int, float]]:
    """Test pictures that look most like some training picture: (test row, training row, correlation), best first.

    Pictures are compared at a quarter of their size, with brightness and contrast normalised.

    Args:
        data: A data set whose picture sides are multiples of four pixels.
        count: How many pairs to return.
    """

    def describe(x: np.ndarray) -> np.ndarray:
        n, height, width, channels = x.shape
        blocks = np.asarray(x).reshape(n, height // 4, 4, width // 4, 4, channels)
        small = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)
        small -= small.mean(axis=1, keepdims=True)
        return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)

    train, found = describe(data.x_train), list[tuple[int, float]]()
    for test in np.array_split(describe(data.x_test), -(-len(data.x_test) // 500)):  # limits the memory
        products = test @ train.T
        found += zip(products.argmax(axis=1).tolist(), products.max(axis=1).tolist(), strict=True)
    order = sorted(range(len(found)), key=lambda row: -found[row][1])
    return [(row, *found[row]) for row in order[:count]]
