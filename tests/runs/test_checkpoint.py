from pathlib import Path

import numpy as np
import pytest

from imgclassify.runs.checkpoint import read_checkpoint, remove_checkpoints, write_checkpoint

STATE = {
    "epoch": 3,
    "network": [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, np.int64)],
    "history": {"loss": [0.1, 1 / 3], "accuracy": []},
    "best": None,
    "seed": np.array([1, 2], np.uint32),
}


def same(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_as_it_was(tmp_path):
    write_checkpoint(tmp_path, STATE)
    assert same(read_checkpoint(tmp_path), STATE)


def test_the_last_two_are_kept_and_the_last_is_read(tmp_path):
    for epoch in range(5):
        write_checkpoint(tmp_path, STATE | {"epoch": epoch})
    assert names(tmp_path) == ["checkpoint-000004.msgpack", "checkpoint-000005.msgpack"]
    assert read_checkpoint(tmp_path)["epoch"] == 4


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_damaged_one_is_passed_over(tmp_path, damage):
    for epoch in (1, 2):
        write_checkpoint(tmp_path, STATE | {"epoch": epoch, "large": np.arange(10_000)})
    last = tmp_path / "checkpoint-000002.msgpack"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = {"flipped": bytes(content), "cut": bytes(content[:-100]), "emptied": b""}
    last.write_bytes(damaged[damage])
    assert read_checkpoint(tmp_path)["epoch"] == 1


def test_a_full_disk_leaves_those_that_are_there(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, STATE)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(tmp_path, STATE | {"epoch": 4})
    assert names(tmp_path) == ["checkpoint-000001.msgpack"]
    assert same(read_checkpoint(tmp_path), STATE)


def test_there_may_be_none(tmp_path):
    assert read_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, STATE)
    remove_checkpoints(tmp_path)
    assert read_checkpoint(tmp_path) is None
    assert names(tmp_path) == []
