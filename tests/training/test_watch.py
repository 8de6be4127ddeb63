import threading
from types import SimpleNamespace

import numpy as np
import pytest

from imgclassify.progress import Progress
from imgclassify.training.watch import HISTORY_KEYS, StopTraining, Watch


class Lines(Progress):
    """Progress that keeps its lines."""

    def __init__(self):
        super().__init__()
        self.logged: list[str] = []
        self.passing: list[str] = []

    def log(self, line: str) -> None:
        self.logged.append(line)

    def update(self, line: str) -> None:
        self.passing.append(line)


@pytest.fixture
def clock(monkeypatch):
    """The time that the watch sees; set `now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("imgclassify.training.watch.time.monotonic", lambda: clock.now)
    return clock


def finish_epoch(watch: Watch, epoch: int, val_accuracy: float, work_done: float = 0.5) -> list[np.ndarray]:
    """Tell the watch of a finished epoch; returns the weights that it was given."""
    weights = [np.full(2, float(epoch))]
    watch.on_epoch_begin(epoch)
    watch.on_epoch_end((1.0, 0.5, 1.5, val_accuracy), weights, work_done)
    return weights


def test_before_the_first_epoch_there_is_a_history_without_epochs_and_no_weights(quiet):
    watch = Watch(3, quiet)
    assert watch.history == {key: [] for key in HISTORY_KEYS}
    assert watch.weights is None
    assert watch.best_weights is None


def test_the_best_weights_are_those_of_the_first_epoch_with_the_highest_validation_accuracy(quiet):
    watch = Watch(4, quiet)
    weights = [finish_epoch(watch, epoch, accuracy) for epoch, accuracy in enumerate((0.4, 0.6, 0.6, 0.5))]
    assert watch.best_epoch == 1
    assert watch.best_weights is weights[1]
    assert watch.weights is weights[3]
    assert watch.history["val_accuracy"] == [0.4, 0.6, 0.6, 0.5]


def test_listeners_get_copies_of_the_history_after_every_epoch(quiet):
    heard = []
    watch = Watch(2, quiet, listeners=[heard.append, lambda history: history["loss"].clear()])
    for epoch in range(2):
        finish_epoch(watch, epoch, 0.5)
    assert [len(history["loss"]) for history in heard] == [1, 2]
    assert (
        heard[1]
        == watch.history
        == {"loss": [1.0] * 2, "accuracy": [0.5] * 2, "val_loss": [1.5] * 2} | {"val_accuracy": [0.5] * 2}
    )


def test_each_epoch_is_a_line_and_its_batches_are_temporary_lines(clock):
    lines = Lines()
    watch = Watch(20, lines)
    watch.on_epoch_begin(4)
    watch.on_batch_end(0.25, 0.2)
    clock.now += 1.5
    watch.on_epoch_end((1.0, 0.5, 1.5, 0.75), [], 0.25)
    assert lines.passing == ["epoch 5/20   25%"]
    assert lines.logged == ["epoch  5/20  loss 1.000  accuracy 0.500  val_loss 1.500  val_accuracy 0.750  1.5 s"]


def test_the_time_left_is_estimated_from_the_work_done_since_the_first_steps(clock):
    lines = Lines()
    watch = Watch(2, lines)
    watch.on_epoch_begin(0)
    clock.now += 100  # tracing
    watch.on_batch_end(0.1, 0.05)
    clock.now += 10
    watch.on_batch_end(0.4, 0.2)
    clock.now += 15
    watch.on_epoch_end((1.0, 0.5, 1.5, 0.75), [], 0.5)
    watch.on_epoch_begin(1)
    clock.now += 25
    watch.on_batch_end(1.0, 1.0)
    assert lines.passing == ["epoch 1/2   10%", "epoch 1/2   40%  40 s left", "epoch 2/2  100%"]
    assert lines.logged[0].endswith("125.0 s  25 s left")


def test_a_watch_stops_the_training_once_it_was_asked_to(quiet):
    stop = threading.Event()
    watch = Watch(2, quiet, stop=stop)
    watch.on_batch_end(0.5, 0.25)
    watch.check_stop()
    stop.set()
    with pytest.raises(StopTraining):
        watch.on_batch_end(0.6, 0.3)
    with pytest.raises(StopTraining):
        watch.check_stop()
    Watch(2, quiet).check_stop()  # which nobody can stop
