"""Applications: VGG16, ResNet50V2 and MobileNetV2 of keras.applications, with the weights that Keras publishes."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgclassify import backend
from imgclassify.data import download
from imgclassify.models.backbones import BACKBONES, add_classes, check_size
from imgclassify.progress import Progress
from imgclassify.settings import cache_dir, is_on, keras_cache_dir, setting


class _Application(NamedTuple):
    builder: str  # its name in keras.applications
    address: str  # of its weights without the last layer, below `_ADDRESS`
    md5: str  # of this file, from Keras' source, which has none for MobileNetV2
    ends: tuple[str, ...]  # Keras' names of the layers at which its stages end, from the second
    scale: float  # with the offset, from [0, 1] to the pixels that it expects
    offset: float | list[float]


_ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/"
_SMALLEST = 32  # side of its pictures, in pixels
_NAME = "_weights_tf_dim_ordering_tf_kernels_"
_VGG16_ENDS = ("block2_pool", "block3_pool", "block4_pool")
_RESNET_ENDS = ("conv2_block3_out", "conv3_block4_out", "conv4_block6_out")
_MOBILENET_ENDS = ("block_2_add", "block_5_add", "block_9_add", "block_12_add", "block_15_add")
_NEGATIVE_MEANS = [-123.68, -116.779, -103.939]  # of red, green and blue in ImageNet
APPLICATIONS = {
    "vgg16": _Application(
        "VGG16", f"vgg16/vgg16{_NAME}notop.h5", "6d6bbae143d832006294945121d1f1fc", _VGG16_ENDS, 255.0, _NEGATIVE_MEANS
    ),
    "resnet50v2": _Application(
        "ResNet50V2", f"resnet/resnet50v2{_NAME}notop.h5", "fac2f116257151a9d068a22e544a4917", _RESNET_ENDS, 2.0, -1.0
    ),
    "mobilenetv2": _Application(
        "MobileNetV2", f"mobilenet_v2/mobilenet_v2{_NAME}1.0_224_no_top.h5", "", _MOBILENET_ENDS, 2.0, -1.0
    ),
}


def build_application(architecture: str, input_shape: tuple[int, int, int], num_classes: int):
    """A network of keras.applications with ImageNet's weights and a new last layer.

    "vgg16" (Simonyan and Zisserman, 2015), "resnet50v2" (He et al., 2016) or "mobilenetv2" (Sandler et al., 2018). The
    layers are flat and named as in Keras, except for the ends of stages, which are named for `Recipe.frozen`. A layer
    inside gives pixels the range that the network expects; VGG16's first convolution takes RGB, where Keras' takes BGR.
    Batch normalisation always uses ImageNet's statistics.

    The weights are the file that Keras downloads. It is looked for in `IMGCLASSIFY_DATA_DIR/weights`, in `weights` of
    this package's cache and in Keras' own cache, and else downloaded. It is read as data, in the order of the layers,
    as Keras does. Its MD5 must be the one in Keras' source; there is none for MobileNetV2, of whose file only the
    shapes are checked, and that all numbers are finite. The weights of the last layer are zero.
    """
    check_size(architecture, input_shape, _SMALLEST)
    keras, application = backend.keras(), APPLICATIONS[architecture]
    inputs = keras.layers.Input(input_shape)
    pixels = keras.layers.Rescaling(application.scale, application.offset, name="preprocessing")(inputs)
    base = getattr(keras.applications, application.builder)(include_top=False, weights=None, input_tensor=pixels)
    variables = [variable for layer in base.layers for variable in layer.weights]
    shapes = [tuple(variable.shape) for variable in variables]
    for variable, value in zip(variables, _read(_find(application, shapes), shapes), strict=True):
        variable.assign(value)
    if architecture == "vgg16":
        kernel = base.get_layer("block1_conv1").kernel
        kernel.assign(kernel.numpy()[:, :, ::-1])
    for layer in base.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # in Keras, it then works as in inference
    for stage, name in zip(BACKBONES[architecture], application.ends, strict=True):
        base.get_layer(name).name = stage
    return add_classes(inputs, base.output, num_classes, architecture)


def _find(application: _Application, shapes: list[tuple]) -> Path:
    """The file with the weights, whose variables have these shapes: on this machine, else downloaded."""
    expected = application.md5 or hashlib.sha256(str(shapes).encode()).hexdigest()

    def digest(path: Path) -> str:
        try:
            _read(path, shapes)
            return hashlib.md5(path.read_bytes()).hexdigest() if application.md5 else expected
        except ValueError:
            return ""

    url, own = _ADDRESS + application.address, setting("DATA_DIR")
    folders = [Path(own).expanduser() / "weights"] if own else []
    folders += [cache_dir() / "weights", keras_cache_dir().parent / "models"]
    paths = [folder / Path(url).name for folder in folders]
    for path in paths:
        if path.is_file() and digest(path) == expected:
            return path
    options: dict[str, Any] = {"digest": digest, "patience": None if is_on("OFFLINE") else download.PATIENT}
    try:
        with Progress() as progress:
            return download.fetch([url], paths[-2], sha256=expected, progress=progress, **options)
    except (download.DownloadError, OSError) as error:
        raise ValueError(
            f"The weights of {application.builder} were not found, or are damaged. Tried: "
            f"{', '.join(map(str, paths))}, the network ({error}). To get them, download {url} "
            f"and put it into {paths[0].parent}."
        ) from error


def _read(path: Path, shapes: list[tuple]) -> list[np.ndarray]:
    """The arrays in a weights file of Keras' older format; raises `ValueError` if they are not of these shapes."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            groups = [file[name] for name in file.attrs["layer_names"]]
            stored = [group[name] for group in groups for name in group.attrs["weight_names"]]
            if [each.shape for each in stored] != shapes:
                raise ValueError(f"expected {len(shapes)} arrays of certain shapes, found {len(stored)} of others")
            if any(each.file.filename != file.filename or each.external or each.is_virtual for each in stored):
                raise ValueError("it refers to another file")
            arrays = [each[()].astype(np.float32, casting="same_kind") for each in stored]
            if not all(np.isfinite(each).all() for each in arrays):
                raise ValueError("it holds numbers that are not finite")
            return arrays
    except (OSError, LookupError, RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
