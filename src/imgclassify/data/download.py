"""Downloads: fetch one large file with a known SHA-256, with several addresses, resuming, time-outs and progress.

Only the checksum is trusted: servers that fail, stall, cut the file short, ignore `Range` or send something
else can cost time, but never lead to a wrong file.
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imgclassify.progress import Progress, format_seconds

_SLOWEST = 4_000  # bytes per second, over a stall time; CIFAR-10's original site, throttled, sends about 60,000
_LARGEST = 2_000_000_000  # bytes, if the length is not known
_ATTEMPTS = 5  # at one address that breaks off midway
_MEANINGS = {  # of words in an error's name and text; the first that matches
    "^(missingschema|invalidschema|invalidurl)": "is not a web address",
    "resol": "cannot be found (no network?)",
    "timeout|timed out": "stopped sending",
    "refused": "refused the connection",
    "certificate|ssl": "has no trustworthy certificate",
}


class DownloadError(Exception):
    """No address delivered the file; the message says what happened at each."""


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds."""

    answer: float = 60  # for an answer to begin, for all addresses together
    stall: float = 30  # for more bytes during a download
    total: float | None = None  # for the whole download, estimated from its speed so far; None for no limit


PATIENT = Patience()
QUICK = Patience(answer=10, stall=10, total=180)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(
    urls: Sequence[str],
    destination: Path,
    *,
    sha256: str,
    digest: Callable[[Path], str] = file_sha256,
    size: int | None = None,
    patience: Patience | None = PATIENT,
    progress: Progress | None = None,
) -> Path:
    """Download `destination` from the first of `urls` that delivers the file with this checksum; returns it.

    What has arrived is kept in `<destination>.part`; a later call continues from there, with any of the
    addresses.

    Args:
        urls: Addresses of the same file, tried in this order.
        destination: The file to write. It appears under this name only when complete and verified.
        sha256: Checksum of the file, in hex.
        digest: Computes the checksum, where it is not that of the file as a whole.
        size: Its length in bytes, if known: a server that offers another length is skipped at once.
        patience: Time limits; None not to use the network.
        progress: Where to show size, speed and time left.

    Raises:
        DownloadError: No address delivered the file within the time limits.
        OSError: The file cannot be written.
    """
    if patience is None:
        raise DownloadError("not used: offline")
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(destination.name + ".part")
    waited = 0.0
    problems: dict[str, list[str]] = {}
    for index, url in enumerate(urls):
        transfer = _Transfer(url, part, size=size, patience=patience, progress=progress or Progress(enabled=False))
        try:
            answer_within = max(1.0, (patience.answer - waited) / (len(urls) - index))
            while not (part.exists() and digest(part) == sha256):
                continued = part.exists() and part.stat().st_size > 0
                transfer.run(answer_within)
                if (received := digest(part)) != sha256:
                    part.unlink()
                    if not continued:  # otherwise the earlier part may be wrong: try again from the start
                        found = f"checksum {received[:12]}..., expected {sha256[:12]}..."
                        raise DownloadError(f"sent another file ({found})")
            part.replace(destination)
            return destination
        except DownloadError as error:
            problems.setdefault(str(error), []).append(urlsplit(url).netloc or url)
            waited += transfer.waited
    raise DownloadError("; ".join(f"{', '.join(hosts)} {problem}" for problem, hosts in problems.items()))


