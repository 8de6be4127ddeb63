"""The upload box: classifies pictures from the computer, a path or the examples as soon as they are chosen."""

import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ipywidgets
from PIL import Image

from imgclassify import display
from imgclassify.classifier import Classifier, Prediction, load_model
from imgclassify.data.dataset import DatasetError
from imgclassify.data.images import ImageError, Picture, decode_image
from imgclassify.data.loading import load_dataset
from imgclassify.progress import Progress
from imgclassify.runs.manifest import ModelFileError, read_manifest
from imgclassify.runs.names import list_models, short_name
from imgclassify.widgets.handlers import guarded, row, styled

_GIVEN = "given"  # not None, which a Dropdown may show as no choice
_SOCKET_BYTES = 7_000_000  # JupyterLab's default message limit is 10 MiB, and uploads travel as base64


class UploadClassifier(ipywidgets.VBox):
    """A box that classifies each picture from the computer, a path or the examples as soon as it is chosen.

    Args:
        model: A `Classifier`, or a Keras model; default: `load_model("best")`.
        path_box: Offer a box for the path of a file on the kernel's machine, for files too large to upload.
        max_bytes: Largest upload, in bytes. Files chosen together are sent together; what is too large for the
            server is dropped before it arrives here.

    Attributes:
        upload: The `FileUpload` button.
        models: The drop-down list of models.
        path, open_path: The path box and its button; None without `path_box`.
        examples: A button for each example, each with its picture above.
        message: `HTML` for sentences about what went wrong.
        output: `HTML` with the results.
        predictions: The `Prediction`s of the last choice, in its order.
    """

    def __init__(self, model=None, *, path_box: bool = True, max_bytes: int = _SOCKET_BYTES):
        self._max_bytes = max_bytes
        self._model = self._given = Classifier.of(model) if model is not None else load_model("best")
        self._files: Sequence[tuple[str, Picture]] = ()  # currently shown
        self.predictions: list[Prediction] = []
        self.message, self.output, self._classes = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        wide = {"width": "360px", "max_width": "100%"}
        self.upload = ipywidgets.FileUpload(
            accept="image/*",
            multiple=True,
            description="Choose pictures",
            button_style="primary",
            layout={"width": "170px"},
        )
        self.upload.observe(self._on_upload, names="value")
        self.models = ipywidgets.Dropdown(**_choices(self._given), description="Model", layout=wide)
        self.models.observe(self._on_model, names="value")
        rows = [row(self.upload, self.models), self._classes]
        limit = f"Uploads of up to {max_bytes / 1e6:.0f} MB together"
        self.path: Any = None
        self.open_path: Any = None
        if path_box:
            self.path = ipywidgets.Text(placeholder="path of a picture on this computer", layout=wide)
            self.path.on_msg(self._on_key)
            self.open_path = ipywidgets.Button(description="Classify file", layout={"width": "170px"})
            self.open_path.on_click(self._on_path)
            rows.append(row(self.open_path, self.path))
            limit += "; the path box takes larger ones"
        rows.append(ipywidgets.HTML(display.hint(f"{limit}. Nothing is stored.")))
        self.examples: list[ipywidgets.Button] = []
        if pictures := example_pictures():
            rows.append(row(*(self._example(*each) for each in pictures)))
        super().__init__(styled(*rows, self.message, self.output))
        self.add_class("imgclassify")
        self._show_classes()

    def classify(self, files: Sequence[tuple[str, Picture]]) -> list[Prediction]:
        """Classify and show pictures, as if they had been uploaded.

        Args:
            files: Name and picture of each; see `decode_image` for what a picture can be.

        Returns:
            The predictions of those that could be used; the others are named in `message`.
        """
        self._files, self.predictions = files, []
        cards, problems = [], []
        for name, picture in files:
            try:
                cards.append(self._classify(name, picture))
            except ImageError as error:
                problems.append(display.message(str(error)))
            except Exception as error:
                sentence = f"{name} could not be classified ({type(error).__name__}: {error})."
                problems.append(display.message(sentence, traceback.format_exc()))
        self.message.value = "".join(problems)
        self.output.value = "".join(cards)
        return self.predictions

    def _classify(self, name: str, picture: Picture) -> str:
        """Classify one picture; returns the card that shows it."""
        if isinstance(picture, bytes) and len(picture) > self._max_bytes:
            megabytes, limit = len(picture) / 1e6, self._max_bytes / 1e6
            raise ImageError(f"{name} has {megabytes:.1f} MB: at most {limit:.0f} MB can be uploaded.")
        started = time.perf_counter()
        image = decode_image(picture, name=name)
        prediction = self._model.predict(image)
        milliseconds = 1000 * (time.perf_counter() - started)
        self.predictions.append(prediction)
        return _card(name, image, prediction, milliseconds)

    @guarded
    def _on_upload(self, change: dict) -> None:
        if files := change["new"]:  # empty after the reset below
            self.classify([(file["name"], bytes(file["content"])) for file in files])
            self.upload.value = ()  # so that the same file can be chosen again

    def _on_key(self, _widget, content: dict, _buffers) -> None:
        if content.get("event") == "submit":  # Enter
            self._on_path(None)

    @guarded
    def _on_path(self, _event) -> None:
        path = self.path.value.strip().strip("\"'")
        if not path:
            raise ImageError("Enter the path of a picture in the box first.")
        self.classify([(path, Path(path))])

    @guarded
    def _on_model(self, change: dict) -> None:
        try:
            self._model = self._given if change["new"] == _GIVEN else load_model(change["new"])
        except ValueError:
            self.models.unobserve(self._on_model, names="value")
            self.models.value = change["old"]  # the list names the model that is in use
            self.models.observe(self._on_model, names="value")
            raise
        self._show_classes()
        self.classify(self._files)

    def _show_classes(self) -> None:
        names = display.escape(", ".join(self._model.class_names))
        self._classes.value = f"It knows only these classes: <b>{names}</b>."

    def _example(self, name: str, picture: Picture) -> ipywidgets.VBox:
        button = ipywidgets.Button(description=name, tooltip=f"Classify the example: {name}", layout={"width": "112px"})
        button.on_click(lambda _: self.classify([(name, picture)]))
        self.examples.append(button)
        small = display.thumbnail(decode_image(picture), 104)
        image = ipywidgets.Image(value=small, format="jpeg", width=104, height=104)
        return ipywidgets.VBox([image, button], layout={"align_items": "center"})


