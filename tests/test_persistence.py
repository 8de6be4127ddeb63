import json
import shutil

import numpy as np
import pytest

from imgclassify import persistence, runtime
from imgclassify.persistence import ModelFileError, find_model, load_model, read_manifest, save_model
from imgclassify.prediction import predict_image, predict_probabilities

pytestmark = pytest.mark.usefixtures("nothing_shipped")


@pytest.fixture(scope="module")
def small():
    """A Keras model of a few weights, without a manifest: three classes, and pictures as CIFAR-10's."""
    return with_outputs(3)


def with_outputs(count: int):
    keras = runtime.keras()
    return keras.Sequential(
        [
            keras.layers.Input((32, 32, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(count, activation="softmax"),
        ]
    )


def publish(model, name: str, val_accuracy: float | None = None):
    manifest = {} if val_accuracy is None else {"metrics": {"val_accuracy": val_accuracy}}
    return save_model(model, runtime.artifacts_dir() / name, manifest)


# --- round trip ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_saved_model_comes_back_with_its_predictions_and_its_manifest(tiny, tiny_model, tmp_path, suffix):
    path = save_model(tiny_model, tmp_path / "new" / f"model{suffix}")
    loaded = load_model(path)
    before, after = (predict_probabilities(model, tiny.x_test) for model in (tiny_model, loaded))
    assert np.array_equal(before, after)
    assert loaded.manifest["class_names"] == ["red", "green", "blue"]
    assert loaded.manifest["history"] == tiny_model.manifest["history"]
    assert loaded.manifest == json.loads(path.with_suffix(".json").read_text())
    assert sorted(each.name for each in path.parent.iterdir()) == sorted(["model.json", f"model{suffix}"])


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_loaded_model_can_be_evaluated_by_keras_itself(tiny, tiny_model, tmp_path, suffix):
    loaded = load_model(save_model(tiny_model, tmp_path / f"model{suffix}"))
    one_hot = np.eye(3)[tiny.y_test]
    loss, accuracy = loaded.evaluate(tiny.x_test.astype(np.float32) / 255, one_hot, verbose=0)
    assert 0 < loss < 2
    assert accuracy > 0.9


def test_saving_says_nothing_and_leaves_the_models_own_manifest_alone(small, tmp_path, capfd):
    manifest = {"note": "mine"}
    save_model(small, tmp_path / "model.h5", manifest)
    assert manifest == {"note": "mine"}
    assert read_manifest(tmp_path / "model.h5").keys() == {"note", "sha256"}
    assert capfd.readouterr() == ("", "")


def test_a_loaded_model_can_be_saved_again(tiny_model, tmp_path):
    loaded = load_model(save_model(tiny_model, tmp_path / "first.keras"))
    again = load_model(save_model(loaded, tmp_path / "second.h5"))
    assert again.manifest["class_names"] == ["red", "green", "blue"]


def test_an_existing_file_is_overwritten_only_on_demand(small, tmp_path):
    path = save_model(small, tmp_path / "model.keras", {"note": "first"})
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match=r"model\.keras exists already .* pass replace=True"):
        save_model(small, path, {"note": "second"})
    assert path.read_bytes() == before
    save_model(small, path, {"note": "second"}, replace=True)
    assert load_model(path).manifest["note"] == "second"


@pytest.mark.parametrize("name", ["model", "model.pb", "model.keras.zip"])
def test_files_of_another_suffix_are_refused(small, tmp_path, name):
    with pytest.raises(ModelFileError, match=r"A model file ends in \.keras or \.h5\. Received: "):
        save_model(small, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_failing_save_leaves_the_old_model_whole_and_no_rubbish(small, tmp_path, monkeypatch, suffix):
    path = save_model(small, tmp_path / f"model{suffix}", {"note": "old"})
    before = path.read_bytes()

    def half(self, file, **_):
        file.write_bytes(b"half a mod")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(small), "save", half)
    with pytest.raises(OSError, match="No space left"):
        save_model(small, path, {"note": "new"}, replace=True)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["model.json", f"model{suffix}"])
    assert load_model(path).manifest["note"] == "old"


