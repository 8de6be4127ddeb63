"""Checks: what a folder of photos holds, and what in it would harm a training."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgclassify import display
from imgclassify.data.dataset import Dataset
from imgclassify.data.duplicates import similar_pairs
from imgclassify.data.folders import Contents, read_folder
from imgclassify.data.photos import PhotoCache, Pictures
from imgclassify.data.splits import DatasetError
from imgclassify.progress import Progress

_FEW = 10  # pictures of a class; with fewer, one validation part says little
_UNEQUAL = 10  # times as many pictures in the largest class as in the smallest
_PLACES = {  # where two equal pictures can be, the worst first, and what that means
    "in different classes": "are both classes right?",
    "in different parts": "an accuracy measured on them says little.",
    "in one class": "a split keeps them together.",
}


class Pair(NamedTuple):
    """Two files with the same or nearly the same picture."""

    first: str  # path of one
    second: str  # path of the other
    classes: tuple[str, str]
    parts: tuple[str, str]  # "train", "validation" or "test"
    exact: bool  # whether the files have the same content

    @property
    def place(self) -> str:
        """Where they are: "in different classes", "in different parts" or "in one class"."""
        differ = self.classes[0] != self.classes[1], self.parts[0] != self.parts[1], True
        return list(_PLACES)[differ.index(True)]


@dataclass(frozen=True, eq=False)
class DataReport:
    """What `check_data` found."""

    name: str  # of the folder or data set
    counts: dict[str, dict[str, int]]  # for each class, the number of pictures in each part
    sizes: tuple[tuple[int, int], ...]  # width and height of the smallest, the median and the largest picture, pixels
    skipped: tuple[str, ...]  # one sentence for each file that cannot be read
    pairs: tuple[Pair, ...]  # those in different classes first, then those in different parts, then those in one class
    problems: tuple[str, ...]  # what to look at, in sentences; empty if nothing was found

    def to_dict(self) -> dict[str, Any]:
        """The report as values for JSON."""
        return asdict(self) | {"pairs": [pair._asdict() | {"place": pair.place} for pair in self.pairs]}

    def __str__(self) -> str:
        total = sum(sum(parts.values()) for parts in self.counts.values())
        smallest, median, largest = (f"{width} x {height}" for width, height in self.sizes)
        rows = [
            f"  {name}: {', '.join(f'{count:,} {part}' for part, count in parts.items())}"
            for name, parts in self.counts.items()
        ]
        sizes = f"{smallest} to {largest} pixels, {median} in the middle"
        head = f"{self.name}: {total:,} pictures of {len(self.counts)} classes, {sizes}"
        return "\n".join([head, *rows, *(self.problems or ("No problems found.",))])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = list(next(iter(self.counts.values())))
        rows = [(name, *(f"{counts[part]:,}" for part in parts)) for name, counts in self.counts.items()]
        problems = "".join(f"<li>{display.escape(problem)}</li>" for problem in self.problems)
        return display.fragment(display.table(["class", *parts], rows), f"<ul>{problems}</ul>")


def check_data(data: str | Path | Dataset, *, progress: Progress | None = None) -> DataReport:
    """Count the pictures in a folder of class folders, and look for what would harm a training.

    It reports files that cannot be read, classes with none or fewer than ten pictures, classes of very different
    sizes, and pictures that occur twice, exactly or nearly: in a class, in two classes, or in two parts.

    Args:
        data: A folder, as for `load_dataset`; or a `Dataset` of photos.
        progress: Where to show how long the decoding takes.

    Raises:
        DatasetError: There are no class folders, or no pictures that can be read.

    Example:
        >>> check_data("no_such_folder")
        Traceback (most recent call last):
        ...
        imgclassify.data.splits.DatasetError: no_such_folder is not a folder of photos.
    """
    name = (data.folder or data.source) if isinstance(data, Dataset) else str(data)
    if isinstance(data, Dataset) and isinstance(data.x_train, Pictures):
        name, found = data.source, _contents(data)
    else:
        folder = Path(name).expanduser()
        if not folder.is_dir() or (isinstance(data, Dataset) and not data.folder):
            raise DatasetError(f"{name} is not a folder of photos.")
        found = read_folder(folder.resolve(), PhotoCache(32), progress=progress)
    if not found.photos:
        raise DatasetError(f"{name} contains no picture that can be read. {' '.join(found.skipped[:1])}".rstrip())
    counts = {
        label: {part: int(found.count(part)[number]) for part in found.all_parts}
        for number, label in enumerate(found.class_names)
    }
    sizes = sorted((photo.size for photo in found.photos), key=np.prod)
    some = (sizes[0], sizes[len(sizes) // 2], sizes[-1])
    pairs = sorted(_pairs(found), key=lambda pair: (list(_PLACES).index(pair.place), not pair.exact))
    return DataReport(name, counts, some, found.skipped, tuple(pairs), tuple(_problems(counts, found.skipped, pairs)))


def _contents(data: Dataset) -> Contents:
    """The photos of a data set that is already loaded."""
    parts = np.array(["train"] * len(data.y_train) + ["test"] * len(data.y_test), "U10")
    if data.val_rows is not None:
        parts[data.val_rows] = "validation"
    there = tuple(part for part in ("train", "validation", "test") if part in parts)
    pictures: Any = (data.x_train, data.x_test)
    photos, labels = [*pictures[0].photos, *pictures[1].photos], np.concatenate([data.y_train, data.y_test])
    return Contents(data.class_names, photos, labels, parts, there, data.skipped)


def _pairs(found: Contents) -> Iterator[Pair]:
    first_with: dict[str, int] = {}
    rows = [(first_with.setdefault(photo.sha256, row), row, True) for row, photo in enumerate(found.photos)]
    near, likeness = similar_pairs(np.stack([photo.look for photo in found.photos]))
    rows += [(one, other, False) for one, other in near[np.argsort(-likeness, kind="stable")].tolist()]
    for one, other, exact in rows:
        photos = found.photos[one], found.photos[other]
        if one != other and exact == (photos[0].sha256 == photos[1].sha256):
            classes = found.class_names[found.labels[one]], found.class_names[found.labels[other]]
            parts = str(found.parts[one]), str(found.parts[other])
            yield Pair(photos[0].path, photos[1].path, classes, parts, exact)


def _problems(counts: dict[str, dict[str, int]], skipped: tuple[str, ...], pairs: list[Pair]) -> Iterator[str]:
    for part in next(iter(counts.values())):
        if empty := [name for name, parts in counts.items() if parts[part] == 0]:
            yield f"No picture that can be read ({part}): {', '.join(empty)}."
    train = {name: parts["train"] for name, parts in counts.items()}
    if few := [f"{name} ({count})" for name, count in train.items() if 0 < count < _FEW]:
        yield f"Classes with fewer than {_FEW} pictures: {', '.join(few)}. Add pictures, or use cross-validation."
    least, most = min(train, key=lambda name: train[name]), max(train, key=lambda name: train[name])
    if train[most] > _UNEQUAL * train[least] > 0:
        yield f"{most} has {train[most] / train[least]:.0f} times as many pictures as {least}: add some of {least}."
    if skipped:
        yield f"Files that cannot be read: {len(skipped):,}, for instance: {skipped[0]}"
    for (place, exact), count in Counter((pair.place, pair.exact) for pair in pairs).items():
        pair = next(pair for pair in pairs if (pair.place, pair.exact) == (place, exact))
        kind = "Copies" if exact else "Near-duplicates"
        first, second = ("/".join(Path(path).parts[-3:]) for path in pair[:2])
        yield f"{kind} {place}: {count:,}, for instance {first} and {second}: {_PLACES[place]}"
