"""A training survives: interrupts, kills, a disk that fails, a run that is deleted."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from imgclassify import (
    ModelFileError,
    delete_run,
    list_runs,
    load_model,
    train_model,
    train_or_load_model,
)
from imgclassify.progress import Progress
from imgclassify.runs.locks import locked
from imgclassify.runs.names import lock_of
from imgclassify.settings import artifacts_dir
from imgclassify.training import keeping

KILLED = Path(__file__).with_name("killed.py")
BASELINE = {"recipe": "baseline", "epochs": 4, "batch_size": 16}
FAST = {"recipe": "fast", "epochs": 4, "batch_size": 16, "validation_fraction": 0.2}


class Sentences(Progress):
    """Progress that keeps what must be said."""

    def __init__(self):
        super().__init__(enabled=False)
        self.said: list[str] = []

    def say(self, sentence):
        self.said.append(sentence)


def stopping_after(epochs: int) -> dict:
    """Options that stop a training after so many epochs."""
    stop = threading.Event()
    return {"stop": stop, "on_epoch_end": lambda history: len(history["loss"]) == epochs and stop.set()}


def same(one, other) -> bool:
    weights = one.network.get_weights(), other.network.get_weights()
    return all(map(np.array_equal, *weights))


def the_run():
    (run,) = list_runs()
    return run


# --- resumed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "epochs"),
    [(BASELINE, 1), (FAST, 3), (BASELINE | {"patience": 3}, 2)],
    ids=["baseline", "fast", "patience"],
)
def test_a_stopped_training_ends_as_one_that_was_not(tiny, quiet, options, epochs):
    whole, history = train_model(data=tiny, **options, progress=quiet)
    stopped, _ = train_model(data=tiny, **options, **stopping_after(epochs), progress=quiet)
    assert stopped.manifest.status == "interrupted"
    resumed, again = train_model(data=tiny, resume=stopped.manifest.run, progress=quiet)
    assert same(resumed, whole)
    assert again == history
    assert resumed.manifest.metrics == whole.manifest.metrics
    assert resumed.manifest.status == "complete"
    assert resumed.manifest.created == stopped.manifest.created
    assert resumed.manifest.wall_time_s >= stopped.manifest.wall_time_s
    folder = artifacts_dir() / "runs" / stopped.manifest.run
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.keras"]


def test_a_stop_in_the_first_epoch_can_be_resumed(tiny, quiet):
    whole, _ = train_model(data=tiny, **BASELINE, progress=quiet)
    stop = threading.Event()
    stop.set()
    stopped, _ = train_model(data=tiny, **BASELINE, stop=stop, progress=quiet)
    assert stopped.manifest.history["loss"] == []
    assert same(train_model(data=tiny, resume=stopped.manifest.run, progress=quiet)[0], whole)


def test_without_a_checkpoint_a_run_begins_again(tiny, quiet):
    whole, _ = train_model(data=tiny, **BASELINE, progress=quiet)
    stopped, _ = train_model(data=tiny, **BASELINE, **stopping_after(2), progress=quiet)
    for path in (artifacts_dir() / "runs" / stopped.manifest.run).glob("checkpoint*"):
        path.unlink()
    assert same(train_model(data=tiny, resume=stopped.manifest.run, progress=quiet)[0], whole)


def test_a_complete_run_and_other_data_are_refused(tiny, quiet, tiny_run):
    complete, _ = train_model(data=tiny, **BASELINE, progress=quiet)
    with pytest.raises(ModelFileError, match="is complete: only an unfinished one can be resumed"):
        train_model(data=tiny, resume=complete.manifest.run)
    stopped, _ = train_model(data=tiny, **BASELINE, **stopping_after(1), progress=quiet)
    with pytest.raises(ModelFileError, match="was trained on other pictures than those of"):
        train_model(data=tiny.subset(30, 10), resume=stopped.manifest.run)
    with pytest.raises(ValueError, match=r"There is no run \"nothing\""):
        train_model(data=tiny, resume="nothing")


def test_a_resumed_training_is_published(tiny, quiet):
    target = artifacts_dir() / "tiny.keras"
    stopped, _ = train_or_load_model(data=tiny, **BASELINE, path=target, **stopping_after(2), progress=quiet)
    assert not target.exists()
    resumed, _ = train_or_load_model(data=tiny, path=target, resume=stopped.manifest.run, progress=quiet)
    assert resumed.file == target
    assert same(load_model(target), resumed)


# --- stopped by signals ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_ends_a_training_between_two_steps_and_its_handler_is_put_back(tiny, quiet, number):
    before = signal.getsignal(number)

    def on_epoch_end(history):
        if len(history["loss"]) == 2:
            os.kill(os.getpid(), number)

    model, history = train_model(data=tiny, **BASELINE, on_epoch_end=on_epoch_end, progress=quiet)
    assert model.manifest.status == "interrupted"
    assert len(history["loss"]) == 2
    assert signal.getsignal(number) == before
    resumed, _ = train_model(data=tiny, resume=model.manifest.run, progress=quiet)
    assert same(resumed, train_model(data=tiny, **BASELINE, progress=quiet)[0])


# --- killed ---------------------------------------------------------------------------------------


def train(folder: Path, *operation: int) -> int:
    """Run killed.py; returns its exit code."""
    command = [sys.executable, str(KILLED), str(folder), "baseline", *map(str, operation)]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"IMGCLASSIFY_SHORT": ""})
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode


def test_a_training_that_is_killed_three_times_ends_as_one_that_is_not(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    folder.mkdir()
    assert train(whole) == 0
    assert [train(folder, operation) for operation in (12, 5, 9)] == [-signal.SIGKILL] * 3
    assert train(folder) == 0
    results = [json.loads((each / "result.json").read_text()) for each in (whole, folder)]
    assert [each.pop("resumed") for each in results] == [False, True]
    assert results[0] == results[1]
    assert not list(folder.rglob("checkpoint*"))


# --- a disk that fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["write_checkpoint", "write_manifest"])
def test_a_full_disk_is_said_once_and_does_not_end_the_training(tiny, monkeypatch, what):
    whole, _ = train_model(data=tiny, **BASELINE, progress=Progress(enabled=False))

    def full(*_, **__):
        raise OSError(28, "No space left on device", "/disk/file")

    monkeypatch.setattr(keeping, what, full)
    progress = Sentences()
    model, _ = train_model(data=tiny, **BASELINE, progress=progress)
    (sentence,) = progress.said
    assert sentence.startswith("/disk/file cannot be written: No space left on device. The training goes on in memory")
    assert same(model, whole)
    assert same(load_model(model.manifest.run), whole)


FULL_DISK = """
import json, os, resource, sys
from pathlib import Path
import killed
folder = Path(sys.argv[1])
os.environ["IMGCLASSIFY_ARTIFACTS_DIR"] = str(folder / "artifacts")
from imgclassify import train_or_load_model
from imgclassify.progress import Progress
data, results = killed.made_up(), []
class Sentences(Progress):
    def say(self, sentence):
        said.append(sentence)
