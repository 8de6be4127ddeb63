import json
import re
import sys
import threading
from dataclasses import asdict, replace

import numpy as np
import pytest

from imgclassify import models, runtime, training
from imgclassify.data import DatasetError
from imgclassify.evaluation import evaluate_model
from imgclassify.models import build_model
from imgclassify.optimization import build_optimizer
from imgclassify.persistence import ModelFileError, load_model, save_model
from imgclassify.prediction import predict_probabilities
from imgclassify.progress import Progress, format_seconds
from imgclassify.recipes import Recipe, get_recipe
from imgclassify.training import train_model, train_or_load_model

pytestmark = pytest.mark.usefixtures("nothing_shipped")

PRECISION = runtime.default_precision()
QUICK = {"epochs": 1, "batch_size": 16, "show_progress": False}


def runs() -> list[dict]:
    """The manifests of all runs in the artifacts folder, oldest first."""
    paths = sorted(runtime.artifacts_dir().glob("runs/*/model.json"))
    return [json.loads(path.read_text()) for path in paths]


@pytest.fixture
def published(tiny_model):
    """`tiny_model` as the published file for its data; returns its path."""
    return save_model(tiny_model, runtime.artifacts_dir() / "tiny_model.keras")


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(training, "train_model", lambda *_, **__: pytest.fail("a training was started"))


# --- recipes -------------------------------------------------------------------------------------


def test_the_baseline_recipe_is_the_designs():
    assert asdict(get_recipe("baseline")) == {
        "name": "baseline",
        "architecture": "baseline",
        "epochs": 20,
        "hard_fraction": 1.0,
        "batch_size": 64,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "schedule": "constant",
        "augmentation": "none",
        "label_smoothing": 0.0,
        "growing": 0,
        "averaging": 0.0,
        "tta": 0,
        "validation_fraction": 0.2,
    }


def test_a_setting_replaces_the_recipes_and_none_leaves_it():
    assert get_recipe("baseline", epochs=5, batch_size=None) == Recipe("baseline", epochs=5, batch_size=64)


def test_an_unknown_recipe_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"use one of \['baseline', 'best', 'fast'\]\. Received: recipe='better'"):
        get_recipe("better")


def test_an_unknown_setting_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="A recipe has no epoch; it has name, architecture, epochs,"):
        get_recipe("baseline", epoch=5)


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("epochs", 0, "at least 1"),
        ("hard_fraction", 0.0, "above 0 and at most 1"),
        ("hard_fraction", 1.5, "above 0 and at most 1"),
        ("batch_size", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("growing", 1, "0, 2, 3 or 4"),
        ("averaging", 1.5, "at least 0 and at most 1"),
        ("tta", 3, "0, 1 or 2"),
        ("validation_fraction", 0.0, "between 0 and 1"),
        ("validation_fraction", 1.0, "between 0 and 1"),
    ],
)
def test_values_out_of_range_are_refused_with_the_range(field, value, bound):
    with pytest.raises(ValueError, match=rf"{field} must be {bound}\. Received: {field}={value}"):
        get_recipe("baseline", **{field: value})


# --- a whole training ----------------------------------------------------------------------------


def test_the_loss_falls_and_the_colours_are_learned(tiny, tiny_run):
    assert tiny_run.history["loss"][-1] < 0.7 * tiny_run.history["loss"][0]
    assert tiny_run.history["val_accuracy"][-1] > 0.9
    assert evaluate_model(tiny_run.model, tiny.x_test, tiny.y_test).accuracy > 0.9


