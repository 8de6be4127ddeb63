"""The watch over a training: it keeps history and best weights, shows progress, and stops on request."""

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from imgclassify.progress import Progress, format_seconds
from imgclassify.training.workers import ALONE, Workers

HISTORY_KEYS = ("loss", "accuracy", "val_loss", "val_accuracy")
History = dict[str, list[float]]


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised between two steps of a training, after the caller has set `stop`, Ctrl-C or SIGTERM."""


class Watch:
    """Keeps the history and the best weights of a training, shows its progress and obeys `stop`.

    Args:
        epochs: Number of epochs of the training.
        progress: Where to show the progress.
        stop: Set from another thread to end the training.
        patience: See `Recipe.patience`.
        listeners: Called with the history after every epoch.
        workers: Who trains together; they all stop after the same step.

    Attributes:
        history: One value per finished epoch for each of `HISTORY_KEYS`.
        weights: Weights to keep of a complete training: of the last finished epoch, with `patience` of the best one;
            None before the first.
        best_weights, best_epoch: Weights of the epoch with the highest validation accuracy so far, with `patience` of
            that with the lowest validation loss, and its number, from 0.
    """

    def __init__(
        self,
        epochs: int,
        progress: Progress,
        *,
        stop: threading.Event | None = None,
        patience: int = 0,
        listeners: Sequence[Callable[[History], None]] = (),
        workers: Workers = ALONE,
    ):
        self.history: History = {key: [] for key in HISTORY_KEYS}
        self.weights: list[np.ndarray] | None = None
        self.best_weights: list[np.ndarray] | None = None
        self.best_epoch = -1
        self._patience = patience
        self.began = time.monotonic()
        self.epochs, self.progress, self._listeners, self.workers = epochs, progress, listeners, workers
        self._stop, self._signalled = stop or threading.Event(), threading.Event()
        self._epoch, self._epoch_began = 0, self.began
        self._first_steps: float | None = None  # time when they were done, so that tracing does not count

    @property
    def ended_early(self) -> bool:
        """Whether the validation loss has not fallen for `patience` epochs, and more would follow."""
        finished = len(self.history["loss"])
        return 0 < self._patience < finished - self.best_epoch and finished < self.epochs

    def on_preparation(
        self, done: float, what: str = "computing what the frozen layers see", *, together: bool = False
    ) -> None:
        """This share of what the epochs need is computed, by all workers `together` or by each for itself."""
        self.check_stop(together=together)
        self.progress.update(f"{what}  {done:4.0%}{_time_left(self.began, done)}")

    def on_epoch_begin(self, epoch: int) -> None:
        """An epoch begins."""
        self._epoch, self._epoch_began = epoch, time.monotonic()

    def on_batch_end(self, done: float = 0.0, work_done: float = 0.0) -> None:
        """Some batches are done: `done` is a share of the epoch, `work_done` a share of the whole training's work."""
        self.check_stop(together=True)
        self._first_steps = self._first_steps or time.monotonic()
        left = _time_left(self._first_steps, work_done)
        self.progress.update(f"epoch {self._epoch + 1}/{self.epochs}  {done:4.0%}{left}")

    def on_epoch_end(self, numbers: Sequence[float], weights: list[np.ndarray], work_done: float) -> None:
        """An epoch is finished, with a number for each of `HISTORY_KEYS`."""
        for key, number in zip(HISTORY_KEYS, numbers, strict=True):
            self.history[key].append(number)
        scores = [-loss for loss in self.history["val_loss"]] if self._patience else self.history["val_accuracy"]
        if self.best_weights is None or scores[-1] > scores[self.best_epoch]:
            self.best_weights, self.best_epoch = weights, self._epoch
        self.weights = self.best_weights if self._patience else weights
        shown = "  ".join(f"{key} {self.history[key][-1]:.3f}" for key in HISTORY_KEYS)
        width, took = len(str(self.epochs)), time.monotonic() - self._epoch_began
        left = _time_left(self._first_steps, work_done)
        self.progress.log(f"epoch {self._epoch + 1:{width}d}/{self.epochs}  {shown}  {took:.1f} s{left}")
        for listener in self._listeners:
            listener({key: list(values) for key, values in self.history.items()})

    def check_stop(self, *, together: bool = False) -> None:
        """Raise `StopTraining` if the caller has set `stop`, or a signal has come.

        Several workers do it together, and not where each does something of its own.
        """
        if (together or self.workers.count == 1) and self.workers.any(self._stop.is_set() or self._signalled.is_set()):
            raise StopTraining

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it; see `restore`."""
        best = {"best_epoch": self.best_epoch, "best_weights": self.best_weights}
        return {"history": self.history, "seconds": time.monotonic() - self.began, **best}

    def restore(self, state: dict[str, Any], weights: list[np.ndarray]) -> None:
        """Go on from a `state()`, at which the network had these weights."""
        self.history, self.began = state["history"], time.monotonic() - state["seconds"]
        self.best_epoch, self.best_weights = state["best_epoch"], state["best_weights"]
        self.weights = self.best_weights if self._patience else weights

    @contextlib.contextmanager
    def obeying_signals(self) -> Iterator[None]:
        """In the main thread, Ctrl-C and SIGTERM end the training after the current step; a second one acts at once."""

        def stop(before: Any, number: int, _frame) -> None:
            self._signalled.set()
            signal.signal(number, before)

        in_main_thread = threading.current_thread() is threading.main_thread()
        with contextlib.ExitStack() as at_the_end:
            for number in (signal.SIGINT, signal.SIGTERM) if in_main_thread else ():
                if (before := signal.getsignal(number)) is not None:
                    at_the_end.callback(signal.signal, number, before)
                    signal.signal(number, functools.partial(stop, before))
            yield


def _time_left(began: float | None, done: float) -> str:
    """Time left of work of which this share is done; empty if that is not known yet."""
    taken = 0.0 if began is None else time.monotonic() - began
    return f"  {format_seconds(taken / done - taken)} left" if taken > 2 and 0 < done < 1 else ""
