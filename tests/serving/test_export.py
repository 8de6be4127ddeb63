import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from PIL import Image

from imgclassify import Classifier, DatasetError, load_model
from imgclassify.cli import _FORMATS, main
from imgclassify.evaluation.unknown import detector_from
from imgclassify.models.familiarity import UNFAMILIAR
from imgclassify.runs.manifest import ModelFileError, read_manifest
from imgclassify.serving import export, quantise
from imgclassify.serving.export import FORMATS, export_model, export_path
from imgclassify.serving.exported import About, load_exported


@pytest.fixture(scope="module")
def saved(tiny, tiny_run, tmp_path_factory):
    """A trained model with a detector, in a file of its own; not to be modified."""
    detector = detector_from(tiny_run.model.network, "baseline", tiny.x_train[:20], tiny.x_train[20:])
    model = replace(tiny_run.model, detector=detector)
    return load_model(model.save(tmp_path_factory.mktemp("saved") / "colours.keras").file)


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, saved, tiny, tmp_path_factory):
    """The model in one of the formats, as `original`, `written` (an `Export`) and `model` (read back)."""
    folder = tmp_path_factory.mktemp("exported")
    original = saved.save(folder / "colours.keras")
    written = export_model(original, request.param, folder / f"out{export._SUFFIXES[request.param]}", data=tiny)
    return SimpleNamespace(original=original, written=written, model=load_exported(written.path))


def test_an_exported_file_answers_as_the_model(exported, tiny):
    (wanted, known), (found, kept) = (each.answers(tiny.x_test) for each in (exported.original, exported.model))
    rounded = exported.written.to == "onnx-int8"
    np.testing.assert_allclose(found, wanted, atol=0.05 if rounded else 1e-5)
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    np.testing.assert_allclose(kept, known, atol=0.2 if rounded else 0.02)  # of 12 known pictures
    assert found.dtype == kept.dtype == np.float32


def test_one_picture_and_a_photo_of_any_size_are_answered_alike(exported, tiny, tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(tiny.x_test[0]).resize((90, 60)).save(photo)
    for picture in (photo, photo.read_bytes(), Image.open(photo)):
        wanted, found = exported.original.predict(picture), exported.model.predict(picture)
        np.testing.assert_array_equal(found.image, wanted.image)
        assert found.label == wanted.label
        assert found.confidence == pytest.approx(wanted.confidence, abs=0.05)
        assert found.known == wanted.known
        assert set(found.probabilities) == {"red", "green", "blue"}


def test_an_exported_file_answers_any_number_of_pictures(exported, tiny):
    one_by_one = np.concatenate([exported.model.answers(picture[np.newaxis])[0] for picture in tiny.x_test[:5]])
    many = np.resize(tiny.x_test[:5], (300, 32, 32, 3))
    np.testing.assert_allclose(exported.model.answers(many)[0], np.resize(one_by_one, (300, 3)), atol=1e-5)
    probabilities, familiarity = exported.model.answers(tiny.x_test[:0])
    assert probabilities.shape == (0, 3)
    assert familiarity.shape == (0,)


def test_several_threads_may_ask_at_once(exported, tiny):
    wanted = exported.model.answers(tiny.x_test)[0]

    def ask(number: int) -> bool:
        some = slice(number % 20, number % 20 + 1 + number % 3)
        return np.allclose(exported.model.answers(tiny.x_test[some])[0], wanted[some], atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(200)))


def test_a_file_says_what_it_is(exported):
    about = exported.model.about
    assert about.class_names == ("red", "green", "blue")
    assert about.input_shape == (32, 32, 3)
    assert (about.crop, about.unfamiliar_below) == (1.0, UNFAMILIAR)
    assert about.model == "colours.keras"
    assert about.model_sha256 == exported.original.manifest.sha256
    assert about.data == "made-up colours"
    assert "Right on" in about.accuracy
    assert "knows red, green, blue" in str(exported.model)


def test_the_result_is_in_the_manifest(exported):
    record = read_manifest(exported.original.file).exports[exported.written.to]
    assert record == exported.written.record
    assert record.pictures == 60  # all there are
    assert record.changed == 0
    assert record.megabytes == exported.written.path.stat().st_size / 1e6
    assert 0 < record.milliseconds < 1000
    assert record.versions
    assert re.search(r"Compared with the model on 60 pictures: no answer is another class", str(exported.written))
    assert load_model(exported.original.file).manifest.exports  # it still loads
    assert exported.original.save(exported.original.file, replace=True).manifest.exports == {}  # of another file