def test_history_has_one_number_an_epoch_for_each_of_four_keys(tiny_run):
    assert list(tiny_run.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    for values in tiny_run.history.values():
        assert len(values) == 3
        assert all(type(value) is float for value in values)


def test_a_run_folder_holds_the_model_and_its_manifest_and_nothing_else(tiny_run):
    assert sorted(path.name for path in tiny_run.folder.iterdir()) == ["model.json", "model.keras"]
    assert re.fullmatch(r"\d{8}-\d{6}-baseline", tiny_run.folder.name)


def test_the_manifest_says_how_the_model_came_about(tiny, tiny_run):
    manifest = json.loads((tiny_run.folder / "model.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["recipe"] == asdict(get_recipe("baseline", epochs=3, batch_size=16))
    assert manifest["seed"] == 0
    assert manifest["precision"] == runtime.default_precision()
    assert manifest["dataset"] == {
        "name": "tiny",
        "source": "made-up colours",
        "fingerprint": tiny.fingerprint,
        "training_pictures": 48,
        "validation_pictures": 12,
    }
    assert manifest["class_names"] == ["red", "green", "blue"]
    assert manifest["input_shape"] == [32, 32, 3]
    assert manifest["history"] == tiny_run.history
    assert {"python", "imgclassify", "tensorflow", "keras", "numpy"} <= set(manifest["versions"])
    assert {"processor", "cores", "gpus", "system"} <= set(manifest["machine"])
    assert manifest["wall_time_s"] > 0
    assert "commit" in manifest
    assert len(manifest["sha256"]) == 64


def test_the_manifest_names_no_folder_of_this_machine(tiny_run):
    a_path = r'"(/|~|[A-Za-z]:\\)'
    assert re.search(a_path, json.dumps({"where": "/home/somebody"}))
    assert not re.search(a_path, (tiny_run.folder / "model.json").read_text())


def test_the_manifests_validation_accuracy_is_that_of_the_saved_weights(tiny, tiny_run):
    _, rows = tiny.validation_split(0.2, 0)
    measured = evaluate_model(load_model(tiny_run.folder), tiny.x_train[rows], tiny.y_train[rows])
    assert tiny_run.model.manifest["metrics"]["val_accuracy"] == pytest.approx(measured.accuracy)
    assert tiny_run.model.manifest["metrics"]["val_loss"] == pytest.approx(measured.loss, rel=1e-4)


def test_training_on_a_share_keeps_the_validation_pictures_and_never_looks_at_the_test_data(tiny):
    model, _ = train_model("baseline", replace(tiny, x_test=None, y_test=None), share=0.5, **QUICK)
    assert model.manifest["share"] == 0.5
    assert model.manifest["dataset"]["training_pictures"] == 24
    assert model.manifest["dataset"]["validation_pictures"] == 12
    measured = ("accuracy", "loss", "calibration_error", "interval", "pictures")
    assert model.manifest["metrics"].keys() == {f"val_{name}" for name in measured}


def test_the_same_seed_repeats_a_training_which_is_shown_epoch_by_epoch(tiny, tiny_run, capsys):
    _, history = train_model("baseline", tiny, epochs=3, batch_size=16, name="again.1")
    for key, values in tiny_run.history.items():
        assert history[key] == pytest.approx(values, rel=1e-3)
    assert runs()[0]["run"].endswith("-again.1")
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if "val_accuracy" in line]
    assert [line.split()[:2] for line in lines] == [["epoch", "1/3"], ["epoch", "2/3"], ["epoch", "3/3"]]


def test_another_seed_gives_another_training(tiny, tiny_run, capsys):
    _, history = train_model("baseline", tiny, seed=1, **QUICK)
    assert history["loss"][0] != pytest.approx(tiny_run.history["loss"][0], rel=1e-3)
    assert capsys.readouterr().err == ""  # show_progress is False


def test_arrays_as_load_and_preprocess_data_returns_them_can_be_trained_on(tiny, tiny_run):
    one_hot = np.eye(3, dtype=np.float32)
    arrays = (
        (tiny.x_train.astype(np.float32) / 255, one_hot[tiny.y_train]),
        (tiny.x_test.astype(np.float32) / 255, one_hot[tiny.y_test]),
    )
    model, history = train_model("baseline", arrays, **QUICK)
    assert history["loss"][0] == pytest.approx(tiny_run.history["loss"][0], rel=1e-3)
    assert model.manifest["class_names"] == ["0", "1", "2"]


def test_mixed_precision_training_gives_a_complete_float32_model(tiny):
    model, _ = train_model("baseline", tiny, precision="mixed_bfloat16", **QUICK)
    (manifest,) = runs()
    assert manifest["precision"] == "mixed_bfloat16"
    loaded = load_model(manifest["run"])
    for each in (model, loaded):
        assert {layer.dtype_policy.name for layer in each.layers} == {"float32"}
        assert {weight.dtype for weight in each.weights} == {"float32"}
    assert runtime.keras().config.dtype_policy().name == "float32"  # as it was before
    _, rows = tiny.validation_split(0.2, 0)
    measured = evaluate_model(loaded, tiny.x_train[rows], tiny.y_train[rows])
    assert manifest["metrics"]["val_loss"] == pytest.approx(measured.loss)


@pytest.mark.parametrize("name", ["", "a/b", "../up", "two words"])
def test_a_name_that_is_no_file_name_is_refused_before_training(tiny, name):
    with pytest.raises(ValueError, match="A name is made of letters, digits"):
        train_model("baseline", tiny, name=name)
    assert runs() == []


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_a_share_out_of_range_is_refused_before_training(tiny, share):
    with pytest.raises(ValueError, match=rf"share must be above 0 and at most 1\. Received: share={share}"):
        train_model("baseline", tiny, share=share)
    assert runs() == []


def test_data_too_small_to_be_split_is_refused_before_training(tiny):
    one_each = replace(tiny, x_train=tiny.x_train[:3], y_train=tiny.y_train[:3])
    with pytest.raises(DatasetError, match="The 3 pictures cannot be split 80% to 20% with every class"):
        train_model("baseline", one_each)
    assert runs() == []


def test_runs_of_one_second_do_not_share_a_folder():
    assert len({training._new_run("twin").parent for _ in range(20)}) == 20


def test_in_short_mode_three_epochs_are_trained_whatever_was_asked_for(tiny, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "1")
    model, history = train_model("baseline", tiny, epochs=20, show_progress=False)
    assert len(history["loss"]) == 3
    assert model.manifest["recipe"]["epochs"] == 3


# --- interrupted and failed ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def misleading(tiny):
    """`tiny` with the colours of the validation pictures exchanged: the better the training pictures are
    learned, the worse the validation accuracy, so that the best epoch is an early one."""
    x = tiny.x_train.copy()
    _, rows = tiny.validation_split(0.2, 0)
    x[rows] = np.roll(x[rows], 1, axis=-1)
    return replace(tiny, x_train=x)


class StopAtCall(threading.Event):
    """An event that turns up set, or raises, when it is asked for the n-th time: in the midst of an epoch."""

    def __init__(self, call: int, error: type[BaseException] | None = None):
        super().__init__()
        self.calls, self.call, self.error = 0, call, error

    def is_set(self):
        self.calls += 1
        if self.calls == self.call and self.error:
            raise self.error
        return self.calls >= self.call


@pytest.mark.parametrize("way", ["Ctrl-C", "stop"])
def test_an_interrupted_training_keeps_the_best_weights_and_publishes_nothing(misleading, capsys, way):
    stop = threading.Event()

    def on_epoch(history):
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
        on_epoch=on_epoch,
        show_progress=False,
    )
    best = max(history["val_accuracy"])
    assert len(history["loss"]) == 8
    assert history["val_accuracy"][-1] < best  # or the test would say nothing
    (manifest,) = runs()
    assert manifest["status"] == model.manifest["status"] == "interrupted"
    assert manifest["history"] == history
    assert manifest["metrics"]["val_accuracy"] == pytest.approx(best)
    _, rows = misleading.validation_split(0.2, 0)
    for each in (model, load_model(manifest["run"])):
        measured = evaluate_model(each, misleading.x_train[rows], misleading.y_train[rows])
        assert measured.accuracy == pytest.approx(best)
    assert [path.name for path in runtime.artifacts_dir().iterdir()] == ["runs"]
    epoch = history["val_accuracy"].index(best) + 1
    said = f"Stopped after 8 of 9 epochs; the weights of epoch {epoch}, the best so far, are kept as the run"
    assert f"{said} {manifest['run']}." in capsys.readouterr().err


def test_ctrl_c_amid_the_second_epoch_keeps_the_first_and_the_published_file(tiny, published, capsys):
    before = published.read_bytes()
    stop = StopAtCall(2, KeyboardInterrupt)  # so small an epoch asks once, after its compiled steps
    model, history = train_or_load_model("baseline", tiny, epochs=3, batch_size=16, stop=stop, replace=True)
    assert [len(values) for values in history.values()] == [1, 1, 1, 1]
    assert model.manifest["status"] == runs()[0]["status"] == "interrupted"
    assert model.manifest["metrics"]["val_accuracy"] == pytest.approx(history["val_accuracy"][0])
    assert model.manifest["metrics"]["val_loss"] < history["val_loss"][0]  # by its temperature
    assert published.read_bytes() == before
    assert "Stopped after 1 of 3 epochs; the weights of epoch 1" in capsys.readouterr().err


def test_a_stop_amid_the_first_epoch_keeps_what_there_is_and_says_so(tiny, capsys):
    model, history = train_model("baseline", tiny, epochs=3, batch_size=16, stop=StopAtCall(1))
    assert history == {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}
    assert model.manifest["status"] == "interrupted"
    assert load_model(runs()[0]["run"]).manifest["metrics"] == {}  # nothing was measured yet
    assert "Stopped after 0 of 3 epochs; the weights as they stood" in capsys.readouterr().err


def test_a_failed_training_is_marked_failed_and_its_error_passed_on(tiny):
    def on_epoch(history):
        raise RuntimeError("the observer has fallen ill")

    with pytest.raises(RuntimeError, match="observer has fallen ill"):
        train_or_load_model("baseline", tiny, on_epoch=on_epoch, precision="float32", **QUICK)
    (manifest,) = runs()
    assert manifest["status"] == "failed"
    assert len(manifest["history"]["loss"]) == 1
    (kept,) = runtime.artifacts_dir().rglob("*.keras")  # the best weights so far, as a run; nothing is published
    assert kept.parent.parent.name == "runs"
    assert load_model(kept).manifest["metrics"]["val_accuracy"] == manifest["history"]["val_accuracy"][0]


def test_a_batch_that_does_not_fit_into_memory_is_said_with_a_remedy(tiny, monkeypatch):
    exhausted = runtime.tensorflow().errors.ResourceExhaustedError

    def run_epoch(*_):
        raise exhausted(None, None, "OOM when allocating a tensor")

    monkeypatch.setattr(training.Loop, "run_epoch", run_epoch)
    with pytest.raises(MemoryError, match=r"A batch of 16 pictures does not fit .*: try batch_size=8"):
        train_model("baseline", tiny, **QUICK)
    assert runs()[0]["status"] == "failed"


# --- publishing and loading ------------------------------------------------------------------------


def test_a_complete_training_is_published_with_one_reading_of_the_test_data(tiny):
    model, history = train_or_load_model("baseline", tiny, name="a-run-of-mine", **QUICK)
    path = runtime.artifacts_dir() / "tiny_model.keras"
    manifest = json.loads(path.with_suffix(".json").read_text())
    measured = evaluate_model(load_model(path), tiny.x_test, tiny.y_test)
    assert manifest["metrics"]["test_accuracy"] == measured.accuracy
    assert manifest["metrics"]["test_loss"] == pytest.approx(measured.loss)
    assert manifest["metrics"]["test_interval"] == list(measured.interval)
    assert manifest["metrics"]["test_pictures"] == 30
    assert manifest["run"].endswith("-a-run-of-mine")
    assert len(runs()) == 1
    assert model.manifest["history"] == history


@pytest.mark.usefixtures("no_training")
def test_a_published_model_is_loaded_with_its_history_in_place_of_training(tiny, tiny_run, published):
    model, history = train_or_load_model("baseline", tiny)
    assert history == tiny_run.history
    assert model.manifest == json.loads(published.with_suffix(".json").read_text())
    for loaded, trained in zip(model.get_weights(), tiny_run.model.get_weights(), strict=True):
        assert np.array_equal(loaded, trained)


@pytest.mark.usefixtures("no_training")
def test_cifar10s_published_model_is_loaded_without_its_data(tiny_run):
    save_model(tiny_run.model, runtime.artifacts_dir() / "cifar10_model.h5")
    _, history = train_or_load_model()  # there is no CIFAR-10 in a test
    assert history == tiny_run.history


@pytest.mark.usefixtures("no_training", "published")
def test_the_settings_of_the_published_model_may_be_asked_for(tiny, tiny_run):
    settings = {"epochs": 3, "batch_size": 16}
    _, history = train_or_load_model("baseline", tiny, seed=0, precision="auto", name="any", **settings)
    assert history == tiny_run.history
    _, history = train_or_load_model(Recipe("baseline", **settings), tiny, seed=0)
    assert history == tiny_run.history


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("options", "made", "asked"),
    [
        ({"epochs": 5}, "epochs=3", "epochs=5"),
        ({"epochs": 5, "learning_rate": 0.01}, "epochs=3, learning_rate=0.001", "epochs=5, learning_rate=0.01"),
        ({"seed": 7}, "seed=0", "seed=7"),
        ({"share": 0.5}, "share=1.0", "share=0.5"),
        ({"precision": "mixed_float16"}, f"precision={PRECISION}", "precision=mixed_float16"),
        ({"recipe": Recipe("baseline")}, "epochs=3, batch_size=16", "epochs=20, batch_size=64"),
        ({"recipe": Recipe("baseline", epochs=3, batch_size=16), "seed": 7}, "seed=0", "seed=7"),
    ],
)
def test_settings_other_than_the_published_models_are_refused(tiny, published, options, made, asked):
    before = published.read_bytes()
    said = re.escape(f"was trained with {made}, asked for was {asked}. Leave that out to load it")
    with pytest.raises(ModelFileError, match=said + ".* or pass replace=True to replace it"):
        train_or_load_model(data=tiny, **options)
    assert published.read_bytes() == before


