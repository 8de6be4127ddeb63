"""Locks between processes: files that the operating system unlocks when their owner ends, however it ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout


class LockedError(Exception):
    """Another process, or another thread of this one, holds the lock."""


@contextlib.contextmanager
def locked(path: Path, *, patience: float = 0) -> Iterator[None]:
    """Hold the lock file `path`; it is removed at the end. Where it cannot be written, there is no lock.

    Args:
        path: Its folder must exist.
        patience: Seconds to wait for another owner.

    Raises:
        LockedError: It has another owner for longer.
    """
    lock = FileLock(path, timeout=patience, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError from error
    except OSError:
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # on Windows, an open file stays
            path.unlink(missing_ok=True)
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether somebody holds this lock file."""
    if not path.exists():
        return False
    try:
        with locked(path):
            return False
    except LockedError:
        return True
