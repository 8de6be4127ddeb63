"""Who may use the service, and how much: named keys in a file, and a rate for each."""

import hashlib
import hmac
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

_LINE = re.compile(r"([A-Za-z0-9_.-]{1,64})\s+([0-9a-fA-F]{64})")


class KeysError(ValueError):
    """The file of keys is missing, empty or damaged."""


class Keys:
    """Named keys: each line of a file has a name and the SHA-256 of a key, in hexadecimal; `#` begins a comment.

    The file is read again whenever it has changed, so a key is revoked by the removal of its line. While the file is
    missing or damaged, no key is accepted.

    Args:
        path: The file.

    Raises:
        KeysError: The file cannot be used.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = Path(path)
        self._state: tuple[int, ...] | None = None  # of the file, when it was read
        self._hashes: dict[str, bytes] = {}
        self.check()

    def check(self) -> None:
        """Read the file if it has changed; raises `KeysError` if it cannot be used."""
        try:
            found = self._path.stat()
            if (state := (found.st_mtime_ns, found.st_size, found.st_ino)) != self._state:
                self._state, self._hashes = None, {}
                self._hashes, self._state = _read(self._path), state
        except (OSError, UnicodeDecodeError) as error:
            self._state = None
            raise KeysError(f"The file of keys cannot be read: {getattr(error, 'strerror', None) or error}.") from error

    def name_of(self, key: str) -> str | None:
        """Name of a key; None if it is none of them. All are compared, in constant time.

        Raises:
            KeysError: The file cannot be used any more.
        """
        self.check()
        given, found = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), None
        for name, expected in self._hashes.items():
            if hmac.compare_digest(given, expected):
                found = name
        return found


def _read(path: Path) -> dict[str, bytes]:
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not (text := line.partition("#")[0].strip()):
            continue
        if (match := _LINE.fullmatch(text)) is None or match[1] in hashes:  # the line may hold a key: it is not shown
            expected = "expected a name, used once, and the SHA-256 of its key in hexadecimal"
            raise KeysError(f"Line {number} of the file of keys is wrong: {expected}.")
        hashes[match[1]] = bytes.fromhex(match[2])
    if not hashes:
        raise KeysError("The file of keys has no key.")
    return hashes


class RateLimit:
    """A token bucket per name: `rate` pictures per second on average, and `burst` at once.

    Who takes more at once than there are goes into debt, and waits longer.
    """

    def __init__(self, rate: float, burst: float, *, clock: Callable[[], float] = time.monotonic):
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: dict[str | None, tuple[float, float]] = {}  # what is left, and since when

    def seconds(self, name: str | None) -> float:
        """How long a name has to wait until it may send a picture; 0 if it need not."""
        return max(0.0, (1 - self._left(name)) / self._rate)

    def take(self, name: str | None, pictures: int = 1) -> None:
        """Count pictures of a name."""
        self._buckets[name] = (self._left(name) - pictures, self._clock())

    def _left(self, name: str | None) -> float:
        left, since = self._buckets.get(name, (self._burst, self._clock()))
        return min(self._burst, left + (self._clock() - since) * self._rate)
