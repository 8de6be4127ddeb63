"""Inference: class probabilities of pictures, by a function that is compiled once per network."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import softmax

from imgclassify import backend
from imgclassify.data.images import scale_pixels
from imgclassify.models.familiarity import Detector, layer_outputs

VIEWS = (1, 2, 6)
_MOST_PICTURES, _MOST_PIXELS = 256, 2**19  # computed at a time on a core; limits the memory used
_SMALLEST = 1e-30  # smaller probabilities count as this one in a logarithm

# Compiled functions of each network, by number of views and type of the pictures. They hold only a weak reference to
# the network, so that both can be freed.
_compiled: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def predict_probabilities(
    network, x: Any, *, views: int = 1, on_batch_end: Callable[[], None] | None = None
) -> np.ndarray:
    """Class probabilities of many pictures, float32 (N, classes).

    With test-time augmentation, the logits of several views of each picture are averaged: with 2 views, of the picture
    and its mirror image; with 6, also of both moved by a pixel up and to the left, and by a pixel down and to the
    right, the border reflected. The views are those of airbench (Jordan, 2024), which gives double weight to the
    unmoved ones.

    Args:
        network: A Keras model from pictures to probabilities.
        x: uint8, or float in [0, 1], (N, H, W, C); an array, or anything that is indexed like one.
        views: 1, 2 or 6; the work grows with it.
        on_batch_end: Called after every batch if there are several; may raise an exception to stop.

    Raises:
        ValueError: `views` is not one of these numbers.
    """
    return _in_batches(compile_network(network, views, x.dtype), network, x, on_batch_end)[0]


def predict_with_familiarity(
    network, x: np.ndarray, detector: Detector, *, views: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities, as from `predict_probabilities`, and familiarity, float32 (N,); see `Detector`.

    The familiarity is that of the unchanged picture.
    """
    probabilities, familiarity = _in_batches(compile_network(network, views, x.dtype, detector), network, x)
    return probabilities, familiarity


def predict_views(network, x: np.ndarray, *, views: int) -> np.ndarray:
    """Class probabilities of each view of many pictures, float32 (views, N, classes); `combine_views` averages them.

    The arguments are those of `predict_probabilities`. The first view is the unchanged picture.
    """
    compiled = compile_network(network, 1, x.dtype)
    return np.stack([_in_batches(compiled, network, view)[0] for view in _views(x, views, np.pad)])


def combine_views(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) from those of several views (views, N, classes): the softmax of their mean logits."""
    if len(probabilities) == 1:
        return probabilities[0]
    return softmax(np.log(np.maximum(probabilities, _SMALLEST)).mean(axis=0), axis=1)


def batch_length(shape: tuple[int, ...]) -> int:
    """How many pictures of this shape (H, W, ...) are computed at a time on a core.

    Example:
        >>> batch_length((32, 32, 3)), batch_length((224, 224, 3))
        (256, 10)
    """
    return max(1, min(_MOST_PICTURES, _MOST_PIXELS // int(np.prod(shape[:2]))))


def _in_batches(compiled, network, x: np.ndarray, on_batch_end: Callable[[], None] | None = None) -> list[np.ndarray]:
    tf, step = backend.tensorflow(), batch_length(x.shape[1:])
    taken = network.input_shape[1:]  # TensorFlow would not say what is wrong
    if any(side not in (None, given) for side, given in zip(taken, x.shape[1:], strict=True)):
        raise ValueError(f"The network takes pictures of shape {taken}. Received: {tuple(x.shape[1:])}")

    def predict(start: int) -> list[np.ndarray]:
        return [each.numpy() for each in compiled(tf.constant(x[start : start + step]))]

    if len(x) == 0:
        return [np.empty((0, *each.shape[1:]), np.float32) for each in compiled.outputs]
    if len(x) <= step:  # no thread for a single picture
        return predict(0)
    results = []
    for each in backend.in_parallel(predict, range(0, len(x), step)):
        results.append(each)
        if on_batch_end is not None:
            on_batch_end()
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def _views(x, views: int, pad: Callable) -> list:
    """The views of pictures, which are arrays or tensors; `pad` is numpy's or TensorFlow's."""
    shown = [x]
    if views == 6:
        wider = pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "reflect")
        shown += [wider[:, 2:, 2:], wider[:, :-2, :-2]]
    return shown + [view[:, :, ::-1] for view in shown] if views > 1 else shown


def compile_network(network, views: int, dtype: np.dtype, detector: Detector | None = None):
    """The network as one TensorFlow function for any number of pictures, traced once.

    It gives the probabilities and, with a detector, the familiarity.
    """
    if views not in VIEWS:
        raise ValueError(f"views must be one of {', '.join(map(str, VIEWS))}. Received: views={views}")
    key = views, dtype, detector
    if (function := _compiled.get(network, {}).get(key)) is not None:
        return function
    with backend.tracing():
        functions = _compiled.setdefault(network, {})
        if key not in functions:  # else another thread was first
            tf, reference = backend.tensorflow(), weakref.ref(network)

            def answer(x):
                network = reference()
                watched = layer_outputs(network, detector.layers) if detector else []
                whole = backend.keras().Model(network.inputs[0], [*watched, *network.outputs]) if detector else network
                shown = _views(scale_pixels(x), views, tf.pad)
                # One call per view rather than one for all views: the calls run in parallel.
                given = [whole(view, training=False) for view in shown]
                answers = [tf.cast(each[-1] if detector else each, tf.float32) for each in given]
                familiarity = [detector.familiarity(given[0][:-1])] if detector else []
                if views == 1:
                    return [answers[0], *familiarity]
                logits = [tf.math.log(tf.maximum(each, _SMALLEST)) for each in answers]
                return [tf.nn.softmax(tf.add_n(logits) / views), *familiarity]

            signature = tf.TensorSpec((None, *network.input_shape[1:]), dtype)
            function = tf.function(answer, autograph=False)  # autograph would only write temporary files
            functions[key] = function.get_concrete_function(signature)  # traced here, and never again
        return functions[key]