# --- damaged, foreign and dangerous files -----------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_damaged_file_without_manifest_is_a_model_file_error(small, tmp_path, suffix, content):
    path = save_model(small, tmp_path / f"model{suffix}")
    path.with_suffix(".json").unlink()
    damaged = path.read_bytes()[:3000] if content is None else content
    path.write_bytes(damaged)
    said = rf"model\{suffix} cannot be loaded with Keras 3.* it is damaged or of another version"
    with pytest.raises(ModelFileError, match=said):
        load_model(path)
    assert path.read_bytes() == damaged


def test_a_file_that_is_not_the_manifests_is_refused(small, tmp_path):
    path = save_model(small, tmp_path / "model.keras", {"note": "mine"})
    other = save_model(with_outputs(4), tmp_path / "other.keras")
    shutil.copy(other, path)
    with pytest.raises(ModelFileError, match=r"model\.keras is not the file that model\.json describes"):
        load_model(path)
    path.with_suffix(".json").unlink()
    assert load_model(path).output_shape == (None, 4)  # as the message advises


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\xff\xfe"])
def test_a_damaged_manifest_is_a_model_file_error(small, tmp_path, text):
    path = save_model(small, tmp_path / "model.keras")
    path.with_suffix(".json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelFileError, match=r"model\.json is damaged"):
        load_model(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_that_carries_code_is_refused_and_its_code_not_run(tmp_path, monkeypatch, suffix):
    keras = runtime.keras()
    mark = tmp_path / "the code has run"
    # A Lambda keeps its function as byte code; this one would leave a mark when it is called or loaded.
    source = f"lambda x: (__import__('pathlib').Path({str(mark)!r}).touch(), x)[1]"
    layers = [keras.layers.Input((32, 32, 3)), keras.layers.Lambda(eval(source)), keras.layers.Flatten()]
    model = keras.Sequential(layers)
    assert mark.exists()  # building the model has called it
    mark.unlink()
    with persistence._absl_quiet():
        model.save(tmp_path / f"model{suffix}")
    mark.unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match=rf"model\{suffix} .*(carries code|Lambda)"):
        load_model(tmp_path / f"model{suffix}")
    assert not mark.exists()


def test_an_h5_file_with_layers_of_another_package_is_refused(small, tmp_path):
    import h5py

    path = save_model(small, tmp_path / "model.h5")
    path.with_suffix(".json").unlink()
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1] |= {"module": "os", "class_name": "system"}
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ModelFileError, match=r"carries code \(system of os\) and is not loaded"):
        load_model(path)


# --- finding ---------------------------------------------------------------------------------------


def test_best_is_the_cifar10_model_of_the_highest_recorded_validation_accuracy(small):
    publish(small, "cifar10_model.h5", 0.69)
    best = publish(small, "cifar10_strong.keras", 0.91)
    publish(small, "cifar10_weak.keras", 0.55)
    publish(small, "cifar10_unrecorded.keras")
    publish(small, "digits_model.keras", 0.99)
    assert find_model("best") == find_model() == best


def test_best_is_the_baseline_where_only_that_is_there(small):
    path = publish(small, "cifar10_model.h5", 0.69)
    assert find_model("best") == path
    assert load_model().manifest["metrics"] == {"val_accuracy": 0.69}


def test_models_are_found_by_recipe_and_by_data_set(small):
    baseline = publish(small, "cifar10_model.h5")
    digits = publish(small, "digits_model.keras")
    strong = publish(small, "cifar10_strong.keras")
    assert find_model("baseline") == baseline
    assert find_model("digits") == digits
    assert find_model("strong") == strong


def test_models_are_found_by_file_by_run_folder_and_by_run_name(tiny_run, tmp_path):
    name = tiny_run.folder.name
    shutil.copytree(tiny_run.folder, runtime.artifacts_dir() / "runs" / name)
    assert find_model(tiny_run.folder / "model.keras") == tiny_run.folder / "model.keras"
    assert find_model(str(tiny_run.folder)) == tiny_run.folder / "model.keras"
    assert find_model(name) == runtime.artifacts_dir() / "runs" / name / "model.keras"


