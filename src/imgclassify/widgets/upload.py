"""The upload box: classifies pictures from the computer, a path or the examples as soon as they are chosen."""

import base64
import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets

from imgclassify import display
from imgclassify.classifier import Classifier, load_model
from imgclassify.data.dataset import DatasetError
from imgclassify.data.images import MAX_BYTES, ImageError, Picture, decode_image
from imgclassify.data.loading import load_dataset
from imgclassify.prediction import Prediction
from imgclassify.progress import Progress
from imgclassify.runs.manifest import ModelFileError, read_manifest
from imgclassify.runs.names import IMAGENET, list_models, photo_model, short_name
from imgclassify.widgets.cards import PhotoCard, ProblemCard, results_csv
from imgclassify.widgets.dropzone import DropZone
from imgclassify.widgets.handlers import button, discard, explain, guarded, known_classes, on_enter, row, styled

_GIVEN = "given"  # not None, which a Dropdown may show as no choice
_KEPT, _KEPT_BYTES = 200, 2 * MAX_BYTES  # photos that are shown and kept in memory for moves of their squares


class UploadClassifier(ipywidgets.VBox):
    """A box that classifies each photo as soon as it is dropped, pasted, chosen, named by its path, or an example.

    Each photo is shown with the square that the model sees. The square can be moved, which classifies again.

    Args:
        model: A `Classifier`, or a Keras model; default: the one named by `photo_model`.
        path_box: Offer a box for the path of a file on the kernel's machine.
        max_bytes: Largest upload, in bytes per photo.

    Attributes:
        upload: The `DropZone`.
        models: The drop-down list of models.
        path, open_path: The path box and its button; None without `path_box`.
        why: The switch that shows what in each photo speaks for the answer.
        examples: A button for each example, each with its picture above.
        message: `HTML` for sentences about what went wrong with a path or a model.
        output: `VBox` with a `PhotoCard` for each photo, or a `ProblemCard` in place of a bad one.
        table: `HTML` with a link to the results in CSV.
    """

    def __init__(self, model=None, *, path_box: bool = True, max_bytes: int = MAX_BYTES):
        self._model = self._given = Classifier.of(model) if model is not None else load_model(photo_model())
        self.message, self.table, self._classes = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.output = ipywidgets.VBox()
        wide = {"width": "360px", "max_width": "calc(100% - 4px)"}  # less its margins
        self.upload = DropZone(self._add, on_start=self._clear, max_bytes=max_bytes)
        self.models = ipywidgets.Dropdown(**_choices(self._given), description="Model", layout=wide)
        self.models.observe(self._on_model, names="value")
        limit = f"Photos of up to {max_bytes / 1e6:.0f} MB each. Nothing is stored."
        hint = f"{limit} Move the square on a photo to try another part of it."
        self.why = ipywidgets.ToggleButton(description="Why?", tooltip="Show what in each photo speaks for the answer")
        self.why.observe(self._on_why, names="value")
        rows = [row(self.models, self.why), self._classes, self.upload, ipywidgets.HTML(display.hint(hint))]
        self.path: Any = None
        self.open_path: Any = None
        if path_box:
            self.path = ipywidgets.Text(placeholder="path of a picture on this computer", layout=wide)
            on_enter(self.path, self._on_path)
            self.open_path = button("Classify file", self._on_path, layout={"width": "170px"})
            rows.append(row(self.open_path, self.path))
        self.examples: list[ipywidgets.Button] = []
        if pictures := example_pictures():
            rows.append(row(*(self._example(*each) for each in pictures)))
        super().__init__(styled(*rows, self.message, self.output, self.table))
        self.add_class("imgclassify")
        self._classes.value = known_classes(self._model.class_names)

    @property
    def predictions(self) -> list[Prediction]:
        """The predictions of the photos that are shown, in their order, as their squares are now."""
        return [card.prediction for card in self.output.children if card.prediction]

    def classify(self, files: Sequence[tuple[str, Picture]]) -> list[Prediction]:
        """Classify and show pictures in place of those that are shown, as if uploaded; returns their predictions.

        Args:
            files: Name and picture of each; see `decode_image` for what a picture can be. One that cannot be used is
                shown as a sentence.
        """
        self._clear()
        for name, picture in files:
            self._add(name, picture)
        return self.predictions

    def _clear(self) -> None:
        cards, self.output.children = self.output.children, ()
        discard(*cards)
        self.message.value = self.table.value = ""

    def _add(self, name: str, picture: Picture) -> None:
        """Classify one picture and show it below the others."""
        card: PhotoCard | ProblemCard
        try:
            kept = [each.picture for each in self.output.children if isinstance(each, PhotoCard)]
            size = sum(len(each) for each in (*kept, picture) if isinstance(each, bytes))
            if len(kept) >= _KEPT or size > _KEPT_BYTES:
                limit = f"at most {_KEPT} photos and {_KEPT_BYTES / 1e6:.0f} MB can be shown together"
                raise ImageError(f"{name} was left out, because {limit}: choose it again by itself.")
            card = PhotoCard(self._model, name, picture, why=self.why.value)
            card.on_answer = self._offer_table
        except Exception as error:
            card = ProblemCard(name, *explain(error, name))
        self.output.children = (*self.output.children, card)
        self._offer_table()

    def _offer_table(self) -> None:
        content = base64.b64encode(results_csv(self.output.children).encode("utf-8-sig")).decode()
        link = 'class="jupyter-button widget-button" download="predictions.csv"'
        self.table.value = f'<a {link} href="data:text/csv;base64,{content}">Download table (CSV)</a>'

    @guarded
    def _on_path(self, _event) -> None:
        path = self.path.value.strip().strip("\"'")
        if not path:
            raise ImageError("Enter the path of a picture in the box first.")
        self.classify([(path, Path(path))])

    def _on_why(self, change: dict) -> None:
        for card in self.output.children:
            if isinstance(card, PhotoCard):
                card.explain(change["new"])

    @guarded
    def _on_model(self, change: dict) -> None:
        try:
            self._model = self._given if change["new"] == _GIVEN else load_model(change["new"])
        except ValueError:
            self.models.value = change["old"]  # the list names the model that is in use
            raise
        self._classes.value = known_classes(self._model.class_names)
        for card in self.output.children:
            if isinstance(card, PhotoCard):
                card.use(self._model)

    def _example(self, name: str, picture: Picture) -> ipywidgets.VBox:
        about = {"tooltip": f"Classify the example: {name}", "layout": {"width": "112px"}}
        self.examples.append(button(name, lambda _: self.classify([(name, picture)]), **about))
        small = display.thumbnail(decode_image(picture), 104)
        image = ipywidgets.Image(value=small, format="jpeg", width=104, height=104)
        return ipywidgets.VBox([image, self.examples[-1]], layout={"align_items": "center"})


