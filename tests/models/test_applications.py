"""VGG16, ResNet50V2 and MobileNetV2, with random weights that are written to a local file."""

import functools
import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgclassify import backend, load_model
from imgclassify.data import download
from imgclassify.models import applications
from imgclassify.models.applications import APPLICATIONS
from imgclassify.models.backbones import BACKBONES, FEATURES
from imgclassify.models.networks import build_model
from imgclassify.recipes import get_recipe
from imgclassify.runs.files import write_model
from imgclassify.runs.manifest import Manifest
from imgclassify.settings import cache_dir, keras_cache_dir
from imgclassify.training.train import train_model
from tests.data.servers import FAST, Server

MODULES = {"vgg16": "vgg16", "resnet50v2": "resnet_v2", "mobilenetv2": "mobilenet_v2"}
NAMES = list(APPLICATIONS)


def file_of(name: str) -> str:
    return APPLICATIONS[name].address.rpartition("/")[2]


def write_weights(model, path: Path) -> Path:
    """Write a model's weights as Keras' published files have them."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.get_weights(), strict=True):
                group[name] = weight
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """`published(name)`: plain Keras' network with random weights, and the file that holds them."""
    keras, folder = backend.keras(), tmp_path_factory.mktemp("data") / "weights"
    folder.mkdir()

    @functools.cache
    def publish(name: str):
        about, random = APPLICATIONS[name], np.random.default_rng(0)
        backend.set_seed(0)
        plain = getattr(keras.applications, about.builder)(include_top=False, weights=None, input_shape=(64, 64, 3))
        for layer in plain.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                scale, offset, *statistics = layer.get_weights()
                drawn = random.uniform(0.5, 1.5, scale.shape), random.uniform(-0.5, 0.5, offset.shape)
                layer.set_weights([*drawn, *statistics])
                layer.momentum = 0.0
        plain(random.uniform(-1, 1, (8, 64, 64, 3)), training=True)  # gives batch normalisation its statistics
        return plain, write_weights(plain, folder / file_of(name))

    return publish


@pytest.fixture
def at_hand(published, monkeypatch):
    """`at_hand(name)`: the same, found in `IMGCLASSIFY_DATA_DIR`, as if the file were the one that Keras publishes."""

    def put(name: str):
        plain, path = published(name)
        if APPLICATIONS[name].md5:
            changed = APPLICATIONS[name]._replace(md5=hashlib.md5(path.read_bytes()).hexdigest())
            monkeypatch.setitem(APPLICATIONS, name, changed)
        monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(path.parents[1]))
        return plain

    return put


