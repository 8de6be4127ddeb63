"""Safety: what a model file may hold. It is read as data and checked before Keras builds anything from it.

Keras' safe mode is not enough: a layer may name a public function of Keras, which is then called on loading, and some
of these write files. So only classes on the lists here are built, and only if the file has weights enough for them.
"""

import contextlib
import io
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from imgclassify import backend

_MODELS = {"Functional", "Sequential", "Model"}
_LAYERS = {
    "InputLayer", "Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Dense", "Flatten", "Reshape",
    "Permute", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "BatchNormalization",
    "LayerNormalization", "GroupNormalization", "UnitNormalization", "MaxPooling2D",
    "AveragePooling2D", "GlobalMaxPooling2D", "GlobalAveragePooling2D", "ZeroPadding2D", "Cropping2D", "UpSampling2D",
    "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Activation", "ReLU", "LeakyReLU",
    "PReLU", "ELU", "Softmax", "Rescaling", "Resizing", "CenterCrop", "RandomFlip", "RandomRotation", "RandomZoom",
    "RandomTranslation", "RandomContrast", "RandomBrightness", "RandomCrop",
}  # fmt: skip
_PARTS = {
    "Zeros", "Ones", "Constant", "RandomNormal", "RandomUniform", "TruncatedNormal", "VarianceScaling", "GlorotUniform",
    "GlorotNormal", "HeUniform", "HeNormal", "LecunUniform", "LecunNormal", "Orthogonal", "Identity",
    "IdentityInitializer", "L1", "L2", "L1L2", "MaxNorm", "MinMaxNorm", "NonNeg", "UnitNorm", "DTypePolicy",
}  # fmt: skip
_TENSOR = "__keras_tensor__"  # how a configuration refers to a layer's output
_MODULES = (None, "keras", "keras.layers", "keras.initializers", "keras.regularizers", "keras.constraints",
            "keras.models", "keras.src.models.functional", "keras.src.models.sequential", "keras.src.models.model",
            "keras.src.engine.functional", "keras.engine.functional", "keras.src.engine.sequential",
            "keras.engine.sequential")  # fmt: skip
_ACTIVATIONS = {
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "swish", "mish", "sigmoid",
    "hard_sigmoid", "hard_silu", "hard_swish", "tanh", "softplus", "softsign", "softmax", "exponential",
}  # fmt: skip
_FUNCTION_MODULES = ("builtins", "keras.activations", None)  # of an activation that is written as a dictionary

_MEMBERS = {"metadata.json": 1_000_000, "config.json": 10_000_000, "model.weights.h5": 1_500_000_000}  # bytes, at most
_MOST_CLASSES = 10_000  # layers with their initializers and so on; a network of 300 layers has some 2,000
_MOST_VALUES = 2**28  # of all outputs of all layers for one picture: a gibibyte
_COMPRESSION = 20  # to one, at most
_SEED_VALUES = 2  # of the state of a random layer, which .h5 files do not hold


class UnsafeModelError(Exception):
    """What is wrong with a model file: the end of a sentence that begins with its path."""


def check_file(path: Path) -> None:
    """Check a `.keras` or `.h5` file before Keras reads it.

    Raises:
        UnsafeModelError: It holds a class or function that is not on the lists, needs more memory than its weights
            have, refers to other files, or is no Keras file.
        Exception: h5py and zipfile raise many kinds for a damaged file.
    """
    with _weights(path) as (weights, text):
        if len(text) > _MEMBERS["config.json"]:
            raise UnsafeModelError(f"has a configuration of {len(text):,} bytes, more than is accepted")
        config = json.loads(text)
        if isinstance(config, dict):
            config.pop("compile_config", None)  # the optimizer and the loss, which Keras is told not to read
        if (classes := _check_classes(config)) > _MOST_CLASSES:
            raise UnsafeModelError(f"has {classes:,} layers and parts: at most {_MOST_CLASSES:,} are accepted")
        elements = _check_weights(weights)
    _check_size(config, elements)


def check_network(network) -> None:
    """Check that a network is a picture classifier.

    Raises:
        UnsafeModelError: It takes something other than square or rectangular RGB pictures, gives something other
            than one probability per class, or has weights that are not finite.
    """
    shapes = [getattr(network, name, None) for name in ("input_shape", "output_shape")]
    fixed = all(isinstance(shape, tuple) and all(isinstance(side, int) for side in shape[1:]) for shape in shapes)
    by_name = isinstance(getattr(network, "input", None), dict)
    taken, given = cast(tuple, shapes)
    if by_name or not fixed or len(taken) != 4 or taken[-1] != 3 or len(given) != 2 or given[-1] < 2:
        raise UnsafeModelError(
            "is no picture classifier: expected one input (N, height, width, 3) and one output (N, classes). "
            f"Found: {'inputs by name' if by_name else f'{taken} and {given}'}"
        )
    if not all(np.isfinite(weight).all() for weight in network.get_weights()):
        raise UnsafeModelError("has weights that are not finite, as after a training that diverged")
    pictures = np.random.default_rng(0).random((2, *taken[1:]), dtype=np.float32)
    answers = np.asarray(network(pictures, training=False))
    if not (np.all(answers >= 0) and np.allclose(answers.sum(axis=1), 1, atol=1e-2)):
        raise UnsafeModelError("gives no probabilities: expected a softmax at the end, so that each row sums to 1")


