import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from imgclassify import Classifier, build_model, load_model
from imgclassify.cli import _parser, main
from imgclassify.data.cifar import CIFAR10_CLASSES
from imgclassify.runs.manifest import DataRecord

pytestmark = pytest.mark.usefixtures("nothing_shipped")


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """`imgclassify run --image photo.png` with a CIFAR-10 model, but neither its data nor a network.

    The run trains the baseline on the digits in full; the shipped model is a stand-in with ten outputs.
    """
    folder = tmp_path_factory.mktemp("first run")
    artifacts, photo = folder / "artifacts", folder / "photo.png"
    Image.new("RGB", (90, 60), "teal").save(photo)
    Classifier.of(build_model(), CIFAR10_CLASSES).recorded(
        metrics={"val_accuracy": 0.68, "test_accuracy": 0.6907},
        dataset=DataRecord("cifar10", "CIFAR-10, JPEG mirror"),
    ).save(artifacts / "cifar10_model.h5")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATA_DIR", "DATASET", "SHORT", "CIFAR10_URL"):
            patch.delenv(f"IMGCLASSIFY_{name}", raising=False)
        patch.setenv("IMGCLASSIFY_OFFLINE", "1")
        patch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(artifacts))
        patch.setenv("IMGCLASSIFY_CACHE_DIR", str(folder / "cache"))
        patch.setenv("KERAS_HOME", str(folder / "keras"))
        patch.setattr("imgclassify.settings.PACKAGE", folder)
        patch.chdir(folder)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["run", "--image", str(photo)])
    streams = {"out": out.getvalue(), "err": err.getvalue()}
    return SimpleNamespace(code=code, artifacts=artifacts, photo=photo, **streams)


@pytest.fixture
def home(first_run, monkeypatch, tmp_path):
    """What `first_run` left behind, as this test's own artifacts folder."""
    folder = tmp_path / "home"
    shutil.copytree(first_run.artifacts, folder)
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(folder))
    return folder


