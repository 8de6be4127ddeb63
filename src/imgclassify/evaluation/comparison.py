"""Comparison: two models on the same pictures, with the pictures that decide between them."""

from dataclasses import dataclass

import numpy as np

from imgclassify.classifier import Classifier
from imgclassify.evaluation.metrics import Estimate, Evaluation, evaluate_model

_RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class ModelComparison:
    """Two evaluations of the same pictures; the second is compared with the first."""

    names: tuple[str, str]  # of the models
    evaluations: tuple[Evaluation, Evaluation]

    def __post_init__(self):
        first, second = (each.labels for each in self.evaluations)
        if not np.array_equal(first, second):
            raise ValueError("Two models can be compared only on the same pictures: their labels differ.")

    @property
    def won(self) -> np.ndarray:
        """Rows of the pictures that only the second classifies correctly, int64 (N,)."""
        return np.flatnonzero(self._difference > 0)

    @property
    def lost(self) -> np.ndarray:
        """Rows of the pictures that only the first classifies correctly, int64 (N,)."""
        return np.flatnonzero(self._difference < 0)

    @property
    def p_value(self) -> float:
        """How often models of equal accuracy would differ this much or more: McNemar's exact test (1947), two-sided."""
        from scipy.stats import binomtest

        won, lost = len(self.won), len(self.lost)
        return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0

    @property
    def gain(self) -> Estimate:
        """Accuracy of the second less that of the first, with its 95 % interval by paired bootstrap."""
        count = len(self._difference)
        shares = np.bincount(self._difference + 1, minlength=3) / count
        drawn = np.random.default_rng(0).multinomial(count, shares, _RESAMPLES)
        low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / count, (0.025, 0.975))
        return Estimate(float(self._difference.mean()), float(low), float(high))

    @property
    def _difference(self) -> np.ndarray:
        """1 where only the second is right, -1 where only the first is, else 0."""
        first, second = (each.correct.astype(int) for each in self.evaluations)
        return second - first

    def __str__(self) -> str:
        first, second = (f"{name} {each.accuracy:.2%}" for name, each in zip(self.names, self.evaluations, strict=True))
        (value, low, high), p = self.gain, "< 0.001" if self.p_value < 0.001 else f"= {self.p_value:.2g}"
        return (
            f"{second}, {first}, on {len(self._difference):,} pictures: {100 * value:+.2f} points (95 % interval "
            f"{100 * low:+.2f} to {100 * high:+.2f}, McNemar's p {p}); {len(self.won):,} won, {len(self.lost):,} lost"
        )

    __repr__ = __str__


def compare_models(first, second, x: np.ndarray, y, *, source: str = "") -> ModelComparison:
    """Measure two models on the same labelled pictures; returns a `ModelComparison`.

    Args:
        first: A `Classifier`, or a Keras model from pictures to probabilities.
        second: Another one, for the same classes; it may take pictures of another size.
        x: Pictures, as for `evaluate_model`.
        y: Their labels, as for `evaluate_model`.
        source: Name of the data, for titles.

    Raises:
        ValueError: The models have different classes, or `x` and `y` do not match each other or the models.
    """
    models = [Classifier.of(each) for each in (first, second)]
    names = [each.class_names for each in models]
    if names[0] != names[1]:
        known, other = map(", ".join, names)
        raise ValueError(f"The models must have the same classes. Received: {known}; and {other}")
    measured = [evaluate_model(each, x, y, source=source) for each in models]
    return ModelComparison((models[0].name, models[1].name), (measured[0], measured[1]))