@contextlib.contextmanager
def _weights(path: Path) -> Iterator[tuple[Any, str | bytes]]:
    """The open weights of a model file, and its configuration as text."""
    import h5py

    if path.suffix == ".h5":
        with h5py.File(path, "r") as file:
            yield file, file.attrs.get("model_config", "null")
        return
    with zipfile.ZipFile(path) as archive:
        if (names := sorted(archive.namelist())) != sorted(_MEMBERS):
            raise UnsafeModelError(f"holds {', '.join(names[:5])}: expected {', '.join(_MEMBERS)}")
        for each in archive.infolist():
            if each.file_size > min(_MEMBERS[each.filename], max(1_000_000, _COMPRESSION * each.compress_size)):
                raise UnsafeModelError(f"unpacks to more than is accepted: {each.file_size:,} bytes of {each.filename}")
        content, text = archive.read("model.weights.h5"), archive.read("config.json")
    with h5py.File(io.BytesIO(content), "r") as file:
        yield file, text


def _check_classes(config: Any) -> int:
    """Only classes and functions on the lists; every dictionary is looked at. Returns how many classes there are."""
    if isinstance(config, list):
        return sum(map(_check_classes, config))
    if not isinstance(config, dict):
        return 0
    if "class_name" in config:
        name, module = config["class_name"], config.get("module")
        allowed = isinstance(name, str) and name in _MODELS | _LAYERS | _PARTS and module in _MODULES
        function = name == "function" and module in _FUNCTION_MODULES and config.get("config") in _ACTIVATIONS
        if not (allowed or function or name == _TENSOR):
            raise UnsafeModelError(f"carries code, or a layer that is not on the list: {name!s:.60} of {module!s:.60}")
        if config.get("registered_name") not in (None, name):
            raise UnsafeModelError(f"carries code: {config['registered_name']!s:.60} is registered outside Keras")
        if allowed and name not in _PARTS and "shared_object_id" in config:
            raise UnsafeModelError("refers to a layer by a number, which would hide what it is")
    activation = config.get("activation")
    if isinstance(activation, str) and activation not in _ACTIVATIONS:
        raise UnsafeModelError(f"has an activation that is not on the list: {activation:.60}")
    return ("class_name" in config) + sum(map(_check_classes, config.values()))


def _check_weights(file) -> int:
    """How many numbers the file holds; it must hold plain ones, and hold them itself."""
    import h5py

    elements = declared = stored = 0
    seen, groups = {h5py.h5o.get_info(file["/"].id).addr}, [file]
    while groups:
        group = groups.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UnsafeModelError(f"refers to another place by {name!r:.60}: expected its own weights only")
            item = group[name]
            place = h5py.h5o.get_info(item.id).addr
            if place in seen:
                raise UnsafeModelError(f"holds {name!r:.60} in two places")
            seen.add(place)
            if isinstance(item, h5py.Group):
                groups.append(item)
                continue
            if item.is_virtual or item.external or item.dtype.kind not in "fiub":
                raise UnsafeModelError(f"holds {name!r:.60}, which is not an array of numbers of its own")
            elements, declared = elements + item.size, declared + item.nbytes
            stored += item.id.get_storage_size()
    if declared > _COMPRESSION * max(stored, 1_000_000):
        raise UnsafeModelError(f"unpacks to more than is accepted: {declared:,} bytes of weights")
    return elements


def _check_size(config: dict, elements: int) -> None:
    """The network needs as many weights as the file has, and outputs that fit into memory.

    It is built without its variables, in a scope in which Keras makes none.
    """
    keras = backend.keras()
    from keras.src.backend.common import global_state

    if not isinstance(config, dict) or config.get("class_name") not in _MODELS:
        raise UnsafeModelError("holds no configuration of a Keras model")
    kind = keras.Sequential if config["class_name"] == "Sequential" else keras.Model
    try:
        with keras.StatelessScope(initialize_variables=False):
            network = kind.from_config(config["config"])
            if not getattr(network, "inputs", None):
                raise UnsafeModelError("is no picture classifier: expected a network that is built")
            nodes = [node for layer in network._flatten_layers(include_self=False) for node in layer._inbound_nodes]
            shapes = [tensor.shape for node in nodes for tensor in node.output_tensors]
            variables = global_state.get_global_attribute("uninitialized_variables") or []
            needed = sum(math.prod(variable.shape) for variable in variables)
    finally:
        global_state.set_global_attribute("uninitialized_variables", [])
    if any(None in shape[1:] for shape in shapes):
        raise UnsafeModelError("takes pictures of any size in some part: expected fixed sizes")
    if needed > elements + _SEED_VALUES * len(variables):
        raise UnsafeModelError(f"holds {elements:,} weights, but its configuration needs {needed:,}")
    values = sum(math.prod(side or 1 for side in shape) for shape in shapes)
    if values > _MOST_VALUES:
        raise UnsafeModelError(f"computes {values:,} values for one picture: at most {_MOST_VALUES:,} are accepted")