@pytest.mark.usefixtures("no_training", "published")
def test_a_misspelt_setting_is_refused_also_where_a_model_could_be_loaded(tiny):
    with pytest.raises(ValueError, match="A recipe has no epoch;"):
        train_or_load_model("baseline", tiny, epoch=3)


@pytest.mark.usefixtures("no_training", "published")
def test_a_published_model_of_other_classes_is_refused(tiny):
    other = replace(tiny, class_names=("cyan", "pink", "grey"))
    with pytest.raises(ModelFileError, match=r"classes \(red, green, blue\) than .* \(cyan, pink, grey\)"):
        train_or_load_model("baseline", other)


def test_replace_trains_anew_and_replaces_the_published_file(tiny, published):
    before = published.read_bytes()
    model, _ = train_or_load_model("baseline", tiny, replace=True, seed=3, **QUICK)
    assert published.read_bytes() != before
    assert load_model(published).manifest["seed"] == model.manifest["seed"] == 3


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("manifest", ["with its manifest", "without a manifest"])
def test_a_damaged_published_file_is_neither_retrained_over_nor_deleted(tiny, published, manifest):
    damaged = published.read_bytes()[:5000]
    published.write_bytes(damaged)
    if manifest == "without a manifest":
        published.with_suffix(".json").unlink()
    with pytest.raises(ModelFileError, match=r"tiny_model\.keras .*damaged"):
        train_or_load_model("baseline", tiny)
    assert published.read_bytes() == damaged


