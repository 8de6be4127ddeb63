"""Hostile model files: none of them runs or writes anything, or takes much memory; each gives one sentence."""

import copy
import io
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgclassify import backend, load_model
from imgclassify.classifier import Classifier
from imgclassify.runs.files import read_model
from imgclassify.runs.manifest import ModelFileError

pytestmark = pytest.mark.usefixtures("nothing_shipped")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small classifier as a `.keras` and as an `.h5` file, without manifests: their paths by suffix."""
    keras, folder = backend.keras(), tmp_path_factory.mktemp("good")
    layers = keras.layers
    network = keras.Sequential(
        [
            layers.Input((32, 32, 3)),
            layers.Conv2D(2, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(3, activation="softmax", name="dense"),
        ]
    )
    paths = {}
    for suffix in (".keras", ".h5"):
        paths[suffix] = folder / f"good{suffix}"
        network.save(paths[suffix], include_optimizer=False)
    return paths


def configuration(path: Path) -> dict:
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return json.loads(file.attrs["model_config"])
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def rewritten(path: Path, target: Path, config: object, *, members: dict[str, bytes] | None = None) -> Path:
    """The file with another configuration (text or an object), and other members of the archive."""
    text = config if isinstance(config, (str, bytes)) else json.dumps(config)
    target = target.with_suffix(path.suffix)
    if path.suffix == ".h5":
        shutil.copy(path, target)
        with h5py.File(target, "a") as file:
            file.attrs["model_config"] = text
        return target
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        contents = {name: old.read(name) for name in old.namelist()} | {"config.json": text} | (members or {})
        for name, content in contents.items():
            new.writestr(name, content)
    return target


def with_layer(config: dict, layer: dict, at: int = 2) -> dict:
    config = copy.deepcopy(config)
    config["config"]["layers"].insert(at, layer)
    return config


def changed(config: dict, at: int, **values) -> dict:
    config = copy.deepcopy(config)
    config["config"]["layers"][at]["config"] |= values
    return config


def layer(name: str, module: str | None = "keras.layers", **config) -> dict:
    return {"class_name": name, "module": module, "config": {"name": "evil"} | config, "registered_name": None}


def function(name: str, module: str = "builtins") -> dict:
    return {"class_name": "function", "module": module, "config": name, "registered_name": name}


# Layers that would run, read or write something, or that Keras would look up elsewhere.
HOSTILE_LAYERS = {
    "lambda of a gallery": layer(
        "Lambda",
        function=function("plot_image_gallery", "keras.visualization"),
        arguments={"path": "PATH", "rows": 1, "cols": 1, "value_range": [0, 255]},
    ),
    "lambda of python": layer("Lambda", function={"class_name": "__lambda__", "config": {"code": "4wEAAAAA"}}),
    "lambda of a name": layer("Lambda", function="print"),
    "saved model": layer("TFSMLayer", filepath="PATH", call_endpoint="serve"),
    "saved model of another module": layer("TFSMLayer", module="keras.src.export.tfsm_layer", filepath="PATH"),
    "torch module": layer("TorchModuleWrapper", module="keras.src.utils.torch_utils"),
    "jax layer": layer("JaxLayer", module="keras.src.utils.jax_layer"),
    "flax layer": layer("FlaxLayer", module="keras.src.utils.jax_layer"),
    "vocabulary from a file": layer("StringLookup", vocabulary="/etc/passwd"),
    "text from a file": layer("TextVectorization", vocabulary="/etc/passwd"),
    "index from a file": layer("IntegerLookup", vocabulary="/etc/passwd"),
    "hashing": layer("Hashing", num_bins=3),
    "features": layer("FeatureSpace", features={}),
    "wrapper": layer("TimeDistributed", layer=layer("Lambda", function="print")),
    "bidirectional": layer("Bidirectional", layer=layer("LSTM", units=3)),
    "rnn": layer("RNN", cell=layer("LSTMCell", units=3)),
    "pipeline": layer("Pipeline", layers=[layer("Lambda", function="print")]),
    "stft": layer("STFTSpectrogram"),
    "random choice": layer("RandomApply", layer=layer("Lambda", function="print")),
    "einsum": layer("EinsumDense", equation="abcd,de->abce", output_shape=3),
    "embedding": layer("Embedding", input_dim=3, output_dim=3),
    "system": layer("system", module="os"),
    "popen": layer("Popen", module="subprocess", args=["touch", "PATH"]),
    "eval": layer("eval", module="builtins"),
    "import": layer("__import__", module="builtins"),
    "codecs": layer("encode", module="codecs"),
    "registered": layer("Dense", units=3) | {"registered_name": "evil>Dense"},
    "registered package": layer("MyLayer", module=None) | {"registered_name": "evil>MyLayer"},
    "operation": layer("Operation", module="keras.src.ops.operation"),
    "function of keras": layer("Activation", activation=function("load_model", "keras.saving")),
    "function of operations": layer("Activation", activation=function("load", "keras.saving.saving_lib")),
    "function of numpy": layer("Activation", activation=function("load", "numpy")),
    "function of utilities": layer("Activation", activation=function("get_file", "keras.utils")),
    "function of its own": layer("Activation", activation=function("evil")),
    "activation by a path": layer("Activation", activation="os.system"),
    "activation that is unknown": layer("Activation", activation="evil>activation"),
    "initializer of another module": layer("Dense", units=3, kernel_initializer=layer("system", module="os")),
    "initializer that is unknown": layer("Dense", units=3, kernel_initializer=layer("Evil", "keras.initializers")),
    "regularizer of another module": layer("Dense", units=3, kernel_regularizer=layer("system", module="os")),
    "constraint of another module": layer("Dense", units=3, kernel_constraint=layer("system", module="os")),
    "policy of quantization": layer("Dense", units=3, dtype=layer("QuantizedDTypePolicy", "keras")),
    "policy map": layer("Dense", units=3, dtype=layer("DTypePolicyMap", "keras")),
    "typespec": layer("InputLayer", batch_shape={"class_name": "__typespec__", "module": "os", "config": []}),
    "numpy array": layer("Rescaling", scale={"class_name": "__numpy__", "config": {"value": [1], "dtype": "float32"}}),
    "tensor": layer("Rescaling", scale={"class_name": "__tensor__", "config": {"value": [1], "dtype": "float32"}}),
    "bytes": layer("Rescaling", scale={"class_name": "__bytes__", "config": {"value": "evil"}}),
    "slice": layer("Rescaling", scale={"class_name": "__slice__", "config": {}}),
    "ellipsis": layer("Rescaling", scale={"class_name": "__ellipsis__", "config": {}}),
    "optimizer": layer("Adam", module="keras.optimizers"),
    "loss": layer("CategoricalCrossentropy", module="keras.losses"),
    "metric": layer("Accuracy", module="keras.metrics"),
    "callback": layer("LambdaCallback", module="keras.callbacks"),
    "a layer by its number": layer("Dense", units=3) | {"shared_object_id": 7},
    "normalization": layer("Normalization", axis=[1, 2, 3]),
    "a class that is a list": layer(["Dense"]),
    "a class that is a number": layer(5),
    "a class that is nothing": layer(None),
    "a class of another case": layer("dense", units=3),
    "a class with a dot": layer("keras.layers.Dense", units=3),
    "a module that is a list": layer("Dense", module=["keras.layers"], units=3),
    "a module below keras": layer("Dense", module="keras.src.layers.core.dense", units=3),
    "a nested model with a loss": {
        "class_name": "Sequential",
        "module": "keras",
        "config": {"layers": [layer("InputLayer", batch_shape=[None, 30, 30, 2])]},
        "compile_config": {"loss": function("load_model", "keras.saving")},
    },
    "a nested model with a lambda": {
        "class_name": "Sequential",
        "module": "keras",
        "config": {"layers": [layer("InputLayer", batch_shape=[None, 30, 30, 2]), layer("Lambda", function="print")]},
    },
}

# Changes to the layers of a good file: too large, or of other shapes than the weights in the file.
HOSTILE_SIZES = {
    "a dense layer of a billion units": (3, {"units": 1_000_000_000}),
    "a dense layer of a million units": (3, {"units": 1_000_000}),
    "more classes than weights": (3, {"units": 4}),
    "a billion filters": (1, {"filters": 1_000_000_000}),
    "more filters than weights": (1, {"filters": 3}),
    "a kernel of a thousand": (1, {"kernel_size": [29, 29]}),
    "a negative number of units": (3, {"units": -1}),
    "no units": (3, {"units": 0}),
    "units that are a text": (3, {"units": "many"}),
    "units that are a list": (3, {"units": [3]}),
    "units that are huge": (3, {"units": 10**30}),
    "a picture of a million": (0, {"batch_shape": [None, 1_000_000, 1_000_000, 3]}),
    "a batch of a billion": (0, {"batch_shape": [1_000_000_000, 32, 32, 3]}),
    "a shape that is a text": (0, {"batch_shape": "large"}),
    "no shape": (0, {"batch_shape": None}),
    "a type that is unknown": (0, {"dtype": "evil"}),
}

HOSTILE_TEXTS = {
    "nothing": "",
    "not json": "{",
    "a list": "[]",
    "a number": "5",
    "null": "null",
    "a text": '"model"',
    "binary": b"\xff\xfe\x01",
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "no class": '{"config": {}}',
    "a layer in place of a model": json.dumps(layer("Dense", units=3)),
    "a model without layers": '{"class_name": "Sequential", "config": {"layers": []}}',
    "a model without a configuration": '{"class_name": "Sequential"}',
    "a huge text": '"' + "a" * 11_000_000 + '"',
    "twenty thousand layers": json.dumps(
        {
            "class_name": "Sequential",
            "module": "keras",
            "config": {
                "layers": [
                    layer("InputLayer", batch_shape=[None, 32, 32, 3]),
                    *(
                        layer("Rescaling", scale=1.0) | {"config": {"name": f"r{i}", "scale": 1.0}}
                        for i in range(20_000)
                    ),
                ]
            },
        }
    ),
}


def resident() -> int:
    """Bytes of memory that this process holds; on Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def refused(path: Path, tmp_path: Path, monkeypatch) -> str:
    """The sentence by which a file is refused, after checks that nothing else has happened."""
    mark = tmp_path / "mark"
    before = resident() if Path("/proc/self/statm").exists() else 0
    monkeypatch.chdir(tmp_path)
    files = set(tmp_path.rglob("*"))
    with pytest.raises(ModelFileError) as error:
        load_model(path)
    assert not mark.exists()
    assert set(tmp_path.rglob("*")) == files
    if before:
        assert resident() - before < 500_000_000
    sentence = str(error.value)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_good_file_loads(good, suffix):
    network, manifest = read_model(good[suffix])
    assert network.output_shape == (None, 3)
    assert manifest.status == "unknown"


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", list(HOSTILE_LAYERS))
def test_a_layer_that_could_run_something_is_refused(good, tmp_path, monkeypatch, name, suffix):
    evil = json.loads(json.dumps(HOSTILE_LAYERS[name]).replace("PATH", str(tmp_path / "mark")))
    path = rewritten(good[suffix], tmp_path / "evil", with_layer(configuration(good[suffix]), evil))
    sentence = refused(path, tmp_path, monkeypatch)
    assert "not on the list" in sentence or "carries code" in sentence or "by a number" in sentence


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", list(HOSTILE_SIZES))
def test_a_layer_of_another_size_than_its_weights_is_refused(good, tmp_path, monkeypatch, name, suffix):
    at, values = HOSTILE_SIZES[name]
    config = changed(configuration(good[suffix]), at, **values)
    config["config"].pop("build_input_shape", None)
    for each in config["config"]["layers"]:
        each.pop("build_config", None)
    refused(rewritten(good[suffix], tmp_path / "evil", config), tmp_path, monkeypatch)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", list(HOSTILE_TEXTS))
