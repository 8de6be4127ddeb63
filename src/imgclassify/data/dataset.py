"""Data sets: labelled pictures, and how they are split."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from imgclassify.data.images import to_bytes

_MOST_CLASSES = 10_000


class DatasetError(ValueError):
    """A data set is unavailable or unusable; the message says which part, why, and what would be accepted."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures, split into training and test data.

    Attributes:
        name: Short name, used in file names: "cifar10", "digits" or a folder's name.
        source: What the pictures are, for figures and tables, for instance "CIFAR-10, JPEG mirror".
        class_names: One name per class; a label is an index into it.
        x_train: uint8, (N, H, W, 3), RGB. Read-only if it comes from the cache.
        y_train: int64, (N,), class numbers.
        x_test: uint8, (M, H, W, 3).
        y_test: int64, (M,).
        fingerprint: SHA-256 of the four arrays, before any subset is taken, in hex.
        notice: What the user should be told about how this data was chosen; may be empty.
        skipped: One sentence for each picture file that could not be read.
        folder: The folder of class folders that it was read from, as an absolute path; empty for other data.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    fingerprint: str
    notice: str = ""
    skipped: tuple[str, ...] = ()
    folder: str = ""

    def validation_split(self, fraction: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of the training data for training and for validation; seeded and stratified.

        Args:
            fraction: Share of the training data that goes to validation, between 0 and 1.
            seed: The same seed gives the same rows.

        Returns:
            Two sorted int64 arrays, which have no rows in common and together cover `x_train`.

        Raises:
            DatasetError: Some class has too few pictures for both parts.
        """
        return stratified_split(self.y_train, fraction, seed)

    def subset(self, train: int, test: int, seed: int = 0) -> "Dataset":
        """A smaller data set with at most `train` training and `test` test pictures, classes in proportion; seeded."""
        parts: dict[str, Any] = {}
        for part, count in (("train", train), ("test", test)):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if count < len(y):
                rows = in_proportion(y, count, seed)
                x, y = x[rows], y[rows]
            parts |= {f"x_{part}": x, f"y_{part}": y}
        return replace(self, **parts)

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {len(self.y_train):,} training and {len(self.y_test):,} test pictures, "
            f"{len(self.class_names)} classes ({', '.join(self.class_names)})"
        ]
        if self.skipped:
            lines.append(
                f"{len(self.skipped)} files were left out: "
                + " ".join(self.skipped[:3])
                + (" ..." if len(self.skipped) > 3 else "")
            )
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
            raise DatasetError(
                f"The {part} data must be pictures (N, H, W, 3) with N labels. Received: shapes {x.shape} and {y.shape}"
            )
        if x.dtype != np.uint8 and not (x.min() >= 0 and x.max() <= 1):
            raise DatasetError(
                f"The {part} pictures must be uint8 or lie in [0, 1]. Received: {x.dtype} from {x.min()} to {x.max()}"
            )
        arrays += [to_bytes(x), class_numbers(y)]
    classes = int(1 + max(arrays[1].max(), arrays[3].max()))
    if classes > _MOST_CLASSES:
        raise DatasetError(f"Labels must be below {_MOST_CLASSES:,}. Received: {classes - 1:,}")
    return named_parts(arrays, name="arrays", source="arrays", class_names=tuple(map(str, range(classes))))


def split_off_test(x: np.ndarray, y: np.ndarray, class_names: tuple[str, ...], **about) -> Dataset:
    """A `Dataset` in which one picture in five is test data, always the same ones.

    Args:
        x: Pictures, uint8 (N, H, W, 3).
        y: Class numbers, (N,).
        class_names: One name per class.
        **about: Other attributes of the `Dataset`, at least `name` and `source`.

    Raises:
        DatasetError: Some class has too few pictures for both parts.
    """
    train, test = stratified_split(y, 0.2, seed=0)
    return named_parts((x[train], y[train], x[test], y[test]), class_names=class_names, **about)


def named_parts(arrays: Sequence[np.ndarray], **about) -> Dataset:
    """A `Dataset` from its four arrays, in order, with their fingerprint and the other attributes as given."""
    x_train, y_train, x_test, y_test = arrays
    digest = fingerprint(x_train, y_train, x_test, y_test)
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


def fingerprint(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> str:
    """SHA-256 of the shapes and contents of the four arrays of a data set, in hex."""
    digest = hashlib.sha256()
    for array in (x_train, y_train, x_test, y_test):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def near_duplicates(data: Dataset, *, count: int = 8) -> list[tuple[int, int, float]]:
    """Test pictures that look most like some training picture.

    Pictures are compared at a quarter of their size, with brightness and contrast normalised.

    Args:
        data: A data set whose picture sides are multiples of four pixels.
        count: How many pairs to return.

    Returns:
        (row in the test data, row in the training data, correlation up to 1), most alike first.
    """

    def describe(x: np.ndarray) -> np.ndarray:
        n, height, width, channels = x.shape
        small = x.reshape(n, height // 4, 4, width // 4, 4, channels).mean(axis=(2, 4), dtype=np.float32).reshape(n, -1)
        small -= small.mean(axis=1, keepdims=True)
        return small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)

    train = describe(data.x_train)
    nearest: list[int] = []
    correlations: list[float] = []
    for test in np.array_split(describe(data.x_test), -(-len(data.x_test) // 500)):  # limits the memory
        alike = test @ train.T
        nearest.extend(alike.argmax(axis=1))
        correlations.extend(alike.max(axis=1))
    order = np.argsort(-np.asarray(correlations), kind="stable")[:count]
    return [(int(i), int(nearest[i]), float(correlations[i])) for i in order]


def stratified_split(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of two parts with the classes in proportion, and every class in both; each sorted.

    The second holds `fraction` of all rows, and at least as many as there are classes.

    Raises:
        DatasetError: Some class has too few members for both parts.

    Example:
        >>> first, second = stratified_split(np.array([0, 0, 1, 1]), 0.5, seed=0)
        >>> len(first), len(second)
        (2, 2)
    """
    from sklearn.model_selection import train_test_split

    classes, counts = np.unique(y, return_counts=True)
    if counts.min() < 2:
        raise DatasetError(
            f"Class {classes[counts.argmin()]} has a single picture, but a split into two parts needs at least 2 "
            f"of each class. Received: {len(y)} pictures of {len(classes)} classes."
        )
    count = max(math.ceil(fraction * len(y)), len(classes))
    if len(y) - count < len(classes):
        raise DatasetError(
            f"{len(y)} pictures of {len(classes)} classes are too few for a split of {1 - fraction:.0%} to "
            f"{fraction:.0%} with every class in both parts: add pictures, or set aside a smaller part."
        )
    _, second = train_test_split(np.arange(len(y)), test_size=count, stratify=y, random_state=seed)
    in_second = np.isin(np.arange(len(y)), second)
    random = np.random.default_rng(seed)
    for part in (True, False):
        for label in np.setdiff1d(classes, y[in_second == part]):  # its share was rounded to zero: swap one in
            labels, counts = np.unique(y[in_second == part], return_counts=True)
            here = random.choice(np.flatnonzero((in_second == part) & (y == labels[counts.argmax()])))
            there = random.choice(np.flatnonzero(y == label))
            in_second[[here, there]] = in_second[[there, here]]
    return np.flatnonzero(~in_second), np.flatnonzero(in_second)


def in_proportion(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted numbers of `count` random rows, the classes in proportion; there may be fewer rows than classes.

    Example:
        >>> y = np.array([0] * 6 + [1] * 2)
        >>> y[in_proportion(y, 4, seed=0)].tolist()
        [0, 0, 0, 1]
    """
    order = np.random.default_rng(seed).permutation(len(y))
    place = np.empty(len(y))  # relative place of each row in its class, from 0 to 1
    for label in np.unique(y):
        rows = order[y[order] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.sort(order[np.argsort(place[order], kind="stable")[:count]])
