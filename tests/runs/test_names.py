import shutil
from pathlib import Path

import pytest

from imgclassify import Classifier, ModelFileError, load_model, save_model
from imgclassify.recipes import RECIPES
from imgclassify.runs.names import find_model, find_run, list_models, name_of, published_name, run_names, short_name
from imgclassify.settings import artifacts_dir

pytestmark = pytest.mark.usefixtures("nothing_shipped")

CIFAR10 = {"dataset": {"name": "cifar10"}}


def with_accuracy(accuracy: float | None) -> dict:
    return CIFAR10 | {"metrics": {"val_accuracy": accuracy}}


# --- the names of published models ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "dataset", "name"),
    [
        ("baseline", "cifar10", "cifar10_model.h5"),
        ("best", "cifar10", "cifar10_best.keras"),
        ("baseline", "digits", "digits_model.keras"),
        ("fast", "pets", "pets_fast.keras"),
    ],
)
def test_a_published_models_file_is_named_after_data_and_recipe(published, recipe, dataset, name):
    assert published_name(recipe, dataset) == name
    path = published(name)
    assert find_model(recipe, dataset=dataset) == path


def test_models_are_listed_by_folder_and_name_without_hidden_and_other_files(published, record):
    for name in ("digits_model.keras", "cifar10_model.h5", ".half.keras", "notes.txt"):
        published(name)
    record("20260101-000000-mine", model=True)
    assert [path.name for path in list_models()] == ["cifar10_model.h5", "digits_model.keras"]


@pytest.mark.parametrize(
    ("run", "short"),
    [
        ("20261124-210000-quick", "quick"),
        ("20261124-210000-quick-2", "quick-2"),
        ("20261124-210000-", "20261124-210000-"),
        ("quick", "quick"),
        ("digits_model.keras", "digits_model.keras"),  # no run, though as long as a time and a name
        ("a-name-longer-than-a-time", "a-name-longer-than-a-time"),
        ("/home/me/models/mine.keras", "/home/me/models/mine.keras"),
    ],
)
def test_the_short_name_of_a_run_leaves_out_its_time(run, short):
    assert short_name(run) == short


# --- the best --------------------------------------------------------------------------------------------


def test_best_is_the_cifar10_model_with_the_highest_recorded_validation_accuracy(published):
    published("cifar10_model.h5", **with_accuracy(0.69))
    best = published("cifar10_strong.keras", **with_accuracy(0.91))
    published("cifar10_weak.keras", **with_accuracy(0.55))
    published("cifar10_unrecorded.keras")
    published("digits_model.keras", dataset={"name": "digits"}, metrics={"val_accuracy": 0.99})
    assert find_model("best") == find_model() == best


def test_best_is_the_baseline_if_only_that_is_there(published):
    path = published("cifar10_model.h5", **with_accuracy(0.69))
    assert find_model("best") == path


def test_best_is_a_model_without_a_record_if_there_is_no_other(published):
    path = published("cifar10_mine.keras")
    assert find_model("best") == path


@pytest.mark.parametrize("order", ["cifar10_a.keras", "cifar10_z.keras"])
def test_best_is_no_model_whose_accuracy_is_not_a_number(published, order):
    published(order, **with_accuracy(None))
    best = published("cifar10_model.h5", **with_accuracy(0.1))
    assert find_model("best") == best


def test_best_is_never_a_model_of_another_data_set_with_a_similar_name(published):
    own = published("cifar10_model.h5", **with_accuracy(0.5))
    published("cifar10_pets_model.keras", dataset={"name": "cifar10_pets"}, metrics={"val_accuracy": 0.9})
    assert find_model("best") == own


# --- any name ----------------------------------------------------------------------------------------------


@pytest.fixture
def stocked(published, record) -> Path:
    """An artifacts folder with some models and runs."""
    for name in ("cifar10_model.h5", "digits_model.keras", "digits_fast.keras", "cifar10_strong.keras"):
        published(name)
    for name in ("20260101-000000-quick", "20260103-000000-quick", "20260102-000000-slow"):
        record(name, model=True)
    record("20260104-000000-empty")
    return artifacts_dir()


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("cifar10_model.h5", {}, "cifar10_model.h5"),
        ("digits_fast.keras", {}, "digits_fast.keras"),
        ("baseline", {}, "cifar10_model.h5"),
        ("baseline", {"dataset": "digits"}, "digits_model.keras"),
        ("fast", {"dataset": "digits"}, "digits_fast.keras"),
        ("strong", {}, "cifar10_strong.keras"),
        ("digits", {}, "digits_model.keras"),
        ("cifar10", {}, "cifar10_model.h5"),
        ("20260101-000000-quick", {}, "runs/20260101-000000-quick/model.keras"),
        ("quick", {}, "runs/20260103-000000-quick/model.keras"),  # the newer of two
        ("slow", {}, "runs/20260102-000000-slow/model.keras"),
    ],
)
def test_a_model_is_found_by_any_of_its_names_from_any_folder(stocked, tmp_path, monkeypatch, name, options, found):
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        assert find_model(name, **options) == stocked / found


def test_a_model_is_found_by_its_path_and_by_its_runs_folder(stocked, tmp_path, monkeypatch):
    run = stocked / "runs" / "20260102-000000-slow"
    shutil.copytree(run, tmp_path / "elsewhere")
    for name in (run, str(run), run / "model.keras", str(run / "model.keras")):
        assert find_model(name) == run / "model.keras"
    assert find_model(tmp_path / "elsewhere") == tmp_path / "elsewhere" / "model.keras"
    monkeypatch.chdir(tmp_path)
    assert find_model("elsewhere") == Path("elsewhere/model.keras")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_model("~/elsewhere/model.keras") == tmp_path / "elsewhere" / "model.keras"


