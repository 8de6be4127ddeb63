"""Faithfulness: whether heat maps show what the model's answers depend on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imgclassify import backend
from imgclassify.classifier import Classifier
from imgclassify.data.images import scale_pixels
from imgclassify.evaluation.explain import blurred
from imgclassify.models.inference import predict_probabilities

_STEPS = 10
_TOGETHER = 16  # pictures whose changed copies are in memory
_CELLS = 8  # in a row of a random map


class Faithfulness(NamedTuple):
    """How the probability of a class follows a map, (steps + 1, N) each, while its highest places come first."""

    deletion: np.ndarray  # while more and more of the picture is blurred; should fall quickly
    insertion: np.ndarray  # while more and more of the blurred picture is shown; should rise quickly

    @property
    def deletion_area(self) -> np.ndarray:
        """Area under each deletion curve, (N,), 0 to 1; lower is better."""
        return np.trapezoid(self.deletion, dx=1 / (len(self.deletion) - 1), axis=0)

    @property
    def insertion_area(self) -> np.ndarray:
        """Area under each insertion curve, (N,), 0 to 1; higher is better."""
        return np.trapezoid(self.insertion, dx=1 / (len(self.insertion) - 1), axis=0)

    @property
    def score(self) -> np.ndarray:
        """Insertion area less deletion area, (N,); about 0 for a random map."""
        return self.insertion_area - self.deletion_area

    def better_than(self, other: "Faithfulness") -> float:
        """p-value of Wilcoxon's signed-rank test that its scores are higher than another's on the same pictures."""
        from scipy.stats import wilcoxon

        scores = (each.score.astype(np.float64) for each in (self, other))
        return float(wilcoxon(*scores, alternative="greater", method="asymptotic").pvalue)


def measure_faithfulness(
    model, x: np.ndarray, classes: Sequence[int], heat: np.ndarray, *, steps: int = _STEPS
) -> Faithfulness:
    """Delete and insert the places of maps, highest first (Petsiuk et al., 2018); what is deleted is blurred.

    Blurring keeps the picture nearer to what the model knows than black would. To judge a map, compare it with
    `random_maps` and `centre_maps`: what is photographed is mostly in the middle.

    Args:
        model: A `Classifier`, or a Keras model from pictures to probabilities.
        x: Prepared pictures, uint8 or float in [0, 1], (N, H, W, 3).
        classes: Number of the explained class of each picture, (N,).
        heat: A map of each picture, (N, h, w), from `heat_maps`.
        steps: In how many equal parts the places are taken.
    """
    network, parts = Classifier.of(model).network, []
    for start in range(0, len(x), _TOGETHER):
        rows = slice(start, start + _TOGETHER)
        images = x[rows]
        shown = _order(heat[rows], images.shape[1:3], steps)[..., np.newaxis]  # (2, steps + 1, n, H, W, 1)
        copies = np.where(shown, scale_pixels(images), np.stack([blurred(each) for each in images]))
        said = predict_probabilities(network, copies.reshape(-1, *images.shape[1:]))
        said = said.reshape(2, steps + 1, len(images), -1)
        parts.append(said[:, :, np.arange(len(images)), np.asarray(classes)[rows]])
    return Faithfulness(*np.concatenate(parts, axis=2))


def _order(heat: np.ndarray, size: tuple[int, int], steps: int) -> np.ndarray:
    """Which pixels are shown, bool (2, steps + 1, N, H, W), when the highest ones are deleted, and inserted."""
    wide = backend.tensorflow().image.resize(heat[..., np.newaxis], size).numpy().reshape(len(heat), -1)
    ties = np.random.default_rng(0).permutation(wide.shape[1])  # in no order that a picture could share
    ranks = np.empty(wide.shape, int)
    order = np.lexsort((np.broadcast_to(ties, wide.shape), -wide), axis=1)
    np.put_along_axis(ranks, order, np.arange(wide.shape[1])[np.newaxis], axis=1)
    taken = ranks / wide.shape[1] < np.linspace(0, 1, steps + 1)[:, np.newaxis, np.newaxis]
    return np.stack([~taken, taken]).reshape(2, steps + 1, len(heat), *size)


def random_maps(count: int) -> np.ndarray:
    """Maps that know nothing, float32 (count, 8, 8)."""
    return np.random.default_rng(0).random((count, _CELLS, _CELLS)).astype(np.float32)


def centre_maps(count: int) -> np.ndarray:
    """Maps that always show the middle, float32 (count, 32, 32)."""
    away = np.linspace(-1, 1, 32) ** 2
    middle = np.exp(-2 * (away[:, np.newaxis] + away)).astype(np.float32)
    return np.repeat(middle[np.newaxis], count, axis=0)


def with_shuffled_weights(model) -> Classifier:
    """A copy of a model that has forgotten all it has learned: the values of each weight array are shuffled.

    Its maps should differ from the model's: what stays comes from the picture alone, not from what the model learned
    (Adebayo et al., "Sanity Checks for Saliency Maps", 2018).
    """
    classifier, chance = Classifier.of(model), np.random.default_rng(0)
    copy = backend.keras().models.clone_model(classifier.network)
    weights = classifier.network.get_weights()
    copy.set_weights([chance.permutation(each.ravel()).reshape(each.shape) for each in weights])
    return Classifier.of(copy, classifier.class_names)


def similarity(heat: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each map with another's, (N,); NaN where one is the same everywhere."""
    from scipy.stats import rankdata

    ranks = [rankdata(each.reshape(len(each), -1), axis=1) for each in (heat, others)]
    first, second = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    with np.errstate(invalid="ignore"):
        return (first * second).sum(axis=1) / np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
