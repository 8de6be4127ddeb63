"""Cards: what is shown of each uploaded photo, and the table of all results."""

import csv
import io
import math
import time
from collections.abc import Sequence

import ipywidgets
import numpy as np

from imgclassify import display
from imgclassify.classifier import Classifier
from imgclassify.data.images import Picture, decode_image, prepare_image
from imgclassify.prediction import COLUMNS, Prediction, csv_row, table_row
from imgclassify.widgets.crop import CropBox, central_square, cut, fit_square
from imgclassify.widgets.handlers import explained, guarded, view_html


class PhotoCard(ipywidgets.HBox):
    """A photo with the square that the model sees, which can be moved, and the model's answer.

    Attributes:
        crop: The `CropBox`.
        answer, message: `HTML` with the answer, and with what went wrong after a move.
        prediction: The `Prediction` for the square as it is now.
        why: Whether the card shows what speaks for the answer; change it by `explain`.
        on_answer: Called without arguments after each move; can be set.

    Raises:
        ImageError: The picture cannot be used.
    """

    problem = ""

    def __init__(self, model: Classifier, name: str, picture: Picture, *, why: bool = False):
        started = time.perf_counter()
        image = decode_image(picture, name=name)
        self.prediction: Prediction = model.predict(image)
        self.name, self._model, self.why, self._note = name, model, why, ""
        self.picture = image if hasattr(picture, "read") else picture  # a file can be read only once
        self.on_answer = lambda: None
        self.crop = CropBox(image, name, share=model.manifest.crop)
        self.crop.observe(self._on_square, names="square")
        self.answer, self.message = ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__([self.crop, self.answer, self.message])
        self.add_class("card")
        self._answered(started)

    def use(self, model: Classifier) -> None:
        """Let another model answer, for the same square if it was moved."""
        self._model, moved = model, self.crop.square != self.crop.start
        self.crop.start = list(central_square(self.crop.size, model.manifest.crop))
        if moved or self.crop.square == self.crop.start:
            self._on_square({"new": self.crop.square})
        else:
            self.crop.square = self.crop.start

    @guarded
    def explain(self, why: bool) -> None:
        """Show what in the picture speaks for the answer, or no longer."""
        self.why = why
        self._show()

    @guarded
    def _on_square(self, change: dict) -> None:
        started = time.perf_counter()
        if change["new"] == self.crop.start:
            self.prediction = self._model.predict(self.picture, name=self.name)
        else:
            square, size = fit_square(self.crop.size, change["new"]), self._model.input_size
            image = decode_image(self.picture, name=self.name, size=math.ceil(size / square[2]))
            self.prediction = self._model.answer(prepare_image(cut(image, square), size=size))
        self._answered(started)
        self.message.value = ""
        self.crop.said = self.prediction.describe(1)
        self.on_answer()

    def _answered(self, started: float) -> None:
        self._note = f"{1000 * (time.perf_counter() - started):.0f} ms"
        self._show()

    def _show(self) -> None:
        image, why = self.prediction.image, ""
        if self.why:
            shown, caption = explained(self._model, self.prediction)
            why = display.hint(caption) if shown is None else _figure(shown, caption)
        answer = f'<div class="answer">{self.prediction.html(3, self._note)}</div>'
        self.answer.value = f'<div class="seen">{_figure(image, "what the model sees")}{why}{answer}</div>'


def _figure(image: np.ndarray, caption: str) -> str:
    return f"<figure>{view_html(image, caption)}<figcaption>{display.escape(caption)}</figcaption></figure>"


class ProblemCard(ipywidgets.HTML):
    """The sentence in the place of a photo that could not be used; `details` can be unfolded."""

    prediction = None

    def __init__(self, name: str, problem: str, details: str = ""):
        self.name, self.problem = name, problem
        super().__init__(display.message(problem, details))


def results_csv(cards: Sequence[PhotoCard | ProblemCard]) -> str:
    """The results as a table in CSV: one row per photo with its three most probable classes; see `csv_row`."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    writer.writerows(csv_row(table_row(card.name, card.prediction, card.problem)) for card in cards)
    return file.getvalue()