def test_latest_is_the_newest_run(stocked, record):
    with pytest.raises(ModelFileError, match=r"run 20260104-000000-empty has no model"):
        find_model("latest")
    newest = record("20260105-000000-new", model=True)
    assert find_model("latest") == newest / "model.keras"


def test_a_published_model_goes_before_a_run_of_its_name(stocked, record, published):
    record("20260105-000000-fast", model=True)
    assert find_model("fast").parent.name == "20260105-000000-fast"
    path = published("cifar10_fast.keras")
    assert find_model("fast") == path


def test_a_model_file_is_found_without_an_artifacts_folder(tmp_path, monkeypatch):
    (tmp_path / "model.keras").touch()
    monkeypatch.delenv("IMGCLASSIFY_ARTIFACTS_DIR")
    assert find_model(tmp_path / "model.keras") == tmp_path / "model.keras"


def test_the_artifacts_folder_goes_before_the_shipped_models(published, tmp_path):
    shipped = tmp_path / "shipped"  # in the package, as a wheel has it
    for name in ("cifar10_model.h5", "cifar10_strong.keras"):
        published(name, folder=shipped)
    assert find_model("baseline") == find_model("cifar10_model.h5") == shipped / "cifar10_model.h5"
    own = published("cifar10_model.h5")
    assert find_model("baseline") == own
    assert list_models() == [own, shipped / "cifar10_strong.keras"]


# --- near misses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("zzz.keras", None),
        ("zzz", None),
        ("cifar10_modle.h5", "cifar10_model.h5"),
        ("digits_fats.keras", "digits_fast.keras"),
        ("baselin", "baseline"),
        ("bset", "best"),
        ("quik", "quick"),
        ("20260101-00000-quick", "20260101-000000-quick"),
    ],
)
def test_names_like_the_one_that_is_not_there_are_suggested(stocked, name, suggested):
    with pytest.raises(ModelFileError) as caught:
        find_model(name)
    assert name in str(caught.value)
    assert ("Did you mean" in str(caught.value)) == (suggested is not None)
    assert suggested is None or suggested in str(caught.value).partition("Did you mean")[2].partition("?")[0]


def test_an_unknown_model_is_said_with_those_that_are_published(published):
    with pytest.raises(ModelFileError, match=r'No model for "best".* Published: none\.'):
        find_model("best")
    published("cifar10_model.h5")
    published("digits_model.keras")
    with pytest.raises(ModelFileError, match=r'No model for "wonder".* Published: cifar10_model\.h5, digits_model'):
        load_model("wonder")


def test_a_missing_model_file_is_named():
    with pytest.raises(ModelFileError, match=r"There is no model file nowhere/model\.keras"):
        load_model("nowhere/model.keras")


@pytest.mark.parametrize("name", ["", ".", "..", "/", "no such\nname", "\0"])
def test_strange_names_are_model_file_errors(stocked, name):
    with pytest.raises(ModelFileError):
        find_model(name)


# --- runs ------------------------------------------------------------------------------------------------------


def test_runs_are_named_newest_first(stocked):
    (stocked / "runs" / "notes.txt").touch()
    assert run_names() == [
        "20260104-000000-empty",
        "20260103-000000-quick",
        "20260102-000000-slow",
        "20260101-000000-quick",
    ]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("20260101-000000-quick", "20260101-000000-quick"),
        ("quick", "20260103-000000-quick"),
        ("latest", "20260104-000000-empty"),
        ("empty", "20260104-000000-empty"),
    ],
)
def test_a_run_is_found_by_its_name_with_or_without_the_time_or_as_latest(stocked, name, found):
    assert find_run(name) == found


def test_an_unknown_run_is_said_with_similar_ones_and_the_newest(stocked):
    with pytest.raises(ValueError, match=r'no run "qiuck".*Did you mean quick\?.* 20260104-000000-empty, 20260103'):
        find_run("qiuck")


@pytest.mark.parametrize("name", ["mine", "latest", ""])
def test_before_the_first_training_there_is_no_run_to_find(name):
    with pytest.raises(ValueError, match=f'no run "{name}": there are no runs yet'):
        find_run(name)


# --- back from a file to its name --------------------------------------------------------------------------------


def test_every_model_is_found_by_the_name_of_its_file(stocked, published, tmp_path, monkeypatch):
    elsewhere = [published(name, folder=tmp_path / "elsewhere") for name in ("cifar10_model.h5", "model.keras")]
    runs = [stocked / "runs" / name / "model.keras" for name in run_names()[1:]]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for path in (*list_models(), *runs, *elsewhere):
        assert find_model(name_of(path)) == path
    assert [name_of(path) for path in runs] == run_names()[1:]
    assert [name_of(path) for path in list_models()] == [path.name for path in list_models()]
    assert [name_of(path) for path in elsewhere] == list(map(str, elsewhere))


@pytest.mark.parametrize("name", [*RECIPES, "digits", "pets"])
def test_a_published_classifier_is_loaded_by_the_name_that_it_calls_itself(small, name):
    file = published_name(name) if name in RECIPES else published_name(dataset=name)
    path = save_model(Classifier.of(small), artifacts_dir() / file)
    classifier = load_model(name)
    assert classifier.file == load_model(classifier.name).file == path


def test_best_of_another_data_set_is_that_of_the_recipe_best(tmp_path):
    folder = artifacts_dir()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cifar10_best.keras", "digits_best.keras"):
        (folder / name).touch()
    assert find_model("best").name == "cifar10_best.keras"
    assert find_model("best", dataset="digits").name == "digits_best.keras"
    assert find_model("best", dataset="pets").name == "cifar10_best.keras"
