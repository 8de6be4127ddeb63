"""Networks: the architectures, from float32 pictures in [0, 1] to one probability per class."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imgclassify import backend
from imgclassify.data.images import scale_pixels
from imgclassify.models.applications import APPLICATIONS, build_application
from imgclassify.models.backbones import BACKBONE, GUIDED, build_guided, build_lite0


@dataclass(frozen=True)
class Preprocessing:
    """How a picture is prepared for a network; scaling to [0, 1] is the same for all networks."""

    size: int  # side of the square that the architecture was designed for, in pixels
    # Side of the central square that is cut out, as a share of the picture's shorter side, where the network comes with
    # classes of its own; what is trained here sees the whole central square.
    crop: float = 1.0


PREPROCESSING = {
    "baseline": Preprocessing(32),
    "airbench": Preprocessing(32),
    BACKBONE: Preprocessing(224, crop=0.875),  # for its own classes, as its accuracy was published
    **dict.fromkeys((GUIDED, *APPLICATIONS), Preprocessing(224)),
}


def build_model(
    architecture: str = "baseline", *, input_shape: tuple[int, int, int] = (32, 32, 3), num_classes: int = 10
):
    """Build a network, not yet compiled; its weights are random, except for those of a backbone.

    "baseline" (122,570 parameters for ten classes): three 3 x 3 convolutions with 32, 64 and 64 filters and
    ReLU, a 2 x 2 max-pooling after each of the first two, then a dense layer of 64, dropout of one half and
    a softmax. It is the network of TensorFlow's CNN tutorial with dropout added.

    "airbench": based on the network of airbench94 (Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv
    2404.00498; itself based on Page's "How to Train Your ResNet" and tysam's hlb-CIFAR10). A fixed convolution of
    2 x 2 pixels that `whiten` fills from the training pictures, then three blocks of 64, 192 and 240 filters:
    convolution, 2 x 2 max-pooling, batch normalisation, convolution, batch normalisation; then global max-pooling
    and a dense layer with softmax. The last two blocks have a third convolution, and a shortcut around the second and
    third, as in airbench96. Changed for processors: fewer filters, and SiLU (Elfwing et al., 2018) in place of GELU,
    except after the whitening, where it is ReLU.

    "efficientnet-lite0": a backbone with ImageNet's weights, for photos; see `build_lite0`.
    "efficientnet-lite0-guided": the same for photos of CIFAR-10's classes; see `build_guided`.

    "vgg16", "resnet50v2", "mobilenetv2": other backbones, whose weights are downloaded; see `build_application`.

    Args:
        architecture: One of these names.
        input_shape: Height, width and channels of a picture, in pixels; at least 18 x 18. Backbones take square RGB
            pictures of 96 to 288 pixels ("efficientnet-lite0", with "-guided" or without) or of 32 to 288.
        num_classes: Number of classes, at least 2; 10 for "efficientnet-lite0-guided". With 1,000, "efficientnet-lite0"
            has ImageNet's own.

    Returns:
        A `keras.Model` from float32 pictures (N, *input_shape) in [0, 1] to probabilities (N, num_classes).

    Raises:
        ValueError: The architecture is unknown, a number is out of range, or a backbone's weights are damaged, or not
            on this machine and cannot be downloaded now.

    Example:
        >>> build_model().count_params()
        122570
    """
    if architecture not in _ARCHITECTURES:
        known = sorted(_ARCHITECTURES)
        raise ValueError(f"Unknown architecture: use one of {known}. Received: architecture={architecture!r}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2. Received: num_classes={num_classes}")
    if len(input_shape) != 3 or min(input_shape[:2]) < 18 or input_shape[2] < 1:
        expected = "input_shape must be (height, width, channels), at least 18 x 18 pixels."
        raise ValueError(f"{expected} Received: input_shape={input_shape}")
    height, width, channels = input_shape
    return _ARCHITECTURES[architecture]((height, width, channels), num_classes)


def _baseline(input_shape: tuple[int, int, int], num_classes: int):
    keras = backend.keras()
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input(input_shape),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(num_classes, activation="softmax"),
        ],
        name="baseline",
    )


AIRBENCH_BLOCKS = ((64, 2), (192, 3), (240, 3))  # filters and convolutions


def _airbench(input_shape: tuple[int, int, int], num_classes: int):
    keras = backend.keras()
    layers = keras.layers

    def convolution(x, filters):
        return layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)

    def normalised(x):
        # A low momentum, because the weights change quickly; no scale, because the next convolution can learn it.
        return layers.BatchNormalization(scale=False, momentum=0.8, epsilon=1e-5)(x)

    def activated(x):
        return layers.Activation("silu")(x)

    inputs = layers.Input(input_shape)
    patch = 2 * 2 * input_shape[-1]
    x = layers.ReLU()(layers.Conv2D(2 * patch, 2, trainable=False, name="whitening")(inputs))
    for filters, convolutions in AIRBENCH_BLOCKS:
        x = start = activated(normalised(layers.MaxPooling2D(2)(convolution(x, filters))))
        x = normalised(convolution(x, filters))
        if convolutions == 3:
            x = layers.Add()([normalised(convolution(activated(x), filters)), start])
        x = activated(x)
    x = layers.Rescaling(1 / 9)(layers.GlobalMaxPooling2D()(x))
    outputs = layers.Dense(num_classes, use_bias=False, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="airbench")


_ARCHITECTURES = {"baseline": _baseline, "airbench": _airbench, BACKBONE: build_lite0, GUIDED: build_guided}
_ARCHITECTURES |= {name: functools.partial(build_application, name) for name in APPLICATIONS}


def whiten(model, pictures: np.ndarray) -> None:
    """Fill the layer "whitening", if the model has one, from training pictures.

    Its filters are the principal axes of the pictures' patches, each scaled to unit variance, and their negatives, so
    that no part of the picture is lost in the ReLU that follows (Page, 2019; Jordan, 2024).

    Args:
        model: From `build_model`; modified.
        pictures: uint8 (N, H, W, C), of all classes; a few thousand are plenty.
    """
    layer = next((each for each in model.layers if each.name == "whitening"), None)
    if layer is None:
        return
    size, channels = layer.kernel_size[0], pictures.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (size, size), axis=(1, 2))[:, ::2, ::2]
    patches = scale_pixels(windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, size * size * channels))
    mean = patches.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
    filters = axes / np.sqrt(np.maximum(variances, 0) + 5e-4)  # one per column; the small number damps noise
    filters = np.concatenate([filters, -filters], axis=1)
    layer.set_weights([filters.reshape(size, size, channels, -1), -mean @ filters])


def with_temperatures(model, temperatures: Sequence[float]):
    """A network whose output is the mean of the softmax of its logits, divided by each of these temperatures above 0.

    Made of standard Keras layers (`Rescaling`, `Softmax`, `Average`), so that plain Keras needs only the saved file.
    The given model ends in a dense layer with softmax; the result shares its layers. Without temperatures, it is the
    model itself.
    """
    if not temperatures:
        return model
    keras, last = backend.keras(), model.layers[-1]
    dense = keras.layers.Dense.from_config(last.get_config() | {"activation": "linear", "name": "logits"})
    logits = dense(last.input)
    dense.set_weights(last.get_weights())
    answers = [keras.layers.Softmax()(keras.layers.Rescaling(1 / each)(logits)) for each in temperatures]
    output = keras.layers.Average()(answers) if len(answers) > 1 else answers[0]
    return keras.Model(model.inputs[0], output, name=model.name)
