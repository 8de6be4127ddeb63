"""Several workers train as one does: what they exchange, what they learn, and what happens when one is gone."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pytest

from imgclassify import LostError, ModelFileError, list_runs, train_model
from imgclassify.cli import main
from imgclassify.data.batches import Batches
from imgclassify.models.networks import build_model
from imgclassify.recipes import get_recipe
from imgclassify.runs.provenance import describe_changes, describe_machine
from imgclassify.training import publish
from imgclassify.training.loop import Loop
from imgclassify.training.workers import ALONE, Workers, check_addresses

TEAM = Path(__file__).with_name("team.py")
SECONDS = 180  # a test gives up after so many


def free_addresses(count: int = 2) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


# --- exchanged and learned ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one process and each of three have written, by team.py: that of the one process first."""
    folder, addresses = tmp_path_factory.mktemp("team"), ",".join(free_addresses(3))
    environment = os.environ | {"IMGCLASSIFY_CACHE_DIR": str(folder)}

    def train(*each: tuple[str, ...]) -> None:
        """Run team.py with each of these arguments at the same time."""
        with contextlib.ExitStack() as at_the_end:
            processes = []
            for arguments in each:
                log = at_the_end.enter_context(Path(f"{arguments[-1]}.log").open("w+"))
                process = subprocess.Popen([sys.executable, str(TEAM), *arguments], env=environment, stderr=log)
                processes.append((at_the_end.enter_context(process), log))
                at_the_end.callback(process.kill)
            for process, log in processes:
                if process.wait(SECONDS) != 0:
                    log.seek(0)
                    raise AssertionError(log.read())

    outputs = [str(folder / name) for name in ("alone", "0", "1", "2")]
    train(("", "0", outputs[0]))
    train(*((addresses, str(index), output) for index, output in enumerate(outputs[1:])))
    return [json.loads(Path(f"{each}.json").read_text()) | {"learned": np.load(f"{each}.npz")} for each in outputs]