def _choices(given: Classifier) -> dict:
    """Options and value of the list of models: the published ones, and the given one if it is not among them."""
    options = [(path.name, path) for path in list_models()]
    for name, path in options:
        try:
            checksum = read_manifest(path).sha256
        except ModelFileError:
            continue
        if checksum is not None and checksum == given.manifest.sha256:
            return {"options": [(name, _GIVEN), *(each for each in options if each[1] != path)], "value": _GIVEN}
    return {"options": [(f"this notebook's model: {short_name(given.name)}", _GIVEN), *options], "value": _GIVEN}


def example_pictures() -> list[tuple[str, Picture]]:
    """Pictures to try: photos that scikit-image ships, and test pictures if the data is on this machine."""
    found: list[tuple[str, Picture]] = []
    try:
        import skimage

        photos = Path(skimage.__file__).parent / "data"
        found += [
            (name, photos / file)
            for name, file in (("cat photo", "chelsea.png"), ("coffee cup", "coffee.png"))
            if (photos / file).exists()
        ]
    except ImportError:
        pass
    try:
        data = load_dataset("cifar10", offline=True, progress=Progress(enabled=False))
        found += [(f"test: {data.class_names[data.y_test[i]]}", data.x_test[i]) for i in range(4)]
    except DatasetError:
        pass
    return found


def _card(name: str, image: Image.Image, prediction: Prediction, milliseconds: float) -> str:
    photo = display.data_uri(display.thumbnail(image, 256), "jpeg")
    return (
        f'<div class="card"><figure><img class="photo" src="{photo}" alt="the picture">'
        f"<figcaption>{display.escape(name)}</figcaption></figure>"
        f'<figure><img class="view" src="{display.picture_uri(prediction.image)}" alt="what the model sees" '
        'width="128" height="128"><figcaption>what the model sees</figcaption></figure>'
        f'<div class="answer"><span class="verdict">{display.escape(prediction.label)}</span> '
        f"{display.hint(f'{milliseconds:.0f} ms')}{display.bars(prediction.top(3))}</div></div>"
    )