@pytest.fixture
def photos(tiny, tmp_path):
    """A folder with three good pictures, one of them in a subfolder, and two bad ones."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, number in (("0.png", 0), ("1.png", 1), ("more/2.png", 2)):
        Image.fromarray(tiny.x_test[number]).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").write_text("not looked at")
    return folder


@pytest.fixture
def tiny_file(tiny_model, tmp_path):
    return str(tiny_model.save(tmp_path / "tiny.keras").file)


def the_run(home, pattern="*"):
    (run,) = (home / "runs").glob(pattern)
    return run.name


# --- usage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "predict", "explain", "report", "data", "runs"])
def test_each_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"usage: imgclassify {command}")
    assert "--json" in out
    assert err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["predict"],
        ["train", "--epochs", "many"],
        ["train", "--precision", "float8"],
        ["runs", "--nonsense"],
        ["predict", "--top", "0", "x.png"],
        ["train", "--seed", "-1"],
        ["train", "--share", "0"],
        ["train", "--share", "1.5"],
    ],
)
def test_wrong_usage_ends_with_2_and_a_word_on_standard_error(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: imgclassify" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--data", "nonesuch"], 'Unknown data set "nonesuch"'),
        (["evaluate", "nonesuch"], 'No model for "nonesuch"'),
        (["predict", "--model", "gone.keras", "x.png"], "There is no model file gone.keras"),
        (["data", "cifar10"], "CIFAR-10 was not found. Tried: "),
        (["runs", "nonesuch"], 'There is no run "nonesuch"'),
        (["runs", "--delete", "nonesuch", "--yes"], 'There is no run "nonesuch"'),
        (["run", "--data", "digits", "--image", "gone.png"], "gone.png does not exist"),
    ],
)
def test_what_the_user_can_fix_is_one_sentence_on_standard_error_and_1(arguments, sentence, capsys):
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("imgclassify: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_place_that_cannot_be_written_to_is_a_sentence_not_a_traceback(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "file"))
    assert main(["train", "--data", "digits", "--epochs", "1"]) == 1
    first, *_, last = capsys.readouterr().err.splitlines()
    assert "cannot be written" in first  # before the training
    assert last.startswith("imgclassify: the trained model could not be written; what could is in the run 20")


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("imgclassify.data.loading.load_dataset", interrupted)
    assert main(["data", "digits"]) == 130
    assert "interrupted" in capsys.readouterr().err


# --- run ---------------------------------------------------------------------------------------------


def test_without_cifar10_run_says_so_in_one_paragraph_and_goes_on_with_digits(first_run):
    assert first_run.code == 0
    (notice,) = [line for line in first_run.err.splitlines() if line.startswith("imgclassify: ")]
    assert "NOT CIFAR-10" in notice
    for word in ("digits", "Tried: ", "cifar-10-python.tar.gz", "put it into", "imgclassify data --download"):
        assert word in notice
    assert first_run.out.startswith("Data: digits (scikit-learn), 1,437 training and 360 test pictures\n")
    assert "none trained yet on this data, so the baseline is trained now" in first_run.out


def test_run_trains_the_digits_to_95_per_cent_and_publishes_the_model(first_run):
    manifest = json.loads((first_run.artifacts / "digits_model.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["metrics"]["test_accuracy"] >= 0.95
    assert f"Baseline: accuracy {manifest['metrics']['test_accuracy']:.2%} (95 % interval" in first_run.out


def test_run_without_cifar10_gives_the_users_picture_to_the_shipped_model_and_names_it(first_run):
    (line,) = [line for line in first_run.out.splitlines() if line.startswith(str(first_run.photo))]
    assert ", by cifar10_model.h5: " in line
    assert any(name in line for name in CIFAR10_CLASSES)


def test_run_says_where_everything_was_written_and_it_is_there(first_run):
    written = [
        line.removeprefix("Written: ").strip()
        for line in first_run.out.splitlines()
        if str(first_run.artifacts) in line
    ]
    expected = {"digits_model.keras", "digits_history.png", "digits_confusion.png", "digits_prediction.png"}
    there = {path.name for path in first_run.artifacts.rglob("*") if str(path) in written}
    assert expected < there
    assert len(written) == len(there) == 5  # the fifth is the run
    for name in ("history", "confusion", "prediction"):
        with Image.open(first_run.artifacts / "figures" / f"digits_{name}.png") as figure:
            assert figure.width > 500


def test_a_second_run_loads_the_model_and_its_json_is_alone_on_standard_output(home, first_run, capsys):
    before = (home / "digits_model.keras").read_bytes()
    assert main(["run", "--data", "digits", "--json", "--image", str(first_run.photo)]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["data"] == "digits (scikit-learn)"
    assert result["test_accuracy"] >= 0.95
    assert [picture["file"] for picture in result["pictures"]] == [str(first_run.photo)]
    assert sum(result["pictures"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert all(path.endswith(".png") for path in result["written"])
    assert err == ""
    assert (home / "digits_model.keras").read_bytes() == before
    assert len(list((home / "runs").iterdir())) == 1


# --- train -------------------------------------------------------------------------------------------


def test_training_with_a_published_model_makes_a_run_and_leaves_the_model_alone(home, capsys):
    before = (home / "digits_model.keras").read_bytes()
    assert main(["train", "--data", "digits", "--epochs", "1", "--share", "0.3", "--name", "short"]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"published digits_model\.keras .*--replace", out)
    assert "epoch 1/1" in err
    assert (home / "digits_model.keras").read_bytes() == before
    (run,) = (home / "runs").glob("*-short")
    assert json.loads((run / "model.json").read_text())["share"] == 0.3


def test_training_with_replace_replaces_the_published_model_whatever_the_run_is_called(home, capsys):
    settings = ["--epochs", "1", "--seed", "5", "--name", "mine"]
    assert main(["train", "--data", "digits", "--replace", "--json", *settings]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["seed"] == 5
    assert json.loads((home / "digits_model.json").read_text())["seed"] == 5
    assert sorted(path.name for path in home.glob("*.keras")) == ["digits_model.keras"]


# --- evaluate ----------------------------------------------------------------------------------------


def test_evaluate_measures_a_model_on_the_data_it_was_trained_on(home, capsys):
    assert main(["evaluate", "digits"]) == 0
    out, err = capsys.readouterr()
    recorded = json.loads((home / "digits_model.json").read_text())["metrics"]["test_accuracy"]
    assert out.startswith(f"digits_model.keras: accuracy {recorded:.2%} (95 % interval ")
    assert "on 360 pictures of digits (scikit-learn)" in out
    assert err == ""


def test_evaluate_takes_a_run_by_its_name_and_prints_json(home, capsys):
    assert main(["evaluate", the_run(home), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pictures"] == 360
    assert result["interval"][0] < result["accuracy"] < result["interval"][1]
    assert set(result["per_class"]) == set(result["by_class"]) == set("0123456789")
    share, low, high = result["by_class"]["0"]["recall"]
    assert low <= share == result["per_class"]["0"] <= high
    assert np.sum(result["confusion"]) == 360


def test_evaluate_refuses_data_of_other_classes(home, tiny_file, capsys):
    assert main(["evaluate", tiny_file, "--data", "digits"]) == 1
    err = capsys.readouterr().err
    assert "(red, green, blue)" in err
    assert "digits (scikit-learn) (0, 1," in err


# --- predict -----------------------------------------------------------------------------------------


def test_predict_names_each_file_with_its_best_classes(photos, tiny_file, capsys):
    files = [str(photos / "0.png"), str(photos / "1.png")]
    assert main(["predict", *files, "--model", tiny_file, "--top", "2"]) == 0
    out, err = capsys.readouterr()
    first, second = out.splitlines()
    assert first.startswith(f"{photos / '0.png'}: red ")
    assert second.startswith(f"{photos / '1.png'}: green ")
    assert first.count("%") == second.count("%") == 2
    assert err == ""


def test_of_a_folder_the_good_pictures_are_classified_and_the_bad_ones_named(photos, tiny_file, capsys):
    assert main(["predict", str(photos), "--model", tiny_file]) == 1
    out, err = capsys.readouterr()
    assert [line.split(": ")[1].split()[0] for line in out.splitlines()] == ["red", "green", "blue"]
    skipped, broken = err.splitlines()
    assert f"{photos}: skipped 1 file not ending in .jpg" in skipped
    assert f"{photos / 'broken.jpg'} is " in broken


def test_predicts_json_is_alone_on_standard_output_also_with_bad_files(photos, tiny_file, capsys):
    assert main(["predict", str(photos), "--model", tiny_file, "--json", "--top", "2"]) == 1
    out, err = capsys.readouterr()
    printed = json.loads(out)
    results = printed["pictures"]
    assert [refused["file"] for refused in printed["refused"]] == [str(photos / "broken.jpg")]
    assert "broken.jpg" in printed["refused"][0]["error"]
    assert printed["model"] == tiny_file
    assert [result["label"] for result in results] == ["red", "green", "blue"]
    for result in results:
        assert result["confidence"] == max(result["probabilities"].values())
        assert len(result["probabilities"]) == 2
    assert len(err.splitlines()) == 2


def test_explain_writes_a_figure_and_says_what_it_shows(photos, tiny_file, tmp_path, capsys):
    file, out = str(photos / "0.png"), tmp_path / "why.png"
    assert main(["explain", file, "-o", str(out), "--model", tiny_file, "--against", "blue"]) == 0
    said, err = capsys.readouterr()
    first, second = said.splitlines()
    assert first.startswith(f"{file}, by {tiny_file}: red ")
    assert second == f"what speaks for red; what speaks for red rather than blue. Written: {out}"
    assert err == ""
    with Image.open(out) as figure:
        assert figure.width > figure.height > 200


def test_explains_json_says_whether_anything_was_found(photos, tiny_file, tmp_path, capsys):
    out = tmp_path / "why.svg"
    options = ["--model", tiny_file, "--label", "green", "--method", "occlusion", "--json"]
    assert main(["explain", str(photos / "1.png"), "-o", str(out), *options]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["label"], values["explained"], values["method"]) == ("green", "green", "occlusion")
    assert values["against"] in ("red", "blue")
    assert (values["found"], values["found_against"]) == (True, True)
    assert out.read_text(encoding="utf-8").startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "pink"], "The model's classes are red, green, blue. Received: 'pink'"),
        (["--layer", "pink"], "Received: layer='pink'"),
        (["--method", "pink"], "Received: method='pink'"),
        (["-o", "why.pink"], "pink"),
        (["-o", "no/such/folder/why.png"], "no/such/folder"),
    ],
)
def test_what_explain_cannot_do_is_one_sentence(photos, tiny_file, capsys, options, said):
    assert main(["explain", str(photos / "0.png"), "-o", "why.png", "--model", tiny_file, *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_explain_does_not_write_over_the_picture(photos, tiny_file, capsys):
    picture = photos / "0.png"
    before = picture.read_bytes()
    assert main(["explain", str(picture), "-o", str(picture), "--model", tiny_file]) == 1
    assert "is the picture itself: give another path with -o." in capsys.readouterr().err
    assert picture.read_bytes() == before


def test_an_empty_folder_and_a_missing_file_are_named(tmp_path, tiny_file, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["predict", str(tmp_path / "empty"), str(tmp_path / "gone.png"), "--model", tiny_file]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{tmp_path / 'empty'} contains no picture" in err
    assert f"{tmp_path / 'gone.png'} does not exist" in err


# --- data and runs -----------------------------------------------------------------------------------


def test_data_counts_pictures_of_each_class(capsys):
    assert main(["data", "digits"]) == 0
    first, *classes = capsys.readouterr().out.splitlines()
    assert first.startswith("digits (scikit-learn): 1,437 training and 360 test pictures; fingerprint ")
    assert len(classes) == 10


def test_data_as_json_is_valid(capsys):
    assert main(["data", "digits", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert sum(count["training"] + count["test"] for count in result["classes"].values()) == 1797
    assert len(result["fingerprint"]) == 64


def test_data_names_unreadable_pictures_of_a_folder_and_ends_with_1(tiny, tmp_path, capsys):
    for row in range(20):
        folder = tmp_path / "mine" / tiny.class_names[tiny.y_train[row]]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny.x_train[row]).save(folder / f"{row}.png")
    (tmp_path / "mine" / "red" / "broken.png").write_bytes(b"broken")
    assert main(["data", str(tmp_path / "mine")]) == 1
    out, err = capsys.readouterr()
    assert "20 pictures of 3 classes" in out
    assert "broken.png is not a picture of a known format" in err


def test_runs_says_when_there_are_none(capsys):
    assert main(["runs"]) == 0
    assert "No runs yet" in capsys.readouterr().out
    assert main(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_runs_lists_what_was_trained(home, capsys):
    assert main(["runs"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["run", "data", "status"]
    assert line.split()[:5] == [the_run(home), "digits", "(scikit-learn)", "complete", "20"]
    assert main(["runs", the_run(home), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["name"] == the_run(home)
    assert len(run["history"]["loss"]) == 20


@pytest.mark.parametrize(("answer", "deleted"), [("y", True), ("YES ", True), ("", False), ("n", False), (None, False)])
def test_a_run_is_deleted_only_on_a_clear_yes(home, monkeypatch, capsys, answer, deleted):
    name = the_run(home)
    monkeypatch.setattr("sys.stdin", io.StringIO("" if answer is None else f"{answer}\n"))
    assert main(["runs", "--delete", name]) == 0
    out, err = capsys.readouterr()
    assert f"Delete the run {name} for good? [y/N]" in err
    assert out == (f"Deleted {name}.\n" if deleted else "Nothing was deleted.\n")
    assert (home / "runs" / name).exists() is not deleted
    assert (home / "digits_model.keras").exists()


def test_a_run_is_deleted_without_asking_and_reported_as_json(home, capsys):
    name = the_run(home)
    assert main(["runs", "--delete", name, "--yes", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"deleted": name}
    assert err == ""
    assert list((home / "runs").iterdir()) == []


def test_run_goes_on_with_a_published_model_that_has_no_manifest(home, capsys):
    (home / "digits_model.json").unlink()
    assert main(["run"]) == 0
    out = capsys.readouterr().out
    assert "Test picture 0, by digits_model.keras: " in out
    assert "digits_confusion.png" in out
    assert "digits_history.png" not in out


# --- what a new user tries ------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny, tmp_path):
    """A folder of class folders, one of which contains a file that is not a picture."""
    root = tmp_path / "colours"
    for row in range(60):
        path = root / tiny.class_names[tiny.y_train[row]] / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny.x_train[row]).save(path)
    (root / "red" / "broken.png").write_bytes(b"broken")
    return root


TRAIN = ["--epochs", "2", "--batch-size", "16"]


@pytest.fixture
def trained(folder, capsys):
    """What `imgclassify train baseline --data FOLDER` printed."""
    assert main(["train", "baseline", "--data", str(folder), *TRAIN]) == 0
    return capsys.readouterr()


def test_bare_imgclassify_shows_its_help(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: imgclassify")


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("imgclassify 0.")


@pytest.mark.parametrize("command", ["run", "train", "evaluate", "predict", "data", "runs"])
def test_every_option_has_help(command):
    (subparsers,) = [action for action in _parser()._actions if action.choices]
    for action in subparsers.choices[command]._actions:
        assert action.help, f"{command} {action.dest}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "better"], "Unknown recipe: use one of"),
        (["train", "--data", "digits", "--epochs", "0"], "epochs must be at least 1. Received: epochs=0"),
        (["train", "--learning-rate", "inf"], "learning_rate must be above 0 and finite"),
        (["train", "--name", "two words"], "name='two words'"),
    ],
)
def test_a_wrong_recipe_or_value_is_wrong_usage(arguments, said, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_train_names_the_files_it_left_out_and_how_sure_its_accuracy_is(trained):
    assert "left out: " in trained.err
    assert "broken.png" in trained.err
    assert re.search(r"Validation accuracy \d+\.\d\d% of 10 pictures \(95 % interval", trained.out)


def test_the_commands_that_train_prints_work(trained, folder, capsys):
    lines = re.findall(r"imgclassify ((?:evaluate|predict) .*)", trained.out)
    assert len(lines) == 2
    for line in lines:
        words = [str(folder / "red" / "0.png") if word == "photo.jpg" else word for word in line.split()]
        assert main(words) == 0, line
    assert "accuracy" in capsys.readouterr().out


def test_a_model_of_a_folder_is_evaluated_where_the_folder_was(trained, capsys):
    assert main(["evaluate", "latest"]) == 0
    assert 'on 12 pictures of folder "colours"' in capsys.readouterr().out


def test_a_folder_that_is_gone_is_reported(trained, folder, tmp_path, capsys):
    folder.rename(tmp_path / "moved")
    assert main(["evaluate", "latest"]) == 1
    err = capsys.readouterr().err
    assert f"the folder {folder}, which no longer exists" in err
    assert "--data" in err
    assert main(["evaluate", "latest", "--data", str(tmp_path / "moved")]) == 0


def test_a_folder_that_has_changed_is_reported(trained, folder, capsys):
    (folder / "red" / "0.png").unlink()
    assert main(["evaluate", "latest"]) == 0
    assert f"The pictures in {folder} have changed" in capsys.readouterr().err


def test_photos_are_trained_evaluated_and_classified_at_the_size_of_the_backbone(folder, capsys):
    assert main(["train", "head", "--data", str(folder), "--name", "first"]) == 0
    assert load_model("first").input_size == 224
    assert main(["evaluate", "first", "--data", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("\n{")[2].join(("{", "")))["accuracy"] > 0.9
    assert main(["predict", str(folder / "red" / "0.png"), "--model", "first"]) == 0
    assert "0.png: red" in capsys.readouterr().out


def test_a_folder_of_photos_is_trained_by_the_recipe_for_photos(folder, capsys, monkeypatch):
    asked = []

    def ask(recipe, data, **options):
        asked.extend([recipe, data])
        raise KeyboardInterrupt  # this test is not about the training

    monkeypatch.setattr("imgclassify.training.publish.train_or_load_model", ask)
    assert main(["train", "--data", str(folder)]) == 130
    recipe, data = asked
    assert recipe.name == "photos"
    assert data.x_train.shape[1:] == (224, 224, 3)


def test_a_recipe_together_with_data_names_a_model(trained, folder, capsys):
    assert main(["evaluate", "baseline", "--data", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("colours_model.keras: accuracy")


@pytest.mark.usefixtures("trained")
def test_near_misses_are_suggested(capsys):
    for typed, meant in (("colors_model.keras", "colours_model.keras"), ("basline", "baseline"), ("lastest", "latest")):
        assert main(["evaluate", typed]) == 1
        assert f"Did you mean {meant}" in capsys.readouterr().err


def test_run_answers_with_one_model_and_names_it(trained, folder, tmp_path, capsys):
    assert main(["run", "--data", str(folder), "--image", str(folder / "blue" / "2.png"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == result["pictures"][0]["model"] == "colours_model.keras"
    assert set(result["pictures"][0]["probabilities"]) == {"red", "green", "blue"}
    assert load_model(result["model"]).class_names == ("blue", "green", "red")


def test_errors_are_json_too_with_json(capsys):
    assert main(["evaluate", "nonesuch", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "nonesuch" in json.loads(out)["error"]
    assert err.startswith("imgclassify: ")


def test_one_damaged_record_is_named_and_the_others_listed(home, capsys):
    (home / "runs" / "20260101-000000-bad").mkdir()
    (home / "runs" / "20260101-000000-bad" / "model.json").write_text('{"status": 5}')
    assert main(["runs"]) == 1
    out, err = capsys.readouterr()
    assert the_run(home, "*-baseline") in out
    assert "20260101-000000-bad" in err
    assert "status" in err


def test_colour_is_for_terminals_without_no_color(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(["runs", "nonesuch"])
    assert capsys.readouterr().err.startswith("\x1b[31mimgclassify:\x1b[0m ")
    monkeypatch.setenv("NO_COLOR", "1")
    main(["runs", "nonesuch"])
    assert "\x1b" not in capsys.readouterr().err


def test_a_web_address_is_named_as_one(tiny_file, capsys):
    assert main(["predict", "https://example.org/cat.jpg", "--model", tiny_file]) == 1
    assert "https://example.org/cat.jpg is a web address" in capsys.readouterr().err


def test_a_model_without_a_manifest_is_evaluated_with_the_classes_of_the_data(home, capsys):
    (home / "digits_model.json").unlink()
    assert main(["evaluate", "digits_model.keras", "--data", "digits"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_an_interrupted_training_is_json_too(monkeypatch, tiny_model, capsys):
    stopped = tiny_model.recorded(status="interrupted")
    monkeypatch.setattr("imgclassify.training.publish.train_or_load_model", lambda *_, **__: (stopped, {}))
    assert main(["train", "--data", "digits", "--json"]) == 130
    out, err = capsys.readouterr()
    assert "interrupted" in json.loads(out)["error"]
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("option", "value"), [("--seed", "abc"), ("--seed", "4294967296"), ("--share", "half"), ("--share", "nan")]
)
def test_a_number_that_is_none_is_named_with_what_is_accepted(option, value, capsys):
    with pytest.raises(SystemExit) as end:
        main(["train", option, value])
    assert end.value.code == 2
    assert f"argument {option}: must be" in capsys.readouterr().err


def test_an_encoding_that_lacks_a_character_loses_no_results(tmp_path):
    picture = tmp_path / "Tür.png"
    Image.new("RGB", (40, 40), "green").save(picture)
    command = [sys.executable, "-m", "imgclassify.cli", "predict", str(picture), "--model", "baseline"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "T\\xfcr.png: " in ended.stdout