def test_eight_bits_are_smaller_and_eight_bits(saved, tiny, tmp_path):
    sizes = {}
    for to in ("onnx", "onnx-int8"):
        path = export_model(saved, to, tmp_path / f"{to}.onnx", data=tiny).path
        sizes[to] = path.stat().st_size
        types = {each.data_type for each in onnx.load(path).graph.initializer}
        assert (onnx.TensorProto.INT8 in types) == (to == "onnx-int8")
    assert sizes["onnx-int8"] < 0.45 * sizes["onnx"]


def test_views_calibration_and_names_travel_along(saved, tiny, tmp_path):
    recipe, names = replace(saved.manifest.recipe, views=6), ("röd", 'a "b"', "c\nd")
    model = Classifier.of(saved.recorded(recipe=recipe), names)
    for to in ("onnx", "litert"):
        suffix = ".onnx" if to == "onnx" else ".tflite"
        found = load_exported(export_model(model, to, tmp_path / f"six{suffix}", data=tiny).path)
        assert found.class_names == names
        wanted = model.probabilities(tiny.x_test)
        np.testing.assert_allclose(found.answers(tiny.x_test)[0], wanted, atol=1e-5)
        assert np.abs(model.probabilities(tiny.x_test, views=1) - wanted).max() > 1e-4  # so the views matter


def test_a_model_without_a_detector_says_nothing_of_familiarity(saved, tiny, tmp_path):
    model = replace(saved, detector=None)
    for to, name in (("onnx", "a.onnx"), ("onnx-int8", "b.onnx"), ("litert", "c.tflite")):
        found = load_exported(export_model(model, to, tmp_path / name, data=tiny).path)
        assert found.answers(tiny.x_test[:2])[1] is None
        assert found.predict(tiny.x_test[0]).familiarity is None


def test_a_plain_keras_model_is_exported_and_its_pictures_are_resized(tiny, tmp_path):
    import keras

    layers = [keras.layers.Input((48, 48, 3)), keras.layers.Conv2D(4, 3, activation="relu")]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3, activation="softmax")]
    network = keras.Sequential(layers)
    found = load_exported(export_model(network, path=tmp_path / "plain.onnx", data=tiny).path)
    assert found.class_names == ("0", "1", "2")
    wanted = Classifier.of(network).predict(tiny.x_test[0])
    assert found.predict(tiny.x_test[0]).confidence == pytest.approx(wanted.confidence, abs=1e-5)


def test_depthwise_networks_are_quantised(tiny, tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = layers.Input((32, 32, 3))
    x = layers.ReLU(6)(layers.Conv2D(16, 3, strides=2, padding="same")(inputs))
    for _ in range(3):
        wide = layers.ReLU(6)(layers.Conv2D(32, 1)(x))
        wide = layers.ReLU(6)(layers.DepthwiseConv2D(3, padding="same")(wide))
        x = layers.Add()([x, layers.Conv2D(16, 1)(wide)])
    network = keras.Model(inputs, layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(x)))
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(tiny.x_train / 255, tiny.y_train, epochs=12, batch_size=10, verbose=0)
    written = export_model(network, "onnx-int8", tmp_path / "deep.onnx", data=tiny)
    assert written.record.changed == 0
    types = [node.op_type for node in onnx.load(written.path).graph.node]
    assert types.count("Conv") == 10
    assert types.count("QuantizeLinear") > 3


def test_biases_take_back_the_shift_of_rounding(saved, tiny, tmp_path):
    import tf2onnx

    answer, signature = export._outputs(saved)
    model, _ = tf2onnx.convert.from_function(answer, [signature], opset=17)
    whole = quantise._preprocessed(model, tmp_path)
    quantise._static(tmp_path, tiny.x_train, [])
    rounded = onnx.load(tmp_path / "quantised.onnx")
    makers = {name: node for node in rounded.graph.node for name in node.output}
    users = {name: node for node in rounded.graph.node for name in node.input}
    last = [node for node in rounded.graph.node if node.op_type == "Conv"][-1]
    (biases,) = [each for each in rounded.graph.initializer if each.name == makers[last.input[2]].input[0]]
    spoilt = onnx.numpy_helper.to_array(biases) + 1000
    biases.CopyFrom(onnx.numpy_helper.from_array(spoilt, biases.name))
    given, shown = last.output[0], users[users[last.output[0]].output[0]].output[0]

    def shift() -> float:
        wanted, found = quantise.run(whole, [given], tiny.x_train)[0], quantise.run(rounded, [shown], tiny.x_train)[0]
        return float(np.abs(wanted.mean(axis=0) - found.mean(axis=0)).mean())

    before = shift()
    quantise._correct_biases(whole, rounded, tiny.x_train)
    assert shift() < before / 5


