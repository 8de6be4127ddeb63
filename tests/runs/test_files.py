import json
import shutil
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from imgclassify import Manifest, ModelFileError, backend
from imgclassify.evaluation.calibration import at_temperatures
from imgclassify.models.inference import predict_probabilities
from imgclassify.runs.files import check_target, read_model, write_model
from imgclassify.runs.locks import locked
from imgclassify.runs.manifest import manifest_path, read_manifest, write_manifest


def names(folder) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def write(network, path, **manifest):
    """Writes the model and returns its path."""
    write_model(network, Manifest(**manifest), path)
    return path


# --- writing and reading ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_written_model_comes_back_with_its_manifest(tiny, tiny_model, tmp_path, suffix):
    path = tmp_path / "new" / f"model{suffix}"
    written = write_model(tiny_model.network, tiny_model.manifest, path)
    network, manifest = read_model(path)
    assert manifest == written == replace(tiny_model.manifest, sha256=written.sha256)
    before, after = (predict_probabilities(each, tiny.x_test) for each in (tiny_model.network, network))
    assert np.array_equal(before, after)
    assert manifest.to_dict() == json.loads(path.with_suffix(".json").read_text())
    assert names(path.parent) == sorted(["model.json", f"model{suffix}"])


def test_a_run_of_version_0_1_0_answers_as_it_did_with_its_temperatures_in_the_manifest(tiny, small, tmp_path):
    path = write(small, tmp_path / "model.keras")
    record = json.loads(path.with_suffix(".json").read_text())
    del record["temperatures"], record["outside_temperatures"]
    path.with_suffix(".json").write_text(json.dumps(record | {"temperature": 2.0, "mixture": [0.5, 1.5]}))
    pictures = np.random.default_rng(0).integers(0, 256, (20, *small.input_shape[1:]), dtype=np.uint8)
    expected = at_temperatures(predict_probabilities(small, pictures), [0.5, 1.5])
    network, manifest = read_model(path)
    assert predict_probabilities(network, pictures) == pytest.approx(expected, abs=1e-6)
    assert manifest.temperatures == (1.0, 3.0)
    again = tmp_path / "again.keras"
    write_model(network, manifest, again)  # now they are layers, and are not applied twice
    assert predict_probabilities(read_model(again)[0], pictures) == pytest.approx(expected, abs=1e-6)


def test_writing_says_nothing_and_leaves_the_given_manifest_alone(small, tmp_path, capfd):
    given = Manifest(seed=1)
    written = write_model(small, given, tmp_path / "model.h5")
    assert given == Manifest(seed=1)
    assert written.sha256 == read_manifest(tmp_path / "model.h5").sha256 is not None
    assert capfd.readouterr() == ("", "")


def test_an_existing_file_is_overwritten_only_on_demand(small, tmp_path):
    path = write(small, tmp_path / "model.keras", seed=1)
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match=r"model\.keras exists already .* replace=True"):
        write_model(small, Manifest(seed=2), path)
    assert path.read_bytes() == before
    write_model(small, Manifest(seed=2), path, replace=True)
    assert read_model(path)[1].seed == 2


@pytest.mark.parametrize("name", ["model", "model.pb", "model.keras.zip"])
def test_files_of_another_suffix_are_refused(small, tmp_path, name):
    with pytest.raises(ModelFileError, match=r"ends in \.keras or \.h5\. Received: "):
        write_model(small, Manifest(), tmp_path / name)
    assert names(tmp_path) == []


def test_a_target_is_checked_before_work_is_spent_on_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_target("~/new/model.keras") == tmp_path / "new" / "model.keras"
    assert names(tmp_path) == []
    (tmp_path / "model.keras").touch()
    with pytest.raises(ModelFileError, match="exists already"):
        check_target(tmp_path / "model.keras")
    assert check_target(tmp_path / "model.keras", replace=True) == tmp_path / "model.keras"


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_write_that_fails_leaves_the_old_model_whole_and_nothing_else(small, tmp_path, monkeypatch, suffix):
    path = write(small, tmp_path / f"model{suffix}", seed=1)
    before = path.read_bytes()

    def half(self, file, **_):
        file.write_bytes(b"half a mod")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(small), "save", half)
    with pytest.raises(OSError, match="No space left"):
        write_model(small, Manifest(seed=2), path, replace=True)
    assert path.read_bytes() == before
    assert names(tmp_path) == sorted(["model.json", f"model{suffix}"])
    assert read_model(path)[1].seed == 1


