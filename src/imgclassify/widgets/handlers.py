"""Handlers: what all our widgets share."""

import functools
import threading
import traceback
from collections.abc import Callable, Sequence

import ipywidgets
import numpy as np
from PIL import Image

from imgclassify import display
from imgclassify.classifier import Classifier
from imgclassify.evaluation.explain import explain_prepared
from imgclassify.prediction import Prediction
from imgclassify.settings import PACKAGE

_HERE = PACKAGE / "widgets"
_FEW = 30  # classes that are shown without unfolding
_EXACT_SIDE = 64  # pixels


def script(name: str) -> str:
    """The browser's half of a widget: a file beside this one, after the function that all of them share."""
    return "".join((_HERE / each).read_text(encoding="utf-8") for each in ("element.js", name))


def style(name: str) -> str:
    """The package's style sheet, and a widget's own."""
    return "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "style.css", _HERE / name))


def explain(error: Exception, name: str = "") -> tuple[str, str]:
    """What went wrong in a sentence, and the details of what was not foreseen."""
    if isinstance(error, (ValueError, FileNotFoundError, MemoryError)):
        return str(error), ""
    sentence = f"{type(error).__name__}: {error}"
    return f"{name} could not be used ({sentence})." if name else sentence, traceback.format_exc()


def guarded(method: Callable) -> Callable:
    """A widget's handler whose exceptions appear in the widget's `message`, not in the front end's hidden log."""

    @functools.wraps(method)
    def handler(self, *arguments):
        try:
            return method(self, *arguments)
        except Exception as error:
            self.message.value = display.message(*explain(error))
            return None

    return handler


class Worker:
    """Does at most one thing at a time in the background."""

    def __init__(self):
        self._thread: threading.Thread | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait, at most `timeout` seconds, for the work to end; returns whether it has."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    def begin(self, work: Callable[..., None], *arguments) -> None:
        """Begin some work; there must be none under way."""
        self._thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._thread.start()


def answered(function: Callable[[], dict], name: str) -> dict:
    """The answer to a browser's message, or {"error": sentence}: an exception would be lost in the front end's log."""
    try:
        return function()
    except Exception as error:
        return {"error": explain(error, name)[0]}


def on_enter(box: ipywidgets.Text, press: Callable) -> None:
    """Call `press(None)`, as a button would, when Enter is pressed in a box."""
    box.on_msg(lambda _, content, buffers: press(None) if content.get("event") == "submit" else None)


def styled(*children: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """A box's children, with the style sheet that the class "imgclassify" of the box refers to."""
    return [ipywidgets.HTML(display.style_sheet(), layout={"display": "none"}), *children]


def button(text: str, press: Callable, **options) -> ipywidgets.Button:
    """A button, and what it calls when it is pressed."""
    made = ipywidgets.Button(description=text, **options)
    made.on_click(press)
    return made


def row(*children: ipywidgets.Widget, **layout: str) -> ipywidgets.HBox:
    """Widgets side by side, which wrap on a narrow page; `display="none"` hides them for now."""
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "max_width": "100%", **layout})


def discard(*widgets: ipywidgets.Widget) -> None:
    """Close widgets for good, with their children, layouts and styles, which would stay in memory otherwise."""
    for widget in widgets:
        discard(*getattr(widget, "children", ()))
        for part in (getattr(widget, "style", None), widget.layout, widget):
            if part is not None:
                part.close()


def known_classes(names: Sequence[str]) -> str:
    """HTML that says which classes a model knows; a long list can be unfolded."""
    everything = f"<b>{display.escape(', '.join(names))}</b>."
    if len(names) <= _FEW:
        return f"It knows only these classes: {everything}"
    summary = f"It knows {len(names):,} classes, such as {display.escape(', '.join(names[:3]))}."
    return f"<details><summary>{summary}</summary>{everything}</details>"


def explained(model: Classifier, prediction: Prediction) -> tuple[np.ndarray | None, str]:
    """A picture that shows what speaks for an answer, and its caption; None, and a sentence, if there can be none."""
    try:
        explanation = explain_prepared(model, prediction.image, label=prediction.label)
    except Exception as error:  # of a network that is made of something else; the answer stays
        return None, f"The answer cannot be explained: {explain(error)[0]}"
    return explanation.overlay, str(explanation)


def view_uri(image: np.ndarray) -> str:
    """What a model was given, uint8 (H, W, 3), as a `data:` URI: exact if it is small, else as JPEG."""
    if len(image) <= _EXACT_SIDE:
        return display.picture_uri(image)
    return display.data_uri(display.thumbnail(Image.fromarray(image), max(image.shape[:2])), "jpeg")


def view_html(image: np.ndarray, caption: str) -> str:
    """What a model was given, or a map of it, as an HTML image: small ones with visible pixels."""
    kind = ' class="view"' if len(image) <= _EXACT_SIDE else ""
    return f'<img{kind} src="{view_uri(image)}" alt="{display.escape(caption)}" width="160" height="160">'
