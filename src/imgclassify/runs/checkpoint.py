"""Checkpoints: everything that a training needs to go on, in a file of its run's folder."""

import contextlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgclassify.atomic import replacing

_KEPT = 2


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state to a run's folder, whole and lasting; the one before is kept, older ones are removed.

    Args:
        folder: The run's, which must exist.
        state: Dictionaries and lists of arrays, numbers and texts.

    Raises:
        OSError: It cannot be written; those that are there are unchanged.
    """
    arrays: list[np.ndarray] = []
    about = np.frombuffer(json.dumps(_without_arrays(state, arrays)).encode(), np.uint8)
    there = _checkpoints(folder)
    number = int(there[-1].stem.rpartition("-")[2]) + 1 if there else 1
    with replacing(folder / f"checkpoint-{number:06d}.npz", lasting=True) as part, part.open("wb") as file:
        np.savez(file, about, *arrays)
    _remove(there[: 1 - _KEPT])


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The last state in a run's folder that is undamaged, by its checksums; None if there is none."""
    for path in reversed(_checkpoints(folder)):
        # What numpy raises for a damaged file; it unpickles nothing.
        with contextlib.suppress(OSError, ValueError, LookupError, EOFError, MemoryError, zipfile.BadZipFile):
            with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
                about, *arrays = (file[f"arr_{number}"] for number in range(len(file.files)))
            return _with_arrays(json.loads(about.tobytes()), arrays)
    return None


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run."""
    _remove(_checkpoints(folder))


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.npz"))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _without_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    """The value as JSON has it; arrays go to the list, and their place there is left behind."""
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, Mapping):
        return {name: _without_arrays(each, arrays) for name, each in value.items()}
    return [_without_arrays(each, arrays) for each in value] if isinstance(value, list) else value


def _with_arrays(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]]
        return {name: _with_arrays(each, arrays) for name, each in value.items()}
    return [_with_arrays(each, arrays) for each in value] if isinstance(value, list) else value
