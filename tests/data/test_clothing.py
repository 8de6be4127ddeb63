"""Clothing and CIFAR-100: found on this machine, or fetched from a server on it, verified and unpacked safely."""

import functools
import hashlib
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from cifar_files import flip_a_bit
from PIL import Image
from servers import good, html, without_range

from imgclassify.data import cifar, clothing, download
from imgclassify.data.dataset import DatasetError
from imgclassify.data.loading import load_dataset

ROOT = "clothing-dataset-small-1196151"


def photos() -> dict[str, bytes]:
    """A small data set with the layout of the original: names and contents."""
    files, random = {}, np.random.default_rng(0)
    for part, count in (("train", 4), ("validation", 2), ("test", 1)):
        for label in ("hat", "t-shirt"):
            for number in range(count):
                file = io.BytesIO()
                Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(file, "JPEG")
                files[f"{part}/{label}/{number}.jpg"] = file.getvalue()
    return files


def pack(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def files(monkeypatch, tmp_path) -> dict[str, bytes]:
    """The photos, which count as the original ones."""
    made = photos()
    original = clothing._fingerprint(write(tmp_path / "original", made))
    monkeypatch.setattr(clothing, "FINGERPRINT", original)
    return made


@pytest.fixture
def online(serve, monkeypatch):
    """`online(content, behaviour)`: a server is the only address of the archive."""

    def start(content: bytes, behaviour=good):
        server = serve(behaviour if behaviour is html else functools.partial(behaviour, content=content))
        monkeypatch.delenv("IMGCLASSIFY_OFFLINE")
        monkeypatch.setattr(clothing, "ADDRESSES", (server.url,))
        monkeypatch.setattr(download, "PATIENT", download.Patience(answer=1, stall=0.5))
        return server

    return start


def check(data):
    assert (data.name, data.source, data.folder) == ("clothing", "Clothing photos", "")
    assert data.class_names == ("hat", "t-shirt")
    assert (len(data.y_train), len(data.val_rows), len(data.y_test)) == (12, 4, 2)


@pytest.mark.parametrize("behaviour", [good, without_range])
def test_the_photos_are_fetched_once_and_verified(files, online, tmp_path, behaviour):
    extra = {f"{ROOT}/README.md": b"read me", f"{ROOT}/": b""}
    server = online(pack({f"{ROOT}/{name}": data for name, data in files.items()} | extra), behaviour)
    check(load_dataset("clothing"))
    check(load_dataset("clothing", size=96))
    assert len(server.ranges) == 1
    folder = tmp_path / "cache" / "clothing"
    kept = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert kept == sorted(files)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["clothing", "photos"]


def test_a_broken_download_is_continued(files, online, tmp_path):
    content = pack({f"{ROOT}/{name}": data for name, data in files.items()})
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "clothing.zip.part").write_bytes(content[:5000])
    server = online(content)
    check(load_dataset("clothing"))
    assert server.ranges == ["bytes=5000-"]


@pytest.mark.parametrize("damage", ["missing", "extra", "other", "no archive", "outside"])
def test_an_archive_with_other_photos_is_refused(files, online, tmp_path, damage):
    packed = {f"{ROOT}/{name}": data for name, data in files.items()}
    if damage == "missing":
        packed.popitem()
    elif damage == "outside":
        packed = {f"{ROOT}/../../{name}": data for name, data in files.items()}
    else:
        packed[f"{ROOT}/train/hat/{'0' if damage == 'other' else '99'}.jpg"] = b"another"
    online(b"no archive" if damage == "no archive" else pack(packed))
    with pytest.raises(DatasetError, match=r"clothing photos were not found.* sent another file"):
        load_dataset("clothing")
    assert not (tmp_path / "cache" / "clothing").exists()
    assert not list(tmp_path.glob("**/train/hat/99.jpg"))


def test_names_that_lead_out_of_the_folder_are_never_written(files, online, tmp_path):
    evil = {f"{ROOT}/train/hat/../../../evil.jpg": b"x", "/train/hat/evil.jpg": b"x", "..\\train/hat/evil.jpg": b"x"}
    online(pack({f"{ROOT}/{name}": data for name, data in files.items()} | evil))
    check(load_dataset("clothing"))
    assert not list(tmp_path.rglob("*evil*"))


