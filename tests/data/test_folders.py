"""Folders: a user's own pictures, one subfolder per class."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cifar_files import assert_same
from PIL import Image

from imgclassify.data.dataset import DatasetError
from imgclassify.data.images import decode_image, prepare_image
from imgclassify.data.loading import load_dataset

COLOURS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def write_pictures(folder: Path, classes=("red", "blue"), count=10, suffix=".png") -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (40 + i, 36), COLOURS[name]).save(folder / name / f"{i}{suffix}")
    return folder


def test_a_folder_of_class_folders_is_a_data_set(tmp_path):
    loaded = load_dataset(write_pictures(tmp_path / "colours"))
    assert loaded.name == "colours"
    assert loaded.source == 'folder "colours"'
    assert loaded.class_names == ("blue", "red")
    assert loaded.x_train.shape == (16, 32, 32, 3)
    assert loaded.x_test.shape == (4, 32, 32, 3)
    assert loaded.x_train.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(loaded.y_test), [2, 2])
    for x, y in ((loaded.x_train, loaded.y_train), (loaded.x_test, loaded.y_test)):
        np.testing.assert_array_equal(x[:, 16, 16], np.array([COLOURS["blue"], COLOURS["red"]])[y])
    assert loaded.skipped == ()
    assert_same(load_dataset(str(tmp_path / "colours")), loaded)


def test_a_folder_with_train_and_test_keeps_that_split(tmp_path):
    folder = tmp_path / "colours"
    write_pictures(folder / "train", count=3)
    write_pictures(folder / "test", count=1)
    loaded = load_dataset(folder)
    assert loaded.class_names == ("blue", "red")
    assert loaded.y_train.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.y_test.tolist() == [0, 1]


def test_pictures_of_a_folder_are_prepared_as_at_prediction(tmp_path):
    folder = write_pictures(tmp_path / "colours", count=1)
    write_pictures(tmp_path / "split" / "test", count=1)
    photo = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    (tmp_path / "split" / "train").mkdir()
    shutil.copytree(folder, tmp_path / "split" / "train", dirs_exist_ok=True)
    Image.fromarray(photo).save(tmp_path / "split" / "train" / "red" / "0.png")
    loaded = load_dataset(tmp_path / "split")
    np.testing.assert_array_equal(loaded.x_train[1], prepare_image(decode_image(photo)))


def test_what_is_no_file_is_skipped_and_not_waited_for(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    folder = write_pictures(tmp_path / "colours")
    os.mkfifo(folder / "red" / "pipe.png")
    (sentence,) = load_dataset(folder).skipped
    assert sentence == f"{folder / 'red' / 'pipe.png'} is no file, expected a picture file."


def test_names_that_are_not_utf8_are_refused_with_a_sentence_that_is(tmp_path):
    folder = write_pictures(tmp_path / "colours")
    try:
        shutil.copy(folder / "red" / "0.png", os.fsencode(folder / "red") + b"/caf\xe9.png")
    except OSError:
        pytest.skip("this file system has no such names")
    (sentence,) = load_dataset(folder).skipped
    assert "has a name that is not UTF-8: rename" in sentence
    assert sentence.encode()
    os.mkdir(os.fsencode(folder) + b"/gr\xfcn")  # noqa: PTH102 - a name that is no text
    with pytest.raises(DatasetError, match="a subfolder whose name is not UTF-8: rename"):
        load_dataset(folder)


def test_bad_files_in_a_folder_are_skipped_and_named(tmp_path):
    folder = write_pictures(tmp_path / "colours")
    (folder / "red" / "broken.png").write_bytes(b"no picture")
    (folder / "blue" / "empty.jpg").write_bytes(b"")
    (folder / "blue" / "notes.txt").write_text("not meant as a picture")
    (folder / ".hidden").mkdir()
    loaded = load_dataset(folder)
    assert len(loaded.y_train) + len(loaded.y_test) == 20
    assert loaded.class_names == ("blue", "red")
    assert len(loaded.skipped) == 2
    assert str(folder / "blue" / "empty.jpg") in loaded.skipped[0]
    assert str(folder / "red" / "broken.png") in loaded.skipped[1]
    assert "2 files were left out" in str(loaded)


@pytest.mark.parametrize("classes", [(), ("red",)])
def test_a_folder_with_too_few_classes_is_an_error(tmp_path, classes):
    folder = tmp_path / "colours"
    folder.mkdir()
    write_pictures(folder, classes)
    with pytest.raises(DatasetError, match=rf"{folder} .* one subfolder per class, at least two. Found: \[.*\]"):
        load_dataset(folder)


def test_a_class_without_a_readable_picture_is_an_error(tmp_path):
    folder = write_pictures(tmp_path / "colours")
    (folder / "green").mkdir()
    (folder / "green" / "a.png").write_bytes(b"no picture")
    with pytest.raises(
        DatasetError, match=rf"{folder / 'green'} contains no readable picture: expected files ending in .jpg"
    ):
        load_dataset(folder)


def test_a_class_with_one_readable_picture_is_named(tmp_path):
    folder = write_pictures(tmp_path / "colours")
    for path in sorted((folder / "red").iterdir())[1:]:
        path.unlink()
    (folder / "red" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=rf"^{folder / 'red'} has a single readable picture: .* at least 2\.$"):
        load_dataset(folder)


def test_a_test_folder_may_hold_single_pictures(tmp_path):
    for part in ("train", "test"):
        write_pictures(tmp_path / "colours" / part, count=1)
    assert load_dataset(tmp_path / "colours").y_test.tolist() == [0, 1]


@pytest.mark.parametrize("counts", [(2, 2), (2, 3), (40, 2)])
def test_every_class_is_in_the_test_data_however_few_pictures_it_has(tmp_path, counts):
    folder = tmp_path / "colours"
    for name, count in zip(("blue", "red"), counts, strict=True):
        write_pictures(folder, (name,), count)
    loaded = load_dataset(folder)
    assert set(loaded.y_train) == set(loaded.y_test) == {0, 1}
    assert len(loaded.y_train) + len(loaded.y_test) == sum(counts)


def test_train_and_test_must_hold_the_same_classes(tmp_path):
    write_pictures(tmp_path / "colours" / "train", ("red", "blue"))
    write_pictures(tmp_path / "colours" / "test", ("red", "green"))
    with pytest.raises(
        DatasetError, match=r"must contain the same classes as .*Found: \('green', 'red'\) and \('blue', 'red'\)"
    ):
        load_dataset(tmp_path / "colours")


@pytest.mark.parametrize("split", [True, False])
def test_a_folder_is_remembered_by_its_absolute_path(tmp_path, monkeypatch, split):
    for part in ("train", "test") if split else (".",):
        write_pictures(tmp_path / "colours" / part, count=3)
    monkeypatch.chdir(tmp_path)
    loaded = load_dataset("colours")
    assert loaded.folder == str(tmp_path / "colours")
    assert loaded.subset(2, 2).folder == loaded.folder
    monkeypatch.chdir("/")
    assert_same(load_dataset(loaded.folder), loaded)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_pictures(tmp_path / "colours")
    assert load_dataset("~/colours").folder == str(tmp_path / "colours")


@pytest.mark.parametrize("name", ["cifar10", "digits", "arrays"])
def test_a_folder_never_takes_the_name_of_a_built_in_data_set(tmp_path, name):
    loaded = load_dataset(write_pictures(tmp_path / name))
    assert loaded.name == f"{name}-folder"
    assert loaded.source == f'folder "{name}"'


def test_pictures_in_nested_folders_belong_to_the_class_above(tmp_path):
    folder = write_pictures(tmp_path / "colours", count=4)
    (folder / "red" / "more").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), "red").save(folder / "red" / "more" / f"{i}.JPG")
    loaded = load_dataset(folder)
    labels = np.concatenate([loaded.y_train, loaded.y_test])
    assert np.bincount(labels).tolist() == [4, 7]


def test_a_folder_of_pictures_without_class_folders_is_an_error(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "0.png")
    with pytest.raises(DatasetError, match=r"must contain one subfolder per class, at least two\. Found: \[\]"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("names", "training", "test"),
    [
        (("train", "test"), 20, 4),
        (("Train", "Test"), 20, 4),
        (("training", "testing"), 20, 4),
        (("train", "validation", "test"), 24, 4),
        (("TRAIN", "val", "test"), 24, 4),
        (("train", "valid"), 20, 4),
    ],
)
def test_parts_are_recognised_in_their_usual_spellings(tmp_path, names, training, test):
    for name in names:
        write_pictures(tmp_path / "data" / name, count=10 if name.lower().startswith("train") else 2)
    loaded = load_dataset(tmp_path / "data")
    assert loaded.class_names == ("blue", "red")
    assert (len(loaded.y_train), len(loaded.y_test)) == (training, test)
    aside = [] if loaded.val_rows is None else loaded.val_rows.tolist()
    assert len(aside) == (4 if len(set(names) & {"validation", "val", "valid"}) else 0)
    assert ("used for validation" in loaded.notice) == bool(aside)
    if aside:
        np.testing.assert_array_equal(loaded.validation_split()[1], aside)


def test_a_folder_with_two_training_parts_is_refused(tmp_path):
    for name in ("train", "Training"):
        write_pictures(tmp_path / "data" / name)
    with pytest.raises(DatasetError, match="several folders for the same part"):
        load_dataset(tmp_path / "data")


def test_a_class_called_like_a_part_is_a_class(tmp_path):
    folder = write_pictures(tmp_path / "data")
    shutil.copytree(folder / "red", folder / "train")
    assert load_dataset(folder).class_names == ("blue", "red", "train")


def test_parts_beside_other_folders_are_refused(tmp_path):
    for name in ("train", "test", "annotations"):
        write_pictures(tmp_path / "data" / name)
    with pytest.raises(DatasetError, match=r"test, train.* beside them annotations"):
        load_dataset(tmp_path / "data")


@pytest.mark.parametrize("name", ["train", "test", "val"])
def test_a_data_folder_called_like_a_part_is_a_data_set(tmp_path, name):
    loaded = load_dataset(write_pictures(tmp_path / name))
    assert loaded.class_names == ("blue", "red")
    assert loaded.notice == ""


def test_a_folder_of_very_many_class_folders_is_refused_at_once(tmp_path):
    for number in range(2001):
        (tmp_path / f"{number}").mkdir()
    with pytest.raises(DatasetError, match=r"has 2,001 subfolders: at most 2,000 classes are accepted"):
        load_dataset(tmp_path)


def test_a_loop_of_links_is_not_followed(tmp_path):
    folder = write_pictures(tmp_path / "colours")
    (folder / "red" / "loop").symlink_to(folder)
    (folder / "red" / "self.png").symlink_to(folder / "red" / "self.png")
    loaded = load_dataset(folder)
    assert len(loaded.y_train) + len(loaded.y_test) == 20
    (skipped,) = loaded.skipped
    assert skipped.startswith(f"{folder / 'red' / 'self.png'} cannot be read: Too many levels")


def test_hidden_files_are_no_pictures(tmp_path):
    folder = write_pictures(tmp_path / "colours")
    (folder / "red" / "._0.png").write_bytes(b"of macOS")
    (folder / "__MACOSX").mkdir()
    assert load_dataset(folder).skipped == ()


def test_a_folder_inside_a_class_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    folder = write_pictures(tmp_path / "colours")
    (folder / "red" / "locked").mkdir()
    real = os.scandir

    def refuse(path):  # tests may run as root, who may read everything
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert load_dataset(folder).skipped == (f"{folder / 'red' / 'locked'} cannot be read: Permission denied",)
