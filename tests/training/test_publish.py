import json
import re
from dataclasses import replace

import numpy as np
import pytest

from imgclassify import backend
from imgclassify.classifier import load_model, save_model
from imgclassify.evaluation.metrics import evaluate_model
from imgclassify.recipes import Recipe
from imgclassify.runs.manifest import ModelFileError
from imgclassify.runs.records import list_runs
from imgclassify.settings import artifacts_dir
from imgclassify.training import publish
from imgclassify.training.publish import find_published, train_or_load_model

pytestmark = pytest.mark.usefixtures("nothing_shipped")

PRECISION = backend.default_precision()


@pytest.fixture
def published(tiny_model):
    """`tiny_model` as the published file for its data; returns its path."""
    return save_model(tiny_model, artifacts_dir() / "tiny_model.keras")


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(publish, "train_model", lambda *_, **__: pytest.fail("a training was started"))


def test_a_complete_training_is_published_with_one_reading_of_the_test_data(tiny, quick):
    model, history = train_or_load_model("baseline", tiny, name="a-run-of-mine", **quick)
    path = artifacts_dir() / "tiny_model.keras"
    assert model.file == path
    manifest = json.loads(path.with_suffix(".json").read_text())
    measured = evaluate_model(load_model(path), tiny.x_test, tiny.y_test)
    assert manifest["metrics"]["test_accuracy"] == measured.accuracy
    assert manifest["metrics"]["test_loss"] == pytest.approx(measured.loss)
    assert manifest["metrics"]["test_interval"] == list(measured.interval)
    assert manifest["metrics"]["test_pictures"] == 30
    assert manifest["run"].endswith("-a-run-of-mine")
    (run,) = list_runs()
    assert run.manifest.metrics == {k: v for k, v in manifest["metrics"].items() if k.startswith("val_")}
    assert model.manifest.history == history
    assert model.manifest == load_model(path).manifest


def test_several_views_are_published_with_the_accuracy_of_a_single_one_too(tiny, quick):
    model, _ = train_or_load_model("baseline", tiny, views=2, **quick)
    expected = evaluate_model(model, tiny.x_test, tiny.y_test, views=1).accuracy
    assert model.manifest.metrics["test_accuracy_without_tta"] == expected


@pytest.mark.usefixtures("no_training")
def test_a_published_model_is_loaded_with_its_history_in_place_of_training(tiny, tiny_run, published):
    model, history = train_or_load_model("baseline", tiny)
    assert history == tiny_run.history
    assert model.manifest.to_dict() == json.loads(published.with_suffix(".json").read_text())
    for loaded, trained in zip(model.network.get_weights(), tiny_run.model.network.get_weights(), strict=True):
        assert np.array_equal(loaded, trained)


@pytest.mark.usefixtures("no_training")
def test_a_published_model_without_a_record_is_loaded_with_a_history_without_epochs(tiny, published):
    published.with_suffix(".json").unlink()
    _, history = train_or_load_model("baseline", replace(tiny, class_names=("0", "1", "2")))
    assert history == {"loss": [], "accuracy": [], "val_loss": [], "val_accuracy": []}


@pytest.mark.usefixtures("no_training")
def test_cifar10s_published_model_is_loaded_without_its_data(tiny_run):
    save_model(tiny_run.model, artifacts_dir() / "cifar10_model.h5")
    _, history = train_or_load_model()  # there is no CIFAR-10 in a test
    assert history == tiny_run.history


