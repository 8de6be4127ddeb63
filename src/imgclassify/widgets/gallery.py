"""The gallery: thumbnails of photos in pages, each with buttons. `gallery.js` is its other half."""

from collections.abc import Callable, Sequence

import anywidget
import traitlets
from PIL import Image

from imgclassify import display
from imgclassify.data.photos import Photo, PhotoCache
from imgclassify.widgets.handlers import answered, script, style

_PAGE = 12  # photos that are shown at a time
_SIDE = 112  # pixels


class Gallery(anywidget.AnyWidget):
    """Thumbnails in pages. The browser asks for those that it shows; none is part of the state that notebooks store.

    Args:
        photos: Called without arguments; gives the photos to show, each with a caption and the class that it can be
            moved to, or "".
        cache: Has their pixels.
        label: What they are, for screen readers.
        correct: Called with the photo whose button was pressed, and the class to move it to, or "" to remove it.
    """

    _esm = script("gallery.js")
    _css = style("teach.css")
    label = traitlets.Unicode().tag(sync=True)

    def __init__(self, photos: Callable[[], Sequence[tuple[Photo, str, str]]], cache: PhotoCache, label: str, correct):
        self._photos, self._cache, self._correct = photos, cache, correct
        super().__init__(label=label)
        self.on_msg(self._on_message)

    def refresh(self) -> None:
        """Show the photos as they are now."""
        self.send({"changed": True})

    def _on_message(self, _, message: dict, buffers: list) -> None:
        """Remove or move a photo, or send the page that the browser asks for."""
        message, pictures = message if isinstance(message, dict) else {}, list[bytes]()

        def answer() -> dict:
            shown = list(self._photos())
            if "photo" in message:
                for photo, _, other in [each for each in shown if each[0].sha256 == message["photo"]]:
                    self._correct(photo, other if message.get("move") else "")
                return {}
            first = message.get("first")
            last = max(0, len(shown) - 1) // _PAGE * _PAGE  # the page's beginning
            first = min(first, last) if isinstance(first, int) and first >= 0 else 0
            page = shown[first : first + _PAGE]
            pictures.extend(display.thumbnail(Image.fromarray(self._cache.pixels(photo)), _SIDE) for photo, *_ in page)
            photos = [(photo.sha256, caption, other) for photo, caption, other in page]
            return {"first": first, "total": len(shown), "page": _PAGE, "photos": photos}

        self.send({"view": message.get("view")} | answered(answer, "The photo"), pictures)