class _Transfer:
    """The download of one file from one address, resumed when it breaks off."""

    def __init__(self, url: str, part: Path, *, size: int | None, patience: Patience, progress: Progress):
        self.url, self.part, self.size, self.patience, self.progress = url, part, size, patience, progress
        self.waited = 0.0  # seconds spent waiting for an answer
        self.began = time.monotonic()

    def run(self, answer_within: float) -> None:
        """Fill `part` to its full length, if the server states one; raises `DownloadError` if that fails."""
        import requests
        import urllib3

        # Not every OSError: a full disk must be reported as such.
        broken = (requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError, ConnectionError)
        for attempt in range(1, _ATTEMPTS + 1):
            before = self._have()
            try:
                self._stream(answer_within)
                return
            except broken as error:
                problem = _in_words(error)
            if self._have() <= before or attempt == _ATTEMPTS:
                raise DownloadError(problem)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _stream(self, answer_within: float) -> None:
        begun = have = self._have()
        with self._open(have, answer_within) as response:
            if response.status_code == 416 and have >= (self.size or 1):
                return  # the server has no more: the part is complete, or belongs to another file
            skip, total = self._check(response, have)
            started = window_start = time.monotonic()
            arrived = window_bytes = 0
            with self.part.open("ab") as file:
                while chunk := response.raw.read1(1 << 18):
                    arrived += len(chunk)
                    fresh = chunk[skip:] if skip else chunk
                    skip -= len(chunk) - len(fresh)
                    file.write(fresh)
                    have += len(fresh)
                    if fresh and have > (limit := self.size or _LARGEST):
                        file.truncate(begun)
                        raise DownloadError(f"sends more than the expected {limit:,} bytes")
                    now = time.monotonic()
                    self._report(have=have, total=total, skip=skip, arrived=arrived, seconds=now - started)
                    window_bytes += len(chunk)
                    if now - window_start > self.patience.stall:
                        if window_bytes < _SLOWEST * (now - window_start):
                            lasted = format_seconds(now - window_start)
                            raise DownloadError(f"sent only {window_bytes:,} bytes in {lasted}")
                        window_start, window_bytes = now, 0
            if total is not None and have < total:
                raise ConnectionError(f"broke off after {have:,} of {total:,} bytes")

    def _open(self, have: int, seconds: float):
        """The server's response; raises `DownloadError` after `seconds`, even if a name look-up hangs."""
        import requests

        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        options: Any = {"headers": headers, "stream": True, "timeout": (seconds, self.patience.stall)}
        answer: Future = Future()
        started = time.monotonic()

        def ask() -> None:
            try:
                answer.set_result(requests.get(self.url, **options))
            except Exception as error:
                answer.set_exception(error)

        threading.Thread(target=ask, daemon=True).start()  # abandoned if it takes longer
        try:
            return answer.result(seconds)
        except (TimeoutError, requests.Timeout):
            raise DownloadError(f"did not answer within {time.monotonic() - started:.0f} s") from None
        finally:
            self.waited += time.monotonic() - started

    def _check(self, response, have: int) -> tuple[int, int | None]:
        """Check that the response can be the file; returns how many of its bytes are here already, and its length."""
        if response.status_code not in (200, 206):
            raise DownloadError(f"answered {response.status_code} {response.reason}".rstrip())
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError("answered with a web page")
        continued = response.status_code == 206
        if continued and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise DownloadError("answered with a range that was not requested")
        length = response.headers.get("Content-Length", "")
        total = int(length) + (have if continued else 0) if length.isdigit() else self.size
        if self.size is not None and total != self.size:
            raise DownloadError(f"offers {total:,} bytes, expected {self.size:,}")
        return 0 if continued else have, total

    def _report(self, *, have: int, total: int | None, skip: int, arrived: int, seconds: float) -> None:
        speed = arrived / max(seconds, 1e-3)
        text = f"{urlsplit(self.url).netloc}: {have / 1e6:.1f} MB"
        if total:
            left = (total - have + skip) / max(speed, 1)
            text += f" of {total / 1e6:.1f} MB [{'=' * int(20 * have / total):<20}] {have / total:.0%}"
            text += f", {speed / 1e6:.2f} MB/s, {format_seconds(left)} left"
            taken = time.monotonic() - self.began
            if self.patience.total is not None and seconds > 3 and taken + left > self.patience.total:
                raise DownloadError(f"is slow: {speed / 1e3:.0f} kB/s, {format_seconds(left)} left")
        self.progress.update(text)


def _in_words(error: Exception) -> str:
    """What went wrong, without the library's object names and memory addresses."""
    text = f"{type(error).__name__} {error}".lower()
    for words, meaning in _MEANINGS.items():
        if re.search(words, text):
            return meaning
    if isinstance(error, ConnectionError) and type(error).__module__ == "builtins" and str(error):
        return str(error)
    return f"broke off ({type(error).__name__})"
