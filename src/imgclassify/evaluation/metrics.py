"""Metrics: measurements of a model on labelled pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from imgclassify import display
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import class_numbers

BINS = 15  # ranges of confidence, for calibration; as many as Guo et al. (2017) use
_RESAMPLES = 500  # of the bootstrap


class Estimate(NamedTuple):
    """A measured value with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of_share(cls, hits: int, count: int) -> "Estimate":
        """A share, 0 to 1, with its interval by Wilson (1927); NaN of nothing."""
        return cls(hits / count, *wilson_interval(int(hits), int(count))) if count else cls(np.nan, np.nan, np.nan)

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "none"
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


class ClassScores(NamedTuple):
    """How well one class is recognised."""

    pictures: int  # that are of this class
    recall: Estimate  # of the pictures of this class, those said to be
    precision: Estimate  # of the pictures said to be of this class, those that are
    f1: Estimate  # harmonic mean of precision and recall


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a model does on labelled pictures; everything is computed from one prediction per picture."""

    probabilities: np.ndarray  # float32, (N, classes), the model's output
    labels: np.ndarray  # int64, (N,), the true classes
    class_names: tuple[str, ...] = ()  # one per class
    source: str = ""  # name of the data, for titles
    rows: np.ndarray | None = None  # rows of the pictures in the data, (N,), if some are left out

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
        """95 % interval of the accuracy (Wilson, 1927). It covers chance in the choice of pictures, not in training."""
        return wilson_interval(int(self.correct.sum()), len(self.labels))

    @property
    def losses(self) -> np.ndarray:
        """Cross-entropy of each picture in nats, float32 (N,), with probabilities clipped at 1e-7 as Keras does."""
        true = self.probabilities[np.arange(len(self.labels)), self.labels]
        return -np.log(np.clip(true, 1e-7, 1))

    @property
    def loss(self) -> float:
        """Mean of `losses`."""
        return float(self.losses.mean())

    def describe(self, row: int, count: int = 1) -> list[str]:
        """The most probable classes of a picture, each with its probability, as text."""
        values = self.probabilities[row]
        order = np.argsort(-values, kind="stable")[:count]
        return [f"{self.class_names[i]} {values[i]:.1%}".replace("100.0%", ">99.9%") for i in order]

    def calibration(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Number of pictures, mean confidence and accuracy (NaN without any), in `BINS` equal ranges of confidence."""
        from scipy.stats import binned_statistic

        sure = np.nan_to_num(self.confidence.astype(np.float64))
        (confidence, accuracy), edges, _ = binned_statistic(sure, [sure, self.correct], bins=BINS, range=(0, 1))
        return np.histogram(sure, edges)[0], confidence, accuracy

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean distance between confidence and accuracy, 0 to 1 (Guo et al., 2017)."""
        counts, confidence, accuracy = self.calibration()
        return float(np.where(counts, counts * np.abs(confidence - accuracy), 0).sum() / counts.sum())

    @property
    def corrected_calibration_error(self) -> Estimate:
        """Root mean square calibration error without the part that chance adds, and its 95 % interval; 0 to 1.

        In `BINS` groups of equally many pictures, sorted by confidence, the variance of each group's accuracy is
        subtracted (Kumar et al., "Verified Uncertainty Calibration", 2019). The interval, by bootstrap, is cautious.
        """
        chance, sure, right = np.random.default_rng(0), self.confidence.astype(np.float64), self.correct
        value, drawn = _squared_error(sure, right), []
        for _ in range(_RESAMPLES):
            rows = chance.integers(0, len(sure), len(sure))
            drawn.append(_squared_error(sure[rows], right[rows]))
        low, high = value + np.quantile(drawn, (0.025, 0.975)) - np.mean(drawn)  # drawn again, chance adds twice
        return Estimate(*np.sqrt(np.maximum([value, low, high], 0)).tolist())

    def coverage(self) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy of the n most confident answers, for each n, and n as a share of all; float64 (N,) each."""
        order, counts = np.argsort(-self.confidence, kind="stable"), np.arange(1, len(self.labels) + 1)
        return self.correct[order].cumsum() / counts, counts / len(counts)

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

    @cached_property
    def by_class(self) -> dict[str, ClassScores]:
        """Precision, recall and F1 of each class, with their intervals.

        F1 is 2 J / (1 + J), where J is the share of hits among all pictures that are of the class or said to be; so
        the bounds of J give those of F1.
        """
        counts, scores = self.confusion, {}
        sums = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        for name, hits, true, said in zip(self.class_names, *sums, strict=True):
            recall, precision, overlap = (Estimate.of_share(hits, each) for each in (true, said, true + said - hits))
            f1 = Estimate(*(2 * each / (1 + each) for each in overlap))
            scores[name] = ClassScores(int(true), recall, precision, f1)
        return scores

    @property
    def balanced_accuracy(self) -> float:
        """Mean recall of the classes that have pictures, 0 to 1."""
        return float(np.nanmean(list(self.per_class.values())))

    def most_confused(self, count: int = 5) -> list[tuple[str, str, int]]:
        """The most frequent mistakes as (true class, predicted class, how often), most frequent first."""
        names, counts = self.class_names, np.ndenumerate(self.confusion)
        mistakes = [(names[true], names[said], int(n)) for (true, said), n in counts if true != said and n]
        return sorted(mistakes, key=lambda mistake: -mistake[2])[:count]

    def _headline(self) -> str:
        low, high = self.interval
        data = f" of {self.source}" if self.source else ""
        return (
            f"accuracy {self.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), loss {self.loss:.3f}, "
            f"on {len(self.labels):,} pictures{data}"
        )

    def __str__(self) -> str:
        width = max(map(len, self.class_names))
        rows = [f"  {'':<{width}}  {'recall':>9}  {'precision':>9}  {'F1':>9}"]
        for name, (_, *shares) in self.by_class.items():
            cells = (str(share).partition(" ")[0] for share in shares)
            rows.append(f"  {name:<{width}}  {'  '.join(f'{cell:>9}' for cell in cells)}")
        return "\n".join([self._headline(), *rows])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = []
        for name, (pictures, *shares) in self.by_class.items():
            rows.append((name, f"{pictures:,}", *map(str, shares)))
        head = f"<p>{display.escape(self._headline())}</p>"
        return display.fragment(head, display.table(("class", "pictures", "recall", "precision", "F1"), rows))