def test_a_manifest_that_cannot_be_written_loses_nothing(small, tmp_path):
    path = write(small, tmp_path / "m.keras", seed=1)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_model(small, Manifest(metrics={"val_accuracy": object()}), path, replace=True)
    assert path.read_bytes() == before
    assert read_model(path)[1].seed == 1
    assert names(tmp_path) == ["m.json", "m.keras"]


def test_a_network_read_is_compiled_and_written_again_without_an_optimizers_state(small, tmp_path):
    network, manifest = read_model(write(small, tmp_path / "first.h5"))
    assert network.compiled
    write_model(network, manifest, tmp_path / "second.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = backend.keras().models.load_model(tmp_path / "second.keras")
    assert all(np.array_equal(*pair) for pair in zip(again.get_weights(), small.get_weights(), strict=True))


# --- damaged, foreign and dangerous files -----------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "text", "cut off"])
def test_a_damaged_file_without_a_manifest_is_a_model_file_error(small, tmp_path, suffix, content):
    path = write(small, tmp_path / f"model{suffix}")
    path.with_suffix(".json").unlink()
    damaged = path.read_bytes()[:3000] if content is None else content
    path.write_bytes(damaged)
    said = rf"model\{suffix} cannot be loaded with Keras 3.* damaged or of another version"
    with pytest.raises(ModelFileError, match=said) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == damaged


def test_a_model_that_others_keep_replacing_and_hold_for_long_is_one_sentence(small, tmp_path, monkeypatch):
    path = write(small, tmp_path / "model.keras")
    monkeypatch.setattr("imgclassify.runs.files._PATIENCE", 0.1)
    monkeypatch.setattr("imgclassify.runs.files._versions", Mock(side_effect=range(9)))
    with (
        locked(tmp_path / ".model.keras.lock"),
        pytest.raises(ModelFileError, match=r"model\.keras is being written or read by others: try later\."),
    ):
        read_model(path)


def test_a_damaged_model_is_read_once_whoever_holds_its_lock(tmp_path, capsys):
    (path := tmp_path / "model.keras").write_bytes(b"no model")
    write_manifest(path, Manifest())
    with locked(tmp_path / ".model.keras.lock"), pytest.raises(ModelFileError, match="it is damaged"):
        read_model(path)
    assert capsys.readouterr().err.count("has no checksum") == 1


def test_a_missing_checksum_is_said_and_a_missing_manifest_is_not(small, tmp_path, capsys):
    path = write(small, tmp_path / "model.keras", seed=1)
    read_model(path)
    assert capsys.readouterr().err == ""
    write_manifest(path, Manifest(seed=2))
    assert read_model(path)[1].seed == 2
    assert "model.json has no checksum: damage to model.keras would not be noticed.\n" in capsys.readouterr().err
    manifest_path(path).unlink()
    read_model(path)
    assert capsys.readouterr().err == ""


def test_the_error_says_which_keras_a_file_was_written_with(tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(b"not a model")
    path.with_suffix(".json").write_text(json.dumps({"versions": {"keras": "4.0.0"}}))
    with pytest.raises(ModelFileError, match=r"with Keras 3.*, written with Keras 4\.0\.0: "):
        read_model(path)


def test_a_file_that_is_not_the_manifests_is_refused(small, tiny_model, tmp_path):
    path = write(small, tmp_path / "model.keras", seed=1)
    other = write(tiny_model.network, tmp_path / "other.keras")
    shutil.copy(other, path)
    with pytest.raises(ModelFileError, match=r"model\.keras is not the file that model\.json describes"):
        read_model(path)
    path.with_suffix(".json").unlink()
    network, manifest = read_model(path)  # as the message advises
    assert network.count_params() == tiny_model.network.count_params()
    assert manifest == Manifest()


def test_a_damaged_manifest_is_said_before_the_network_is_read(small, tmp_path):
    path = write(small, tmp_path / "model.keras")
    path.with_suffix(".json").write_bytes(b"\xff\xfe")
    path.write_bytes(b"not a model")
    with pytest.raises(ModelFileError, match=r"model\.json is damaged"):
        read_model(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_model_that_carries_code_is_refused_and_its_code_not_run(tmp_path, caplog, suffix):
    keras = backend.keras()
    mark = tmp_path / "the code has run"
    # A Lambda keeps its function as byte code; this one would leave a mark when it is called or loaded.
    source = f"lambda x: (__import__('pathlib').Path({str(mark)!r}).touch(), x)[1]"
    layers = [keras.layers.Input((32, 32, 3)), keras.layers.Lambda(eval(source)), keras.layers.Flatten()]
    model = keras.Sequential(layers)
    assert mark.exists()  # building the model has called it
    mark.unlink()
    model.save(tmp_path / f"model{suffix}")
    mark.unlink(missing_ok=True)
    with pytest.raises(ModelFileError, match=rf"model\{suffix} .*(carries code|Lambda)"):
        read_model(tmp_path / f"model{suffix}")
    assert not mark.exists()


def test_an_h5_file_with_layers_of_another_package_is_refused(small, tmp_path):
    import h5py

    path = write(small, tmp_path / "model.h5")
    path.with_suffix(".json").unlink()
    with h5py.File(path, "a") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1] |= {"module": "os", "class_name": "system"}
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(ModelFileError, match="carries code, or a layer that is not on the list: system of os"):
        read_model(path)


# --- replaced while others read, and killed meanwhile ----------------------------------------------


def other(network):
    """The same network with other weights."""
    changed = backend.keras().models.clone_model(network)
    changed.set_weights([weight + 1 for weight in network.get_weights()])
    return changed


class Killed(BaseException):
    """Stands for a kill: nothing after it is done."""


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_kill_between_the_replacements_leaves_a_pair(small, tmp_path, monkeypatch, suffix):
    path, changed = write(small, tmp_path / f"model{suffix}", seed=1), other(small)
    replace_file = Path.replace

    def kill_before_the_manifest(self, target):
        if Path(target).suffix == ".json" and self.name == ".model.coming.json":
            raise Killed
        return replace_file(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill_before_the_manifest)
        with pytest.raises(Killed):
            write_model(changed, Manifest(seed=2), path, replace=True)
    assert read_manifest(path).seed == 1
    for _ in range(2):  # the first reading mends it
        network, manifest = read_model(path)
        assert manifest.seed == 2
        assert np.array_equal(network.get_weights()[0], changed.get_weights()[0])
        assert names(tmp_path) == sorted(["model.json", path.name])


def test_a_kill_before_the_first_replacement_leaves_the_old_pair(small, tmp_path, monkeypatch):
    path = write(small, tmp_path / "model.keras", seed=1)
    with monkeypatch.context() as patch:
        patch.setattr("imgclassify.runs.files.write_manifest", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            write_model(other(small), Manifest(seed=2), path, replace=True)
    network, manifest = read_model(path)
    assert manifest.seed == 1
    assert np.array_equal(network.get_weights()[0], small.get_weights()[0])


def test_two_writers_and_a_reader_get_along(small, tmp_path):
    path, networks = tmp_path / "model.keras", {1: small, 2: other(small)}
    write(small, path, seed=1)

    def keep_writing(seed: int) -> None:
        for _ in range(8):
            write_model(networks[seed], Manifest(seed=seed), path, replace=True)

    writers = [threading.Thread(target=keep_writing, args=(seed,)) for seed in networks]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        network, manifest = read_model(path)
        assert np.array_equal(network.get_weights()[0], networks[manifest.seed].get_weights()[0])
    assert names(tmp_path) == ["model.json", "model.keras"]