@pytest.mark.usefixtures("no_training")
def test_another_path_is_used_for_loading(tiny, tiny_run, tmp_path):
    path = save_model(tiny_run.model, tmp_path / "elsewhere" / "mine.h5")
    _, history = train_or_load_model("baseline", tiny, path=path)
    assert history == tiny_run.history


def test_another_path_is_used_for_publishing(tiny, tmp_path):
    path = tmp_path / "elsewhere" / "mine.h5"
    train_or_load_model("baseline", tiny, path=path, **QUICK)
    assert load_model(path).manifest["recipe"]["epochs"] == 1
    assert [each.name for each in runtime.artifacts_dir().iterdir()] == ["runs"]


@pytest.mark.usefixtures("no_training")
def test_a_path_of_another_kind_is_refused_before_training(tiny, tmp_path):
    with pytest.raises(ModelFileError, match=r"A model file ends in \.keras or \.h5\. Received: .*model\.pb"):
        train_or_load_model("baseline", tiny, path=tmp_path / "model.pb")


@pytest.mark.usefixtures("no_training")
def test_a_shipped_model_is_loaded_where_the_artifacts_folder_has_none(tiny, tiny_run, tmp_path, monkeypatch):
    shipped = tmp_path / "project" / "artifacts"
    save_model(tiny_run.model, shipped / "tiny_model.keras")
    monkeypatch.setattr(runtime, "_project_artifacts", lambda: shipped)
    _, history = train_or_load_model("baseline", tiny)
    assert history == tiny_run.history


