"""Measurements of a model on labelled data."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from imgclassify.data import class_numbers
from imgclassify.models import fold_temperature
from imgclassify.prediction import at_temperatures, class_names_of, predict_probabilities


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How a model does on labelled pictures; everything follows from one prediction of each.

    Attributes:
        probabilities: float32, (N, classes), the model's output.
        labels: int64, (N,), the true classes.
        class_names: One name a class.
        source: What data this is, for titles.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str = ""

    @property
    def predicted(self) -> np.ndarray:
        """Most probable class of each picture, int64 (N,)."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable class, float32 (N,)."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """Whether each picture was classified correctly, bool (N,)."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> float:
        """Share of pictures classified correctly, 0 to 1."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the accuracy (Wilson, 1927): chance in the choice of test pictures, not in training."""
        from scipy.stats import binomtest

        low, high = binomtest(int(self.correct.sum()), len(self.labels)).proportion_ci(method="wilson")
        return float(low), float(high)

    @property
    def loss(self) -> float:
        """Mean categorical cross-entropy in nats, probabilities clipped at 1e-7 as Keras does."""
        true = self.probabilities[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.clip(true, 1e-7, 1)).mean())

    def calibration(self, bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pictures in `bins` equal ranges of confidence: how many, their mean confidence, their accuracy.

        Returns:
            Three arrays (bins,): int64 counts, and float64 means, NaN where a range has no picture.
        """
        which = np.minimum((np.nan_to_num(self.confidence) * bins).astype(int), bins - 1)
        counts = np.bincount(which, minlength=bins)
        with np.errstate(invalid="ignore"):
            confidence, accuracy = (
                np.bincount(which, weights=values, minlength=bins) / counts
                for values in (self.confidence, self.correct)
            )
        return counts, confidence, accuracy

    def calibration_error(self, bins: int = 15) -> float:
        """Expected calibration error: mean distance of confidence and accuracy, 0 to 1 (Guo et al., 2017)."""
        counts, confidence, accuracy = self.calibration(bins)
        return float(np.where(counts, counts * np.abs(confidence - accuracy), 0).sum() / counts.sum())

    @property
    def confusion(self) -> np.ndarray:
        """Counts, int64 (classes, classes): row = true class, column = predicted class."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(self.labels, self.predicted, labels=np.arange(len(self.class_names)))

    @property
    def per_class(self) -> dict[str, float]:
        """Share of each class's pictures classified correctly, 0 to 1; NaN for a class without pictures."""
        counts = self.confusion
        with np.errstate(invalid="ignore"):
            return dict(zip(self.class_names, (counts.diagonal() / counts.sum(axis=1)).tolist(), strict=True))

    def most_confused(self, count: int = 5) -> list[tuple[str, str, int]]:
        """The most frequent mistakes as (true class, predicted class, how often), most frequent first."""
        counts = self.confusion
        np.fill_diagonal(counts, 0)
        order = np.argsort(-counts, axis=None, kind="stable")[:count]
        pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
        return [(self.class_names[i], self.class_names[j], int(counts[i, j])) for i, j in pairs if counts[i, j]]

    def _headline(self) -> str:
        low, high = self.interval
        data = f" of {self.source}" if self.source else ""
        return (
            f"accuracy {self.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), loss {self.loss:.3f}, "
            f"on {len(self.labels):,} pictures{data}"
        )

    def __str__(self) -> str:
        width = max(map(len, self.class_names))
        return "\n".join(
            [self._headline(), *(f"  {name:<{width}}  {share:6.1%}" for name, share in self.per_class.items())]
        )

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td style="text-align:left">{html.escape(name)}</td><td>{share:.1%}</td></tr>'
            for name, share in self.per_class.items()
        )
        return (
            f"<p>{html.escape(self._headline())}</p><table><tr><th style='text-align:left'>class</th>"
            f"<th>accuracy</th></tr>{rows}</table>"
        )


def evaluate_model(
    model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    class_names: Sequence[str] | None = None,
    source: str = "",
    tta: int | None = None,
) -> Evaluation:
    """Measure a model on labelled pictures, predicting each once, as `predict_image` does.

    Args:
        model: A Keras model from pictures to probabilities.
        x: Pictures, uint8 or float in [0, 1], (N, H, W, 3), N at least 1.
        y: Their labels, class numbers (N,) or (N, 1), or one-hot (N, classes).
        class_names: As for `predict_image`.
        source: What data this is, for titles, for instance `Dataset.source`.
        tta: As for `predict_probabilities`.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: `x` and `y` do not go together or with the model.
    """
    labels, names = class_numbers(y), class_names_of(model, class_names)
    if len(x) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"Pictures and labels must be equally many and at least one. Received: {len(x)} and {len(labels)}"
        )
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"Labels must lie between 0 and {len(names) - 1}. Received: {labels.min()} to {labels.max()}")
    return Evaluation(predict_probabilities(model, x, tta=tta), labels, names, source)


def calibrate(model, x: np.ndarray, y: np.ndarray) -> tuple[dict[str, object], Evaluation]:
    """Make confidence mean something: fit temperatures, by which no picture changes its class.

    Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", 2017) divides all logits by the one
    number that gives these pictures the least cross-entropy; it is folded into the model's last layer. One number
    cannot straighten a curve that bends both ways, as the baseline's, which is too sure of its surest answers and not
    sure enough of the others. Hence two more, whose probabilities `predict_probabilities` averages: ensemble
    temperature scaling (Zhang et al., "Mix-n-Match", 2020) with equal weights. Both come out near one where one
    temperature is enough.

    Args:
        model: Ends in a dense layer with softmax; modified.
        x: Pictures that the model was not trained on, as for `evaluate_model`.
        y: Their labels, as for `evaluate_model`.

    Returns:
        For the manifest, `{"temperature": ..., "mixture": [..., ...]}`, the latter relative to the former, without
        the mixture for a model whose answers are not all finite; and the `Evaluation` of the calibrated model on
        these pictures, which are predicted once only.

    Raises:
        ValueError: The model's manifest says that it is calibrated already.
    """
    from scipy.optimize import minimize, minimize_scalar

    if "temperature" in (getattr(model, "manifest", None) or {}):
        raise ValueError("The model is calibrated already, as its manifest says: calibrate the one that was trained.")
    measured = evaluate_model(model, x, y)
    probabilities, rows = np.maximum(measured.probabilities, 1e-30).astype(np.float64), np.arange(len(measured.labels))
    if not np.isfinite(probabilities).all():
        return {"temperature": 1.0}, measured  # a training that has come to nothing

    def loss(log_temperatures: np.ndarray) -> float:
        return -np.log(at_temperatures(probabilities, np.exp(log_temperatures))[rows, measured.labels]).mean()

    widest = np.log(4) - 1e-9  # a quarter to four, rounding included: pictures that are all right would ask for zero
    bounds = (-widest, widest)
    single = minimize_scalar(lambda each: loss([each]), bounds=bounds, method="bounded").x
    pair = minimize(loss, [single - 0.3, single + 0.3], bounds=[bounds] * 2).x
    fold_temperature(model, np.exp(single))
    calibrated = replace(measured, probabilities=at_temperatures(probabilities, np.exp(pair)).astype(np.float32))
    return {"temperature": float(np.exp(single)), "mixture": np.exp(pair - single).tolist()}, calibrated