def _choices(given: Classifier) -> dict:
    """Options and value of the list of models: the given one, the other published ones, and the one of ImageNet."""
    published, name = list_models(), f"this notebook's model: {short_name(given.name)}"
    for path in published:
        with contextlib.suppress(ModelFileError):
            if given.manifest.sha256 is not None and read_manifest(path).sha256 == given.manifest.sha256:
                name = path.name
                published.remove(path)
                break
    more = [] if given.name == IMAGENET else [("imagenet: 1,000 classes, for any photo", IMAGENET)]
    return {"options": [(name, _GIVEN), *((path.name, path) for path in published), *more], "value": _GIVEN}


def example_pictures() -> list[tuple[str, Picture]]:
    """Pictures to try: photos that scikit-image ships, and test pictures if the data is on this machine."""
    found: list[tuple[str, Picture]] = []
    if skimage := importlib.util.find_spec("skimage"):
        folder = Path(str(skimage.origin)).parent / "data"
        photos = {"cat photo": folder / "chelsea.png", "coffee cup": folder / "coffee.png"}
        found += [(name, path) for name, path in photos.items() if path.exists()]
    with contextlib.suppress(DatasetError):
        data = load_dataset("cifar10", offline=True, progress=Progress(enabled=False))
        found += [(f"test: {data.class_names[data.y_test[i]]}", data.x_test[i]) for i in range(4)]
    return found