# --- progress ----------------------------------------------------------------------------------------


def test_outside_a_notebook_progress_goes_to_standard_error_line_by_line(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    with Progress() as progress:
        progress.log("first")
        progress.log("second")
    assert capsys.readouterr() == ("", "first\nsecond\n")


def test_progress_that_is_not_shown_still_says_what_must_be_said(capsys):
    with Progress(enabled=False) as progress:
        progress.log("a line")
        progress.update("a passing line")
        progress.say("The sentence.")
    assert capsys.readouterr() == ("", "The sentence.\n")


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.4, "8 s"), (59.7, "1 min 00 s"), (125, "2 min 05 s"), (4800, "1 h 20 min")]
)
def test_durations_are_written_for_people(seconds, text):
    assert format_seconds(seconds) == text


def test_a_recipes_name_must_be_fit_for_a_file_name():
    with pytest.raises(ValueError, match=r"A name is made of .* Received: name='a/b'"):
        Recipe("a/b")


def test_a_published_model_of_other_pictures_is_not_taken_for_this_datas(tiny):
    train_or_load_model("baseline", tiny, **QUICK)
    with pytest.raises(ModelFileError, match="was trained on other pictures than those of made-up colours"):
        train_or_load_model("baseline", replace(tiny, fingerprint="0" * 64))


def test_a_saved_run_holds_no_optimizer_state(tiny_run):
    model = tiny_run.model
    assert (tiny_run.folder / "model.keras").stat().st_size < 4 * model.count_params() * 1.2


