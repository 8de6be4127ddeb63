"""Weights: read a file of PyTorch's as plain arrays, without PyTorch and without executing anything."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np

_KINDS = {"FloatStorage": "<f4", "LongStorage": "<i8"}  # the only two that our file holds
_LARGEST = 2**28  # values of one storage


class _Reader(pickle.Unpickler):
    """Builds dictionaries, numbers, and descriptions of arrays; knows no other class or function."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, start, shape, strides, *_: (storage, start, shape, strides)
        if module == "torch" and name in _KINDS:
            return np.dtype(_KINDS[name])
        raise pickle.UnpicklingError(f"{module}.{name} is not on the list")

    def persistent_load(self, pid):
        _, kind, key, *_ = pid
        return kind, key


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """The arrays, by name, in a file that `torch.save` wrote in its format before version 1.6.

    The file holds three pickles about the format, the pickled dictionary, a pickled list of storages, and for each of
    these its length (64 bits) and raw values. Only dictionaries and arrays are built: the file cannot call anything.

    The arrays are float32 or int64, and read-only.

    Raises:
        ValueError: The file is damaged, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            for _ in range(3):
                _Reader(file).load()
            described, keys = _Reader(file).load(), _Reader(file).load()
            kinds = {key: kind for (kind, key), *_ in described.values()}
            storages = {}
            for key in keys:
                length = int.from_bytes(file.read(8), "little")
                if length > _LARGEST:
                    raise ValueError(f"a storage of {length:,} values")
                storages[key] = np.frombuffer(file.read(length * kinds[key].itemsize), kinds[key], length)
        return {
            name: _array(storages[key], start, shape, strides)
            for name, ((_, key), start, shape, strides) in described.items()
        }
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no file of plain weights: {error}") from error


def _array(storage: np.ndarray, start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """A piece of a storage, in the given shape; strides are in values."""
    last = start + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if start < 0 or min((*shape, 1)) < 1 or min((*strides, 0)) < 0 or last >= len(storage):
        raise ValueError("an array that reaches beyond its storage")
    in_bytes = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[start:], shape, in_bytes, writeable=False)
