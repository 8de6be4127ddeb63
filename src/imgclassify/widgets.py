"""ipywidgets: thin faces over the package's functions."""

import html
from collections.abc import Sequence

import ipywidgets

from imgclassify.images import ImageError
from imgclassify.prediction import Prediction, classify_custom_image


class UploadClassifier(ipywidgets.VBox):
    """An upload box that classifies each chosen picture at once.

    Args:
        model: From `load_model` or `train_model`.

    Attributes:
        upload: The `FileUpload` button.
        output: The `HTML` that shows results and errors.
        predictions: The `Prediction`s of the last choice, in its order.
    """

    def __init__(self, model):
        self._model = model
        self.predictions: list[Prediction] = []
        self.upload = ipywidgets.FileUpload(accept="image/*", multiple=True, description="Choose pictures", layout={"width": "180px"})
        self.output = ipywidgets.HTML()
        hint = ipywidgets.HTML("Up to about 10 MB each; larger files go through <code>classify_custom_image(model, path)</code>.")
        super().__init__([ipywidgets.HBox([self.upload, hint]), self.output])
        self.upload.observe(self._on_upload, names="value")

    def classify(self, files: Sequence[tuple[str, bytes]]) -> list[Prediction]:
        """Classify and show files as if they had been uploaded; also for code and tests.

        Args:
            files: Name and content of each.

        Returns:
            The predictions of those that could be used; the others are named in red in the widget.
        """
        self.predictions, parts = [], []
        for name, content in files:
            try:
                prediction = classify_custom_image(self._model, content, name=name)
                self.predictions.append(prediction)
                parts.append(f"<h4>{html.escape(name)}</h4>{prediction._repr_html_()}")
            except ImageError as error:
                parts.append(_red(str(error)))
            except Exception as error:  # a callback's exception would be lost in the front end's log
                parts.append(_red(f"{name} could not be classified ({type(error).__name__}: {error})."))
        self.output.value = "".join(parts)
        return self.predictions

    def _on_upload(self, change: dict) -> None:
        if files := change["new"]:  # empty after the reset below
            self.classify([(file["name"], bytes(file["content"])) for file in files])
            self.upload.value = ()  # so that the same file can be chosen again


def _red(sentence: str) -> str:
    return f'<p style="color:#b00020">{html.escape(sentence)}</p>'
