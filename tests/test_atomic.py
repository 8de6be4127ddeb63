import pytest

from imgclassify.atomic import replacing


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
