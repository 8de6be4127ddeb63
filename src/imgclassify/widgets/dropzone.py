"""The drop zone: photos come from the browser in small pieces. `dropzone.js` is its other half."""

import threading
import unicodedata
from collections.abc import Callable
from typing import Any

import anywidget
import traitlets

from imgclassify.data.images import MAX_BYTES
from imgclassify.widgets.handlers import answered, script, style

PIECE_BYTES = 512_000  # JupyterLab and Voila drop messages above 10 MiB without a word
_NAME_LENGTH = 200  # characters; file systems allow up to 255 bytes


class DropZone(anywidget.AnyWidget):
    """A zone that takes photos: dropped, pasted, or chosen in a file dialog, with progress and Cancel.

    The browser sends one file at a time, in pieces of 512 kB. It sends the next piece only when the last one
    has been acknowledged, so files of any size pass the limits of JupyterLab and Voila, and at most one file is
    in memory here. Files are handed over in the order in which they were chosen. A file that did not arrive
    completely is dropped. Nothing is stored. What goes wrong with a file is one sentence in the zone.

    Args:
        on_photo: Called as `on_photo(name, content)` for each file that has arrived, with its name and its bytes.
            A `ValueError` that it raises, such as an `ImageError`, is shown in the zone by its message.
        on_start: Called without arguments before the first file of each choice.
        label: What the zone says, and its name for screen readers.
        folder: Also offer a button for a whole folder. Dropped folders are always accepted.
        max_bytes: Largest file, in bytes.
    """

    _esm = script("dropzone.js")
    _css = style("dropzone.css")
    label = traitlets.Unicode().tag(sync=True)
    folder = traitlets.Bool().tag(sync=True)
    piece_bytes = traitlets.Int(PIECE_BYTES).tag(sync=True)

    def __init__(
        self,
        on_photo: Callable[[str, bytes], Any],
        *,
        on_start: Callable[[], Any] | None = None,
        label: str = "Drop photos here",
        folder: bool = False,
        max_bytes: int = MAX_BYTES,
    ):
        self._on_photo, self._on_start, self._max_bytes = on_photo, on_start, max_bytes
        self._transfer: _Transfer | None = None  # the file that is arriving
        self._lock = threading.Lock()  # messages may come in two threads: the kernel's own, and its subshell's
        super().__init__(label=label, folder=folder)
        self.on_msg(self._on_message)

    def _on_message(self, _, message: dict, buffers: list) -> None:
        """Answer a message of the browser: where to go on, that the file is done, or why it was dropped."""
        message = message if isinstance(message, dict) else {}
        key, name = message.get("id"), clean_name(message.get("name"))
        with self._lock:
            answer = answered(lambda: self._answer(key, name, message, buffers), name)
            if answer is not None and "error" in answer:
                self._transfer = None
        if answer is not None:
            self.send({"id": key, **answer})

    def _answer(self, key: object, name: str, message: dict, buffers: list) -> dict | None:
        kind = message.get("kind")
        if kind == "start":
            if message.get("first") and self._on_start is not None:
                self._on_start()
            self._transfer = _Transfer(key, name, message.get("size"), limit=self._max_bytes)
        elif kind == "piece":
            if self._transfer is None or self._transfer.key != key:
                raise ValueError(f"{name} was interrupted: choose it again.")
            self._transfer.add(message.get("offset"), buffers)
        elif kind == "cancel":
            if self._transfer is not None and self._transfer.key == key:
                self._transfer = None
            return None
        else:
            raise ValueError("The browser sent a message that is not understood: reload the page.")
        if self._transfer.missing:
            return {"offset": len(self._transfer.content)}
        done, self._transfer = self._transfer, None  # dropped first: the callback may take long, or fail
        self._on_photo(done.name, bytes(done.content))
        return {"done": True}


class _Transfer:
    """A file that is arriving. Memory grows with what has arrived, not with the size that was announced."""

    def __init__(self, key: object, name: str, size: object, *, limit: int):
        self.key, self.name, self.content = key, name, bytearray()
        if not isinstance(key, str) or not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError(f"{self.name} was announced without its size: choose it again.")
        if size > limit:
            raise ValueError(f"{self.name} has {size / 1e6:.1f} MB: at most {limit / 1e6:.0f} MB can be uploaded.")
        self.size = size

    @property
    def missing(self) -> int:
        return self.size - len(self.content)

    def add(self, offset: object, buffers: list) -> None:
        piece = buffers[0] if len(buffers) == 1 else b""
        if offset != len(self.content) or not 0 < len(piece) <= min(PIECE_BYTES, self.missing):
            raise ValueError(f"{self.name} did not arrive completely: choose it again.")
        self.content += piece


def clean_name(name: object) -> str:
    """A file's name as the browser gave it, safe to show: no folders, no control characters, not too long.

    Example:
        >>> clean_name("photos/my cat.jpg")
        'my cat.jpg'
    """
    last = str(name or "").replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(" " if unicodedata.category(each).startswith("C") else each for each in last).strip()
    return shown[:_NAME_LENGTH] or "The file"
