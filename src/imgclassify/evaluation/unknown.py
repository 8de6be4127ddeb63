"""Unknown: fit what tells a model's classes from other things, and measure how well that works."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.special import logsumexp, softmax

from imgclassify import backend
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import Dataset
from imgclassify.data.images import Picture, decode_image, prepare_image
from imgclassify.models.backbones import BACKBONES, GUIDED
from imgclassify.models.familiarity import (
    KINDS,
    LAST,
    UNFAMILIAR,
    Detector,
    Kind,
    last_layer,
    layer_outputs,
    layers_to_watch,
    make_detector,
    score,
    unit,
)
from imgclassify.models.inference import predict_probabilities

SAMPLE = 1000  # training pictures that are kept, and known ones that they are compared with
_FEWEST = 40  # known pictures; with fewer, the share that is refused could be far from `UNFAMILIAR`


def detector_from(
    network,
    architecture: str,
    training: np.ndarray,
    known: np.ndarray,
    *,
    begin: str = "",
    folds: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> Detector | None:
    """A detector of pictures that are none of a network's classes; None if there are too few pictures for one.

    Args:
        network: A trained network; not modified.
        architecture: As for `build_model`. Of a backbone, only the features are looked at.
        training: Pictures that it was trained on, (N, H, W, C).
        known: Pictures of its classes that it was not trained on, (M, H, W, C).
        begin: Name of a layer, if its outputs are given in place of pictures.
        folds: Rows of `training` to compare with, and rows that are then known pictures: for a network that has learned
            only its last layer from them. So a small folder gives enough known pictures.
    """
    if len(known) + sum(len(held) for _, held in folds) < _FEWEST:
        return None
    kind: Kind = "boundaries" if architecture == GUIDED else "neighbours"
    names = layers_to_watch(network, last_only=architecture in BACKBONES)
    references, scores = [], []
    for learned, new in zip(*(_outputs(network, names, each, begin) for each in (training, known)), strict=True):
        pairs = [(learned, new), *((learned[rows], learned[held]) for rows, held in folds)]
        compared = [score(kind, held, _reference(kind, network, rows)).numpy() for rows, held in pairs if len(held)]
        references.append(_reference(kind, network, learned))
        scores.append(np.concatenate(compared))
    if not all(np.isfinite(each).all() for each in scores):  # a training that diverged
        return None
    return make_detector(kind, names, references, scores)


def _outputs(network, names: Sequence[str], x: np.ndarray, begin: str = "") -> list[np.ndarray]:
    """What these layers give for many pictures, float32 (N, D) each."""
    inputs = network.get_layer(begin).output if begin else network.inputs[0]
    keras, outputs = backend.keras(), layer_outputs(network, names)
    joined = keras.layers.Concatenate()(outputs) if len(outputs) > 1 else outputs[0]
    ends = np.cumsum([each.shape[-1] for each in outputs])[:-1]
    return np.split(predict_probabilities(keras.Model(inputs, joined), x), ends, axis=1)


def _reference(kind: Kind, network, outputs: np.ndarray) -> np.ndarray:
    """What a layer's scores are computed from; see `Detector.references`."""
    if kind == "neighbours":
        return unit(outputs).numpy().astype(np.float16)
    weights = last_layer(network).get_weights()
    kernel, bias = weights[0], weights[1] if len(weights) > 1 else np.zeros(weights[0].shape[1])
    mean = np.append(outputs.mean(axis=0), 0)
    return np.vstack([mean, np.column_stack([kernel.T, bias])]).astype(np.float32)


def as_thumbnails(pictures: Sequence[Picture], size: int = 32, *, quality: int = 90) -> np.ndarray:
    """Pictures as a data set of thumbnails has them: cut, shrunk and stored as JPEG; uint8 (N, size, size, 3).

    Otherwise outsiders could be told from known pictures by how they were stored.
    """
    prepared = [prepare_image(decode_image(each, size=size), size=size) for each in pictures]
    files = [io.BytesIO() for _ in prepared]
    for image, file in zip(prepared, files, strict=True):
        Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.stack([np.asarray(decode_image(file.getvalue())) for file in files])


