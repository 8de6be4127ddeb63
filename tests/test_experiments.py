import json
from dataclasses import asdict

import pytest

from imgclassify import runtime
from imgclassify.experiments import compare_runs, delete_run, list_runs
from imgclassify.recipes import Recipe


def record(name: str, **manifest) -> None:
    folder = runtime.artifacts_dir() / "runs" / name
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(manifest))


def trained(val_accuracy: float, epochs: int = 2, seed: int = 0) -> dict:
    return {
        "status": "complete",
        "recipe": {"name": "baseline", "epochs": epochs, "batch_size": 64},
        "seed": seed,
        "share": 0.5,
        "precision": "float32",
        "dataset": {"source": "CIFAR-10"},
        "wall_time_s": 90.0,
        "history": {"loss": [1.0] * epochs},
        "metrics": {"val_accuracy": val_accuracy},
    }


@pytest.fixture
def three_runs():
    record("20260101-000000-first", **trained(0.5))
    record("20260102-000000-second", **trained(0.7, epochs=5))
    record("20260103-000000-third", status="failed", recipe={"name": "baseline", "epochs": 2})


def test_there_are_no_runs_before_the_first_training():
    assert list_runs() == []
    assert compare_runs().runs == ()


@pytest.mark.usefixtures("three_runs")
def test_runs_are_listed_newest_first_with_what_their_manifests_say():
    third, second, first = list_runs()
    assert [run.name[16:] for run in (first, second, third)] == ["first", "second", "third"]
    assert (first.status, first.val_accuracy, first.history) == ("complete", 0.5, {"loss": [1.0, 1.0]})
    assert (third.status, third.val_accuracy, third.history) == ("failed", None, {})
    assert first.settings == asdict(Recipe("baseline")) | {  # what the record leaves out has its default
        "epochs": 2,
        "batch_size": 64,
        "seed": 0,
        "share": 0.5,
        "precision": "float32",
        "data": "CIFAR-10",
    }


def test_settings_of_earlier_versions_are_read_as_what_they_are_now():
    record("20260101-000000-best", recipe={"name": "best", "architecture": "airbench", "growing": True, "tta": True})
    record("20260102-000000-plain", recipe={"name": "baseline", "growing": False, "tta": False})
    assert [f"{run.settings['growing']} {run.settings['tta']}" for run in list_runs()] == ["0 0", "4 1"]


@pytest.mark.usefixtures("three_runs")
def test_folders_without_a_readable_manifest_are_left_out():
    runs = runtime.artifacts_dir() / "runs"
    (runs / "20260104-000000-empty").mkdir()
    (runs / "20260105-000000-broken").mkdir()
    (runs / "20260105-000000-broken" / "model.json").write_text("{")
    (runs / "notes.txt").touch()
    assert len(list_runs()) == 3


def test_a_real_training_is_listed(tiny_run, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tiny_run.folder.parent.parent))
    (run,) = list_runs()
    assert run.folder == tiny_run.folder
    assert run.history == tiny_run.history
    assert run.val_accuracy == tiny_run.model.manifest["metrics"]["val_accuracy"]


@pytest.mark.usefixtures("three_runs")
def test_a_comparison_has_the_best_run_first_and_only_settings_that_differ():
    comparison = compare_runs("20260101-000000-first", "20260102-000000-second")
    assert [run.val_accuracy for run in comparison.runs] == [0.7, 0.5]
    assert comparison.differences == {"epochs": (5, 2)}
    assert comparison.rows() == [
        ["run", "status", "epochs done", "val_accuracy", "minutes", "epochs"],
        ["20260102-000000-second", "complete", "5", "70.00%", "1.5", "5"],
        ["20260101-000000-first", "complete", "2", "50.00%", "1.5", "2"],
    ]


@pytest.mark.usefixtures("three_runs")
def test_a_comparison_of_all_puts_failed_runs_last():
    assert [run.status for run in compare_runs().runs] == ["complete", "complete", "failed"]
    assert "-" in compare_runs().rows()[-1]


@pytest.mark.usefixtures("three_runs")
def test_a_comparison_reads_as_text_and_as_html_with_escaped_names():
    record("20260106-000000-<b>", **trained(0.6))
    comparison = compare_runs()
    lines = str(comparison).splitlines()
    assert len(lines) == 5
    assert len({line.index("complete") for line in lines[1:4]}) == 1  # columns stand below one another
    page = comparison._repr_html_()
    assert page.count("<tr>") == page.count("</tr>") == 5
    assert "<b>" not in page
    assert "&lt;b&gt;" in page


@pytest.mark.usefixtures("three_runs")
def test_deleting_removes_one_run_and_no_other():
    delete_run("20260101-000000-first")
    assert [run.name[16:] for run in list_runs()] == ["third", "second"]
    assert not (runtime.artifacts_dir() / "runs" / "20260101-000000-first").exists()


@pytest.mark.usefixtures("three_runs")
@pytest.mark.parametrize("name", ["nonesuch", "", ".", "..", "../runs", "20260101-000000-first/../.."])
def test_nothing_but_a_run_by_its_exact_name_can_be_deleted(name):
    (runtime.artifacts_dir() / "cifar10_model.h5").touch()
    with pytest.raises(ValueError, match=r"There is no run '.*'\. There are: 20260103-000000-third, "):
        delete_run(name)
    assert len(list_runs()) == 3
    assert (runtime.artifacts_dir() / "cifar10_model.h5").exists()


def test_comparing_an_unknown_run_is_an_error_that_says_there_are_none():
    with pytest.raises(ValueError, match=r"There is no run 'nonesuch'\. There are: none\."):
        compare_runs("nonesuch")