def test_constants_shrink_without_a_loss_where_there_need_be_none():
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(0)
    halves = chance.random((64, 100)).astype(np.float16).astype(np.float32)
    full = chance.random((100, 64)).astype(np.float32)
    constants = [numpy_helper.from_array(halves, "halves"), numpy_helper.from_array(full, "full")]
    nodes = [helper.make_node("MatMul", ["x", "halves"], ["y"]), helper.make_node("MatMul", ["y", "full"], ["z"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in "xz"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], constants), ir_version=8)

    def answer(compacted) -> np.ndarray:
        import onnxruntime

        session = onnxruntime.InferenceSession(compacted.SerializeToString())
        return session.run(None, {"x": np.ones((2, 64), np.float32)})[0]

    for exact in (True, False):
        smaller = onnx.ModelProto()
        smaller.CopyFrom(model)
        quantise.compact(smaller, exact=exact)
        assert smaller.ByteSize() < (0.8 if exact else 0.4) * model.ByteSize()
        np.testing.assert_allclose(answer(smaller), answer(model), rtol=1e-6 if exact else 1e-2)


def test_a_column_with_one_large_element_keeps_the_others():
    column = np.full((1000, 4), 0.01, np.float32)
    assert quantise._is_even(column)
    column[0, 0] = 8
    assert not quantise._is_even(column)


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_that_answers_otherwise_is_refused_and_not_kept(saved, tiny, tmp_path, monkeypatch, to):
    """A converter that goes wrong without an error, as those of some networks do."""

    def broken(classifier):
        answer, signature = outputs(classifier)
        import tensorflow as tf

        def wrong(x):
            found = answer(x)
            return {**found, "probabilities": tf.reverse(found["probabilities"], [1])}

        return tf.function(wrong, autograph=False), signature

    outputs = export._outputs
    monkeypatch.setattr(export, "_outputs", broken)
    target = tmp_path / f"wrong{export._SUFFIXES[to]}"
    with pytest.raises(ModelFileError, match=r"is not exported to .*: of 60 pictures, 40 get another class"):
        export_model(saved, to, target, data=tiny)
    assert list(tmp_path.iterdir()) == []


def test_a_familiarity_that_is_lost_is_noticed(saved, tiny, tmp_path, monkeypatch):
    outputs = export._outputs
    monkeypatch.setattr(export, "_outputs", lambda classifier: outputs(replace(classifier, detector=None)))
    with pytest.raises(ModelFileError, match="is not exported to onnx"):
        export_model(saved, "onnx", tmp_path / "a.onnx", data=tiny)


def test_what_cannot_be_converted_is_said_in_a_sentence(saved, tiny, tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("no such operation\nand a long story")

    monkeypatch.setattr("tf2onnx.convert.from_function", fails)
    with pytest.raises(ModelFileError, match=r"cannot be exported to onnx. \(RuntimeError: no such operation\)$"):
        export_model(saved, "onnx", tmp_path / "a.onnx", data=tiny)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["tf2onnx", "onnx"])
def test_a_missing_package_is_named(saved, tiny, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelFileError, match=rf"package {package} is missing: pip install 'imgclassify\[export\]'"):
        export_model(saved, "onnx", tmp_path / "a.onnx", data=tiny)


def test_a_missing_package_for_reading_is_named(saved, tiny, tmp_path, monkeypatch):
    path = export_model(saved, "onnx", tmp_path / "a.onnx", data=tiny).path
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelFileError, match=r"needs the package onnxruntime: pip install 'imgclassify\[export\]'"):
        load_exported(path)


def test_nothing_is_overwritten_unasked(saved, tiny, tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"mine")
    with pytest.raises(ModelFileError, match=r"exists already: use replace=True"):
        export_model(saved, "onnx", path, data=tiny)
    assert path.read_bytes() == b"mine"
    export_model(saved, "onnx", path, data=tiny, replace=True)
    assert load_exported(path).class_names == ("red", "green", "blue")


@pytest.mark.parametrize(("to", "name"), [("onnx", "a.tflite"), ("litert", "a.onnx"), ("onnx-int8", "a")])
def test_a_name_must_fit_the_format(saved, tiny, tmp_path, to, name):
    with pytest.raises(ModelFileError, match=r"A file in the format .* ends in"):
        export_model(saved, to, tmp_path / name, data=tiny)


def test_an_unknown_format_is_refused(saved, tiny):
    with pytest.raises(ValueError, match=r"exported to onnx, onnx-int8, litert\. Received: 'tfjs'"):
        export_model(saved, "tfjs", data=tiny)


