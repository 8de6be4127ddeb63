"""Explain: what in a picture speaks for a class, and which training pictures it resembles."""

import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image, ImageFilter

from imgclassify import backend, display
from imgclassify.classifier import Classifier
from imgclassify.data.images import Picture, scale_pixels, to_bytes
from imgclassify.models.familiarity import LAST, layer_outputs, unit
from imgclassify.models.inference import predict_probabilities

Method = Literal["hirescam", "grad-cam", "occlusion", "rise"]
METHODS = get_args(Method)
_SIDE = 32  # of a mask, and of the finest grid, over a picture of any size
_MASKS, _CELLS = 1000, 7  # of RISE; cells in a row of a mask
_PATCH, _STRIDE = 8, 4  # of occlusion, in pixels of a mask
_SMALLEST = 1e-12
_BATCH = 64  # pictures at a time: gradients take memory

# Compiled functions of each network, by method, layer and type of the pictures; see `models.inference`.
_compiled: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in a picture a model finds what speaks for a class."""

    image: np.ndarray  # what the network was given, uint8 (H, W, 3)
    heat: np.ndarray  # float32 (h, w), from 0 to 1; each value stands for a cell of a grid over the picture
    label: str  # the class
    against: str = ""  # the class that it is compared with, if any
    method: Method = "hirescam"
    layer: str = ""  # its name, if one was asked for

    @property
    def empty(self) -> bool:
        """Whether nothing in the picture speaks for the class: the heat is zero everywhere."""
        return not self.heat.any()

    @property
    def overlay(self) -> np.ndarray:
        """The picture in grey, under the heat in orange, uint8 (S, S, 3)."""
        return display.overlay(self.image, self.heat)

    def __str__(self) -> str:
        rather = f" rather than {self.against}" if self.against else ""
        if self.empty:
            return f"nothing that speaks for {self.label}{rather} was found"
        return f"what speaks for {self.label}{rather}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        uri, says = display.picture_uri(self.overlay), display.escape(self)
        return display.fragment(
            f'<figure><img width="224" alt="{says}" src="{uri}"><figcaption>{says}</figcaption></figure>'
        )


def explain_image(
    model,
    picture: Picture,
    *,
    label: str | None = None,
    against: str | None = None,
    method: Method = "hirescam",
    layer: str | None = None,
) -> Explanation:
    """Show what in a picture speaks for a class; returns an `Explanation`. The methods are those of `heat_maps`.

    Args:
        model: A `Classifier`, or a Keras model from square RGB pictures to probabilities.
        picture: Path, bytes, binary file, Pillow image or array; see `decode_image`.
        label: The class; default: the most probable one.
        against: A second class: then the map shows what speaks for the first class rather than for this one.
        method: See `heat_maps`.
        layer: See `heat_maps`.

    Raises:
        ImageError: The picture cannot be used.
        ValueError: A class, method or layer is unknown.
    """
    classifier = Classifier.of(model)
    image = classifier.prepare(picture)
    return explain_prepared(classifier, image, label=label, against=against, method=method, layer=layer)


def explain_prepared(
    model,
    image: np.ndarray,
    *,
    label: str | None = None,
    against: str | None = None,
    method: Method = "hirescam",
    layer: str | None = None,
) -> Explanation:
    """As `explain_image`, for one picture that already has the model's input shape, uint8 or float in [0, 1]."""
    classifier = Classifier.of(model)
    names = classifier.class_names
    for each in filter(None, (label, against)):
        if each not in names:
            raise ValueError(f"The model's classes are {', '.join(names[:20])}. Received: {each!r}")
    label = classifier.answer(image).label if label is None else label
    x, second = np.asarray(image)[np.newaxis], None if against is None else [names.index(against)]
    (heat,) = heat_maps(classifier, x, [names.index(label)], against=second, method=method, layer=layer)
    shown = np.broadcast_to(to_bytes(x[0]), (*x.shape[1:3], 3))  # a grey picture too
    return Explanation(shown, heat, label, against or "", method, layer or "")