# --- the loop ----------------------------------------------------------------------------------------

SMALL = Recipe("small", architecture="airbench", epochs=4, batch_size=16, optimizer="muon", learning_rate=0.1)


def loop_on(tiny, recipe: Recipe, precision: str = "float32") -> training.Loop:
    runtime.set_seed(0)
    model = build_model(recipe.architecture, num_classes=3)
    return training.Loop(model, recipe, precision, tiny.x_train, tiny.y_train, seed=0)


@pytest.mark.parametrize(("growing", "sides"), [(2, [20, 32]), (3, [20, 24, 32]), (4, [20, 24, 28, 32])])
def test_growing_pictures_have_so_many_sizes(tiny, growing, sides):
    loop = loop_on(tiny, replace(SMALL, growing=growing, epochs=growing))
    assert [loop.size_at(epoch, 0) for epoch in range(growing)] == [((side, side), 4) for side in sides]


def test_four_sizes_have_a_quarter_of_the_steps_each(tiny):
    loop = loop_on(tiny, replace(SMALL, growing=4, epochs=3))  # 12 steps, 3 a size: sizes change amid an epoch
    seen = []
    for epoch in range(3):
        step = 0
        while step < 4:
            size, end = loop.size_at(epoch, step)
            assert end > step
            seen += [size[0]] * (end - step)
            step = end
    assert seen == [20] * 3 + [24] * 3 + [28] * 3 + [32] * 3


def test_pictures_that_do_not_grow_have_their_size_throughout(tiny):
    assert loop_on(tiny, SMALL).size_at(3, 2) == ((32, 32), 4)


def test_an_epoch_shows_each_picture_once_and_fills_the_last_batch_up(tiny, monkeypatch):
    loop = loop_on(tiny, SMALL)  # 60 pictures, 4 steps of 16
    seen = []
    monkeypatch.setattr(
        loop, "_advance", lambda order, mirrored, size, step, end, *_: (seen.append(order.numpy()), (end, 0, 0))[1]
    )
    assert list(loop.run_epoch(0)) == [1.0]
    assert sorted(seen[0][:60]) == list(range(60))
    assert np.array_equal(seen[0][60:], seen[0][:4])


def test_flips_alternate_from_epoch_to_epoch(tiny, monkeypatch):
    loop = loop_on(tiny, SMALL)
    mirrored = []
    monkeypatch.setattr(
        loop, "_advance", lambda order, flips, size, step, end, *_: (mirrored.append(flips.numpy()), (end, 0, 0))[1]
    )
    for epoch in range(3):
        list(loop.run_epoch(epoch))
    assert np.array_equal(mirrored[0], ~mirrored[1])
    assert np.array_equal(mirrored[0], mirrored[2])
    assert 10 < mirrored[0].sum() < 50


def test_growing_pictures_and_shorter_epochs_are_traced_once(tiny):
    loop = loop_on(tiny, replace(SMALL, growing=4, hard_fraction=0.5, averaging=0.3))
    for epoch in range(4):
        list(loop.run_epoch(epoch))
    assert loop._advance.experimental_get_tracing_count() == 1


def test_long_epochs_come_back_in_between(tiny, monkeypatch):
    monkeypatch.setattr(training, "_CHUNK_SECONDS", 0.0)
    loop = loop_on(tiny, replace(SMALL, batch_size=8))
    shares = list(loop.run_epoch(0))
    assert shares == pytest.approx([i / 8 for i in range(1, 9)])


def test_towers_give_the_same_gradients(tiny, monkeypatch):
    recipe = replace(SMALL, architecture="baseline", optimizer="adam", learning_rate=1e-3)
    weights = []
    for towers in (1, 2):
        monkeypatch.setattr(runtime, "towers", lambda batch_size, towers=towers: towers)
        loop = loop_on(tiny, recipe)
        loop.network.layers[-2].rate = 0.0  # dropout draws for each tower
        list(loop.run_epoch(0))
        weights.append(loop.network.get_weights())
    for one, other in zip(*weights, strict=True):
        assert one == pytest.approx(other, abs=2e-4)


def test_a_linear_schedule_ends_at_zero(tiny):
    loop = loop_on(tiny, replace(SMALL, schedule="linear"))
    for epoch in range(4):
        list(loop.run_epoch(epoch))
    assert float(loop._optimizer.learning_rate) == 0.0