def test_a_damaged_configuration_is_refused(good, tmp_path, monkeypatch, name, suffix):
    if suffix == ".h5" and isinstance(HOSTILE_TEXTS[name], str) and len(HOSTILE_TEXTS[name]) > 60_000:
        pytest.skip("an .h5 file keeps at most 64 kB in an attribute")
    refused(rewritten(good[suffix], tmp_path / "evil", HOSTILE_TEXTS[name]), tmp_path, monkeypatch)


@pytest.mark.parametrize("members", [{"assets/evil.txt": b"x"}, {"../evil": b"x"}, {"/tmp/evil": b"x"}, {"a.py": b"x"}])
def test_an_archive_with_other_members_is_refused(good, tmp_path, monkeypatch, members):
    config = configuration(good[".keras"])
    path = rewritten(good[".keras"], tmp_path / "evil", config, members=members)
    assert "expected metadata.json" in refused(path, tmp_path, monkeypatch)


def test_an_archive_that_unpacks_to_gigabytes_is_refused(good, tmp_path, monkeypatch):
    path = tmp_path / "bomb.keras"
    with zipfile.ZipFile(good[".keras"]) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in ("metadata.json", "config.json"):
            new.writestr(name, old.read(name))
        new.writestr("model.weights.h5", bytes(200_000_000))
    assert path.stat().st_size < 1_000_000
    assert "unpacks to more than is accepted" in refused(path, tmp_path, monkeypatch)


