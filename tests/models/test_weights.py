import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from imgclassify.models.weights import read_weights


class Named:
    """Pickles as a class or function of another library, which need not be installed."""

    def __init__(self, module: str, name: str, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Storage:
    """Pickles as a reference to a storage."""

    def __init__(self, kind: str, key: str):
        self.kind, self.key = kind, key


class Writer(pickle._Pickler):
    """Writes what `torch.save` would; the C version cannot write names of modules that are not there."""

    def persistent_id(self, item):
        if not isinstance(item, Storage):
            return None
        return ("storage", Named("torch", item.kind), item.key, "cpu", 0)

    def save(self, item, save_persistent_id=True):
        if isinstance(item, Named):
            self.write(b"c" + f"{item.module}\n{item.name}\n".encode())
            if item.arguments:
                super().save(item.arguments)
                self.write(b"R")
            return None
        return super().save(item, save_persistent_id)


def write(path: Path, tensors: dict, storages: dict) -> Path:
    with path.open("wb") as file:
        for about in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(about, file, protocol=2)
        Writer(file, protocol=2).dump(OrderedDict(tensors))
        pickle.dump(list(storages), file, protocol=2)
        for values in storages.values():
            file.write(len(values).to_bytes(8, "little") + values.tobytes())
    return path


def tensor(key: str, start: int, shape: tuple, strides: tuple, kind: str = "FloatStorage") -> Named:
    return Named("torch._utils", "_rebuild_tensor_v2", Storage(kind, key), start, shape, strides, False, OrderedDict())


VALUES = np.arange(12, dtype="<f4")


def test_arrays_are_pieces_of_storages_in_any_order_of_their_axes(tmp_path):
    path = write(
        tmp_path / "w.pth",
        {
            "plain": tensor("a", 0, (3, 4), (4, 1)),
            "turned": tensor("a", 0, (4, 3), (1, 4)),
            "rest": tensor("a", 10, (2,), (1,)),
            "count": tensor("b", 0, (), (), "LongStorage"),
        },
        {"a": VALUES, "b": np.array([7], "<i8")},
    )
    found = read_weights(path)
    np.testing.assert_array_equal(found["plain"], VALUES.reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], VALUES.reshape(3, 4).T)
    np.testing.assert_array_equal(found["rest"], [10, 11])
    assert found["count"] == 7
    assert not any(array.flags.writeable for array in found.values())


@pytest.mark.parametrize(
    ("start", "shape", "strides"),
    [(0, (13,), (1,)), (9, (2, 2), (2, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2,), (10**12,)), (0, (0,), (1,))],
)
def test_arrays_that_reach_beyond_their_storage_are_refused(start, shape, strides, tmp_path):
    path = write(tmp_path / "w.pth", {"x": tensor("a", start, shape, strides)}, {"a": VALUES})
    with pytest.raises(ValueError, match=r"w\.pth is damaged.*beyond its storage"):
        read_weights(path)


@pytest.mark.parametrize("called", [("os", "system"), ("builtins", "eval"), ("torch", "load"), ("numpy", "fromfile")])
def test_nothing_else_is_called(called, tmp_path):
    mark = tmp_path / "mark"
    path = write(tmp_path / "w.pth", {"x": Named(*called, f"touch {mark}")}, {"a": VALUES})
    with pytest.raises(ValueError, match="is not on the list"):
        read_weights(path)
    assert not mark.exists()


def test_a_file_cut_off_anywhere_is_one_sentence(tmp_path):
    whole = write(tmp_path / "w.pth", {"x": tensor("a", 0, (12,), (1,))}, {"a": VALUES}).read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "cut.pth").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"cut\.pth is damaged"):
            read_weights(tmp_path / "cut.pth")


def test_a_storage_that_claims_to_be_huge_is_refused_before_it_is_read(tmp_path):
    path = write(tmp_path / "w.pth", {"x": tensor("a", 0, (12,), (1,))}, {"a": VALUES})
    content = path.read_bytes()
    place = content.rindex(VALUES.tobytes()) - 8
    path.write_bytes(content[:place] + (2**40).to_bytes(8, "little") + content[place + 8 :])
    with pytest.raises(ValueError, match="a storage of"):
        read_weights(path)