def test_a_model_file_is_found_where_there_is_no_artifacts_folder(small, tmp_path, monkeypatch):
    path = save_model(small, tmp_path / "model.keras")
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    assert find_model(path) == path


def test_the_artifacts_folder_goes_before_the_shipped_models(small, tmp_path, monkeypatch):
    shipped = tmp_path / "project" / "artifacts"
    for name in ("cifar10_model.h5", "cifar10_strong.keras"):
        save_model(small, shipped / name)
    monkeypatch.setattr(runtime, "_project_artifacts", lambda: shipped)
    assert find_model("baseline") == shipped / "cifar10_model.h5"
    own = publish(small, "cifar10_model.h5")
    assert find_model("baseline") == own
    assert [path.name for path in persistence.list_models()] == ["cifar10_model.h5", "cifar10_strong.keras"]


def test_what_is_not_there_is_said_with_what_is(small):
    with pytest.raises(ModelFileError, match=r'No model for "best": .* Published here: none\.'):
        find_model("best")
    publish(small, "cifar10_model.h5")
    publish(small, "digits_model.keras")
    there = r"Published here: cifar10_model\.h5, digits_model\.keras\."
    with pytest.raises(ModelFileError, match=rf'No model for "strnog": give "best", a recipe, .* {there}'):
        load_model("strnog")


def test_a_missing_model_file_is_named():
    with pytest.raises(ModelFileError, match=r"There is no model file nowhere/model\.keras"):
        load_model("nowhere/model.keras")


# --- models of somebody else -------------------------------------------------------------------------


def test_a_bare_model_of_ten_outputs_answers_with_cifar10s_classes(tmp_path):
    path = tmp_path / "theirs.keras"
    with_outputs(10).save(path)
    model = load_model(path)
    assert model.manifest == {}
    assert predict_image(model, np.zeros((32, 32, 3), np.uint8)).probabilities.keys() >= {"airplane", "truck"}


def test_a_bare_model_of_other_outputs_works_with_class_names_and_says_so_without(small):
    black = np.zeros((32, 32, 3), np.uint8)
    assert predict_image(small, black, class_names=["a", "b", "c"]).label in "abc"
    with pytest.raises(ValueError, match=r"has 3 outputs, but 10 class names are known: pass class_names="):
        predict_image(small, black)


def test_a_manifest_that_cannot_be_written_loses_nothing(small, tmp_path):
    path = save_model(small, tmp_path / "m.keras", {"good": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_model(small, path, {"bad": object()}, replace=True)
    assert path.read_bytes() == before
    assert load_model(path).manifest["good"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.json", "m.keras"]


def test_best_is_never_a_model_of_another_data_set_with_a_similar_name(small):
    publish(small, "cifar10_model.h5", 0.5)
    other = publish(small, "cifar10_pets_model.keras", 0.9)
    persistence.write_manifest(other, read_manifest(other) | {"dataset": {"name": "cifar10_pets"}})
    assert find_model("best").name == "cifar10_model.h5"


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"test_accuracy": 0.691, "val_accuracy": 0.7}, "Right on 69.1% of the test pictures of toys."),
        ({"val_accuracy": 0.7}, "Right on 70.0% of the validation pictures of toys; not measured on test ones."),
        ({}, "Its accuracy is not recorded."),
    ],
)
def test_the_recorded_accuracy_is_described(small, metrics, sentence):
    small.manifest = {"metrics": metrics, "dataset": {"source": "toys"}}
    assert persistence.describe_accuracy(small) == sentence


def test_a_manifest_is_strict_json_also_after_a_training_that_diverged(tmp_path):
    persistence.write_manifest(tmp_path / "m.keras", {"history": {"loss": [2.5, float("nan"), float("inf")]}})
    assert json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail) == {
        "history": {"loss": [2.5, None, None]}
    }
