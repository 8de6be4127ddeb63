import os
import time

import pytest

from imgclassify.atomic import replacing, sweep


@pytest.fixture
def path(tmp_path):
    """A file that is there already."""
    (tmp_path / "model.keras").write_text("old")
    return tmp_path / "model.keras"


def names(folder) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_file_is_replaced_when_it_is_whole(path):
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["model.keras"]


def test_a_new_file_appears_when_it_is_whole(tmp_path):
    with replacing(tmp_path / "new.json") as part:
        part.write_text("new")
        assert not (tmp_path / "new.json").exists()
    assert (tmp_path / "new.json").read_text() == "new"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_after_an_error_the_old_file_is_whole_and_nothing_else_is_left(path, error):
    def write_half():
        with replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert names(path.parent) == ["model.keras"]


def test_an_error_before_anything_is_written_is_passed_on(path):
    with pytest.raises(ValueError, match="mine"), replacing(path):
        raise ValueError("mine")
    assert path.read_text() == "old"


def test_it_is_written_to_a_hidden_file_beside_it_of_the_same_suffix(path):
    with replacing(path) as part, replacing(path) as other:
        assert part != other
        for each in (part, other):
            assert (each.parent, each.suffix, each.name[0]) == (path.parent, ".keras", ".")
            each.write_text("new")


def test_a_lasting_file_is_on_the_disk_before_it_takes_its_place(path, monkeypatch):
    synced, fsync = [], os.fsync

    def watched(number):
        synced.append((os.fstat(number).st_ino, path.read_text()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", watched)
    with replacing(path, lasting=True) as part:
        part.write_text("new")
        number = part.stat().st_ino
    assert synced == [(number, "old"), (path.parent.stat().st_ino, "new")]


def test_what_a_killed_process_left_is_swept_after_an_hour(path):
    with replacing(path) as part:
        part.write_text("new")
    assert len(part.name) == len(".0123abcd.keras")
    old, new = part.with_name(".0123abcd.keras"), part.with_name(".0123abce.keras")
    folder = part.with_name(".89abcdef")
    folder.mkdir()
    for each in (old, new, part.with_name(".hidden.json"), folder):
        each.touch()
        os.utime(each, (time.time() - 7200 * (each != new),) * 2)
    sweep(path.parent)
    assert names(path.parent) == [".0123abce.keras", ".hidden.json", "model.keras"]