def test_files_go_beside_the_model_but_never_into_the_package(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "artifacts"))
    mine = saved.save(tmp_path / "runs" / "20260101-000000-mine" / "model.keras")
    assert export_path(mine.name, mine.file, "onnx-int8") == mine.file.parent / "model.int8.onnx"
    shipped = export.PACKAGE / "shipped" / "cifar10_best.keras"
    assert export_path("best", shipped, "onnx") == tmp_path / "artifacts" / "cifar10_best.onnx"
    assert export_path("baseline", None, "litert") == tmp_path / "artifacts" / "baseline.tflite"


def test_no_path_of_the_user_is_in_the_file(saved, tiny, tmp_path):
    record = replace(saved.manifest.dataset, folder=str(tmp_path / "secret"))
    path = export_model(saved.recorded(dataset=record), "onnx", tmp_path / "a.onnx", data=tiny).path
    assert str(saved.file.parent).encode() not in path.read_bytes()
    assert b"secret" not in path.read_bytes()


def test_data_that_is_not_at_hand_is_said_with_what_would_do(saved):
    record = replace(saved.manifest.dataset, name="imagenet", folder="")
    with pytest.raises(DatasetError, match=r"Other pictures like those that it will see will do: data= \(--data\)\."):
        export_model(saved.recorded(dataset=record))


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07" + bytes(200)])
def test_damaged_files_are_one_sentence(tmp_path, suffix, content):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"is damaged, or was not written by `imgclassify export`"):
        load_exported(path)


def test_cut_off_files_are_one_sentence(exported, tmp_path):
    content = exported.written.path.read_bytes()
    for share in (0.2, 0.6, 0.999):
        path = tmp_path / f"cut{exported.written.path.suffix}"
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ModelFileError, match="is damaged"):
            load_exported(path)


def test_a_file_of_another_program_is_refused(saved, tiny, tmp_path):
    path = export_model(saved, "onnx", tmp_path / "a.onnx", data=tiny).path
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="is damaged, or was not written"):
        load_exported(path)
    about = replace(About.of(saved), class_names=("only", "two"))
    onnx.helper.set_model_props(model, about.properties())
    onnx.save(model, path)
    with pytest.raises(ModelFileError, match="its outputs are not as many as its classes"):
        load_exported(path)


@pytest.mark.parametrize("name", ["gone.onnx", "gone.tflite"])
def test_a_missing_file_is_said(tmp_path, name):
    with pytest.raises(ModelFileError, match="There is no exported model"):
        load_exported(tmp_path / name)
    with pytest.raises(ModelFileError, match=r"ends in .onnx or .tflite"):
        load_exported(tmp_path / "gone.keras")


@pytest.mark.parametrize("to", ["onnx", "litert"])
def test_an_exported_file_needs_no_tensorflow(saved, tiny, tmp_path, to):
    path = export_model(saved, to, tmp_path / f"a{export._SUFFIXES[to]}", data=tiny).path
    photo = tmp_path / "photo.png"
    Image.fromarray(tiny.x_test[1]).save(photo)
    code = (
        "import sys; from imgclassify import load_exported; "
        f"print(load_exported({str(path)!r}).predict({str(photo)!r}).label); "
        "print([name for name in ('tensorflow', 'keras', 'sklearn', 'matplotlib') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert shown[:2] == [saved.predict(photo).label, "[]"]


def test_the_command_exports_and_predicts(tiny, tmp_path, monkeypatch, capsys):
    from imgclassify import train_model
    from imgclassify.data.folders import save_as_folder

    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "artifacts"))
    folder = save_as_folder(tiny, tmp_path / "colours")
    train_model("baseline", folder, epochs=2, batch_size=16, name="mine")
    capsys.readouterr()
    assert main(["export", "mine", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["format"] == "onnx"
    assert values["changed"] == 0
    photo = next((folder / "test" / "red").iterdir())
    assert main(["predict", str(photo), "--model", values["written"], "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["pictures"]
    assert found["label"] == load_model("mine").predict(photo).label
    assert main(["export", "mine"]) == 1
    assert "exists already" in capsys.readouterr().err
    before = read_manifest(load_model("mine").file)
    assert set(before.exports) == {"onnx"}
    assert main(["export", "mine", "--replace", "--no-record", "--data", str(folder)]) == 0
    assert read_manifest(load_model("mine").file) == before
    assert "Compared with the model on 60 pictures" in capsys.readouterr().out


def test_the_command_knows_the_formats():
    assert _FORMATS == FORMATS


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["baseline", "best", "guided"])
def test_shipped_models_are_exported(cifar10, tmp_path, monkeypatch, name):
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    model = replace(load_model(name), file=None)  # so that nothing is recorded
    written = export_model(model, "onnx", tmp_path / "a.onnx", data=cifar10)
    assert written.record.pictures == 256
    assert written.record.changed == written.record.verdicts == 0
    assert written.record.difference < 1e-5
