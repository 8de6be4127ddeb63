"""Atomic writes: a file is written whole or not at all."""

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_PART = re.compile(r"\.[0-9a-f]{8}(\.\w+)?")  # the name of a file or folder that is being written
_ABANDONED = 3600  # seconds after which nobody is still writing it


@contextlib.contextmanager
def replacing(path: Path, *, lasting: bool = False) -> Iterator[Path]:
    """A hidden path next to `path`, with the same suffix, to write to; it replaces `path` if the block succeeds.

    With `lasting`, the file is on the disk before it takes its place, so that a power failure leaves the old file or
    the new one.
    """
    part = path.with_name(f".{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield part
        if lasting:
            with part.open("r+b") as file:
                os.fsync(file.fileno())
        part.replace(path)
        if lasting and os.name == "posix":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process was writing in a folder, under names such as those of `replacing`."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if _PART.fullmatch(path.name) and time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
