import re
from dataclasses import asdict
from pathlib import Path

import pytest

from imgclassify import Recipe, compare_runs, delete_run, list_runs
from imgclassify.runs.names import find_model, find_run, run_names
from imgclassify.runs.records import Comparison, group_by_data, new_run
from imgclassify.settings import artifacts_dir

DIGITS = {"dataset": {"name": "digits", "source": "digits"}}


@pytest.fixture
def three_runs(record):
    """Two complete runs and the newest, which failed in its first epoch."""
    record("20260101-000000-first")
    record(
        "20260102-000000-second",
        recipe={"name": "baseline", "epochs": 5, "batch_size": 64},
        history={"loss": [1.0] * 5},
        metrics={"val_accuracy": 0.7},
    )
    record("20260103-000000-third", status="failed", history={}, metrics={}, wall_time_s=0)


# --- starting --------------------------------------------------------------------------------------


def test_a_new_run_has_a_folder_of_its_time_and_name():
    run = new_run("mine")
    assert (artifacts_dir() / "runs" / run).is_dir()
    assert re.fullmatch(r"\d{8}-\d{6}-mine", run)
    assert find_run("mine") == run
    assert list_runs() == []  # nothing is recorded yet


def test_runs_of_one_second_do_not_share_a_folder():
    assert len({new_run("mine") for _ in range(5)}) == len(list((artifacts_dir() / "runs").iterdir())) == 5


# --- listing ---------------------------------------------------------------------------------------


def test_there_are_no_runs_before_the_first_training():
    assert list_runs() == []
    assert compare_runs().runs == ()


@pytest.mark.usefixtures("three_runs")
def test_runs_are_listed_newest_first_with_what_their_manifests_say():
    third, second, first = list_runs()
    assert [run.name[16:] for run in (first, second, third)] == ["first", "second", "third"]
    assert (first.manifest.status, first.val_accuracy, first.epochs) == ("complete", 0.5, 2)
    assert (second.val_accuracy, second.epochs) == (0.7, 5)
    assert (third.manifest.status, third.val_accuracy, third.epochs) == ("failed", None, 0)
    assert first.folder == artifacts_dir() / "runs" / first.name
    assert first.manifest.settings == asdict(Recipe("baseline")) | {  # what the record leaves out has its default
        "epochs": 2,
        "batch_size": 64,
        "seed": 0,
        "share": 0.5,
        "precision": "float32",
    }


def test_runs_of_earlier_versions_are_listed_with_the_settings_of_today(record):
    old = {"name": "best", "architecture": "airbench", "growing": True, "tta": True, "averaging": 0.1}
    record("20260101-000000-best", recipe=old)
    record("20260102-000000-plain", recipe={"name": "baseline", "growing": False, "tta": False})
    plain, best = (run.manifest.settings for run in list_runs())
    assert (plain["sizes"], plain["views"]) == ((1.0,), 1)
    assert (best["sizes"], best["views"]) == ((5 / 8, 6 / 8, 7 / 8, 1.0), 2)


@pytest.mark.usefixtures("three_runs")
def test_folders_without_a_readable_manifest_are_left_out(record):
    runs = artifacts_dir() / "runs"
    (runs / "20260104-000000-empty").mkdir()
    broken = record("20260105-000000-broken", content=b"{")
    (runs / "notes.txt").touch()
    assert len(list_runs()) == 3
    comparison = compare_runs()
    assert len(comparison.runs) == 3
    (problem,) = comparison.problems
    assert f"{broken / 'model.json'} is damaged" in problem
    assert problem in str(comparison)
    assert 'role="alert"' in comparison._repr_html_()
    assert "20260105-000000-broken" in comparison._repr_html_()


@pytest.mark.usefixtures("three_runs")
def test_a_damaged_run_that_is_asked_for_is_a_problem(record):
    record("20260105-000000-broken", content=b"{")
    comparison = compare_runs("broken", "first")
    assert [run.name for run in comparison.runs] == ["20260101-000000-first"]
    assert len(comparison.problems) == 1


def test_a_real_training_is_listed(tiny_run, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tiny_run.folder.parent.parent))
    (run,) = list_runs()
    assert (run.name, run.folder) == (tiny_run.folder.name, tiny_run.folder)
    assert run.manifest == tiny_run.model.manifest
    assert run.manifest.history == tiny_run.history
    assert run.val_accuracy == tiny_run.model.manifest.metrics["val_accuracy"]