def test_an_archive_that_would_fill_the_disk_is_refused(files, online, monkeypatch, tmp_path):
    monkeypatch.setattr(clothing, "_MOST_BYTES", 1_000_000)
    bomb = {f"{ROOT}/bomb.txt": bytes(2_000_000)}
    online(pack({f"{ROOT}/{name}": data for name, data in files.items()} | bomb))
    with pytest.raises(DatasetError, match="sent another file"):
        load_dataset("clothing")
    assert not (tmp_path / "cache" / "clothing").exists()


def test_a_web_page_in_place_of_the_archive_is_said(files, online):
    online(b"", html)
    with pytest.raises(DatasetError, match=r"Tried: .*answered with a web page\). To get them, run"):
        load_dataset("clothing")


def test_offline_the_photos_must_be_at_hand(files, tmp_path):
    with pytest.raises(DatasetError, match=r"the network \(not used: offline\)"):
        load_dataset("clothing")
    write(tmp_path / "cache" / "clothing", files)
    check(load_dataset("clothing"))


def test_a_damaged_copy_in_the_cache_is_fetched_again(files, online, tmp_path):
    kept = write(tmp_path / "cache" / "clothing", files)
    flip_a_bit(kept / "train" / "hat" / "0.jpg", 100)
    online(pack({f"{ROOT}/{name}": data for name, data in files.items()}))
    check(load_dataset("clothing"))
    assert (kept / "train" / "hat" / "0.jpg").read_bytes() == files["train/hat/0.jpg"]


def test_photos_of_ones_own_folder_are_used_and_named_unverified_if_they_differ(files, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(tmp_path / "data"))
    own = write(tmp_path / "data" / "clothing", files)
    check(load_dataset("clothing"))
    (own / "train" / "hat" / "0.jpg").unlink()
    assert load_dataset("clothing").source == "Clothing photos, unverified"


# --- CIFAR-100 ---------------------------------------------------------------------------------------


def write_cifar100(folder: Path) -> Path:
    folder = folder / "cifar-100-python"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, rows in (("train", 200), ("test", 100)):
        pixels, labels = random.integers(0, 256, (rows, 3072), dtype=np.uint8), [row % 100 for row in range(rows)]
        batch = {b"data": pixels, b"fine_labels": labels, b"coarse_labels": [0] * rows}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def test_cifar100_is_read_cached_and_named(tmp_path, monkeypatch):
    folder = write_cifar100(tmp_path / "data")
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(tmp_path / "data"))
    data, again = load_dataset("cifar100"), load_dataset("cifar100")
    assert (data.name, data.source, again.fingerprint) == ("cifar100", "CIFAR-100, unverified", data.fingerprint)
    assert (data.x_train.shape, data.x_test.shape) == ((200, 32, 32, 3), (100, 32, 32, 3))
    assert (len(set(data.class_names)), data.class_names[0], data.class_names[99]) == (100, "apple", "worm")
    assert list(data.class_names) == sorted(data.class_names)
    assert len(list((tmp_path / "cache" / "cifar100").glob("[0-9a-f]*"))) >= 1
    for name in ("train", "test"):
        monkeypatch.setitem(cifar.CIFAR100.md5, name, hashlib.md5((folder / name).read_bytes()).hexdigest())
    monkeypatch.setenv("IMGCLASSIFY_CACHE_DIR", str(tmp_path / "other"))
    assert load_dataset("cifar100").source == "CIFAR-100"


def test_cifar100_is_downloaded_from_an_own_address(tmp_path, monkeypatch, serve):
    folder = write_cifar100(tmp_path)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(folder, "cifar-100-python")
    content = (tmp_path / "a.tar.gz").read_bytes()
    server = serve(functools.partial(good, content=content))
    monkeypatch.delenv("IMGCLASSIFY_OFFLINE")
    monkeypatch.setenv("IMGCLASSIFY_CIFAR100_URL", f"{server.url}#sha256={hashlib.sha256(content).hexdigest()}")
    assert len(load_dataset("cifar100").y_train) == 200
    monkeypatch.setenv("IMGCLASSIFY_OFFLINE", "1")
    assert len(load_dataset("cifar100").y_test) == 100


def test_without_cifar100_the_message_says_how_to_get_it():
    with pytest.raises(DatasetError, match=r"CIFAR-100 was not found.*`imgclassify data cifar100 --download`"):
        load_dataset("cifar100")
