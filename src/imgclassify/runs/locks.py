"""Locks between processes: files that the operating system unlocks when their owner ends, however it ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from filelock import Timeout as LockedError


@contextlib.contextmanager
def locked(path: Path, *, patience: float = 0) -> Iterator[None]:
    """Hold the lock file `path`; it is removed at the end. Where it cannot be written, there is no lock.

    Args:
        path: Its folder must exist.
        patience: Seconds to wait for another owner.

    Raises:
        LockedError: It has another owner for longer: another process, or another thread of this one.
    """
    lock = FileLock(path, timeout=patience, thread_local=False)
    try:
        lock.acquire()
    except LockedError:
        raise
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
    try:
        with locked(path) if path.exists() else contextlib.nullcontext():
            return False
    except LockedError:
        return True