@pytest.mark.usefixtures("no_training", "published")
def test_the_settings_of_the_published_model_may_be_asked_for(tiny, tiny_run, quiet):
    settings = {"epochs": 3, "batch_size": 16}
    options = {"seed": 0, "precision": "auto", "name": "any", "progress": quiet, "on_epoch_end": print, "stop": None}
    _, history = train_or_load_model("baseline", tiny, **options, **settings)
    assert history == tiny_run.history
    _, history = train_or_load_model(Recipe("baseline", **settings), tiny, seed=0)
    assert history == tiny_run.history


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("options", "made", "asked"),
    [
        ({"epochs": 5}, "epochs=3", "epochs=5"),
        ({"epochs": 5, "learning_rate": 0.01}, "epochs=3, learning_rate=0.001", "epochs=5, learning_rate=0.01"),
        ({"views": 2}, "views=1", "views=2"),
        ({"seed": 7}, "seed=0", "seed=7"),
        ({"share": 0.5}, "share=1.0", "share=0.5"),
        ({"precision": "mixed_float16"}, f"precision={PRECISION}", "precision=mixed_float16"),
        ({"recipe": Recipe("baseline")}, "epochs=3, batch_size=16", "epochs=20, batch_size=64"),
        ({"recipe": Recipe("baseline", epochs=3, batch_size=16), "seed": 7}, "seed=0", "seed=7"),
    ],
)
def test_settings_other_than_the_published_models_are_refused(tiny, published, options, made, asked):
    before = published.read_bytes()
    said = re.escape(f"{published} was trained with {made}, not with {asked} as asked. Leave that out to load it")
    with pytest.raises(ModelFileError, match=said + ".* or pass replace=True to replace it"):
        train_or_load_model(data=tiny, **options)
    assert published.read_bytes() == before


@pytest.mark.usefixtures("no_training", "published")
@pytest.mark.parametrize("setting", ["epoch", "on_epoch", "show_progress"])
def test_a_misspelt_setting_is_refused_also_if_a_model_could_be_loaded(tiny, setting):
    with pytest.raises(ValueError, match=f"setting {setting}: "):
        train_or_load_model("baseline", tiny, **{setting: 3})


@pytest.mark.usefixtures("no_training", "published")
def test_a_published_model_of_other_classes_is_refused(tiny):
    other = replace(tiny, class_names=("cyan", "pink", "grey"))
    with pytest.raises(ModelFileError, match=r"classes \(red, green, blue\) than .* \(cyan, pink, grey\)"):
        train_or_load_model("baseline", other)


@pytest.mark.usefixtures("no_training", "published")
def test_a_published_model_of_other_pictures_is_refused(tiny):
    with pytest.raises(ModelFileError, match="was trained on other pictures than those of made-up colours"):
        train_or_load_model("baseline", replace(tiny, fingerprint="0" * 64))


def test_replace_trains_again_and_replaces_the_published_file(tiny, published, quick):
    before = published.read_bytes()
    model, _ = train_or_load_model("baseline", tiny, replace=True, seed=3, **quick)
    assert published.read_bytes() != before
    assert load_model(published).manifest.seed == model.manifest.seed == 3


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


def test_another_path_is_used_for_publishing(tiny, tmp_path, quick):
    path = tmp_path / "elsewhere" / "mine.h5"
    train_or_load_model("baseline", tiny, path=path, **quick)
    assert load_model(path).manifest.recipe.epochs == 1
    assert [each.name for each in artifacts_dir().iterdir()] == ["runs"]


@pytest.mark.usefixtures("no_training")
def test_a_path_of_another_kind_is_refused_before_training(tiny, tmp_path):
    with pytest.raises(ModelFileError, match=r"A model file ends in \.keras or \.h5\. Received: .*model\.pb"):
        train_or_load_model("baseline", tiny, path=tmp_path / "model.pb")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """The artifacts folder of a project that the tests run in; what is written goes elsewhere."""
    project = tmp_path / "project"
    (project / "src" / "imgclassify").mkdir(parents=True)
    (project / "artifacts").mkdir()
    monkeypatch.chdir(project)
    return project / "artifacts"


@pytest.mark.usefixtures("no_training")
def test_a_shipped_model_is_loaded_if_the_artifacts_folder_has_none(tiny, tiny_run, shipped):
    save_model(tiny_run.model, shipped / "tiny_model.keras")
    _, history = train_or_load_model("baseline", tiny)
    assert history == tiny_run.history


def test_a_published_model_comes_before_a_shipped_one_and_is_what_would_be_replaced(tiny_model, shipped):
    target = artifacts_dir() / "tiny_model.keras"
    assert find_published("baseline", "tiny") == (target, None)
    save_model(tiny_model, shipped / "tiny_model.keras")
    assert find_published("baseline", "tiny") == (target, shipped / "tiny_model.keras")
    save_model(tiny_model, target)
    assert find_published("baseline", "tiny") == (target, target)