def test_each_worker_hears_what_all_have_sent(results):
    for each in results[1:]:
        heard = each["heard"]
        assert heard["sum"] == [[[6.0] * 3] * 2, 60.0]
        assert heard["gather"] == [[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]]
        assert heard["any"] == [False, True, True]
        assert heard["share"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("recipe", ["baseline", "fast", "fast in bfloat16", "photos"])
def test_three_workers_learn_what_one_process_learns(results, recipe):
    """Dropout, batch normalisation, hard pictures and frozen layers included; the sums are those of six towers."""
    names = [name for name in results[0]["learned"].files if re.fullmatch(rf"{recipe} \d+", name)]
    alone, *team = results
    assert len(names) > 10
    for each in team:
        np.testing.assert_allclose(each["losses"][recipe], alone["losses"][recipe], atol=1e-5)
        for name in names:
            assert each["learned"][name].tobytes() == team[0]["learned"][name].tobytes()
            np.testing.assert_allclose(each["learned"][name], alone["learned"][name], atol=1e-4)
    assert alone["losses"][recipe][-1] != alone["losses"][recipe][0]


# --- one process --------------------------------------------------------------------------------------


def test_one_worker_sends_nothing():
    array = np.arange(3)
    assert ALONE.gather(array) is array
    assert ALONE.share({"a": array})["a"] is array
    assert (ALONE.any(True), ALONE.any(False)) == (True, False)
    assert ALONE.sum([array])[0] is array
    assert not ALONE.is_lost(LostError())
    assert (ALONE.count, ALONE.index, ALONE.part(7)) == (1, 0, slice(0, 7))


@pytest.mark.parametrize(("length", "count"), [(10, 2), (10, 3), (2, 3), (0, 2)])
def test_the_parts_of_all_workers_are_everything_once(length, count):
    parts = [Workers.part(SimpleWorker(count, index), length) for index in range(count)]
    assert [place for part in parts for place in range(length)[part]] == list(range(length))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1


class SimpleWorker(Workers):
    """One of several workers that exchanges nothing."""

    def __init__(self, count: int, index: int):
        self.count, self.index = count, index


@pytest.mark.parametrize(
    ("addresses", "index", "problem"),
    [
        (["localhost:7000"], 0, "Several workers are needed, each as host:port. Received: localhost:7000"),
        (["localhost:7000", "localhost"], 0, "each as host:port"),
        (["a b:1", "c:2"], 0, "each as host:port"),
        (["c:1", "c:1"], 0, "Each worker needs an address of its own. Received: c:1,c:1"),
        (["c:1", "c:2"], 2, "The worker must be from 0 to 1. Received: 2"),
        (["c:1", "c:2"], -1, "The worker must be from 0 to 1. Received: -1"),
        (["c:1", "c:99999"], 1, "cannot listen on port 99999"),
        (["c:1", "c:0"], 1, "each as host:port"),
    ],
)
def test_addresses_that_cannot_be_used_are_reported(addresses, index, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        check_addresses(addresses, index)


def test_a_port_that_is_taken_is_reported():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"This worker cannot listen on port {port}"):
            check_addresses([f"localhost:{port}", "localhost:1"], 0)


def test_a_batch_that_cannot_be_split_among_the_workers_is_reported(tiny):
    batches = Batches(tiny.x_train, tiny.y_train, batch_size=16)
    with pytest.raises(ValueError, match="Batches of 16 pictures cannot be split evenly among 3 workers"):
        Loop(build_model(num_classes=3), get_recipe("baseline"), batches, "float32", workers=SimpleWorker(3, 0))


def test_a_recipe_without_steps_needs_no_workers(tiny):
    with pytest.raises(ValueError, match="The recipe head does not train in steps: it needs no other workers"):
        train_model("head", tiny, workers=SimpleWorker(2, 0))


def test_only_worker_0_publishes_and_it_must_train(tiny, tiny_model, monkeypatch):
    trained = []
    monkeypatch.setattr(publish, "train_model", lambda *_, **options: trained.append(options) or (None, {}))
    publish.train_or_load_model(data=tiny, path=tiny_model.file, workers=SimpleWorker(2, 1))
    assert len(trained) == 1
    with pytest.raises(ModelFileError, match="is there: pass replace=True"):
        publish.train_or_load_model(data=tiny, path=tiny_model.file, workers=SimpleWorker(2, 0))


def test_another_number_of_workers_is_reported_on_resuming():
    assert describe_changes(describe_machine(2), {}, workers=2) == ""
    assert describe_changes(describe_machine(2), {}) == "workers 2 (now 1)"
    assert describe_changes({}, {}, workers=3) == "workers 1 (now 3)"  # recorded before there were any


class FakeWorker(SimpleWorker):
    """Worker 1 of two, which hears a plan; the other has no problem."""

    def __init__(self, **plan):
        super().__init__(2, 1)
        self.plan = {"recipe": {"name": "baseline"}, "settings": {}, "like": {}} | plan
        self.problems: list[bool] = []

    def share(self, value=None):
        return self.plan

    def any(self, asked):
        self.problems.append(asked)
        return asked


@pytest.mark.parametrize(
    ("plan", "data", "problem"),
    [
        ({"fingerprint": "that of others"}, "tiny", "Worker 0 trains on other pictures than those of made-up colours"),
        ({}, "/nowhere", "/nowhere"),
        ({"like": {"tensorflow": "1.0", "keras": version("keras")}}, "tiny", "alike: worker 0 has tensorflow 1.0\\."),
        ({"recipe": {"name": "x", "colour": "red"}}, "tiny", "colour"),
    ],
)
def test_a_worker_that_cannot_train_the_same_tells_all_and_stops(tiny, plan, data, problem):
    worker = FakeWorker(**plan)
    with pytest.raises((ValueError, TypeError), match=problem):
        train_model(data=tiny if data == "tiny" else data, workers=worker)
    assert worker.problems == [True]
    assert list_runs() == []


# --- on the command line ------------------------------------------------------------------------------

COMMAND = (sys.executable, "-m", "imgclassify.cli", "train", "baseline", "--data", "digits", "--precision", "float32")


class Command:
    """One of two workers, `imgclassify train --workers`."""

    def __init__(self, folder: Path, addresses: list[str], index: int, *options: str):
        self.log, self.home = folder / f"{index}.log", folder / f"home-{index}"
        settings = {"IMGCLASSIFY_ARTIFACTS_DIR": str(self.home), "IMGCLASSIFY_SHORT": ""}
        command = [*COMMAND, "--workers", ",".join(addresses), "--worker", str(index), *options]
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(command, env=os.environ | settings, stdout=file, stderr=file)

    def wait_for(self, text: str, seconds: float = SECONDS) -> None:
        until = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert time.monotonic() < until, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def children(self) -> list[int]:
        """The processes that train for it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [
                each.pid for each in psutil.Process(self.process.pid).children() if "spawn_main" in str(each.cmdline())
            ]
        return []

    def history(self) -> dict:
        (path,) = self.home.glob("runs/*/model.json")
        return json.loads(path.read_text())["history"]


@pytest.fixture
def commands(tmp_path):
    """A function that starts two workers; they are ended at the end."""
    started: list[Command] = []

    def start(*options: str) -> list[Command]:
        addresses = free_addresses()
        started.extend(Command(tmp_path, addresses, index, *options) for index in (0, 1))
        return started

    yield start
    for each in started:
        for process in each.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        each.process.kill()
        each.process.wait()


posix = pytest.mark.skipif(sys.platform == "win32", reason="it kills processes by signals, which Windows lacks")


@posix
@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_that_is_killed_is_started_again_and_all_go_on(commands, killed):
    pair = commands("--epochs", "12")
    pair[killed].wait_for("epoch  4/12  loss")
    (process,) = pair[killed].children()
    os.kill(process, signal.SIGKILL)
    pair[1 - killed].wait_for("lost the connection to another worker", seconds=30)
    assert [each.process.wait(SECONDS) for each in pair] == [0, 0]
    for each in pair:
        text = each.log.read_text()
        assert text.count("starting again, after 1 of at most 10 times in a row") == 1
        lines = re.findall(r"^epoch +(\d+)/12  (loss .*?)  \d+\.\d s", text, re.MULTILINE)
        assert len(set(lines)) == 12  # an epoch that was repeated had the same losses as before
        assert len(lines) <= 13  # no more than the one under way was lost
    assert len(pair[0].history()["loss"]) == 12
    assert not pair[1].home.joinpath("runs").exists()  # worker 0 keeps the run


@posix
def test_a_worker_that_is_killed_while_worker_0_finishes_costs_no_training(commands):
    """Worker 1 stays until the run is complete; when it is killed before, worker 0 finishes once it is there again."""
    pair = commands("--epochs", "2")
    pair[1].wait_for("epoch 2/2  loss")
    for process in pair[1].children():  # none if worker 0 was done before
        os.kill(process, signal.SIGKILL)
    assert pair[0].process.wait(SECONDS) == 0
    assert "Validation accuracy" in pair[0].log.read_text()
    assert len(list(pair[0].home.glob("runs/*"))) == 1


@posix
def test_a_stop_of_one_stops_all_after_the_same_step(commands):
    pair = commands("--epochs", "500")
    pair[1].wait_for("epoch   2/500  loss")
    pair[1].process.send_signal(signal.SIGTERM)
    assert [each.process.wait(SECONDS) for each in pair] == [130, 130]
    assert "go on by: imgclassify train --resume" in pair[0].log.read_text()
    assert "worker 0 keeps the model" in pair[1].log.read_text()


@posix
def test_when_the_command_is_killed_its_training_ends_too(commands):
    pair = commands("--epochs", "500")
    pair[1].wait_for("epoch   2/500  loss")
    pair[1].process.kill()
    pair[0].wait_for("starting again")
    pair[0].process.send_signal(signal.SIGINT)  # while it waits for the other
    assert pair[0].process.wait(SECONDS) == 130


@posix
def test_a_worker_with_other_data_stops_all(commands, tmp_path):
    addresses = free_addresses()
    first, second = Command(tmp_path, addresses, 0), Command(tmp_path, addresses, 1, "--data", "cifar10")
    assert [each.process.wait(SECONDS) for each in (first, second)] == [1, 1]
    assert "Another worker cannot train this; its own message says why." in first.log.read_text()
    assert "CIFAR-10 was not found" in second.log.read_text()


@pytest.mark.parametrize(
    ("options", "code", "problem"),
    [
        (["--workers", "localhost:1", "--worker", "0"], 1, "Several workers are needed, each as host:port."),
        (["--workers", "localhost:1,localhost:2"], 2, "--workers and --worker belong together"),
        (["--worker", "1"], 2, "--workers and --worker belong together"),
        (["--epochs", "0", "--workers", "localhost:1,localhost:2", "--worker", "0"], 2, "epochs must be at least 1"),
    ],
)
def test_mistakes_are_reported_before_anything_is_started(capsys, options, code, problem):
    assert main(["train", *options]) == code
    assert problem in capsys.readouterr().err