def _squared_error(sure: np.ndarray, right: np.ndarray) -> float:
    """Mean square of confidence minus accuracy over groups of pictures, less what chance adds."""
    error, order = 0.0, np.argsort(sure, kind="stable")
    for group in np.array_split(order, min(BINS, max(1, len(sure) // 2))):
        accuracy, confidence = right[group].mean(), sure[group].mean()
        by_chance = accuracy * (1 - accuracy) / max(1, len(group) - 1)
        error += len(group) / len(sure) * ((accuracy - confidence) ** 2 - by_chance)
    return error


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927).

    Example:
        >>> low, high = wilson_interval(4, 4)
        >>> round(low, 2), round(high, 2)
        (0.51, 1.0)
    """
    from scipy.stats import binomtest

    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return float(low), float(high)


def evaluate_model(
    model, x: np.ndarray, y, *, class_names: Sequence[str] | None = None, source: str = "", views: int | None = None
) -> Evaluation:
    """Measure a model on labelled pictures, predicting each once, as `predict_image` does; returns an `Evaluation`.

    Args:
        model: A `Classifier`, or a Keras model from pictures to probabilities.
        x: Pictures, uint8 or float in [0, 1], (N, H, W, 3), N at least 1.
        y: Their labels, class numbers (N,) or (N, 1), or one-hot (N, classes).
        class_names: One name per output; see `Classifier.of`.
        source: Name of the data, for titles; for instance `Dataset.source`.
        views: How many views of each picture to average; default: the number in the model's manifest.

    Raises:
        ValueError: `x` and `y` do not match each other or the model.

    Example:
        >>> from imgclassify import build_model
        >>> evaluation = evaluate_model(build_model(), np.zeros((3, 32, 32, 3), np.uint8), [0, 1, 2])
        >>> evaluation.confusion.sum()
        np.int64(3)
    """
    classifier = Classifier.of(model, class_names)
    labels = check_labels(x, y, len(classifier.class_names))
    return Evaluation(classifier.probabilities(x, views=views), labels, classifier.class_names, source)


def check_labels(x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
    """Class numbers, int64 (N,), from labels in any form; raises `ValueError` if they do not match the pictures."""
    labels = class_numbers(y)
    if len(x) != len(labels) or len(labels) == 0:
        expected = "There must be one label per picture, and at least one picture."
        raise ValueError(f"{expected} Received: {len(x)} pictures and {len(labels)} labels")
    if labels.max() >= classes:
        raise ValueError(f"Labels must lie between 0 and {classes - 1}. Received: {labels.min()} to {labels.max()}")
    return labels


def recorded_metrics(part: str, measured: Evaluation, single: Evaluation | None = None) -> dict[str, object]:
    """What a manifest records about results on one part of the data, "val" or "test", which begins the names.

    `single` are the results with a single view, if the model averages several.
    """
    metrics = {name: getattr(measured, name) for name in ("accuracy", "loss", "calibration_error")}
    metrics |= {"interval": list(measured.interval), "pictures": len(measured.labels)}
    if single is not None:
        metrics["accuracy_without_tta"] = single.accuracy
    return {f"{part}_{name}": value for name, value in metrics.items()}
