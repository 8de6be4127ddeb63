"""The report of a model: what is measured, how it is kept, and the card that is made of it."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from imgclassify import Classifier, backend, evaluate_model, load_model
from imgclassify.cli import main
from imgclassify.evaluation.report import _seeds, measure_report, read_report, report_path, write_report
from imgclassify.evaluation.robustness import CORRUPTIONS, MOVES
from imgclassify.runs.manifest import Manifest, ModelFileError
from imgclassify.serving.model_card import card_texts, write_cards


@pytest.fixture(scope="module")
def model(tiny_model, tmp_path_factory):
    """The trained model of `tiny`, as a file."""
    return tiny_model.save(tmp_path_factory.mktemp("models") / "colours.keras")


@pytest.fixture(scope="module")
def report(model, tiny):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(model.file.parent / "artifacts"))
        return measure_report(model, tiny)


def test_a_report_has_what_was_measured(report, model, tiny):
    measured = evaluate_model(model, tiny.x_test, tiny.y_test)
    assert report.accuracy == (measured.accuracy, *measured.interval)
    assert np.array_equal(report.confusion, measured.confusion)
    assert report.calibration_error == measured.calibration_error
    assert report.sha256 == model.manifest.sha256
    assert list(report.corrupted) == [*CORRUPTIONS, *MOVES]
    assert report.corrupted_means[0] == pytest.approx(np.mean([report.corrupted[name][0] for name in CORRUPTIONS]))
    assert set(report.faithfulness) == {"HiResCAM", "random", "centre"}
    assert (report.corrupted_pictures, report.explained_pictures) == (30, 30)
    assert report.milliseconds > 0
    assert report.per_second > 0
    assert report.megabytes == model.file.stat().st_size / 1e6


def test_a_report_is_read_as_it_was_written_and_only_for_its_model(report, model, tmp_path):
    write_report(model.file, report)
    assert read_report(model.file).confusion == report.confusion
    assert read_report(model.file).accuracy == pytest.approx(report.accuracy)
    assert read_report(model.file).corrupted == report.corrupted
    write_report(model.file, replace(report, sha256="0" * 64))
    with pytest.raises(ModelFileError, match="is of another model"):
        read_report(model.file)
    for damaged in ("", "[]", '{"name": 7}', json.dumps({"name": "x"})):
        report_path(model.file).write_text(damaged, encoding="utf-8")
        with pytest.raises(ModelFileError, match=r"colours\.report\.json cannot be read .*: measure the model again"):
            read_report(model.file)
    with pytest.raises(ModelFileError, match="measure the model again"):
        read_report(tmp_path / "none.keras")


def test_a_card_has_the_reports_figures_in_both_forms(report, model):
    write_report(model.file, report)
    written = write_cards(model.file, model.manifest)
    assert [path.name for path in written] == ["colours.card.md", "colours.card.html"]
    text, page = (path.read_text(encoding="utf-8") for path in written)
    value, low, high = report.accuracy
    figures = [
        f"Right on {value:.2%} of 30 test pictures of {report.source} (95 % interval {low:.1%} to {high:.1%}",
        f"Expected calibration error {report.calibration_error:.3f}",
        f"{report.corrupted_means[2]:.1%}",
        f"HiResCAM: deletion {report.faithfulness['HiResCAM'][0]:.3f}",
        f"{report.parameters:,} parameters",
        "red, green, blue",
    ]
    for figure in figures:
        assert figure in text
        assert figure in page
    headings = re.findall("^## (.*)$", text, re.MULTILINE)
    assert headings == re.findall("<h2>(.*?)</h2>", page)
    assert headings[0] == "What it is"
    for address in re.findall(r'(?:src|href)="([^"]*)"|url\(', page):
        assert address.startswith("data:")


def test_names_cannot_break_a_card_or_its_page(report, model):
    manifest = replace(model.manifest, class_names=("a|b", "<script>alert(1)</script>", "c"))
    text, page = card_texts(manifest, replace(report, name="<b>x</b>")).values()
    assert "<script" not in page
    assert "<b>" not in page
    rows = [line for line in text.splitlines() if line.startswith("| a")]
    assert rows
    assert all(re.match(r"\| a\\\|b \|", row) for row in rows)


def test_seeds_are_those_of_trainings_like_this_one(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path))
    manifest = tiny_model.manifest
    records = [
        replace(manifest, seed=seed, metrics={"test_accuracy": value}, **changes).to_dict()
        for seed, value, changes in (
            (7, 0.4, {"recipe": replace(manifest.recipe, learning_rate=0.5)}),
            (0, 0.5, {}),
            (1, 0.6, {}),
            (2, 0.7, {"share": 0.5}),
            (3, 0.8, {"dataset": replace(manifest.dataset, fingerprint="other")}),
            (4, 0.9, {"recipe": replace(manifest.recipe, epochs=99)}),
        )
    ]
    records.append(records[1] | {"seed": 5, "trained_by": "plain Keras"})
    (tmp_path / "accuracies.json").write_text(json.dumps(records), encoding="utf-8")
    assert _seeds(replace(manifest, seed=6, metrics={"test_accuracy": 0.55})) == {"0": 0.5, "1": 0.6, "6": 0.55}
    assert _seeds(replace(manifest, seed=6, metrics={})) == {"0": 0.5, "1": 0.6}
    assert _seeds(Manifest()) == {}


def test_the_command_measures_a_users_own_model(tiny, tiny_model, tmp_path, monkeypatch, capsys):
    from imgclassify import train_model
    from imgclassify.data.folders import save_as_folder

    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "artifacts"))
    folder = save_as_folder(tiny, tmp_path / "colours")
    train_model("baseline", folder, epochs=1, name="mine")
    capsys.readouterr()
    assert main(["report", "mine", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [path.rpartition("model.")[2] for path in values["written"]] == ["report.json", "card.md", "card.html"]
    assert read_report(load_model("mine").file).clean == values["report"]["clean"]
    plain = tmp_path / "plain.keras"
    load_model("mine").network.save(plain)
    assert main(["report", str(plain), "--data", str(folder)]) == 0
    assert "# Model card" in plain.with_suffix(".card.md").read_text(encoding="utf-8")
    network = load_model("mine").network
    network.layers[0].set_weights([each + 1 for each in network.layers[0].get_weights()])
    network.save(plain)
    with pytest.raises(ModelFileError, match="is of another model"):
        read_report(plain)


def test_what_cannot_be_measured_is_said_and_the_rest_kept(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path))
    keras = backend.keras()
    layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    network = keras.Sequential(layers)
    network.layers[-1].set_weights([np.zeros((3072, 3)), np.array([0, 0, -50])])  # the third class is never said
    plain = Classifier.of(network, tiny.class_names).save(tmp_path / "plain.keras")
    write_report(plain.file, replace(measure_report(plain, tiny), loss=float("nan")))
    assert read_report(plain.file).loss is None
    text, _ = write_cards(plain.file, plain.manifest)
    for said in ("Not measured: the network has no feature maps.", "It has no detector", "| none |"):
        assert said in text.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="has no file"):
        measure_report(network, tiny)