def weights_with(good: dict, tmp_path: Path, change) -> Path:
    """The `.keras` file with its weights changed by a function of the open `h5py.File`."""
    with zipfile.ZipFile(good[".keras"]) as archive:
        file = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(file, "a") as weights:
        change(weights)
    config = configuration(good[".keras"])
    return rewritten(good[".keras"], tmp_path / "evil", config, members={"model.weights.h5": file.getvalue()})


def replaced_kernel(weights, **options) -> None:
    weights["layers/dense/vars"].pop("0")
    weights["layers/dense/vars"].create_dataset("0", **options)


CHANGES = {
    "a link to another file": lambda weights: weights.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")),
    "a link inside the file": lambda weights: weights.__setitem__("x", h5py.SoftLink("/layers")),
    "values in another file": lambda weights: replaced_kernel(
        weights, shape=(2, 3), dtype="f4", external=[("/etc/hostname", 0, 24)]
    ),
    "compressed to nothing": lambda weights: replaced_kernel(
        weights, shape=(20_000, 20_000), dtype="f4", compression="gzip", fillvalue=0
    ),
    "texts": lambda weights: replaced_kernel(weights, data=[b"evil"]),
    "a type of its own": lambda weights: replaced_kernel(weights, data=np.zeros(3, [("a", "f4")])),
    "another shape": lambda weights: replaced_kernel(weights, data=np.zeros((3, 2), "f4")),
    "a missing array": lambda weights: weights["layers/dense/vars"].pop("0"),
    "no layers": lambda weights: weights.pop("layers"),
    "a group inside itself": lambda weights: weights["layers"].__setitem__("x", weights["layers"]),
    "an array in many places": lambda weights: [
        weights["layers"].__setitem__(f"x{i}", weights["layers/dense/vars/0"]) for i in range(9)
    ],
    "many arrays that were never written": lambda weights: [
        weights.create_dataset(f"x{i}", (2048, 2048), "f4") for i in range(300)
    ],
    "values that are not finite": lambda weights: weights["layers/dense/vars/0"].__setitem__((0, 0), np.nan),
    "values that are infinite": lambda weights: weights["layers/dense/vars/1"].__setitem__(0, np.inf),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_weights_that_are_not_plain_numbers_of_the_network_are_refused(good, tmp_path, monkeypatch, name):
    refused(weights_with(good, tmp_path, CHANGES[name]), tmp_path, monkeypatch)


def test_flipped_and_cut_files_are_refused_or_load_as_what_they_are(good, tmp_path):
    random = np.random.default_rng(0)
    for number in range(60):
        suffix = (".keras", ".h5")[number % 2]
        content = bytearray(good[suffix].read_bytes())
        path = tmp_path / f"{number}{suffix}"
        if number % 3:
            for place in random.integers(0, len(content), 20):
                content[place] ^= int(random.integers(1, 256))
        else:
            content = content[: int(random.integers(0, len(content)))]
        path.write_bytes(content)
        try:
            classifier = load_model(path)
        except ModelFileError:
            continue
        assert classifier.network.output_shape == (None, 3)


def unusual(name: str):
    """Plain Keras models that fit no picture classifier."""
    keras = backend.keras()
    layers = keras.layers
    picture = keras.Input((32, 32, 3))

    def answer(x):
        return layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))

    if name == "two inputs":
        other = keras.Input((32, 32, 3))
        return keras.Model([picture, other], answer(layers.Add()([picture, other])))
    if name == "inputs by name":
        named = keras.Input((32, 32, 3), name="picture")
        return keras.Model({"picture": named}, answer(named))
    if name == "two outputs":
        return keras.Model(picture, [answer(picture), answer(picture)])
    if name == "spatial output":
        return keras.Model(picture, layers.Conv2D(3, 1, activation="softmax")(picture))
    if name == "flat input":
        flat = keras.Input((3072,))
        return keras.Model(flat, layers.Dense(3, activation="softmax")(flat))
    if name == "grey pictures":
        grey = keras.Input((32, 32, 1))
        return keras.Model(grey, answer(grey))
    if name == "any size":
        any_size = keras.Input((None, None, 3))
        return keras.Model(any_size, answer(any_size))
    if name == "logits":
        return keras.Model(picture, layers.Dense(3)(layers.GlobalAveragePooling2D()(picture)))
    if name == "one output":
        return keras.Model(picture, layers.Dense(1, activation="sigmoid")(layers.GlobalAveragePooling2D()(picture)))
    assert name == "not built"
    return keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")])


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
@pytest.mark.parametrize(
    "name",
    [
        "two inputs", "inputs by name", "two outputs", "spatial output", "flat input", "grey pictures", "any size",
        "logits", "one output", "not built",
    ],
)  # fmt: skip
def test_a_model_that_is_no_picture_classifier_is_refused_with_what_is_expected(tmp_path, monkeypatch, name):
    path = tmp_path / "model.keras"
    unusual(name).save(path)
    assert "expected" in refused(path, tmp_path, monkeypatch)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_plain_keras_model_that_fits_loads_even_compiled_and_with_an_optimizer(tmp_path, suffix):
    keras = backend.keras()
    layers = keras.layers
    inner = keras.Sequential([keras.Input((32, 32, 3)), layers.RandomFlip(), layers.SeparableConv2D(4, 3)])
    inputs = keras.Input((32, 32, 3))
    x = layers.BatchNormalization()(inner(layers.Rescaling(2.0)(inputs)))
    x = layers.GlobalMaxPooling2D()(layers.Activation("gelu")(x))
    outputs = layers.Dense(4, activation="softmax", kernel_regularizer="l2")(layers.Dropout(0.2)(x))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    model.fit(np.zeros((4, 32, 32, 3)), np.eye(4), verbose=0)
    path = tmp_path / f"plain{suffix}"
    model.save(path)
    loaded, pictures = load_model(path), np.random.default_rng(0).random((5, 32, 32, 3), np.float32)
    assert loaded.class_names == ("0", "1", "2", "3")
    expected = Classifier.of(model).probabilities(pictures)
    assert loaded.probabilities(pictures) == pytest.approx(expected, abs=1e-6)


