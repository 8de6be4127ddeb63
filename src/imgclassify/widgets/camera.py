"""The camera box: live classification of what the browser's camera sees, and bursts. `camera.js` is its other half."""

from collections.abc import Callable, Sequence
from typing import Any

import anywidget
import numpy as np
import traitlets

from imgclassify.classifier import Classifier
from imgclassify.prediction import NONE_OF_THESE, Prediction
from imgclassify.widgets.handlers import answered, explained, script, style, view_uri

_DETAIL = 3  # side of a frame, as a multiple of a small input's side; leaves enough pixels for antialiasing here
_ENOUGH = 288  # pixels; frames are larger only if the model's input is


class CameraClassifier(anywidget.AnyWidget):
    """A camera box: live preview, snapshot and continuous classification of what the browser's camera sees.

    The browser cuts each frame to its central square and shrinks it, but not below the model's input; only
    this small picture goes to the kernel, which classifies it like any other picture. Nothing is stored. The
    preview is mirrored; what is classified is not. The switch "Why?" shows what in the picture speaks for the answer.

    With `bursts`, there is a button for each of these names. While it is held, by mouse, finger or keyboard, about
    five frames per second are handed to `on_frame`: pictures to train on.

    Args:
        model: A `Classifier`, or a Keras model; its input must be square and RGB. None: only bursts for now; `use`
            sets a model later.
        on_frame: Called as `on_frame(name, content)` with the name of the button that is held, and a frame as JPEG,
            320 pixels wide and high or more. A `ValueError` that it raises ends the burst; its message is shown.
        bursts: Names of the burst buttons, for instance of classes; can be changed later.

    Attributes:
        prediction: The last `Prediction`; None before the first.

    Raises:
        ValueError: The model does not take square RGB pictures.
    """

    _esm = script("camera.js")
    _css = style("camera.css")
    class_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    frame_side = traitlets.Int().tag(sync=True)
    bursts = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        model=None,
        *,
        on_frame: Callable[[str, bytes], Any] = lambda name, content: None,
        bursts: Sequence[str] = (),
    ) -> None:
        self._model: Classifier | None = None
        self._on_burst = on_frame
        self.prediction: Prediction | None = None
        super().__init__(bursts=list(bursts))
        if model is not None:
            self.use(model)
        self.on_msg(self._on_frame)

    def use(self, model) -> None:
        """Classify with this model from now on; arguments and errors as for the box."""
        classifier = Classifier.of(model)
        size = classifier.input_size
        classifier.predict(np.zeros((1, 1, 3), np.uint8))  # compiles the network, once
        self._model, self.prediction = classifier, None
        self.set_trait("frame_side", max(size, min(_DETAIL * size, _ENOUGH)))
        self.set_trait("class_names", list(classifier.class_names))

    def classify_frame(self, content: bytes) -> Prediction:
        """Classify one frame as if the browser had sent it; returns the prediction, which is kept in `prediction` too.

        Args:
            content: A picture file; the browser sends PNG, or JPEG if it is above 128 pixels.

        Raises:
            ImageError: The frame cannot be read.
            ValueError: There is no model yet.
        """
        if self._model is None:
            raise ValueError("There is no model yet that could classify the frame.")
        self.prediction = self._model.predict(content, name="The frame")
        return self.prediction

    def _on_frame(self, _, message: dict, buffers: list) -> None:
        """Answer a frame with its prediction, or with one sentence that says why there is none."""
        message = message if isinstance(message, dict) else {}

        def answer() -> dict:
            if (name := message.get("burst")) is None:
                prediction = self.classify_frame(buffers[0])
                verdict, view, caption = "" if prediction.known else NONE_OF_THESE, prediction.image, ""
                if message.get("why"):
                    shown, caption = explained(Classifier.of(self._model), prediction)
                    view = view if shown is None else shown
                return {"top": prediction.top(3), "verdict": verdict, "view": view_uri(view), "caption": caption}
            if name not in self.bursts:
                raise ValueError("The frame belongs to no button of this box.")
            self._on_burst(name, bytes(buffers[0]))
            return {}

        self.send({"frame": message.get("frame")} | answered(answer, "The frame"))
