"""Files in CIFAR-10's formats, written and read independently of the package."""

import hashlib
import json
import pickle
import tarfile
import zlib
from pathlib import Path

import numpy as np

BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
# `fingerprint()` of the public copy of CIFAR-10 that went through JPEG.
JPEG_MIRROR = "b7470f3b60f8a59758bd6f567e366d1b894e5a677141762863db300a2a3e17a7"


def arrays_of(data) -> tuple[np.ndarray, ...]:
    return tuple(getattr(data, name) for name in ARRAYS)


def assert_same(first, second):
    """Both data sets hold the same pictures and labels."""
    for one, other in zip(arrays_of(first), arrays_of(second), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.fingerprint == second.fingerprint


def read_straight(folder: Path):
    """What the batches hold: pixels and labels of the training and the test data."""
    parts = [pickle.loads((folder / name).read_bytes()) for name in BATCHES]
    pixels = [part[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for part in parts]
    labels = [np.array(part[b"labels"]) for part in parts]
    return np.concatenate(pixels[:5]), np.concatenate(labels[:5]), pixels[5], labels[5]


def make_archive(batches: Path, path: Path) -> str:
    """Pack a batches folder like the CIFAR-10 archive; returns the SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(batches, "cifar-10-batches-py")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewrite(batch: Path, **changes):
    """Change or add (or with None: drop) keys of a batch file."""
    content = pickle.loads(batch.read_bytes()) | {key.encode(): value for key, value in changes.items()}
    batch.write_bytes(pickle.dumps({key: value for key, value in content.items() if value is not None}))


def flip_a_bit(file: Path, place: int):
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


def entries(cache: Path) -> list[Path]:
    """The converted copies in `<cache folder>/cifar10`."""
    return [path for path in cache.iterdir() if path.is_dir()]


def put_entry(cache: Path, arrays, digest: str, *, original: bool = False) -> Path:
    """Write a converted copy as the package keeps it."""
    entry = cache / digest[:16]
    entry.mkdir(parents=True)
    checks = {}
    for name, array in zip(ARRAYS, arrays, strict=True):
        np.save(entry / f"{name}.npy", array)
        checks[name] = zlib.crc32((entry / f"{name}.npy").read_bytes(), zlib.crc32(digest.encode()))
    (entry / "entry.json").write_text(json.dumps({"original": original, "fingerprint": digest, "crc32": checks}))
    return entry
