"""Calibration: make a classifier's confidence agree with its accuracy."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from imgclassify.classifier import Classifier
from imgclassify.evaluation.metrics import Evaluation, check_labels, recorded_metrics
from imgclassify.models.inference import combine_views, predict_views
from imgclassify.models.networks import with_temperatures

_WIDEST = np.log(4) - 1e-9  # bounds of 1/4 and 4, rounding included: without mistakes, zero would fit best


class Calibrated(NamedTuple):
    """A calibrated classifier, and its results on the pictures that it was calibrated on."""

    classifier: Classifier  # its network has the temperatures as layers, and its manifest records them
    measured: Evaluation  # with as many views as the classifier averages at prediction
    single: Evaluation  # with a single view

    def metrics(self, part: str) -> dict[str, object]:
        """What a manifest records about it; see `recorded_metrics`."""
        return recorded_metrics(part, self.measured, self.single if self.classifier.manifest.views > 1 else None)


def calibrate(classifier: Classifier, x: np.ndarray, y: np.ndarray, *, learned=None) -> Calibrated:
    """Fit temperatures, which change no picture's class.

    Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", 2017) divides all logits by the one
    number that minimises the cross-entropy on these pictures. One number cannot straighten a reliability curve that
    bends both ways, like the baseline's: it is too sure of its surest answers and not sure enough of the others. So
    two numbers are fitted and their answers averaged: ensemble temperature scaling (Zhang et al., "Mix-n-Match",
    2020) with equal weights. If one temperature is enough, the two come out equal. They become layers of the
    network. Each view of each picture is predicted only once.

    Args:
        classifier: Its network ends in a dense layer with softmax; it is not modified.
        x: Pictures that it was not trained on, as for `evaluate_model`.
        y: Their labels, as for `evaluate_model`.
        learned: The last layers of its network, if `x` is what they take, such as features.

    Returns:
        The calibrated classifier with its results. If some of its probabilities are not finite, as after a training
        that diverged, it has no temperatures.

    Raises:
        ValueError: According to its manifest, the classifier is already calibrated.
    """
    manifest = classifier.manifest
    if manifest.temperatures:
        raise ValueError("According to its manifest, the model is already calibrated: pass the uncalibrated model.")
    labels = check_labels(x, y, len(classifier.class_names))
    views = predict_views(learned or classifier.network, x, views=manifest.views)
    temperatures = _fit(views, labels) if np.isfinite(views).all() else ()
    calibrated = replace(classifier, network=with_temperatures(classifier.network, temperatures))
    answers = at_temperatures(views, temperatures) if temperatures else views
    measured, single = (
        Evaluation(probabilities.astype(np.float32), labels, classifier.class_names)
        for probabilities in (combine_views(answers), answers[0])
    )
    return Calibrated(calibrated.recorded(temperatures=temperatures), measured, single)


def at_temperatures(probabilities: np.ndarray, temperatures: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mean of the probabilities (..., classes) that the same logits give at each of these temperatures.

    Example:
        >>> at_temperatures(np.array([0.2, 0.8]), [1.0]).tolist()
        [0.2, 0.8]
    """
    powers = [probabilities ** (1 / temperature) for temperature in temperatures]
    return np.mean([each / each.sum(axis=-1, keepdims=True) for each in powers], axis=0)


def _fit(views: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The two temperatures that minimise the cross-entropy of the combined views, (views, N, classes)."""
    from scipy.optimize import minimize, minimize_scalar

    probabilities, rows = np.maximum(views, 1e-30).astype(np.float64), np.arange(len(labels))

    def loss(log_temperatures: Sequence[float]) -> float:
        answers = combine_views(at_temperatures(probabilities, np.exp(log_temperatures)))
        return -np.log(np.maximum(answers[rows, labels], 1e-30)).mean()

    bounds = (-_WIDEST, _WIDEST)
    single = minimize_scalar(lambda each: loss([each]), bounds=bounds, method="bounded").x
    pair = minimize(loss, [single - 0.3, single + 0.3], bounds=[bounds] * 2).x
    return float(np.exp(pair[0])), float(np.exp(pair[1]))
