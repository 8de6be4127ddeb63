"""Supervised work is started again when it is killed or lost, and ends with what supervises it."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgclassify.training import supervise as module
from imgclassify.training.supervise import LOST, supervise

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it kills processes by signals, which Windows lacks")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No pause between two attempts."""
    monkeypatch.setattr(module, "_PAUSE", 0.0)


def work(folder: Path, ends: list[int]) -> int:
    """Note the attempt, and end as listed: by a signal if it is negative, else with an exit code."""
    attempt = len(list(folder.iterdir()))
    (folder / f"attempt {attempt}").touch()
    end = ends[min(attempt, len(ends) - 1)]
    if end < 0:
        os.kill(os.getpid(), -end)
        time.sleep(60)
    return end


@pytest.mark.parametrize(
    ("ends", "attempts", "code"),
    [
        ([0], 1, 0),
        ([1], 1, 1),
        ([130], 1, 130),
        ([-signal.SIGKILL, 0], 2, 0),
        ([LOST, -signal.SIGSEGV, 2], 3, 2),
    ],
)
def test_work_is_done_until_it_ends_by_itself(tmp_path, ends, attempts, code):
    said: list[str] = []
    assert supervise(functools.partial(work, tmp_path, ends), said.append) == code
    assert len(list(tmp_path.iterdir())) == attempts
    assert said == [f"starting again, after {deaths} of at most 10 times in a row" for deaths in range(1, attempts)]


@pytest.mark.parametrize("end", [LOST, -signal.SIGKILL])
def test_it_gives_up_at_last(tmp_path, monkeypatch, end):
    monkeypatch.setattr(module, "_MOST", 2)
    said: list[str] = []
    assert supervise(functools.partial(work, tmp_path, [end]), said.append) == LOST
    assert len(list(tmp_path.iterdir())) == 2
    assert said == ["starting again, after 1 of at most 2 times in a row", "given up, after 2 times in a row"]


def test_deaths_after_a_long_time_do_not_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 2)
    monkeypatch.setattr(module, "_LONG", 0.0)
    assert supervise(functools.partial(work, tmp_path, [LOST, LOST, LOST, 0]), lambda _: None) == 0
    assert len(list(tmp_path.iterdir())) == 4


def test_a_signal_between_two_attempts_is_obeyed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.5)

    def stop(_sentence: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert supervise(functools.partial(work, tmp_path, [LOST]), stop) == 130
    assert len(list(tmp_path.iterdir())) <= 2


WAITING = """
import functools, signal, sys, time
from pathlib import Path
from imgclassify.training.supervise import supervise

def wait(folder, stubborn):
    def stop(number, frame):
        (folder / "asked").touch()
        if not stubborn:
            raise SystemExit(130)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    (folder / "begun").touch()
    while True:
        (folder / "alive").write_text(str(time.time()))
        time.sleep(0.05)

if __name__ == "__main__":
    sys.exit(supervise(functools.partial(wait, Path(sys.argv[1]), sys.argv[2] == "stubborn"), print))
"""


@pytest.fixture
def waiting(tmp_path):
    """A function that starts work without an end, with what supervises it."""
    (tmp_path / "waiting.py").write_text(WAITING)
    started = []

    def start(kind: str = "obedient") -> subprocess.Popen:
        command = [sys.executable, str(tmp_path / "waiting.py"), str(tmp_path), kind]
        started.append(subprocess.Popen(command))
        wait_for(tmp_path / "begun")
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()


def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)


def ended(folder: Path) -> bool:
    """Whether the work no longer says that it is alive."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        before = (folder / "alive").read_text()
        time.sleep(0.5)
        if (folder / "alive").read_text() == before:
            return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_work_is_asked_to_end(waiting, tmp_path, number):
    process = waiting()
    process.send_signal(number)
    assert process.wait(30) == 130
    assert (tmp_path / "asked").exists()


def test_work_that_does_not_end_is_killed_by_a_second_signal(waiting, tmp_path):
    process = waiting("stubborn")
    process.terminate()
    wait_for(tmp_path / "asked")
    assert process.poll() is None
    process.terminate()
    assert process.wait(30) == 130
    assert ended(tmp_path)


def test_work_ends_with_what_supervises_it_however_that_ends(waiting, tmp_path):
    process = waiting("stubborn")
    process.kill()
    process.wait()
    assert ended(tmp_path)
