import json
import re
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest

from imgclassify import backend
from imgclassify.classifier import load_model
from imgclassify.data.dataset import DatasetError
from imgclassify.evaluation.metrics import evaluate_model
from imgclassify.progress import Progress
from imgclassify.recipes import Recipe, get_recipe
from imgclassify.runs.manifest import Manifest
from imgclassify.runs.records import list_runs, new_run
from imgclassify.settings import artifacts_dir
from imgclassify.training.loop import DivergedError, Loop
from imgclassify.training.publish import train_or_load_model
from imgclassify.training.train import train_model, train_variants

pytestmark = pytest.mark.usefixtures("nothing_shipped")


def the_run() -> Manifest:
    """The manifest of the only run."""
    (run,) = list_runs()
    return run.manifest


# --- a whole training ----------------------------------------------------------------------------


def test_the_loss_falls_and_the_colours_are_learned(tiny, tiny_run):
    assert tiny_run.history["loss"][-1] < 0.7 * tiny_run.history["loss"][0]
    assert tiny_run.history["val_accuracy"][-1] > 0.9
    assert evaluate_model(tiny_run.model, tiny.x_test, tiny.y_test).accuracy > 0.9


def test_history_has_one_number_per_epoch_for_each_of_four_keys(tiny_run):
    assert list(tiny_run.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    for values in tiny_run.history.values():
        assert len(values) == 3
        assert all(type(value) is float for value in values)


def test_a_run_folder_holds_the_model_and_its_manifest_and_nothing_else(tiny_run):
    assert sorted(path.name for path in tiny_run.folder.iterdir()) == ["model.json", "model.keras"]
    assert re.fullmatch(r"\d{8}-\d{6}-baseline", tiny_run.folder.name)


def test_the_manifest_says_how_the_model_came_about(tiny, tiny_run):
    manifest = json.loads((tiny_run.folder / "model.json").read_text())
    assert manifest["format"] == 2
    assert manifest["status"] == "complete"
    assert manifest["run"] == tiny_run.folder.name
    recipe = asdict(get_recipe("baseline", epochs=3, batch_size=16))
    assert manifest["recipe"] == recipe | {"sizes": [1.0]}  # JSON has no tuples
    assert manifest["seed"] == 0
    assert manifest["share"] == 1.0
    assert manifest["precision"] == backend.default_precision()
    assert manifest["dataset"] == {
        "name": "tiny",
        "source": "made-up colours",
        "fingerprint": tiny.fingerprint,
        "folder": "",
        "training_pictures": 48,
        "validation_pictures": 12,
    }
    assert manifest["class_names"] == ["red", "green", "blue"]
    assert manifest["input_shape"] == [32, 32, 3]
    assert manifest["history"] == tiny_run.history
    assert {"python", "imgclassify", "tensorflow", "keras", "numpy"} <= set(manifest["versions"])
    assert {"processor", "cores", "gpus", "system"} <= set(manifest["machine"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", manifest["created"])
    assert manifest["wall_time_s"] > 0
    assert "commit" in manifest
    assert len(manifest["sha256"]) == 64
    assert len(manifest["temperatures"]) == 2
    assert Manifest.from_dict(manifest) == tiny_run.model.manifest


def test_the_returned_classifier_is_the_saved_one(tiny, tiny_run):
    assert tiny_run.model.file == tiny_run.folder / "model.keras"
    loaded = load_model(tiny_run.folder)
    assert loaded.manifest == tiny_run.model.manifest
    for one, other in zip(loaded.network.get_weights(), tiny_run.model.network.get_weights(), strict=True):
        assert np.array_equal(one, other)
    assert loaded.answer(tiny.x_test[0]).probabilities == tiny_run.model.answer(tiny.x_test[0]).probabilities


def test_the_manifest_names_no_folder_of_this_machine(tiny_run):
    a_path = r'"(/|~|[A-Za-z]:\\)'
    assert re.search(a_path, json.dumps({"where": "/home/somebody"}))
    assert not re.search(a_path, (tiny_run.folder / "model.json").read_text())


def test_the_manifests_validation_accuracy_is_that_of_the_saved_weights(tiny, tiny_run):
    _, rows = tiny.validation_split(0.2, 0)
    measured = evaluate_model(load_model(tiny_run.folder), tiny.x_train[rows], tiny.y_train[rows])
    metrics = tiny_run.model.manifest.metrics
    assert metrics["val_accuracy"] == pytest.approx(measured.accuracy)
    assert metrics["val_loss"] == pytest.approx(measured.loss, rel=1e-4)
    assert metrics["val_pictures"] == 12


def test_training_on_a_share_keeps_the_validation_pictures_and_never_looks_at_the_test_data(tiny, quick):
    model, _ = train_model("baseline", replace(tiny, x_test=None, y_test=None), share=0.5, **quick)
    assert model.manifest.share == 0.5
    assert model.manifest.dataset.training_pictures == 24
    assert model.manifest.dataset.validation_pictures == 12
    measured = ("accuracy", "loss", "calibration_error", "interval", "pictures")
    assert model.manifest.metrics.keys() == {f"val_{name}" for name in measured}


def test_the_same_recipe_and_seed_repeat_bit_by_bit(tiny, tiny_run, quiet):
    again, history = train_model("baseline", tiny, epochs=3, batch_size=16, progress=quiet)
    for one, other in zip(again.network.get_weights(), tiny_run.model.network.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    assert again.manifest.temperatures == tiny_run.model.manifest.temperatures
    assert again.manifest.metrics == tiny_run.model.manifest.metrics
    for key in ("accuracy", "val_loss", "val_accuracy"):
        assert history[key] == tiny_run.history[key]
    assert history["loss"] == tiny_run.history["loss"]


def test_a_training_is_shown_epoch_by_epoch_on_standard_error(tiny, capsys):
    train_model("baseline", tiny, epochs=3, batch_size=16, name="again.1")
    assert the_run().run.endswith("-again.1")
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if "val_accuracy" in line]
    assert [line.split()[:2] for line in lines] == [["epoch", "1/3"], ["epoch", "2/3"], ["epoch", "3/3"]]


def test_another_seed_gives_another_training_which_is_not_shown_unless_asked_for(tiny, tiny_run, quick, capsys):
    _, history = train_model("baseline", tiny, seed=1, **quick)
    assert history["loss"][0] != pytest.approx(tiny_run.history["loss"][0], rel=1e-3)
    assert capsys.readouterr() == ("", "")


def test_arrays_as_load_and_preprocess_data_returns_them_can_be_trained_on(tiny, tiny_run, quick):
    one_hot = np.eye(3, dtype=np.float32)
    arrays = (
        (tiny.x_train.astype(np.float32) / 255, one_hot[tiny.y_train]),
        (tiny.x_test.astype(np.float32) / 255, one_hot[tiny.y_test]),
    )
    model, history = train_model("baseline", arrays, **quick)
    assert history["loss"][0] == tiny_run.history["loss"][0]
    assert model.class_names == ("0", "1", "2")


def test_mixed_precision_training_gives_a_complete_float32_model(tiny, quick):
    model, _ = train_model("baseline", tiny, precision="mixed_bfloat16", **quick)
    manifest = the_run()
    assert manifest.precision == "mixed_bfloat16"
    loaded = load_model(manifest.run)
    for network in (model.network, loaded.network):
        assert {layer.dtype_policy.name for layer in network.layers} == {"float32"}
        assert {weight.dtype for weight in network.weights} == {"float32"}
    assert backend.keras().config.dtype_policy().name == "float32"  # as it was before
    _, rows = tiny.validation_split(0.2, 0)
    measured = evaluate_model(loaded, tiny.x_train[rows], tiny.y_train[rows])
    assert manifest.metrics["val_loss"] == pytest.approx(measured.loss)


def test_a_small_airbench_learns_with_all_parts_on(tiny, quiet):
    recipe = Recipe(
        "small",
        architecture="airbench",
        epochs=6,
        hard_fraction=0.5,
        batch_size=16,
        optimizer="muon",
        learning_rate=0.1,
        schedule="linear",
        augmentation="flip+shift+cutout",
        label_smoothing=0.1,
        sizes=(5 / 8, 6 / 8, 1),
        views=6,
    )
    model, _ = train_model(recipe, tiny, progress=quiet)
    metrics = model.manifest.metrics
    assert metrics["val_accuracy"] > 0.9
    assert all(0.25 <= temperature <= 4 for temperature in model.manifest.temperatures)
    assert {"val_accuracy_without_tta", "val_calibration_error"} <= metrics.keys()
    _, rows = tiny.validation_split(0.2, 0)
    loaded = load_model(the_run().run)
    assert loaded.manifest.recipe == recipe
    measured = evaluate_model(loaded, tiny.x_train[rows], tiny.y_train[rows])
    assert measured.accuracy == metrics["val_accuracy"]
    assert measured.loss == pytest.approx(metrics["val_loss"], rel=1e-3, abs=1e-5)


def test_a_saved_run_holds_no_optimizer_state(tiny_run):
    network = tiny_run.model.network
    assert (tiny_run.folder / "model.keras").stat().st_size < 4 * network.count_params() * 1.2


def test_a_training_that_diverges_ends_at_once_says_so_and_is_not_published(tiny, quick):
    said = r"no longer finite at step \d+ of epoch 1.* smaller learning rate than 1e\+30"
    with pytest.raises(DivergedError, match=said):
        train_or_load_model("baseline", tiny, learning_rate=1e30, **quick)
    manifest = the_run()
    assert manifest.status == "failed"
    assert manifest.history["loss"] == []
    assert not list(artifacts_dir().glob("*.keras"))


def test_in_short_mode_three_epochs_are_trained_whatever_was_asked_for(tiny, quiet, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "1")
    model, history = train_model("baseline", tiny, epochs=20, progress=quiet)
    assert len(history["loss"]) == 3
    assert model.manifest.recipe.epochs == 3
    model, _ = train_model("baseline", tiny, epochs=1, progress=quiet)
    assert model.manifest.recipe.epochs == 1


def test_runs_of_the_same_second_do_not_share_a_folder():
    assert len({new_run("twin") for _ in range(20)}) == 20


# --- refused before training ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", "../up", "two words"])
def test_a_name_that_is_no_file_name_is_refused_before_training(tiny, name):
    with pytest.raises(ValueError, match=re.escape(f"Received: name='{name}'")):
        train_model("baseline", tiny, name=name)
    assert list_runs() == []


@pytest.mark.parametrize("share", [0, -0.5, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused_before_training(tiny, share):
    with pytest.raises(ValueError, match=rf"share must be above 0 and at most 1\. Received: share={share}"):
        train_model("baseline", tiny, share=share)
    assert list_runs() == []


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused_before_training(tiny, seed):
    with pytest.raises(ValueError, match=rf"seed must be from 0 to 4294967295\. Received: seed={seed}"):
        train_model("baseline", tiny, seed=seed)
    assert list_runs() == []


def test_the_largest_seed_can_be_trained_with(tiny, quick):
    model, _ = train_model("baseline", tiny, seed=2**32 - 1, **quick)
    assert model.manifest.seed == 2**32 - 1


def test_an_unknown_precision_is_refused_before_training(tiny):
    with pytest.raises(ValueError, match=r"precision must be auto or one of float32.*Received: precision='float8'"):
        train_model("baseline", tiny, precision="float8")
    assert list_runs() == []


def test_data_too_small_to_be_split_is_refused_before_training(tiny):
    one_each = replace(tiny, x_train=tiny.x_train[:3], y_train=tiny.y_train[:3])
    with pytest.raises(DatasetError, match=r"single picture.*3 pictures"):
        train_model("baseline", one_each)
    assert list_runs() == []


# --- interrupted and failed ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def misleading(tiny):
    """`tiny` with the colours of the validation pictures exchanged: the better the training pictures are
    learned, the worse the validation accuracy, so that the best epoch is an early one."""
    x = tiny.x_train.copy()
    _, rows = tiny.validation_split(0.2, 0)
    x[rows] = np.roll(x[rows], 1, axis=-1)
    return replace(tiny, x_train=x)


class StopAtCall(threading.Event):
    """An event that is set, or raises, when it is checked for the n-th time: in the middle of an epoch."""

    def __init__(self, call: int, error: type[BaseException] | None = None):
        super().__init__()
        self.calls, self.call, self.error = 0, call, error

    def is_set(self):
        self.calls += 1
        if self.calls == self.call and self.error:
            raise self.error
        return self.calls >= self.call


class InterruptedCalibration(Progress):
    """Progress during which Ctrl-C is pressed when the calibration begins."""

    def __init__(self):
        super().__init__(enabled=False)

    def log(self, line):
        if "calibrating" in line:
            raise KeyboardInterrupt


@pytest.mark.parametrize("way", ["Ctrl-C", "stop"])
def test_an_interrupted_training_keeps_the_best_weights_and_publishes_nothing(misleading, quiet, capsys, way):
    stop = threading.Event()

    def on_epoch_end(history):
        if len(history["loss"]) == 8:
            if way == "Ctrl-C":
                raise KeyboardInterrupt
            stop.set()

    model, history = train_or_load_model(
        "baseline",
        misleading,
        epochs=9,
        batch_size=16,
        learning_rate=1e-4,
        stop=stop,
        on_epoch_end=on_epoch_end,
        progress=quiet,
    )
    best = max(history["val_accuracy"])
    assert len(history["loss"]) == 8
    assert history["val_accuracy"][-1] < best  # or the test would prove nothing
    manifest = the_run()
    assert manifest.status == model.manifest.status == "interrupted"
    assert manifest.history == history
    assert manifest.metrics["val_accuracy"] == pytest.approx(best)
    _, rows = misleading.validation_split(0.2, 0)
    for each in (model, load_model(manifest.run)):
        measured = evaluate_model(each, misleading.x_train[rows], misleading.y_train[rows])
        assert measured.accuracy == pytest.approx(best)
    assert [path.name for path in artifacts_dir().iterdir()] == ["runs"]
    epoch = history["val_accuracy"].index(best) + 1
    said = f"Stopped after 8 of 9 epochs; the weights of epoch {epoch}, the best so far, are kept as the run"
    assert f"{said} {manifest.run}." in capsys.readouterr().err


def test_ctrl_c_in_the_second_epoch_keeps_the_first_and_the_published_file(tiny, tiny_model, capsys):
    published = artifacts_dir() / "tiny_model.keras"
    tiny_model.save(published)
    before = published.read_bytes()
    stop = StopAtCall(2, KeyboardInterrupt)  # so small an epoch asks once, after its compiled steps
    model, history = train_or_load_model("baseline", tiny, epochs=3, batch_size=16, stop=stop, replace=True)
    assert [len(values) for values in history.values()] == [1, 1, 1, 1]
    assert model.manifest.status == the_run().status == "interrupted"
    assert model.manifest.metrics["val_accuracy"] == pytest.approx(history["val_accuracy"][0])
    assert model.manifest.metrics["val_loss"] < history["val_loss"][0]  # by its temperatures
    assert published.read_bytes() == before
    assert "Stopped after 1 of 3 epochs; the weights of epoch 1" in capsys.readouterr().err


def test_a_stop_in_the_first_epoch_keeps_what_there_is_and_says_so(tiny, capsys):
    model, history = train_model("baseline", tiny, epochs=3, batch_size=16, stop=StopAtCall(1))
    assert history == {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}
    assert model.manifest.status == "interrupted"
    loaded = load_model(the_run().run)
    assert loaded.manifest.metrics == {}  # nothing was measured yet
    for one, other in zip(loaded.network.get_weights(), model.network.get_weights(), strict=True):
        assert np.array_equal(one, other)
    assert "Stopped after 0 of 3 epochs; what was learned so far is kept" in capsys.readouterr().err


def test_while_a_training_runs_its_manifest_says_so_with_the_history_so_far(tiny, quick):
    seen = []
    train_model("baseline", tiny, on_epoch_end=lambda history: seen.append((the_run(), history)), **quick)
    ((manifest, history),) = seen
    assert manifest.status == "running"
    assert manifest.history == history
    assert len(history["loss"]) == 1


def test_a_failed_training_is_marked_failed_and_its_error_passed_on(tiny, quick):
    def on_epoch_end(history):
        raise RuntimeError("the observer has fallen ill")

    with pytest.raises(RuntimeError, match="observer has fallen ill"):
        train_or_load_model("baseline", tiny, on_epoch_end=on_epoch_end, precision="float32", **quick)
    manifest = the_run()
    assert manifest.status == "failed"
    assert len(manifest.history["loss"]) == 1
    (kept,) = artifacts_dir().rglob("*.keras")  # the best weights so far, as a run; nothing is published
    assert kept.parent.parent.name == "runs"
    assert load_model(kept).manifest.metrics["val_accuracy"] == manifest.history["val_accuracy"][0]


def test_a_batch_that_does_not_fit_into_memory_is_reported_with_a_remedy(tiny, quick, monkeypatch):
    exhausted = backend.tensorflow().errors.ResourceExhaustedError

    def run_epoch(*_):
        raise exhausted(None, None, "OOM when allocating a tensor")

    monkeypatch.setattr(Loop, "run_epoch", run_epoch)
    with pytest.raises(MemoryError, match=r"A batch of 16 pictures does not fit .*: try batch_size=8"):
        train_model("baseline", tiny, **quick)
    assert the_run().status == "failed"


def test_an_interrupt_between_training_and_calibration_loses_no_weights(tiny, quick):
    with pytest.raises(KeyboardInterrupt):
        train_model("baseline", tiny, **quick | {"progress": InterruptedCalibration()})
    manifest = the_run()
    assert manifest.status == "interrupted"
    loaded = load_model(manifest.run)
    assert loaded.manifest.metrics == {}
    assert loaded.manifest.temperatures == ()
    _, rows = tiny.validation_split(0.2, 0)
    measured = evaluate_model(loaded, tiny.x_train[rows], tiny.y_train[rows])
    assert measured.loss == pytest.approx(manifest.history["val_loss"][0], rel=0.02)  # trained in lower precision


# --- early stopping ------------------------------------------------------------------------------


@pytest.fixture
def decide(tiny, monkeypatch):
    """`decide(1.0, 0.5, ...)`: the validation losses of the epochs to come, whatever the networks say."""

    def decide(*losses: float) -> None:
        upcoming, labels = iter(losses), tiny.y_train[tiny.validation_split(0.2, 0)[1]]

        def measured(network, x, **_):
            certainty = np.exp(-next(upcoming))
            return np.where(labels[:, None] == np.arange(3), certainty, (1 - certainty) / 2).astype(np.float32)

        monkeypatch.setattr("imgclassify.training.train.predict_probabilities", measured)

    return decide


def test_with_patience_a_training_ends_early_and_keeps_the_weights_with_the_lowest_validation_loss(
    tiny, quick, decide, capsys
):
    settings = quick | {"precision": "float32"}
    expected = train_model("baseline", tiny, **settings | {"epochs": 3})[0].network.get_weights()
    decide(1.0, 0.9, 0.7, 0.8, 0.75, 0.1)
    model, history = train_model("baseline", tiny, **settings | {"epochs": 20, "patience": 2})
    np.testing.assert_allclose(history["val_loss"], [1.0, 0.9, 0.7, 0.8, 0.75], rtol=1e-5)
    assert (model.manifest.status, model.manifest.recipe.patience, model.manifest.recipe.epochs) == ("complete", 2, 20)
    assert load_model(model.manifest.run).manifest.history == history
    for weight, again in zip(model.network.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, again, atol=1e-6)
    assert capsys.readouterr().err.endswith(
        "Stopped after 5 of 20 epochs, because the validation loss has not fallen for 2; the weights of epoch 3, the "
        f"best so far, are kept as the run {model.manifest.run}.\n"
    )


def test_with_patience_the_best_weights_are_kept_even_if_it_is_never_exhausted(tiny, quick, decide, capsys):
    settings = quick | {"precision": "float32"}
    expected = train_model("baseline", tiny, **settings | {"epochs": 2})[0].network.get_weights()
    decide(1.0, 0.6, 0.7)
    model, history = train_model("baseline", tiny, **settings | {"epochs": 3, "patience": 1})
    assert len(history["loss"]) == 3
    assert "Stopped" not in capsys.readouterr().err
    for weight, again in zip(model.network.get_weights(), expected, strict=True):
        np.testing.assert_allclose(weight, again, atol=1e-6)


def test_without_patience_all_epochs_are_trained(tiny, quick, decide):
    decide(0.1, 0.9, 0.9, 0.9)
    assert len(train_model("baseline", tiny, **quick | {"epochs": 4})[1]["loss"]) == 4


def test_a_schedule_is_that_of_all_epochs_even_if_the_training_ends_early(tiny, quick, decide):
    settings = quick | {"schedule": "linear", "epochs": 6, "precision": "float32"}
    decide(*[0.5] * 12)
    _, whole = train_model("baseline", tiny, **settings)
    _, ended = train_model("baseline", tiny, **settings, patience=3)
    assert len(ended["loss"]) == 4
    np.testing.assert_allclose(ended["loss"], whole["loss"][:4], rtol=1e-5)


# --- variants ------------------------------------------------------------------------------------


def test_variants_are_trained_with_every_seed_and_their_records_returned_by_label(tiny, quick):
    variants = {"as it is": {}, "large batches": {"batch_size": 48}}  # overrides the setting for all variants
    manifests = train_variants("baseline", tiny, variants, seeds=(3, 4), **quick)
    assert list(manifests) == ["as it is", "large batches"]
    assert [(each.seed, each.recipe.batch_size) for each in manifests["as it is"]] == [(3, 16), (4, 16)]
    assert [(each.seed, each.recipe.batch_size) for each in manifests["large batches"]] == [(3, 48), (4, 48)]
    assert len(list_runs()) == 4


def test_in_short_mode_variants_are_trained_with_the_first_seed_only(tiny, quick, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "1")
    manifests = train_variants("baseline", tiny, {"as it is": {}}, seeds=(3, 4), **quick)
    assert [each.seed for each in manifests["as it is"]] == [3]


def test_an_interrupted_variant_ends_the_comparison_and_its_run_is_kept(tiny, quick):
    variants = {"whole": {}, "stopped": {"stop": StopAtCall(1)}, "never begun": {}}
    with pytest.raises(KeyboardInterrupt):
        train_variants("baseline", tiny, variants, seeds=(0,), **quick)
    assert [run.manifest.status for run in list_runs()] == ["interrupted", "complete"]


def test_a_training_whose_last_step_diverges_is_not_complete(tiny, quick, monkeypatch):
    def nothing(network, x, **_):
        return np.full((len(x), 3), np.nan, np.float32)

    monkeypatch.setattr("imgclassify.training.train.predict_probabilities", nothing)
    with pytest.raises(DivergedError, match="validation loss is not finite"):
        train_model("baseline", tiny, **quick)
    assert the_run().status == "failed"
