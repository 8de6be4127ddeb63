"""Checkpoints: everything that a training needs to go on, in a file of its run's folder."""

import contextlib
import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from imgclassify.atomic import replacing


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state to a run's folder, whole and lasting; the one before is kept, older ones are removed.

    Args:
        folder: The run's, which must exist.
        state: Dictionaries and lists of arrays, numbers and texts.

    Raises:
        OSError: It cannot be written; those that are there are unchanged.
    """
    content, there = pack(state), _checkpoints(folder)
    number = int(there[-1].stem.rpartition("-")[2]) + 1 if there else 1
    with replacing(folder / f"checkpoint-{number:06d}.msgpack", lasting=True) as part:
        part.write_bytes(zlib.crc32(content).to_bytes(4, "little") + content)
    remove_checkpoints(folder, but=2)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The last state in a run's folder that is undamaged, by its checksum; None if there is none."""
    for path in reversed(_checkpoints(folder)):
        with contextlib.suppress(OSError):
            content = path.read_bytes()
            if len(content) > 4 and zlib.crc32(content[4:]) == int.from_bytes(content[:4], "little"):
                return unpack(content[4:])
    return None


def pack(value: Any) -> bytes:
    """Dictionaries and lists of arrays, numbers and texts, as bytes; see `unpack`."""
    return msgspec.msgpack.encode(value, enc_hook=_encode)


def unpack(content: bytes) -> Any:
    """What was packed; tuples are lists now."""
    return msgspec.msgpack.decode(content, ext_hook=_decode)


def remove_checkpoints(folder: Path, *, but: int = 0) -> None:
    """Remove all checkpoints of a run but the last ones."""
    for path in _checkpoints(folder)[: -but or None]:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"checkpoint-{'[0-9]' * 6}.msgpack"))


def _encode(array: np.ndarray) -> msgspec.msgpack.Ext:
    np.save(file := io.BytesIO(), array, allow_pickle=False)
    return msgspec.msgpack.Ext(0, file.getvalue())


def _decode(_code: int, content: memoryview) -> np.ndarray:
    return np.load(io.BytesIO(content), allow_pickle=False)
