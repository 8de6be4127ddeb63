"""Atomic writes: a file is written whole or not at all."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden path next to `path`, with the same suffix, to write to; it replaces `path` if the block succeeds."""
    part = path.with_name(f".{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