@pytest.mark.parametrize("scale_loss", [False, True])
def test_the_quick_adam_takes_the_steps_of_keras_adam(scale_loss):
    keras, tf = runtime.keras(), runtime.tensorflow()
    rng = np.random.default_rng(0)
    before, *gradients = rng.normal(size=(6, 3, 4)).astype(np.float32)
    after = []
    for optimizer in (build_optimizer(Recipe("baseline"), 5, scale_loss=scale_loss), keras.optimizers.Adam(1e-3)):
        kernel = keras.Variable(before)
        optimizer.build([kernel])
        for gradient in gradients:
            optimizer.apply([gradient * optimizer.scale_loss(tf.constant(1.0))], [kernel])
        after.append(np.asarray(kernel))
    assert np.abs(after[1] - before).min() > 1e-4
    assert after[0] == pytest.approx(after[1], abs=1e-6)


def test_a_step_of_muon_goes_against_the_gradient_along_all_its_directions_alike():
    optimizer = build_optimizer(replace(SMALL, learning_rate=0.05), 1)
    rng = np.random.default_rng(0)
    before, gradient = (rng.normal(size=(3, 3, 4, 8)).astype(np.float32) for _ in range(2))
    kernel = runtime.keras().Variable(before)
    optimizer.build([kernel])
    optimizer.apply([gradient], [kernel])
    step = np.asarray(kernel) - before * (8**0.5 / np.linalg.norm(before))
    left, _, right = np.linalg.svd(gradient.reshape(36, 8), full_matrices=False)
    directions = -left.T @ step.reshape(36, 8) @ right.T / 0.05
    assert np.diag(directions).min() > 0.4  # three Newton-Schulz iterations come near one
    assert np.diag(directions).max() < 1.3
    assert directions - np.diag(np.diag(directions)) == pytest.approx(0, abs=0.05)


def test_a_training_to_nothing_is_kept_with_its_record(tiny):
    with np.errstate(all="ignore"):
        _, history = train_model("baseline", tiny, learning_rate=1e30, **QUICK)
    assert not np.isfinite(history["loss"][-1])
    (run,) = runs()
    assert run["status"] == "complete"
    manifest = load_model(run["run"]).manifest
    assert manifest["temperature"] == 1.0
    assert "mixture" not in manifest