def test_a_thousand_runs_are_read_once_each_and_only_when_needed(record, monkeypatch):
    for number in range(1000):
        record(f"20260101-{number:06}-mine", metrics={"val_accuracy": number / 1000})
    record("20260102-000000-last", model=True)
    read, read_text, listed, glob = [], Path.read_text, [], Path.glob
    monkeypatch.setattr(Path, "read_text", lambda path, *a, **named: read.append(path) or read_text(path, *a, **named))
    monkeypatch.setattr(Path, "glob", lambda path, *a, **named: listed.append(path) or glob(path, *a, **named))

    assert len(list_runs()) == 1001
    assert len(read) == len(set(read)) == 1001
    assert len(listed) == 1
    read.clear()
    assert len(compare_runs().rows()) == 1002
    assert len(read) == 1001
    read.clear()
    assert find_run("latest") == find_run("last") == run_names()[0]
    assert find_model("last").parent.name == "20260102-000000-last"
    assert read == []
    assert len(compare_runs("latest", "20260101-000500-mine").runs) == 2
    assert len(read) == 2


# --- comparing -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("three_runs")
def test_a_comparison_has_the_newest_run_first_and_only_settings_that_differ():
    comparison = compare_runs("20260101-000000-first", "20260102-000000-second")
    assert [run.val_accuracy for run in comparison.runs] == [0.7, 0.5]
    assert comparison.differences == {"epochs": (5, 2)}
    rows = comparison.rows()
    assert rows[0][:6] == ["run", "data", "status", "epochs done", "val_accuracy", "minutes"]
    assert len(rows[0]) == 7
    assert rows[1:] == [
        ["20260102-000000-second", "CIFAR-10", "complete", "5", "70.00%", "1.5", "5"],
        ["20260101-000000-first", "CIFAR-10", "complete", "2", "50.00%", "1.5", "2"],
    ]


@pytest.mark.usefixtures("three_runs")
def test_runs_are_named_in_any_order_with_or_without_the_time_and_shown_once():
    comparison = compare_runs("first", "latest", "20260101-000000-first", "third")
    assert [run.name for run in comparison.runs] == ["20260103-000000-third", "20260101-000000-first"]


def test_a_comparison_is_grouped_by_data_and_newest_first(record):
    record("20260101-000000-a")
    record("20260102-000000-b", **DIGITS)
    record("20260103-000000-c", metrics={"val_accuracy": 0.1})
    record("20260104-000000-d", **DIGITS)
    comparison = compare_runs()
    assert [run.name[16:] for run in comparison.runs] == ["d", "b", "c", "a"]
    assert [row[1] for row in comparison.rows()] == ["data", "digits", "digits", "CIFAR-10", "CIFAR-10"]
    assert {source: len(runs) for source, runs in group_by_data(comparison.runs).items()} == {
        "digits": 2,
        "CIFAR-10": 2,
    }


def test_the_group_with_the_newest_run_comes_first(record):
    record("20260101-000000-a", **DIGITS)
    record("20260102-000000-b")
    assert [run.name[16:] for run in compare_runs("a", "b").runs] == ["b", "a"]


@pytest.mark.usefixtures("three_runs")
def test_a_run_without_an_accuracy_shows_a_dash():
    assert compare_runs("third").rows()[1] == ["20260103-000000-third", "CIFAR-10", "failed", "0", "-", "0.0"]


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("interrupted", "60.00% (best epoch: 2)"),
        ("failed", "60.00% (best epoch: 2)"),
        ("complete", "60.00%"),
    ],
)
def test_a_stopped_run_says_which_epoch_its_accuracy_is_from(record, status, shown):
    history = {"loss": [1.0, 0.9, 0.8], "val_accuracy": [0.4, 0.6, 0.5]}
    record("20260101-000000-mine", status=status, history=history, metrics={"val_accuracy": 0.6})
    assert compare_runs().rows()[1][3:5] == ["3", shown]


