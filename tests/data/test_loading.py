"""Loading by name: what "auto" falls back to, short mode, the digits; and arrays as data sets."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from cifar_files import arrays_of, assert_same, entries, flip_a_bit, read_straight
from servers import BAD_SERVERS

from imgclassify.data import download
from imgclassify.data.cifar import CIFAR10_CLASSES
from imgclassify.data.dataset import DatasetError
from imgclassify.data.loading import as_dataset, load_and_preprocess_data, load_dataset

# --- auto ------------------------------------------------------------------------------------------


def assert_fell_back(loaded, folder: Path):
    assert loaded.name == "digits"
    assert loaded.notice.startswith("NOT CIFAR-10: working on scikit-learn's handwritten digits instead.")
    assert "fetch cifar-10-python.tar.gz" in loaded.notice
    assert f"put it into {folder}" in loaded.notice
    assert "`imgclassify data --download`" in loaded.notice
    assert loaded.notice in str(loaded)


def test_auto_takes_the_digits_and_says_so_if_there_is_nothing_else(tmp_path):
    loaded = load_dataset("auto")
    assert_fell_back(loaded, tmp_path / "cache")
    assert "the network (not used: offline)" in loaded.notice


@pytest.mark.parametrize(("behaviour", "words"), BAD_SERVERS.values(), ids=BAD_SERVERS)
def test_auto_takes_the_digits_if_the_server_fails(online, tmp_path, behaviour, words, quiet):
    server = online(behaviour)
    loaded = load_dataset("auto", progress=quiet)
    assert_fell_back(loaded, tmp_path / "cache")
    assert f"{server.address} {words}" in loaded.notice


def test_auto_takes_the_digits_if_the_download_cannot_be_written(online, tmp_path, quiet):
    (tmp_path / "cache").write_text("a file is in the way")
    online()
    assert_fell_back(load_dataset("auto", progress=quiet), tmp_path / "cache")


def test_auto_has_little_patience_and_cifar10_much(monkeypatch):
    used = []

    def fetch(*arguments, patience, **keywords):
        used.append(patience)
        raise download.DownloadError("nothing")

    monkeypatch.delenv("IMGCLASSIFY_OFFLINE")
    monkeypatch.setattr(download, "fetch", fetch)
    load_dataset("auto")
    with pytest.raises(DatasetError):
        load_dataset("cifar10")
    assert used == [download.QUICK, download.PATIENT]
    assert (download.QUICK.answer, download.QUICK.total) == (10, 180)
    assert download.PATIENT.total is None


def test_auto_takes_cifar10_if_it_is_at_hand(batches):
    assert load_dataset("auto").name == "cifar10"


def test_only_auto_falls_back():
    with pytest.raises(DatasetError, match="CIFAR-10 was not found"):
        load_dataset("cifar10")


def test_the_environment_sets_what_auto_means_and_nothing_else(batches, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_DATASET", "digits")
    assert load_dataset("auto").name == "digits"
    assert load_dataset("auto").notice == ""
    assert load_dataset("cifar10").name == "cifar10"


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(DatasetError, match=r'Unknown data set "mnist": use "cifar10", .*"auto", or a folder'):
        load_dataset("mnist")


@pytest.mark.parametrize("rows", [500, 401])
def test_short_mode_keeps_at_most_2000_and_500_pictures(tmp_path, write_batches, monkeypatch, rows):
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(tmp_path / "data"))
    write_batches(tmp_path / "data", rows=rows)  # 401: five more than are kept, fewer than there are classes
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "1")
    short = load_dataset("cifar10")
    assert len(short.x_train) == len(short.y_train) == 2000
    assert len(short.x_test) == len(short.y_test) == min(rows, 500)
    share = np.bincount([row % 10 for row in range(rows)]) * 2000 / rows
    assert np.abs(np.bincount(short.y_train) - share).max() <= 1
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "0")
    assert len(load_dataset("cifar10").y_train) == 5 * rows


# --- digits ----------------------------------------------------------------------------------------


def test_digits_are_1797_pictures_in_ten_classes():
    digits = load_dataset("digits")
    assert digits.x_train.shape == (1437, 32, 32, 3)
    assert digits.x_test.shape == (360, 32, 32, 3)
    assert digits.x_train.dtype == digits.x_test.dtype == np.uint8
    assert digits.y_train.dtype == digits.y_test.dtype == np.int64
    assert set(digits.y_train) == set(digits.y_test) == set(range(10))
    assert digits.class_names == tuple("0123456789")
    assert digits.source == "digits (scikit-learn)"
    assert digits.x_train.min() == 0
    assert digits.x_train.max() == 255
    np.testing.assert_array_equal(digits.x_train[..., 0], digits.x_train[..., 2])  # grey


def test_digits_are_split_the_same_way_every_time_and_in_proportion():
    first, second = load_dataset("digits"), load_dataset("digits")
    assert_same(first, second)
    share = np.bincount(first.y_test) / np.bincount(np.concatenate([first.y_train, first.y_test]))
    assert np.abs(share - 0.2).max() < 0.01


def test_digits_look_like_the_digits_they_are_labelled_as():
    from sklearn.datasets import load_digits

    digits, original = load_dataset("digits"), load_digits()
    pictures = np.concatenate([digits.x_train, digits.x_test])[..., 0]
    small = pictures.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))  # back to 8 x 8
    for label in range(10):
        ours = small[np.concatenate([digits.y_train, digits.y_test]) == label].mean(axis=0)
        theirs = original.images[original.target == label].mean(axis=0) * 255 / 16
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.98


# --- arrays ----------------------------------------------------------------------------------------


def test_preprocessed_data_is_float32_in_0_to_1_with_one_hot_labels(batches):
    (x_train, y_train), (x_test, y_test) = load_and_preprocess_data()
    pixels, labels = read_straight(batches)[:2]
    assert x_train.shape == (100, 32, 32, 3)
    assert x_test.shape == (20, 32, 32, 3)
    assert y_train.shape == (100, 10)
    assert y_test.shape == (20, 10)
    assert {array.dtype for array in (x_train, y_train, x_test, y_test)} == {np.dtype(np.float32)}
    assert x_train.min() == 0
    assert x_train.max() == 1
    np.testing.assert_allclose(x_train, pixels / 255, atol=1e-7)
    np.testing.assert_array_equal(y_train, np.eye(10)[labels])


def test_a_data_set_is_taken_as_it_is(tiny):
    assert as_dataset(tiny) is tiny


def test_nothing_means_cifar10(batches):
    assert_same(as_dataset(None), load_dataset("cifar10"))


def test_preprocessed_arrays_of_a_cached_cifar10_are_cifar10(batches):
    original = load_dataset("cifar10")
    rebuilt = as_dataset(load_and_preprocess_data())
    assert_same(rebuilt, original)
    assert rebuilt.name == "cifar10"
    assert rebuilt.class_names == CIFAR10_CLASSES
    assert rebuilt.source == original.source


def test_arrays_of_which_one_pixel_differs_are_not_cifar10(batches):
    (x_train, y_train), test = load_and_preprocess_data()
    x_train[0, 0, 0, 0] += 1 / 255 if x_train[0, 0, 0, 0] < 0.5 else -1 / 255
    data = as_dataset(((x_train, y_train), test))
    assert data.name == data.source == "arrays"
    assert data.class_names == tuple("0123456789")


def test_arrays_with_other_labels_are_not_cifar10(batches):
    x_train, y_train, x_test, y_test = arrays_of(load_dataset("cifar10"))
    assert as_dataset(((x_train, y_train[::-1]), (x_test, y_test))).name == "arrays"
    assert as_dataset(((x_train, y_train), (x_test, y_test))).name == "cifar10"


def test_arrays_of_cifar10s_shape_are_not_cifar10_by_their_shape():
    x, y = np.zeros((50_000, 32, 32, 3), np.uint8), np.arange(50_000) % 10
    data = as_dataset(((x, y), (x[:10_000], y[:10_000])))
    assert data.name == "arrays"
    assert data.class_names == tuple("0123456789")


def test_arrays_are_not_recognised_without_a_sound_cached_copy(batches, cache):
    arrays = load_and_preprocess_data()
    assert as_dataset(arrays).name == "cifar10"
    (entry,) = entries(cache)
    flip_a_bit(entry / "x_test.npy", 5000)
    assert as_dataset(arrays).name == "arrays"
    shutil.rmtree(cache)
    assert as_dataset(arrays).name == "arrays"


def test_other_arrays_are_a_data_set_without_a_name(tiny):
    data = as_dataset(((tiny.x_train, tiny.y_train), (tiny.x_test, tiny.y_test)))
    assert_same(data, tiny)
    assert data.name == data.source == "arrays"
    assert data.class_names == ("0", "1", "2")


@pytest.mark.real_data
def test_real_arrays_are_cifar10_where_the_cache_holds_it(cifar10, cifar10_settings, monkeypatch):
    monkeypatch.delenv("IMGCLASSIFY_CACHE_DIR")  # the user's own, which may be the default one
    for name, value in cifar10_settings.items():
        monkeypatch.setenv(name, value)
    data = as_dataset(((cifar10.x_train, cifar10.y_train), (cifar10.x_test, cifar10.y_test)))
    assert data.name == "cifar10"
    assert data.class_names == CIFAR10_CLASSES
    assert data.fingerprint == cifar10.fingerprint


@pytest.mark.parametrize("data", [(1, 2), 5, [(np.zeros(3), 1, 2), 4]])
def test_data_of_another_form_is_refused(data):
    with pytest.raises(DatasetError, match="Received: "):
        as_dataset(data)


def test_labels_that_would_make_too_many_classes_are_refused():
    pictures, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 10**9])
    with pytest.raises(DatasetError, match=r"999,999,999|1,000,000,000"):
        as_dataset(((pictures, labels), (pictures, labels)))
