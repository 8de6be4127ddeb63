"""Clothing: 3,781 photos of ten kinds of clothes, by 32 people, in the public domain (CC0); find, fetch, verify.

They are github.com/alexeygrigorev/clothing-dataset-small, part of Grigorev's "Clothing dataset (full, high
resolution)", 2020; mostly 400 x 533 pixels, from 136 to 928 photos of a class, with a validation and a test part.
"""

import hashlib
import io
import re
import shutil
import uuid
import zipfile
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from imgclassify.atomic import sweep
from imgclassify.data import download
from imgclassify.data.dataset import Dataset
from imgclassify.data.folders import load_folder
from imgclassify.data.splits import DatasetError
from imgclassify.progress import Progress
from imgclassify.settings import cache_dir, setting

_COMMIT = "11961516512414bf9f6c150a832cfd21b54a6b54"
ADDRESSES = (f"https://github.com/alexeygrigorev/clothing-dataset-small/archive/{_COMMIT}.zip",)
FINGERPRINT = "177e9bad69b03b17050f9c529b7422942cf55713cb5df23afa334cf6bfb2f27c"  # of the files' names and contents
_FILE = re.compile(r"(?:[^/]+/)?((?:train|validation|test)/[\w-]+/[\w-]+\.jpg)")  # leaves no way out of a folder
_MOST_BYTES = 300_000_000  # of all files, unpacked


def load_clothing(size: int | None, patience: download.Patience | None, progress: Progress) -> Dataset:
    """The photos from `IMGCLASSIFY_DATA_DIR`, the cache or the network, in this order.

    Raises:
        DatasetError: They are not on this machine and cannot be downloaded now.
    """
    chosen, cached = setting("DATA_DIR"), cache_dir() / "clothing"
    own = Path(chosen).expanduser() / "clothing" if chosen else None
    folder = own if own is not None and own.is_dir() else cached
    verified = _fingerprint(folder) == FINGERPRINT
    if folder is cached and not verified:
        _fetch(cached, patience, progress)
    source = "Clothing photos" if verified or folder is cached else "Clothing photos, unverified"
    data = load_folder(folder, size=size, progress=progress)
    return replace(data, name="clothing", source=source, folder="", notice="")


def _fetch(folder: Path, patience: download.Patience | None, progress: Progress) -> None:
    """Download the archive, and unpack it whole or not at all."""
    archive, part = folder.with_suffix(".zip"), folder.with_name(f".{uuid.uuid4().hex[:8]}")
    sweep(folder.parent)
    part.mkdir(parents=True)
    options: Any = {"sha256": FINGERPRINT, "digest": partial(_unpack, folder=part / "photos"), "progress": progress}
    try:
        download.fetch(ADDRESSES, archive, patience=patience, **options)
        shutil.rmtree(folder, ignore_errors=True)  # it is damaged
        (part / "photos").rename(folder)
        archive.unlink()
    except (download.DownloadError, OSError) as error:
        raise DatasetError(
            f"The clothing photos were not found. Tried: IMGCLASSIFY_DATA_DIR ({setting('DATA_DIR') or 'not set'}), "
            f"the cache {folder}, the network ({error}). To get them, run `imgclassify data clothing --download` "
            f"(106 MB), or unpack {ADDRESSES[0]} so that {folder} contains train, validation and test."
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> str:
    """Unpack the photos in an archive; returns their fingerprint, "" if it is not a whole archive of plausible size."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(io.BytesIO(archive.read_bytes())) as opened:
            members = opened.infolist()
            if sum(member.file_size for member in members) > _MOST_BYTES:
                return ""
            for member in members:
                if match := _FILE.fullmatch(member.filename):
                    (folder / match[1]).parent.mkdir(parents=True, exist_ok=True)
                    (folder / match[1]).write_bytes(opened.read(member))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError):
        return ""
    return _fingerprint(folder)


def _fingerprint(folder: Path) -> str:
    lines = [f"{path.relative_to(folder).as_posix()} {download.file_sha256(path)}" for path in folder.glob("*/*/*.jpg")]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