def test_a_run_stopped_in_its_first_epoch_shows_a_dash(record):
    empty = {key: [] for key in ("loss", "accuracy", "val_loss", "val_accuracy")}
    record("20260101-000000-mine", status="interrupted", history=empty, metrics={})
    assert compare_runs().rows()[1][3:5] == ["0", "-"]


def test_settings_are_shown_as_people_write_them(record):
    airbench = {"name": "a", "architecture": "airbench", "sizes": [0.625, 1.0], "learning_rate": 0.1, "views": 2}
    record("20260101-000000-a", recipe=airbench)
    record("20260102-000000-b", recipe={"name": "b"})
    head, _, row = compare_runs().rows()
    shown = dict(zip(head, row, strict=True))
    assert (shown["sizes"], shown["learning_rate"], shown["views"]) == ("0.625, 1", "0.1", "2")


@pytest.mark.usefixtures("three_runs")
def test_a_comparison_reads_as_text_and_as_html_with_escaped_names(record):
    record("20260106-000000-<b>", dataset={"source": "<i>toys"})
    comparison = compare_runs()
    lines = str(comparison).splitlines()
    assert len(lines) == 5
    assert len({line.index("complete") for line in lines if "complete" in line}) == 1  # columns stand below one another
    page = comparison._repr_html_().partition("</style>")[2]
    assert page.count("<tr>") == page.count("</tr>") == 5
    for name in ("b", "i"):
        assert f"<{name}>" not in page
        assert f"&lt;{name}&gt;" in page


def test_a_comparison_says_what_the_runs_were_computed_with_differently(record):
    """An older record, which lacks what is recorded today, is no difference."""
    machine = {"processor": "p", "cores": 2, "threads": "2 operations of 1", "flags": []}
    record("20260101-000000-a", machine=machine, versions={"tensorflow": "2.21.0"})
    record("20260102-000000-b", machine=machine, versions={"tensorflow": "2.21.0"})
    assert compare_runs().notes == ()
    record("20260103-000000-c", machine=machine | {"threads": "4 operations of 1", "flags": ["XLA_FLAGS=x"]})
    assert compare_runs("c", "a").notes == (
        "The runs also differ in threads, flags, which can change their results; see their manifests.",
    )
    record("20251231-000000-old", machine={"processor": "p"})
    assert "differ in threads, flags, which" in compare_runs("c", "a", "old").notes[0]
    assert compare_runs("c").notes == ()
    assert "also differ in threads" in str(compare_runs())
    assert "also differ in threads" in compare_runs()._repr_html_()


def test_comparing_an_unknown_run_is_an_error():
    with pytest.raises(ValueError, match='no run "nonesuch": there are no runs yet'):
        compare_runs("nonesuch")


# --- deleting --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("three_runs")
@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("20260101-000000-first", "20260101-000000-first"),
        ("second", "20260102-000000-second"),
        ("latest", "20260103-000000-third"),
    ],
)
def test_deleting_removes_one_run_and_no_other(name, gone):
    before = run_names()
    assert delete_run(name) == gone
    assert run_names() == [run for run in before if run != gone]
    assert not (artifacts_dir() / "runs" / gone).exists()


def test_of_several_runs_of_one_name_the_newest_is_deleted(record):
    for day in (1, 2):
        record(f"2026010{day}-000000-mine")
    assert delete_run("mine") == "20260102-000000-mine"
    assert run_names() == ["20260101-000000-mine"]


def test_a_damaged_run_can_be_deleted(record):
    record("20260101-000000-broken", content=b"{")
    assert delete_run("broken") == "20260101-000000-broken"
    assert compare_runs().problems == ()


@pytest.mark.usefixtures("three_runs")
@pytest.mark.parametrize("name", ["nonesuch", "", ".", "..", "../runs", "20260101-000000-first/../..", "*", "/"])
def test_nothing_but_a_run_by_its_name_can_be_deleted(name):
    (artifacts_dir() / "cifar10_model.h5").touch()
    with pytest.raises(ValueError, match=r'There is no run ".*"\. .*20260103-000000-third, '):
        delete_run(name)
    assert len(list_runs()) == 3
    assert (artifacts_dir() / "cifar10_model.h5").exists()


def test_a_comparison_shows_itself_as_its_table_and_names_no_folder(tmp_path):
    assert repr(Comparison(())) == str(Comparison(()))
    assert "Comparison(" not in repr(Comparison(()))
