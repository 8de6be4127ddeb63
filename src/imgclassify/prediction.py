"""Predictions: what a classifier says about a picture, and how any kind of classifier comes to say it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from imgclassify import display
from imgclassify.data.images import ImageError, Picture, decode_image, prepare_image, to_bytes
from imgclassify.models.familiarity import UNFAMILIAR

NONE_OF_THESE = "none of its classes"
COLUMNS = (  # of a table of results
    "file", "class", "confidence", "second", "second confidence", "third", "third confidence", "familiarity", "known",
    "problem",
)  # fmt: skip
_FORMULA = tuple("=+-@＝＋－＠")  # spreadsheets take the wide ones too


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a classifier says about one picture. Unpacks as `label, confidence`.

    A high confidence means that the picture looks more like this class than like the others, not that it belongs to
    it. Whether it is one of the classes at all is for the familiarity to say.
    """

    label: str  # name of the most probable class
    confidence: float  # its probability, 0 to 1
    probabilities: dict[str, float]  # of all classes by name, most probable first; they sum to 1
    image: np.ndarray  # what the network was given, uint8 (H, W, 3)
    familiarity: float | None = None  # share of pictures of the classes that look less familiar; None if unknown

    @property
    def known(self) -> bool:
        """Whether it seems to be one of the model's classes; of pictures like its own, one in twenty does not."""
        return self.familiarity is None or self.familiarity >= UNFAMILIAR

    def __iter__(self) -> Iterator:
        return iter((self.label, self.confidence))

    def top(self, k: int = 3) -> list[tuple[str, float]]:
        """The `k` most probable classes with their probabilities, best first."""
        return list(self.probabilities.items())[:k]

    def describe(self, k: int = 3) -> str:
        """The `k` most probable classes with their probabilities, as text; before them, whether it seems to be none."""
        classes = ", ".join(f"{label} {probability:.1%}" for label, probability in self.top(k))
        return classes if self.known else f"{NONE_OF_THESE}; nearest: {classes}"

    __str__ = __repr__ = describe

    def html(self, k: int = 3, note: str = "") -> str:
        """The verdict, a note in a quieter colour, and the `k` most probable classes as bars, as HTML."""
        verdict = f'<span class="verdict">{display.escape(self.label if self.known else NONE_OF_THESE)}</span>'
        nearest = "" if self.known else f"nearest: {self.label}"
        notes = display.hint(", ".join(filter(None, (nearest, note))))
        return f"<div>{verdict} {notes}</div>{display.bars(self.top(k), highlighted=self.known)}"

    def _repr_html_(self) -> str:
        return display.fragment(
            '<div class="card"><img class="view" width="128" height="128" alt="what the model sees" '
            f'src="{display.picture_uri(self.image)}"><div class="answer">{self.html(5)}</div></div>'
        )


class BaseClassifier(ABC):
    """What a network and its exported file have in common: they prepare a picture, and answer with a `Prediction`."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name, for messages and titles."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """One name per output."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Height, width and channels of a prepared picture."""

    @property
    @abstractmethod
    def crop(self) -> float:
        """Side of the central square that it is shown, as a share of a picture's shorter side."""

    @abstractmethod
    def answers(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities, float32 (N, classes), and familiarity, (N,), of prepared pictures.

        The familiarity is None without a detector. The pictures are uint8, or float in [0, 1], (N, H, W, 3).
        """

    @property
    def input_size(self) -> int:
        """Side of the square pictures that it takes, in pixels.

        Raises:
            ValueError: It does not take square RGB pictures.
        """
        height, width, channels = self.input_shape
        if height is None or height != width or channels != 3:
            raise ValueError(f"The model must take square RGB pictures. It takes {self.input_shape}.")
        return height

    def prepare(self, picture: Picture, *, name: str | None = None) -> np.ndarray:
        """A picture of any size and kind as network input, uint8 (size, size, 3), prepared as the training data was.

        Args:
            picture: Path, bytes, binary file, Pillow image or array; see `decode_image`.
            name: Name of the picture in messages, if it is not a path.

        Raises:
            ImageError: The picture cannot be used.
            ValueError: The network does not take square RGB pictures.
        """
        size = self.input_size
        return prepare_image(decode_image(picture, name=name, size=size), size=size, crop=self.crop)

    def predict(self, picture: Picture, *, name: str | None = None) -> Prediction:
        """Classify a picture of any size and kind; arguments and errors as for `prepare`."""
        return self.answer(self.prepare(picture, name=name))

    def answer(self, image: np.ndarray) -> Prediction:
        """Classify one picture that is already prepared; see `predict_image`."""
        image = np.asarray(image)
        if image.shape != self.input_shape:
            expected = f"Expected one picture of shape {self.input_shape}; for other sizes use classify_custom_image()."
            raise ImageError(f"{expected} Received: shape {image.shape}")
        if image.dtype != np.uint8 and not (image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 1):
            received = f"{image.dtype} from {image.min()} to {image.max()}"
            raise ImageError(f"A picture must be uint8 or float in [0, 1]. Received: {received}")
        probabilities, familiarity = self.answers(image[np.newaxis])
        return self.prediction(image, probabilities[0], None if familiarity is None else float(familiarity[0]))

    def prediction(self, image: np.ndarray, values: np.ndarray, familiarity: float | None) -> Prediction:
        """What is said of one prepared picture, from its probabilities, (classes,), and its familiarity."""
        order = np.argsort(-values, kind="stable")
        probabilities = {self.class_names[i]: float(values[i]) for i in order}
        first = order[0]
        return Prediction(self.class_names[first], float(values[first]), probabilities, to_bytes(image), familiarity)


def table_row(file: str, prediction: Prediction | None = None, problem: str = "") -> list:
    """A row of a table of results, with a value for each of the `COLUMNS`; None where there is none."""
    top = prediction.top(3) if prediction else []
    answers = [part for label, share in top for part in (label, round(share, 6))] + [None] * (6 - 2 * len(top))
    if prediction is None or prediction.familiarity is None:
        return [file, *answers, None, None, problem]
    return [file, *answers, round(prediction.familiarity, 6), prediction.known, problem]


def csv_row(row: Sequence) -> list[str]:
    """A row of a table as texts for CSV; what a spreadsheet would take for a formula is preceded by an apostrophe."""

    def text(value) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, str):
            return f"'{value}" if value.lstrip().startswith(_FORMULA) else value
        return "" if value is None else f"{value:.4f}"

    return [text(value) for value in row]