def heat_maps(
    model,
    x: np.ndarray,
    classes: Sequence[int] | np.ndarray,
    *,
    against: Sequence[int] | None = None,
    method: Method = "hirescam",
    layer: str | None = None,
) -> np.ndarray:
    """What speaks for a class in each of many pictures: float32 (N, h, w), from 0 to 1; the largest is 1, or all are 0.

    - "grad-cam" (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
      2017): a layer's feature maps, added with the mean gradient over each map as its weight.
    - "hirescam" (Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
      networks", 2020): the same without the mean, so that each place has its own gradient.
    - "occlusion" (after Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014): how much less
      probable the class is with a square of the picture blurred, wherever it is.
    - "rise" (after Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models", 2018): the
      same with many random parts of the picture blurred at once.

    The first two take one pass through the network and back. The gradient is that of the class's log-odds; with one
    softmax at the end, they are its logit less the log-sum-exp of the others. The other two only look at what the model
    answers, so that they can confirm the map. What speaks against a class is not shown.

    Args:
        model: A `Classifier`, or a Keras model from pictures to probabilities or logits, Sequential or functional, flat
            or nested.
        x: Prepared pictures, uint8 or float in [0, 1], (N, H, W, C).
        classes: Number of the class to explain of each picture, (N,).
        against: A second class of each picture: what speaks for the first rather than for this one.
        method: One of these names.
        layer: Name of the layer for the first two. By default, "grad-cam" takes the last layer with feature maps, and
            "hirescam" the mean over the last layer of each grid of at most 32 x 32 places: on validation pictures, no
            single layer was good for all networks, and this was.

    Raises:
        ValueError: The method or layer is unknown, the layer has no feature maps that lead to the answer, or the
            classes are not those of the pictures.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}. Received: method={method!r}")
    if layer is not None and method in ("occlusion", "rise"):
        raise ValueError(f"{method} looks at no layer. Received: layer={layer!r}")
    classifier, firsts = Classifier.of(model), np.asarray(classes, np.int32)
    seconds = np.full_like(firsts, -1) if against is None else np.asarray(against, np.int32)
    network, count = classifier.network, len(classifier.class_names)
    if (
        not 0 < len(x) == len(firsts) == len(seconds)
        or min(*firsts, *seconds + 1) < 0
        or max(*firsts, *seconds) >= count
    ):
        accepted = f"one class from 0 to {count - 1} per picture, and at least one picture"
        raise ValueError(f"Expected {accepted}. Received: {len(x)} pictures, classes {firsts} against {seconds}")
    pairs = ((x[row : row + 1][0], firsts[row], seconds[row]) for row in range(len(x)))
    if method in ("occlusion", "rise"):
        masks = _squares() if method == "occlusion" else _random_masks()
        heat = np.stack([_by_masks(network, *each, masks=masks) for each in pairs])
    else:
        compiled, tf = _compile(network, method, layer, x.dtype), backend.tensorflow()
        parts = [slice(start, start + _BATCH) for start in range(0, len(x), _BATCH)]
        heat = np.concatenate(
            [compiled(*(tf.constant(every[part]) for every in (x, firsts, seconds))) for part in parts]
        )
    heat = np.maximum(heat, 0)
    highest = heat.max(axis=(1, 2), keepdims=True)
    return np.divide(heat, highest, out=np.zeros_like(heat), where=highest > 0)


def _compile(network, method: str, layer: str | None, dtype: np.dtype):
    """A TensorFlow function from pictures and numbers of two classes, (N,), to maps, (N, h, w); traced once."""
    key = method, layer, dtype
    if (function := _compiled.get(network, {}).get(key)) is not None:
        return function
    with backend.tracing():
        tf, reference = backend.tensorflow(), weakref.ref(network)

        def answer(x, first, second):
            outputs, logits = _run(reference(), scale_pixels(x))
            chosen = _choose(outputs, method, layer)
            gradients = tf.gradients(_lead(logits, first, second), chosen)
            if None in gradients:
                raise ValueError(f"The layer {layer} does not lead to the answer: name one that does.")
            if method == "grad-cam":
                gradients = [tf.reduce_mean(each, (1, 2), keepdims=True) for each in gradients]
            heat = [tf.nn.relu(tf.reduce_sum(a * b, -1, keepdims=True)) for a, b in zip(chosen, gradients, strict=True)]
            if len(heat) == 1:
                return heat[0][..., 0]
            side = [_SIDE, _SIDE]
            wide = [tf.image.resize(each, side)[..., 0] for each in heat]
            return tf.add_n([each / (tf.reduce_sum(each, (1, 2), keepdims=True) + _SMALLEST) for each in wide])

        pictures, numbers = tf.TensorSpec((None, *network.input_shape[1:]), dtype), tf.TensorSpec((None,), tf.int32)
        function = tf.function(answer, autograph=False).get_concrete_function(pictures, numbers, numbers)
        return _compiled.setdefault(network, {}).setdefault(key, function)


def _lead(logits: Sequence[Any], first, second):
    """Log-odds of the first classes against the second, or against all others (-1): a tensor (N,).

    The probabilities are the mean of the softmax of these logits, (N, classes) each; all is computed in logarithms, so
    that nothing is lost where the network is sure.
    """
    tf = backend.tensorflow()
    logs = tf.stack([tf.nn.log_softmax(tf.cast(each, tf.float32)) for each in logits], axis=2)
    own = tf.one_hot(first, logs.shape[1], dtype=tf.bool, on_value=True, off_value=False)
    other = tf.one_hot(second, logs.shape[1], dtype=tf.bool, on_value=True, off_value=False)
    rivals = tf.where(second[:, tf.newaxis] < 0, ~own, other)

    def log_share(taken):
        return tf.reduce_logsumexp(tf.where(taken[..., tf.newaxis], logs, logs.dtype.min), axis=(1, 2))

    return log_share(own) - log_share(rivals)


def _run(network, x) -> tuple[dict[str, Any], list[Any]]:
    """Outputs of all layers, nested ones too, in the order of their last calls; and the logits.

    The logits are what the softmax takes that gives the answer, or each of those whose mean is the answer; without any,
    the answer itself. Each layer's `call` is wrapped while it runs, because Keras cannot connect a layer inside a
    nested network to the outer one's input.
    """
    outputs: dict[str, Any] = {}
    softmaxes: list[tuple[Any, Any]] = []  # what each gave, and what it took
    means: list[tuple[Any, Any]] = []
    keras = backend.keras()

    def keep(name: str, given) -> None:
        outputs.pop(name, None)  # a layer that is called again comes later
        outputs[name] = given

    with ExitStack() as at_the_end:
        for layer in _flat(network):
            note: Callable = lambda given, taken, name=layer.name: keep(name, given)  # noqa: E731
            at_the_end.enter_context(_noting(layer, "call", note))
            if getattr(layer, "activation", None) is keras.activations.softmax:
                at_the_end.enter_context(_noting(layer, "activation", lambda *pair: softmaxes.append(pair)))
            elif isinstance(layer, keras.layers.Softmax):
                at_the_end.enter_context(_noting(layer, "call", lambda *pair: softmaxes.append(pair)))
            elif isinstance(layer, keras.layers.Average):
                at_the_end.enter_context(_noting(layer, "call", lambda *pair: means.append(pair)))
        answer = network(x, training=False)
    parts = next((taken for given, taken in means if given is answer), [answer])
    logits = [taken for part in parts for given, taken in softmaxes if given is part]
    return outputs, logits or [answer]


def _flat(network) -> Iterator[Any]:
    for layer in network.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _flat(layer)


@contextmanager
def _noting(layer, attribute: str, note) -> Iterator[None]:
    """While this lasts, what a layer's method gives and takes in this thread is handed to `note`."""
    method, own, thread = getattr(layer, attribute), attribute in vars(layer), threading.get_ident()

    @functools.wraps(method)  # another thread may save the layer meanwhile, with the function's name
    def noted(*arguments, **options):
        given = method(*arguments, **options)
        if threading.get_ident() == thread:
            note(given, next(iter((*arguments, *options.values()))))
        return given

    setattr(layer, attribute, noted)
    try:
        yield
    finally:
        if own:
            setattr(layer, attribute, method)
        else:  # the method of its class
            delattr(layer, attribute)


