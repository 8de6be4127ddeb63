"""Photos: decoded once, cached by content, read row by row; the cache is never wrong."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclassify import backend
from imgclassify.data import photos
from imgclassify.data.batches import Batches
from imgclassify.data.dataset import DatasetError
from imgclassify.data.images import ImageError, decode_image, prepare_image
from imgclassify.data.loading import load_dataset
from imgclassify.data.photos import Photo, PhotoCache, Pictures, read_photos

SIZE = 80


def write_photo(path: Path, seed: int, size=(100, 90)) -> str:
    """A JPEG of coarse random blocks, like no other."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(path)
    return str(path)


@pytest.fixture
def files(tmp_path) -> list[str]:
    return [write_photo(tmp_path / "photos" / f"{seed}.jpg", seed) for seed in range(6)]


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the pictures that are decoded from now on."""
    names = []
    monkeypatch.setattr(photos, "decode_image", lambda *a, name=None, **k: names.append(name) or decode_image(*a, **k))
    return names


def records(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "photos" / f"{SIZE}px-2").iterdir())


def make_old(*paths: str) -> None:
    for path in paths:
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def pictures(files, quiet) -> Pictures:
    cache = PhotoCache(SIZE)
    return Pictures(read_photos(files, cache, quiet), cache)


@pytest.fixture
def expected(files) -> np.ndarray:
    return np.stack([prepare_image(decode_image(path), size=SIZE) for path in files])


def test_photos_are_prepared_as_at_prediction(pictures, expected):
    assert (pictures.shape, pictures.dtype, pictures.ndim, len(pictures)) == ((6, SIZE, SIZE, 3), np.uint8, 4, 6)
    np.testing.assert_array_equal(np.asarray(pictures), expected)


@pytest.mark.parametrize(
    "key",
    [
        3,
        -1,
        np.int64(2),
        slice(1, 4),
        slice(None, None, -2),
        [4, 0, 0],
        np.array([5, 1]),
        np.array([[0, 1], [2, 3]]),
        np.arange(6) % 2 == 0,
        (slice(0, 2), slice(None), slice(None, None, -1)),
        (1, 2, 3),
        (..., 0),
        np.empty(0, int),
        slice(4, 9),
    ],
    ids=str,
)
def test_pictures_are_indexed_like_an_array(pictures, expected, key):
    read = pictures[key]
    np.testing.assert_array_equal(read, expected[key])
    assert read.dtype == np.uint8


def test_a_row_that_does_not_exist_is_an_error(pictures):
    with pytest.raises(IndexError, match="out of bounds"):
        pictures[6]


def test_some_rows_are_taken_without_being_read(pictures, expected, monkeypatch):
    monkeypatch.setattr(PhotoCache, "pixels", None)
    some = pictures.take(np.array([4, 2]))
    monkeypatch.undo()
    np.testing.assert_array_equal(some[:], expected[[4, 2]])
    assert some.digest != pictures.digest


def test_pictures_become_arrays_of_any_type_but_never_without_a_copy(pictures, expected):
    np.testing.assert_array_equal(np.asarray(pictures, np.float32), expected.astype(np.float32))
    with pytest.raises(ValueError, match="without being copied"):
        np.array(pictures, copy=False)


def test_batches_are_drawn_from_pictures_in_the_cache(pictures, expected):
    batches = Batches(pictures, np.arange(6), np.array([0, 2, 4]), batch_size=3)
    chunk = batches.chunk(0, batches.order(0), 0)
    np.testing.assert_array_equal(chunk.pictures, expected[chunk.labels])


def test_only_new_photos_are_decoded(files, pictures, decoded, tmp_path, quiet):
    more = [write_photo(tmp_path / "photos" / f"{seed}.jpg", seed) for seed in (10, 11)]
    found = read_photos([*files, *more], PhotoCache(SIZE), quiet)
    assert sorted(decoded) == sorted(more)
    assert [photo.path for photo in found] == [*files, *more]


def test_a_moved_or_copied_photo_is_not_decoded_again(files, pictures, decoded, tmp_path, quiet):
    moved = Path(files[0]).rename(tmp_path / "photos" / "moved.jpg")
    (photo,) = read_photos([str(moved)], PhotoCache(SIZE), quiet)
    assert (photo.sha256, decoded) == (pictures.photos[0].sha256, [])


def test_files_that_have_not_changed_are_not_even_read(files, quiet, monkeypatch):
    make_old(*files)
    monkeypatch.setattr(photos, "_RECENT", -1)  # their status has changed just now
    first = read_photos(files, PhotoCache(SIZE), quiet)
    monkeypatch.setattr(photos.Path, "read_bytes", None)
    again = read_photos(files, PhotoCache(SIZE), quiet)
    assert [photo.sha256 for photo in again] == [photo.sha256 for photo in first]
    np.testing.assert_array_equal([photo.look for photo in again], [photo.look for photo in first])


def test_a_photo_overwritten_at_the_same_length_and_time_is_noticed(tmp_path, quiet):
    path = tmp_path / "a.bmp"
    for colour in ("red", "blue"):
        Image.new("RGB", (9, 9), colour).save(path)
        make_old(path)
        (photo,) = read_photos([str(path)], cache := PhotoCache(4), quiet)
        np.testing.assert_array_equal(cache.pixels(photo), prepare_image(decode_image(path), size=4))


@pytest.mark.parametrize("damage", ["bit", "short", "empty", "gone", "head"])
def test_a_damaged_record_is_decoded_again(pictures, expected, tmp_path, damage):
    for record in records(tmp_path):
        content = record.read_bytes()
        place = 40 if damage == "head" else 5000
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        record.write_bytes({"short": content[:-1], "empty": b""}.get(damage, changed))
        if damage == "gone":
            record.unlink()
    np.testing.assert_array_equal(pictures[:], expected)
    fresh = PhotoCache(SIZE)
    again = read_photos([photo.path for photo in pictures.photos], fresh, photos.Progress(enabled=False))
    np.testing.assert_array_equal(Pictures(again, fresh)[:], expected)
    np.testing.assert_array_equal([photo.look for photo in again], [photo.look for photo in pictures.photos])


def test_a_photo_that_has_changed_since_it_was_loaded_is_never_shown_in_its_place(pictures, tmp_path):
    for record in records(tmp_path):
        record.unlink()
    write_photo(Path(pictures.photos[2].path), 99)
    with pytest.raises(DatasetError, match=r"2\.jpg has changed since the data was loaded: load the data again"):
        pictures[2]
    Path(pictures.photos[3].path).unlink()
    with pytest.raises(DatasetError, match=r"3\.jpg has changed"):
        pictures[3]


def test_pixels_damaged_after_they_were_found_by_path_and_time_are_decoded_again(
    files, expected, quiet, tmp_path, monkeypatch
):
    make_old(*files)
    monkeypatch.setattr(photos, "_RECENT", -1)
    read_photos(files, cache := PhotoCache(SIZE), quiet)
    again = Pictures(read_photos(files, cache, quiet), cache)
    for record in records(tmp_path):
        content = record.read_bytes()
        record.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    np.testing.assert_array_equal(again[:], expected)


def test_a_full_disk_is_said_in_one_sentence_and_what_was_decoded_stays(files, quiet, tmp_path, monkeypatch, decoded):
    real, written = Path.write_bytes, []

    def write(path, content):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return real(path, content)

    monkeypatch.setattr(backend, "cores", lambda: 1)
    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(DatasetError, match=r"80px-2 cannot be written: No space left.* 20 kB: make room, or set IMGCL"):
        read_photos(files, PhotoCache(SIZE), quiet)
    monkeypatch.setattr(Path, "write_bytes", real)
    assert len(records(tmp_path)) == 3
    decoded.clear()
    read_photos(files, PhotoCache(SIZE), quiet)
    assert len(decoded) == 3


def test_what_a_killed_process_left_does_no_harm(files, pictures, expected, tmp_path, quiet):
    (records(tmp_path)[0].parent / ".0a1b2c3d").write_bytes(b"half a rec")
    np.testing.assert_array_equal(Pictures(read_photos(files, PhotoCache(SIZE), quiet), PhotoCache(SIZE))[:], expected)


def test_several_threads_and_a_second_process_can_fill_the_cache_at_once(files, expected, quiet, tmp_path):
    code = (
        "import sys; from imgclassify.data.photos import *; from imgclassify.progress import Progress\n"
        f"read_photos(sys.argv[1:], PhotoCache({SIZE}), Progress(enabled=False))"
    )
    other = subprocess.Popen([sys.executable, "-c", code, *files])
    threads = [threading.Thread(target=read_photos, args=(files, PhotoCache(SIZE), quiet)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait() == 0
    cache = PhotoCache(SIZE)
    np.testing.assert_array_equal(Pictures(read_photos(files, cache, quiet), cache)[:], expected)
    assert not list((tmp_path / "cache" / "photos" / f"{SIZE}px-2").glob(".*"))


def test_files_that_cannot_be_used_are_named_and_the_others_read(files, tmp_path, quiet, monkeypatch):
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no picture")
    large = write_photo(tmp_path / "photos" / "large.bmp", 0, (400, 400))
    monkeypatch.setattr(photos, "MAX_BYTES", 200_000)
    monkeypatch.setattr("imgclassify.data.images.MAX_BYTES", 200_000)
    asked = [*files, str(tmp_path / "photos" / "bad.jpg"), large, str(tmp_path / "photos" / "gone.jpg")]
    *good, bad, too_large, gone = read_photos(asked, PhotoCache(SIZE), quiet)
    assert all(isinstance(photo, Photo) for photo in good)
    assert [type(each) for each in (bad, too_large, gone)] == [ImageError] * 3
    assert "bad.jpg is not a picture" in str(bad)
    assert "large.bmp is too large" in str(too_large)
    assert "gone.jpg cannot be read: No such file" in str(gone)


def test_a_photo_knows_its_size_in_the_file(tmp_path, quiet):
    path = write_photo(tmp_path / "large.jpg", 0, (2400, 1800))
    (photo,) = read_photos([path], PhotoCache(SIZE), quiet)
    assert photo.size == (2400, 1800)
    assert decode_image(path).size == (1200, 900)


def test_a_folder_of_photos_is_a_data_set_of_any_size(tmp_path):
    for label in ("cat", "dog"):
        for seed in range(10):
            write_photo(tmp_path / "pets" / label / f"{seed}.jpg", seed + 50 * (label == "dog"))
    data = load_dataset(tmp_path / "pets", size=96)
    assert isinstance(data.x_train, Pictures)
    assert (data.x_train.shape, data.x_test.shape) == ((16, 96, 96, 3), (4, 96, 96, 3))
    assert isinstance(load_dataset(tmp_path / "pets", size=64).x_train, np.ndarray)
    again = load_dataset(tmp_path / "pets", size=96)
    assert again.fingerprint == data.fingerprint != load_dataset(tmp_path / "pets", size=97).fingerprint
    few = data.subset(6, 2)
    assert isinstance(few.x_train, Pictures)
    assert (len(few.x_train), len(few.y_train), len(few.groups)) == (6, 6, 6)
    write_photo(tmp_path / "pets" / "cat" / "0.jpg", 77)
    assert load_dataset(tmp_path / "pets", size=96).fingerprint != data.fingerprint


def test_data_of_a_fixed_size_says_so():
    with pytest.raises(DatasetError, match=r'The pictures of "digits" have 32 pixels per side, not 64\.'):
        load_dataset("digits", size=64)
    assert load_dataset("digits", size=32).x_train.shape[1] == 32
