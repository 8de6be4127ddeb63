"""Handlers: what all our widgets share."""

import functools
import traceback
from collections.abc import Callable

import ipywidgets

from imgclassify import display


def guarded(method: Callable) -> Callable:
    """A widget's handler whose exceptions appear in the widget's `message`, not in the front end's hidden log."""

    @functools.wraps(method)
    def handler(self, *arguments):
        try:
            return method(self, *arguments)
        except (ValueError, FileNotFoundError, MemoryError) as error:
            self.message.value = display.message(str(error))
        except Exception as error:
            self.message.value = display.message(f"{type(error).__name__}: {error}", traceback.format_exc())
        return None

    return handler


def styled(*children: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    """A box's children, with the style sheet that the class "imgclassify" of the box refers to."""
    return [ipywidgets.HTML(display.style_sheet(), layout={"display": "none"}), *children]


def row(*children: ipywidgets.Widget) -> ipywidgets.HBox:
    """Widgets side by side, which wrap on a narrow page."""
    return ipywidgets.HBox(children, layout={"flex_flow": "row wrap", "max_width": "100%"})