def _choose(outputs: dict[str, Any], method: str, layer: str | None) -> list[Any]:
    """Feature maps, (N, h, w, channels): of the layer of this name, or of those that `heat_maps` describes."""
    grids = {name: each for name, each in outputs.items() if len(getattr(each, "shape", ())) == 4}
    maps = {name: each for name, each in grids.items() if name == layer or tuple(each.shape[1:3]) != (1, 1)}
    if not maps or (layer is not None and layer not in maps):
        raise ValueError(f"The layers with feature maps are {', '.join(maps) or 'none'}. Received: layer={layer!r}")
    if layer is not None:
        return [maps[layer]]
    last = {tuple(each.shape[1:3]): each for each in maps.values()}
    coarse = [each for grid, each in last.items() if None not in grid and max(grid) <= _SIDE]
    return coarse if coarse and method == "hirescam" else [list(maps.values())[-1]]


class _Masked:
    """A picture under masks, float32 (n, H, W, C), those rows only that are asked for; what a mask hides is blurred."""

    def __init__(self, image: np.ndarray, masks: np.ndarray):
        self._image, self._masks = scale_pixels(image), masks
        self._blurred = blurred(image)
        self.shape, self.dtype = (len(masks), *image.shape), np.dtype(np.float32)

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, rows: slice) -> np.ndarray:
        tf = backend.tensorflow()
        shown = tf.image.resize(self._masks[rows, ..., np.newaxis], self.shape[1:3]).numpy()
        return self._blurred + shown * (self._image - self._blurred)