class Separation(NamedTuple):
    """How well a score tells pictures of other things from pictures of a model's classes."""

    auroc: float  # probability that a picture of the classes has the higher score, 0 to 1
    passed: float  # share of the other pictures that are taken for one of the classes, where 95 % of these are


def compare_scores(
    classifier: Classifier, data: Dataset, outsiders: Mapping[str, np.ndarray], *, count: int = 2000
) -> dict[str, dict[str, Separation]]:
    """Measure the classifier's own detector beside other scores from the literature, on the same pictures.

    The others are computed from the last layer: maximum softmax probability (Hendrycks and Gimpel, 2017), energy (Liu
    et al., 2020), Mahalanobis distance (Lee et al., 2018), nearest neighbours and decision boundaries (see `Detector`).
    Thresholds are such that 95 % of the validation pictures pass. No score was fitted to the outsiders.

    Args:
        classifier: With a detector.
        data: What it was trained on; the test pictures are the known ones.
        outsiders: Pictures of other things by name, uint8 (N, H, W, 3), in the size of the data or of the model.
        count: How many pictures at most of each part of the data.

    Returns:
        For each score, a `Separation` for each kind of outsiders, and one for "test pictures", of which only the share
        that passes is meaningful.

    Raises:
        ValueError: The classifier has no detector.
    """
    if classifier.detector is None:
        raise ValueError(f"{classifier.name} has no detector of pictures that are none of its classes.")
    recipe, seed = classifier.manifest.recipe, classifier.manifest.seed or 0
    rows = data.validation_split(recipe.validation_fraction if recipe else 0.1, seed)
    train, held = (np.sort(np.random.default_rng(seed).permutation(each)[:count]) for each in rows)
    parts = {"training": data.x_train[train], "validation": data.x_train[held], "test pictures": data.x_test[:count]}
    parts = {name: classifier.fitting(np.asarray(each)) for name, each in (parts | dict(outsiders)).items()}
    outputs = {name: _outputs(classifier.network, [LAST], each)[0] for name, each in parts.items()}
    scores = _scores(classifier.network, outputs["training"], data.y_train[train])
    found = {label: {name: of(each) for name, each in outputs.items()} for label, of in scores.items()}
    found["its detector"] = {name: classifier.with_familiarity(each)[1] for name, each in parts.items()}
    measured = ("test pictures", *outsiders)
    return {each: {name: _separation(of, of[name]) for name in measured} for each, of in found.items()}


def _separation(scores: Mapping[str, np.ndarray], others: np.ndarray) -> Separation:
    from sklearn.metrics import roc_auc_score

    known, least = scores["test pictures"], np.quantile(scores["validation"], UNFAMILIAR)
    truth = np.repeat([1, 0], [len(known), len(others)])
    return Separation(roc_auc_score(truth, np.concatenate([known, others])), float((others >= least).mean()))


def _scores(network, learned: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Scores (N,) of what the last layer takes, (N, D), by name; known pictures have higher ones."""
    neighbours, boundaries = (_reference(kind, network, learned) for kind in KINDS)
    kernel, bias = boundaries[1:, :-1].T, boundaries[1:, -1]
    means = np.stack([learned[labels == each].mean(axis=0) for each in np.unique(labels)])
    inverse = np.linalg.pinv(np.cov((learned - means[np.searchsorted(np.unique(labels), labels)]).T), hermitian=True)

    def mahalanobis(values: np.ndarray) -> np.ndarray:
        apart = [values - mean for mean in means]
        return -np.min([np.einsum("nd,de,ne->n", each, inverse, each, optimize=True) for each in apart], axis=0)

    return {
        "maximum softmax": lambda values: softmax(values @ kernel + bias, axis=1).max(axis=1),
        "energy": lambda values: logsumexp(values @ kernel + bias, axis=1),
        "Mahalanobis distance": mahalanobis,
        "nearest neighbours": lambda values: score("neighbours", values, neighbours).numpy(),
        "decision boundaries": lambda values: score("boundaries", values, boundaries).numpy(),
    }