for most in (-1, 0, 3_000, 300_000, 1_000_000):
    said, target = [], folder / f"{most}.keras"
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, -1))
    model, _ = train_or_load_model("baseline", data, path=target, epochs=3, progress=Sentences(enabled=False))
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    weights = [each.tolist() for each in model.network.get_weights()]
    results.append((most, hash(str(weights)), model.manifest.status, target.exists(), said))
print(json.dumps(results))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_files_that_cannot_grow_cost_no_training(tmp_path):
    """The operating system fails every write that makes a file larger than so many bytes, wherever it happens."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ended = subprocess.run(command, cwd=KILLED.parent, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    results = json.loads(ended.stdout)
    assert {weights for _, weights, *_ in results} == {results[0][1]}
    assert {status for _, _, status, *_ in results} == {"complete"}
    assert [published for *_, published, _ in results] == [True, False, False, False, True]
    for most, *_, published, said in results:
        assert len(said) == (most >= 0) + (not published)
        assert all("cannot be written: File too large." in sentence for sentence in said)
    files = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert files == ["-1.json", "-1.keras", "1000000.json", "1000000.keras"]


def test_a_model_that_cannot_be_saved_is_returned(tiny, monkeypatch):
    whole, _ = train_model(data=tiny, **BASELINE, progress=Progress(enabled=False))
    (artifacts_dir() / "runs").rename(artifacts_dir() / "others")
    (artifacts_dir() / "runs").touch()  # where a folder is needed
    progress = Sentences()
    model, history = train_or_load_model(
        data=tiny, **BASELINE, path=artifacts_dir() / "m" / "x.keras", progress=progress
    )
    assert model.manifest.status == "complete"
    assert len(history["loss"]) == 4
    assert any("cannot be written" in sentence for sentence in progress.said)
    assert same(model, whole)
    assert same(load_model(artifacts_dir() / "m" / "x.keras"), whole)


def test_a_model_that_cannot_be_published_is_returned_and_its_run_is_there(tiny):
    (artifacts_dir()).mkdir(parents=True, exist_ok=True)
    (artifacts_dir() / "file").touch()
    progress, target = Sentences(), artifacts_dir() / "file" / "x.keras"
    model, _ = train_or_load_model(data=tiny, **BASELINE, path=target, progress=progress)
    assert re.search(r"x\.keras cannot be written: .* The model is returned, but not published\.", progress.said[-1])
    assert same(load_model(the_run().name), model)


def test_a_run_that_is_deleted_under_way_is_written_again(tiny, quiet):
    def on_epoch_end(history):
        if len(history["loss"]) == 2:
            shutil.rmtree(artifacts_dir() / "runs" / the_run().name)

    model, _ = train_model(data=tiny, **BASELINE, on_epoch_end=on_epoch_end, progress=quiet)
    assert same(load_model(model.manifest.run), model)


# --- two at once ----------------------------------------------------------------------------------


def test_a_live_run_is_not_deleted_and_not_resumed_by_another(tiny, quiet):
    refused = []

    def on_epoch_end(history):
        assert the_run().manifest.status == "running"
        for what in (delete_run, lambda run: train_model(data=tiny, resume=run, progress=quiet)):
            with pytest.raises(ValueError, match="is being trained") as error:
                what(the_run().name)
            refused.append(str(error.value))

    train_model(data=tiny, **BASELINE | {"epochs": 1}, on_epoch_end=on_epoch_end, progress=quiet)
    assert len(refused) == 2
    delete_run(the_run().name)
    assert list_runs() == []


def test_the_second_training_for_a_target_hears_it_before_it_trains(tiny, quiet):
    target = artifacts_dir() / "mine.keras"
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        locked(target.with_name(".mine.keras.training")),
        pytest.raises(ModelFileError, match="Another training is to"),
    ):
        train_or_load_model(data=tiny, **BASELINE, path=target, progress=quiet)
    assert list_runs() == []


def test_a_run_whose_process_is_gone_is_shown_as_interrupted(tiny, quiet):
    seen = []
    train_model(data=tiny, **BASELINE, progress=quiet)
    path = artifacts_dir() / "runs" / the_run().name / "model.json"
    path.write_text(path.read_text().replace('"complete"', '"running"'))
    assert the_run().manifest.status == "interrupted"
    with locked(lock_of(path.parent)):
        seen.append(the_run().manifest.status)
    assert seen == ["running"]
