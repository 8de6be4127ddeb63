"""The camera box: live classification of what the browser's camera sees. `camera.js` is its other half."""

from pathlib import Path

import anywidget
import numpy as np
import traitlets

from imgclassify.classifier import Classifier, Prediction
from imgclassify.data.images import ImageError
from imgclassify.display import picture_uri
from imgclassify.settings import PACKAGE

MAX_FRAME_BYTES = 1_000_000  # a frame with three times the model's side has about 20 kB
_HERE = Path(__file__).parent
_DETAIL = 3  # side of a frame, as a multiple of the model's input side; leaves enough pixels for antialiasing here


class CameraClassifier(anywidget.AnyWidget):
    """A camera box: live preview, snapshot and continuous classification of what the browser's camera sees.

    The browser cuts each frame to its central square and shrinks it; only this small picture goes to the
    kernel, which classifies it like any other picture. Nothing is stored. The preview is mirrored; what is
    classified is not.

    Args:
        model: A `Classifier`, or a Keras model; its input must be square and RGB.

    Attributes:
        prediction: The last `Prediction`; None before the first.

    Raises:
        ValueError: The model does not take square RGB pictures.
    """

    _esm = _HERE / "camera.js"
    _css = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "style.css", _HERE / "camera.css"))
    class_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    frame_side = traitlets.Int().tag(sync=True)

    def __init__(self, model) -> None:
        self._model = Classifier.of(model)
        self.prediction: Prediction | None = None
        self._model.predict(np.zeros((1, 1, 3), np.uint8))  # compiles the network, once
        super().__init__(class_names=list(self._model.class_names), frame_side=_DETAIL * self._model.input_size)
        self.on_msg(self._on_frame)

    def classify_frame(self, content: bytes) -> Prediction:
        """Classify one frame as if the browser had sent it; can also be called from code and tests.

        Args:
            content: A picture file, at most 1 MB; the browser sends PNG.

        Returns:
            The prediction, which is also kept in `prediction`.

        Raises:
            ImageError: The frame is too large or cannot be read.
        """
        if len(content) > MAX_FRAME_BYTES:
            megabytes, limit = len(content) / 1e6, MAX_FRAME_BYTES / 1e6
            raise ImageError(f"The frame has {megabytes:.1f} MB: at most {limit:.0f} MB are accepted.")
        self.prediction = self._model.predict(bytes(content), name="The frame")
        return self.prediction

    def _on_frame(self, _, message: dict, buffers: list) -> None:
        """Answer a frame with its prediction, or with one sentence that says why there is none."""
        answer = {"frame": message.get("frame") if isinstance(message, dict) else None}
        try:
            prediction = self.classify_frame(buffers[0])
            answer |= {"top": prediction.top(3), "view": picture_uri(prediction.image)}
        except ImageError as error:
            answer |= {"error": str(error)}
        except Exception as error:  # a callback's exception would be lost in the front end's log
            answer |= {"error": f"The frame could not be classified ({type(error).__name__}: {error})."}
        self.send(answer)