def blurred(image: np.ndarray) -> np.ndarray:
    """A picture in which nothing can be recognised, but whose colours stay: float32 (H, W, C), in [0, 1]."""
    radius = ImageFilter.GaussianBlur(len(image) / 8)
    channels = [Image.fromarray(each).filter(radius) for each in np.moveaxis(to_bytes(image), -1, 0)]
    return scale_pixels(np.stack([np.asarray(each) for each in channels], axis=-1))


def _squares() -> np.ndarray:
    """Masks, float32 (n, 32, 32), that hide one square each."""
    starts = range(_STRIDE - _PATCH, _SIDE, _STRIDE)
    masks = np.ones((len(starts), len(starts), _SIDE, _SIDE), np.float32)
    for row, top in enumerate(starts):
        for column, left in enumerate(starts):
            masks[row, column, max(top, 0) : top + _PATCH, max(left, 0) : left + _PATCH] = 0
    return masks.reshape(-1, _SIDE, _SIDE)


def _random_masks() -> np.ndarray:
    """Masks, float32 (n, 32, 32), that hide about half of the cells of a grid, smoothed and moved by chance."""
    chance, cell = np.random.default_rng(0), -(-_SIDE // _CELLS)
    cells = chance.integers(0, 2, (_MASKS, _CELLS + 1, _CELLS + 1, 1)).astype(np.float32)
    wide = backend.tensorflow().image.resize(cells, [(_CELLS + 1) * cell] * 2).numpy()[..., 0]
    places = chance.integers(0, cell, (_MASKS, 2))
    return np.stack(
        [each[top : top + _SIDE, left : left + _SIDE] for each, (top, left) in zip(wide, places, strict=True)]
    )


def _by_masks(network, image: np.ndarray, first: int, second: int, *, masks: np.ndarray) -> np.ndarray:
    """How much more probable a class is where a place is shown than where it is hidden, float32 (32, 32)."""
    probabilities = predict_probabilities(network, _Masked(image, masks))
    said = probabilities[:, first] - (probabilities[:, second] if second >= 0 else 0)
    shown, hidden = (np.tensordot(said, each, 1) / each.sum(axis=0) for each in (masks, 1 - masks))
    return (shown - hidden).astype(np.float32)


class TrainingPictures:
    """Pictures that a model was trained on, by what its last layer takes: to find those that another one resembles.

    Args:
        model: A `Classifier`, or a Keras model that ends in a dense layer.
        x: Prepared pictures, uint8 or float in [0, 1], (N, H, W, C); each passes through the network once.
        y: Their class numbers, (N,).
    """

    def __init__(self, model, x: np.ndarray, y: np.ndarray):
        self._model, self._labels = Classifier.of(model), np.asarray(y)
        network = self._model.network
        self._front = backend.keras().Model(network.inputs[0], layer_outputs(network, [LAST])[0])
        self._features = self._features_of(x)

    def _features_of(self, x: np.ndarray) -> np.ndarray:
        return unit(predict_probabilities(self._front, self._model.fitting(x))).numpy()

    def nearest(self, image: np.ndarray, label: str, count: int = 5) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the pictures of a class that are nearest to a picture, nearest first, and their cosine similarities.

        Args:
            image: A prepared picture, (H, W, C).
            label: Name of the class.
            count: How many.
        """
        rows = np.flatnonzero(self._labels == self._model.class_names.index(label))
        similar = self._features[rows] @ self._features_of(image[np.newaxis])[0]
        order = np.argsort(-similar, kind="stable")[:count]
        return rows[order], similar[order]