def functional(*layers: dict, output: int = -1) -> dict:
    """The configuration of a functional model: a chain of layers, and layers that are in no chain."""
    chain, previous = [], None
    for number, each in enumerate(layers):
        each = copy.deepcopy(each) | {"name": f"l{number}"}
        each["config"]["name"] = f"l{number}"
        if previous is not None and not each.pop("stray", False):
            shape = [None, 32, 32, 3]
            tensor = {"class_name": "__keras_tensor__", "config": {"shape": shape, "keras_history": [previous, 0, 0]}}
            each["inbound_nodes"] = [{"args": [tensor], "kwargs": {}}] * each.pop("times", 1)
            previous = f"l{number}"
        else:
            each["inbound_nodes"] = []
            previous = previous or f"l{number}"
        chain.append(each)
    config = {"name": "m", "layers": chain, "input_layers": [["l0", 0, 0]], "output_layers": [[previous, 0, 0]]}
    return {"class_name": "Functional", "module": "keras.src.models.functional", "config": config}


PICTURE = layer("InputLayer", batch_shape=[None, 32, 32, 3])
HIDDEN_SIZES = {
    "a large layer beside the chain": functional(
        PICTURE,
        layer("Dense", units=5_000_000) | {"stray": True, "build_config": {"input_shape": [None, 1000]}},
        layer("GlobalAveragePooling2D"),
        layer("Dense", units=3, activation="softmax"),
    ),
    "a layer that enlarges many times": functional(
        PICTURE,
        layer("UpSampling2D", size=[100, 100]),
        layer("UpSampling2D", size=[10, 10]),
        layer("GlobalAveragePooling2D"),
        layer("Dense", units=3, activation="softmax"),
    ),
    "a nested model of any size": {
        "class_name": "Sequential",
        "module": "keras",
        "config": {
            "layers": [
                PICTURE,
                {
                    "class_name": "Sequential",
                    "module": "keras",
                    "config": {
                        "name": "inner",
                        "layers": [
                            layer("InputLayer", batch_shape=[None, None, None, 3]),
                            layer("UpSampling2D", size=[1000, 1000]),
                            layer("GlobalAveragePooling2D"),
                        ],
                    },
                },
                layer("Dense", units=3, activation="softmax"),
            ]
        },
    },
    "a model that is built by its shape only": {
        "class_name": "Sequential",
        "module": "keras",
        "config": {"layers": [layer("Flatten"), layer("Dense", units=5_000_000)]},
        "build_config": {"input_shape": [None, 32, 32, 3]},
    },
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("name", list(HIDDEN_SIZES))
def test_a_size_that_hides_is_found(good, tmp_path, monkeypatch, name, suffix):
    refused(rewritten(good[suffix], tmp_path / "evil", HIDDEN_SIZES[name]), tmp_path, monkeypatch)
