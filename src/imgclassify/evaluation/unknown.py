"""Unknown: fit what tells a model's classes from other things, and measure how well that works."""

from collections.abc import Sequence

import numpy as np

from imgclassify import backend
from imgclassify.models.backbones import BACKBONES, GUIDED
from imgclassify.models.familiarity import (
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
    inputs = network.get_layer(begin).output if begin else network.inputs
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