def test_what_comes_between_training_and_calibrating_loses_no_weights(tiny, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "calibrate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_model("baseline", tiny, **QUICK)
    (run,) = runs()
    assert load_model(run["run"]).manifest["metrics"] == {}
    assert run["status"] == "interrupted"


def test_a_batch_is_no_larger_than_the_data(tiny):
    loop = loop_on(tiny, replace(SMALL, batch_size=4096))
    assert list(loop.run_epoch(0)) == [1.0]
    assert loop._batch == len(tiny.x_train)


def test_later_epochs_train_on_the_pictures_that_the_network_was_least_sure_of(tiny, monkeypatch):
    recipe = replace(SMALL, architecture="baseline", optimizer="adam", learning_rate=1e-3, hard_fraction=0.5)
    loop = loop_on(tiny, recipe)
    list(loop.run_epoch(0))  # 60 pictures, 4 steps of 16
    certainty = loop._certainty.numpy()
    assert np.all((certainty > 0) & (certainty < 1))
    rows = []
    advance = loop._advance
    monkeypatch.setattr(
        loop, "_advance", lambda order, *others: (rows.append(order.numpy()), advance(order, *others))[1]
    )
    mirrored = loop._mirrored.copy()
    list(loop.run_epoch(1))
    assert sorted(rows[0][:32]) == sorted(np.argsort(certainty)[:32])  # half of the pictures, in 2 whole batches
    changed = loop._certainty.numpy() != certainty
    assert set(np.flatnonzero(changed)) <= set(rows[0])
    assert changed.sum() > 16
    assert set(np.flatnonzero(loop._mirrored != mirrored)) == set(rows[0])  # flips alternate for each by itself


def test_certainty_is_the_probability_of_the_picture_s_class(tiny):
    still = replace(SMALL, learning_rate=1e-12, hard_fraction=0.5, architecture="baseline", optimizer="adam")
    loop = loop_on(tiny, still)
    loop.network.layers[-2].rate = 0.0  # dropout
    list(loop.run_epoch(0))
    probabilities = predict_probabilities(loop.network, tiny.x_train)
    expected = probabilities[np.arange(len(tiny.y_train)), tiny.y_train]
    assert loop._certainty.numpy() == pytest.approx(expected, abs=1e-4)


def test_a_step_in_bfloat16_knows_the_size_of_its_batch(tiny, monkeypatch):
    sizes, convolve = set(), models._convolve
    monkeypatch.setattr(models, "_convolve", lambda x, *others: (sizes.add(x.shape[0]), convolve(x, *others))[1])
    loop = loop_on(tiny, replace(SMALL, augmentation="flip+shift+cutout", growing=3), "mixed_bfloat16")
    next(loop.run_epoch(0))
    assert sizes == {16 // runtime.towers(16)}


def test_averaged_weights_are_the_mean_over_the_last_steps(tiny, monkeypatch):
    monkeypatch.setattr(training, "_CHUNK_SECONDS", 0.0)  # a step at a time
    recipe = replace(SMALL, epochs=3, batch_size=20, hard_fraction=0.5)
    weights = {}
    for averaging, count in ((0.0, 1), (0.5, 4), (0.01, 1)):
        loop = loop_on(tiny, replace(recipe, averaging=averaging))  # of 3, 2 and 2 steps
        weights[averaging] = [loop.network.get_weights() for epoch in range(3) for _ in loop.run_epoch(epoch)]
        assert len(weights[averaging]) == 7
        for averaged, *steps in zip(loop.network.get_weights(), *weights[averaging][-count:], strict=True):
            assert averaged == pytest.approx(np.mean(steps, axis=0), abs=1e-5)
    for one, other in zip(weights[0.0][-1], weights[0.5][-1], strict=True):
        assert np.array_equal(one, other)  # averaging does not steer the training


def test_sizes_and_rates_go_by_the_steps_where_epochs_are_not_alike(tiny):
    recipe = replace(SMALL, growing=4, schedule="linear", hard_fraction=0.5, epochs=5)
    assert recipe.steps(60) == [4, 2, 2, 2, 2]
    loop = loop_on(tiny, recipe)
    assert [loop.size_at(0, 0), loop.size_at(1, 0), loop.size_at(4, 1)] == [((20, 20), 3), ((24, 24), 2), ((32, 32), 2)]
    areas = np.array([25, 36, 49, 64])
    assert loop.work_done(1) == pytest.approx(np.interp(4 / 12, np.arange(5) / 4, [0, *np.cumsum(areas)]) / areas.sum())
    for epoch in range(5):
        list(loop.run_epoch(epoch))
    assert float(loop._optimizer.learning_rate) == 0.0


def test_the_work_of_growing_pictures_goes_by_their_area(tiny):
    loop = loop_on(tiny, replace(SMALL, epochs=4, growing=4))
    areas = np.array([25, 36, 49, 64])
    done = [loop.work_done(epochs) for epochs in (0, 1, 2, 3, 4)]
    assert done == pytest.approx([0, *np.cumsum(areas) / areas.sum()])
    assert loop_on(tiny, SMALL).work_done(SMALL.epochs / 2) == 0.5


def test_a_small_airbench_learns_with_all_parts_on(tiny):
    recipe = replace(SMALL, schedule="linear", augmentation="flip+shift", label_smoothing=0.1, growing=3, tta=2)
    recipe = replace(recipe, epochs=6, hard_fraction=0.5, averaging=0.2)
    model, _ = train_model(recipe, tiny, show_progress=False)
    metrics = model.manifest["metrics"]
    assert metrics["val_accuracy"] > 0.9
    assert 0.25 <= model.manifest["temperature"] <= 4
    assert {"val_accuracy_without_tta", "val_calibration_error"} <= metrics.keys()
    _, rows = tiny.validation_split(0.2, 0)
    loaded = load_model(runs()[0]["run"])
    measured = evaluate_model(loaded, tiny.x_train[rows], tiny.y_train[rows])
    assert measured.accuracy == metrics["val_accuracy"]
    assert measured.loss == pytest.approx(metrics["val_loss"], rel=1e-3)


def test_an_unknown_precision_is_refused_before_training(tiny):
    with pytest.raises(ValueError, match=r"precision must be auto or one of float32.*Received: precision='float8'"):
        train_model("baseline", tiny, precision="float8")
    assert runs() == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "sgd"}, "optimizer must be one of adam, muon"),
        ({"optimizer": "muon", "architecture": "baseline"}, "optimizer must be adam for the baseline network"),
        ({"schedule": "cosine"}, "schedule must be one of constant, linear"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"augmentation": "rotate"}, "augmentation must be one of none, flip"),
        ({"growing": 3}, "growing must be 0 for the baseline network"),
    ],
)
def test_recipes_refuse_what_they_do_not_know(settings, said):
    with pytest.raises(ValueError, match=said):
        get_recipe("baseline", **settings)
