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
        self._key, self._content = object(), bytearray()  # of the file that is arriving
        self._lock = threading.Lock()  # messages may come in two threads: the kernel's own, and its subshell's
        super().__init__(label=label, folder=folder)
        self.on_msg(self._on_message)

    def _on_message(self, _, message: dict, buffers: list) -> None:
        """Answer a message of the browser: where to go on, that the file is done, or why it was dropped."""
        message = message if isinstance(message, dict) else {}
        key, name = message.get("id"), clean_name(message.get("name"))
        with self._lock:
            answer = answered(lambda: self._answer(key, name, message, b"".join(buffers)), name)
            if "offset" not in answer and self._key == key:
                self._key, self._content = object(), bytearray()
        if not message.get("cancel"):
            self.send({"id": key, **answer})

    def _answer(self, key: object, name: str, message: dict, piece: bytes) -> dict:
        if message.get("cancel"):
            return {}
        offset, size = message["offset"], message["size"]
        if offset == 0:
            self._key, self._content = key, bytearray()
            if message.get("first") and self._on_start is not None:
                self._on_start()
            if size > self._max_bytes:
                limit = f"at most {self._max_bytes / 1e6:.0f} MB can be uploaded"
                raise ValueError(f"{name} has {size / 1e6:.1f} MB: {limit}.")
        if key != self._key or offset != len(self._content) or len(piece) != min(PIECE_BYTES, size - offset):
            raise ValueError(f"{name} did not arrive completely: choose it again.")
        self._content += piece
        if len(self._content) < size:
            return {"offset": len(self._content)}
        self._on_photo(name, bytes(self._content))
        return {"done": True}


def clean_name(name: object) -> str:
    """A file's name as the browser gave it, safe to show: no folders, no control characters, not too long.

    Example:
        >>> clean_name("photos/my cat.jpg")
        'my cat.jpg'
    """
    last = str(name or "").replace("\\", "/").rstrip("/").rpartition("/")[2]
    shown = "".join(" " if unicodedata.category(each).startswith("C") else each for each in last).strip()
    return shown[:_NAME_LENGTH] or "The file"