def pictures(size: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def features_of(network):
    return backend.keras().Model(network.inputs[0], network.get_layer(FEATURES).output)


# --- the networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_plain_keras_after_its_own_preprocessing(name, at_hand):
    keras, x, plain = backend.keras(), pictures(64), at_hand(name)
    network = build_model(name, input_shape=(64, 64, 3), num_classes=4)
    prepared = getattr(keras.applications, MODULES[name]).preprocess_input(x.astype(np.float32))
    expected = plain(prepared, training=False).numpy().mean(axis=(1, 2))
    seen = features_of(network)(x / np.float32(255), training=False)
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(network(x / np.float32(255)), 1 / 4, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_flat_and_cuts_divide_the_network(name, at_hand):
    at_hand(name)
    keras, network, x = backend.keras(), build_model(name, input_shape=(64, 64, 3)), pictures(64) / np.float32(255)
    assert not any(isinstance(layer, keras.Model) for layer in network.layers)
    for cut in BACKBONES[name]:
        middle = network.get_layer(cut).output
        front, rest = keras.Model(network.inputs[0], middle), keras.Model(middle, network.get_layer(FEATURES).output)
        np.testing.assert_allclose(rest(front(x)), features_of(network)(x), rtol=1e-5, atol=1e-5)
    sides = [network.get_layer(cut).output.shape[1] for cut in BACKBONES[name]]
    assert sides == sorted(sides, reverse=True)


@pytest.mark.parametrize("name", ["resnet50v2", "mobilenetv2"])
def test_batch_normalisation_uses_imagenets_statistics_in_training_too(name, at_hand):
    at_hand(name)
    network, x = build_model(name, input_shape=(32, 32, 3)), pictures(32) / np.float32(255)
    seen = features_of(network)
    np.testing.assert_allclose(seen(x, training=True), seen(x, training=False), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_network_is_loaded_like_any_other(name, at_hand, tmp_path):
    at_hand(name)
    network, x = build_model(name, input_shape=(32, 32, 3), num_classes=3), pictures(32)
    write_model(network, Manifest(), tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.probabilities(x), network(x / np.float32(255)), atol=1e-6)
    assert not any(layer.trainable for layer in again.network.layers if type(layer).__name__ == "BatchNormalization")


@pytest.mark.parametrize("name", NAMES)
def test_head_beats_chance_after_a_few_batches(name, at_hand, nothing_shipped, tiny, quiet):
    at_hand(name)
    recipe = get_recipe("head", architecture=name, size=96 if name == "mobilenetv2" else 32)
    classifier, _ = train_model(recipe, tiny, precision="float32", progress=quiet)
    assert classifier.manifest.metrics["val_accuracy"] > 0.6  # of three classes


def test_the_last_stages_are_trained_as_those_of_the_default_backbone_are(at_hand, nothing_shipped, tiny, quiet):
    at_hand("vgg16")
    settings = {"architecture": "vgg16", "size": 32, "frozen": "stage4", "epochs": 1, "variants": 1}
    classifier, history = train_model("photos", tiny, learning_rate=1e-5, progress=quiet, **settings)
    assert classifier.manifest.status == "complete"
    assert history["val_accuracy"][-1] > 0.6


def test_training_leaves_imagenets_statistics_as_they_are(at_hand, nothing_shipped, tiny, quiet):
    at_hand("mobilenetv2")
    settings = {"architecture": "mobilenetv2", "size": 96, "frozen": "stage6", "epochs": 1, "variants": 1}
    classifier, history = train_model("photos", tiny, learning_rate=1e-6, progress=quiet, **settings)
    assert history["accuracy"][0] > 0.9  # of the fitted last layer, which batch statistics would upset
    learned = classifier.network.get_layer("Conv_1_bn").get_weights()
    for found, expected in zip(learned, at_hand("mobilenetv2").get_layer("Conv_1_bn").get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(31, 31, 3), (289, 289, 3), (64, 32, 3), (64, 64, 1)])
def test_other_sizes_and_channels_are_refused(shape):
    with pytest.raises(ValueError, match="vgg16 takes square RGB pictures of 32 to 288 pixels"):
        build_model("vgg16", input_shape=shape)


# --- the files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_offline_one_sentence_says_which_file_from_where_and_where_to_put_it(name):
    with pytest.raises(ValueError, match="were not found, or are damaged") as caught:
        build_model(name, input_shape=(32, 32, 3))
    sentence = str(caught.value)
    assert f"https://storage.googleapis.com/tensorflow/keras-applications/{APPLICATIONS[name].address}" in sentence
    assert "the network (not used: offline)" in sentence
    assert sentence.endswith(f"put it into {cache_dir() / 'weights'}.")


@pytest.mark.parametrize("place", ["data", "cache", "keras"])
def test_a_file_is_found_in_the_data_folder_the_cache_and_keras_own_cache(place, published, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_DATA_DIR", str(tmp_path))
    folders = {"data": tmp_path, "cache": cache_dir(), "keras": keras_cache_dir().parent}
    folder = folders[place] / ("models" if place == "keras" else "weights")
    folder.mkdir(parents=True)
    (folder / file_of("mobilenetv2")).symlink_to(published("mobilenetv2")[1])
    assert build_model("mobilenetv2", input_shape=(32, 32, 3)).name == "mobilenetv2"


def test_a_file_with_another_md5_is_not_used(published, monkeypatch):
    (cache_dir() / "weights").mkdir(parents=True)
    (cache_dir() / "weights" / file_of("vgg16")).symlink_to(published("vgg16")[1])
    with pytest.raises(ValueError, match="weights of VGG16 were not found, or are damaged"):
        build_model("vgg16", input_shape=(32, 32, 3))


def spoil_shape(file):
    del file["Conv1/Conv1/kernel:0"]
    file["Conv1/Conv1/kernel:0"] = np.zeros((3, 3, 3, 31), np.float32)


def spoil_number(file):
    file["Conv1/Conv1/kernel:0"][0, 0, 0, 0] = np.nan


def spoil_link(file):
    file.copy("Conv1/Conv1/kernel:0", other := h5py.File(Path(file.filename).with_name("other.h5"), "w"), "kernel")
    other.close()
    del file["Conv1/Conv1/kernel:0"]
    file["Conv1/Conv1/kernel:0"] = h5py.ExternalLink("other.h5", "kernel")


def spoil_type(file):
    del file["Conv1/Conv1/kernel:0"]
    file.create_dataset("Conv1/Conv1/kernel:0", (3, 3, 3, 32), h5py.string_dtype())


def spoil_names(file):
    del file.attrs["layer_names"]


def spoil_nothing(file):
    pass


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (spoil_shape, "expected 260 arrays of certain shapes"),
        (spoil_number, "not finite"),
        (spoil_link, "refers to another file"),
        (spoil_type, "is damaged"),
        (spoil_names, "is damaged"),
        (spoil_nothing, None),
    ],
)
def test_a_file_without_md5_must_hold_finite_numbers_of_the_right_shapes(spoil, problem, published, tmp_path):
    plain, path = published("mobilenetv2")
    copy = tmp_path / "copy.h5"
    copy.write_bytes(path.read_bytes())
    with h5py.File(copy, "r+") as file:
        spoil(file)
    shapes = [tuple(weight.shape) for layer in plain.layers for weight in layer.weights]
    if problem is None:
        assert [array.shape for array in applications._read(copy, shapes)] == shapes
        return
    with pytest.raises(ValueError, match=f"copy.h5 is damaged: .*{problem}" if problem != "is damaged" else problem):
        applications._read(copy, shapes)


@pytest.mark.parametrize("content", [b"", b"no HDF5", b"\x89HDF\r\n\x1a\n" + b"\0" * 100])
def test_a_file_that_is_no_hdf5_is_damaged(content, tmp_path):
    (tmp_path / "copy.h5").write_bytes(content)
    with pytest.raises(ValueError, match=r"copy\.h5 is damaged"):
        applications._read(tmp_path / "copy.h5", [(1,)])


# --- the download --------------------------------------------------------------------------------------


@pytest.fixture
def serve(monkeypatch):
    """`serve(behaviour)`: the weights come from a server on this machine that answers so."""
    servers = []

    def start(behaviour) -> Server:
        servers.append(Server(behaviour))
        monkeypatch.setattr(applications, "_ADDRESS", f"http://{servers[0].address}/")
        monkeypatch.setattr(download, "PATIENT", FAST)
        monkeypatch.delenv("IMGCLASSIFY_OFFLINE")
        return servers[0]

    yield start
    for server in servers:
        server.close()


def test_the_file_is_downloaded_once(published, serve, capsys):
    content = published("mobilenetv2")[1].read_bytes()
    server = serve(lambda server, request, first: server.answer(request, 200, content, Content_Length=len(content)))
    for _ in range(2):
        network = build_model("mobilenetv2", input_shape=(32, 32, 3))
    assert len(server.ranges) == 1
    assert [path.name for path in (cache_dir() / "weights").iterdir()] == [file_of("mobilenetv2")]
    expected = published("mobilenetv2")[0].get_layer("Conv1").kernel
    np.testing.assert_array_equal(network.get_layer("Conv1").kernel, expected)


@pytest.mark.parametrize("kind", ["stalls", "truncates", "lies", "lies in full"])
def test_servers_that_stall_truncate_or_lie_end_in_one_sentence(kind, published, serve):
    content = published("mobilenetv2")[1].read_bytes()
    another = bytearray(content)
    with h5py.File(published("mobilenetv2")[1]) as file:  # its first number becomes NaN
        start = file["Conv1/Conv1/kernel:0"].id.get_offset()
    another[start : start + 4] = np.float32(np.nan).tobytes()

    def behave(server, request, first):
        if kind == "stalls":
            server.answer(request, 200, content[:100_000], Content_Length=len(content))
            server.closing.wait(5)
        elif kind == "truncates":
            server.answer(request, 200, content[:100_000])
        else:
            sent = b"x" * 1000 if kind == "lies" else bytes(another)
            server.answer(request, 200, sent, Content_Length=len(sent))

    server = serve(behave)
    problem = "stopped sending" if kind == "stalls" else "sent another file"
    with pytest.raises(ValueError, match=f"weights of MobileNetV2 were not found.*{server.address} {problem}"):
        build_model("mobilenetv2", input_shape=(32, 32, 3))
    assert not (cache_dir() / "weights" / file_of("mobilenetv2")).exists()
