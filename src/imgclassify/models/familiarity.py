"""Familiarity: how much a picture resembles those that a network was trained on, by what its layers compute."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from imgclassify import backend

Kind = Literal["neighbours", "boundaries"]
KINDS = get_args(Kind)
UNFAMILIAR = 0.05  # pictures below this are none of the network's classes: so are as many of those that are
LAST = "what the last layer takes"  # in place of a layer's name
MOST = 2000  # training pictures, and known ones, of a layer
_NEIGHBOURS = 10  # between 5 and 50, the number made no difference
_SMALLEST = 1e-12


@dataclass(frozen=True, eq=False)
class Detector:
    """Tells pictures of what a network was trained on from pictures of other things (out-of-distribution detection).

    Each layer that it looks at gives a picture a score, and the score a p-value: the share of known pictures, which
    were held out of the training, with a lower one. Fisher's method combines the layers: the sum of the logarithms is
    compared with those of the known pictures again. So the familiarity of known pictures is evenly spread from 0 to 1,
    whatever the network.

    The score is one of these:

    - "neighbours": cosine similarity to the tenth nearest of the training pictures (Sun et al., "Out-of-Distribution
      Detection with Deep Nearest Neighbors", 2022).
    - "boundaries": mean distance to the boundaries between the answer's class and the others, divided by the distance
      from the mean training picture (Liu and Qin, "Fast Decision Boundary based Out-of-Distribution Detector", 2024).
      It depends less on how a picture was taken, and more on what it shows.
    """

    kind: Kind
    layers: tuple[str, ...]
    # For each layer: unit vectors of training pictures (n, D); or, for "boundaries", their mean, and the kernel and
    # bias of each class, (1 + classes, D + 1).
    references: tuple[np.ndarray, ...]
    known: tuple[np.ndarray, ...]  # sorted scores of the known pictures, (m,), for each layer and for their combination

    @property
    def widths(self) -> list[int]:
        """D of each layer."""
        return [each.shape[1] - (self.kind == "boundaries") for each in self.references]

    def familiarity(self, outputs: Sequence[Any]):
        """Familiarity of pictures, float32 (N,), above 0 to 1, from the `layer_outputs`, (N, D) each, as tensors."""
        tf, layers = backend.tensorflow(), zip(outputs, self.references, self.known[:-1], strict=True)
        logs = [tf.math.log(_share(score(self.kind, each, reference), known)) for each, reference, known in layers]
        return _share(tf.add_n(logs), self.known[-1])


def make_detector(
    kind: Kind, layers: Sequence[str], references: Sequence[np.ndarray], scores: Sequence[np.ndarray]
) -> Detector:
    """A detector from each layer's reference and the scores that the known pictures got from it, (m,)."""
    from scipy.stats import rankdata  # here, since it takes half a second

    # Each known picture is compared with the others, as a new one will be with all.
    shares = [rankdata(each, method="max") / len(each) for each in scores]
    known = tuple(np.sort(each).astype(np.float32) for each in (*scores, np.log(shares).sum(axis=0)))
    return Detector(kind, tuple(layers), tuple(references), known)


def score(kind: Kind, outputs, reference: np.ndarray):
    """Scores (N,) of what a layer gave, (N, D), as tensors; known pictures have higher ones. See `Detector`."""
    tf = backend.tensorflow()
    values, reference = tf.cast(outputs, tf.float32), np.asarray(reference, np.float32)
    if kind == "neighbours":
        similar = tf.matmul(unit(values), reference, transpose_b=True)
        return tf.math.top_k(similar, min(_NEIGHBOURS, len(reference))).values[:, -1]
    mean, kernel, bias, classes = reference[0, :-1], reference[1:, :-1], reference[1:, -1], len(reference) - 1
    logits = tf.matmul(values, kernel, transpose_b=True) + bias
    apart = np.linalg.norm(kernel[:, None] - kernel[None], axis=-1) + np.eye(classes, dtype=np.float32)  # of itself: 1
    ahead = tf.reduce_max(logits, axis=1, keepdims=True) - logits
    distances = ahead / tf.gather(apart, tf.argmax(logits, axis=1))
    return tf.reduce_sum(distances, axis=1) / (classes - 1) / (tf.norm(values - mean, axis=1) + _SMALLEST)


def unit(values):
    """Vectors (N, D) of length 1, as tensors."""
    tf = backend.tensorflow()
    return values / (tf.norm(values, axis=1, keepdims=True) + _SMALLEST)


def layers_to_watch(network, *, last_only: bool) -> list[str]:
    """Names of the layers that a detector looks at: all that end in a nonlinear function over the picture, and `LAST`.

    With `last_only`, only the last: early layers see how a photo was taken more than what it shows.
    """
    nonlinear = [layer.name for layer in network.layers if len(layer.output.shape) == 4 and _is_nonlinear(layer)]
    return [LAST] if last_only else [*nonlinear, LAST]


def layer_outputs(network, names: Sequence[str]) -> list[Any]:
    """Symbolic outputs (N, D) of these layers; of feature maps, the means over the picture."""
    average = backend.keras().layers.GlobalAveragePooling2D
    found = [last_layer(network).input if name == LAST else network.get_layer(name).output for name in names]
    return [average()(each) if len(each.shape) == 4 else each for each in found]


def last_layer(network):
    """The layer that gives the logits; after it, only calibration follows."""
    dense = backend.keras().layers.Dense
    if not (found := [layer for layer in network.layers if isinstance(layer, dense)]):
        raise ValueError(f"The network {network.name} has no dense layer that gives the classes.")
    return found[-1]


def _is_nonlinear(layer) -> bool:
    linear = backend.keras().activations.linear
    return type(layer).__name__ == "ReLU" or getattr(layer, "activation", linear) is not linear


def _share(scores, known: np.ndarray):
    """Share of known scores (m,) that are not above these (N,); never 0."""
    tf = backend.tensorflow()
    below = tf.reduce_sum(tf.cast(tf.constant(known) <= scores[:, None], tf.float32), axis=1)
    return (below + 1) / (len(known) + 1)
