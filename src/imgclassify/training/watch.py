"""The watch over a training: it keeps history and best weights, shows progress, and stops on request."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from imgclassify.progress import Progress, format_seconds

HISTORY_KEYS = ("loss", "accuracy", "val_loss", "val_accuracy")
History = dict[str, list[float]]


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised during a training when the caller has set `stop`."""


class Watch:
    """Keeps the history and the best weights of a training, shows its progress and obeys `stop`.

    Args:
        epochs: Number of epochs of the training.
        progress: Where to show the progress.
        stop: Set from another thread to end the training.
        listeners: Called with the history after every epoch.

    Attributes:
        epochs: As given.
        history: One value per finished epoch for each of `HISTORY_KEYS`.
        weights: Weights after the last finished epoch; None before the first.
        best_weights, best_epoch: Weights of the epoch with the highest validation accuracy so far, and its number,
            from 0.
    """

    def __init__(
        self,
        epochs: int,
        progress: Progress,
        *,
        stop: threading.Event | None = None,
        listeners: Sequence[Callable[[History], None]] = (),
    ):
        self.history: History = {key: [] for key in HISTORY_KEYS}
        self.weights: list[np.ndarray] | None = None
        self.best_weights: list[np.ndarray] | None = None
        self.best_epoch = -1
        self.began = time.monotonic()
        self.epochs, self._progress, self._stop, self._listeners = epochs, progress, stop, listeners
        self._epoch, self._epoch_began = 0, self.began
        self._first_steps: float | None = None  # time when they were done, so that tracing does not count

    def on_preparation(self, done: float) -> None:
        """This share of what the epochs need is computed."""
        self.check_stop()
        taken = time.monotonic() - self.began
        left = f"  {format_seconds(taken / done - taken)} left" if taken > 2 and 0 < done < 1 else ""
        self._progress.update(f"computing what the frozen layers see  {done:4.0%}{left}")

    def on_epoch_begin(self, epoch: int) -> None:
        """An epoch begins."""
        self._epoch, self._epoch_began = epoch, time.monotonic()

    def on_batch_end(self, done: float = 0.0, work_done: float = 0.0) -> None:
        """Some batches are done: `done` is a share of the epoch, `work_done` a share of the whole training's work."""
        self.check_stop()
        self._first_steps = self._first_steps or time.monotonic()
        self._progress.update(f"epoch {self._epoch + 1}/{self.epochs}  {done:4.0%}" + self._time_left(work_done))

    def on_epoch_end(self, numbers: Sequence[float], weights: list[np.ndarray], work_done: float) -> None:
        """An epoch is finished, with a number for each of `HISTORY_KEYS`."""
        for key, number in zip(HISTORY_KEYS, numbers, strict=True):
            self.history[key].append(number)
        accuracies = self.history["val_accuracy"]
        self.weights = weights
        if self.best_weights is None or accuracies[-1] > accuracies[self.best_epoch]:
            self.best_weights, self.best_epoch = weights, self._epoch
        shown = "  ".join(f"{key} {self.history[key][-1]:.3f}" for key in HISTORY_KEYS)
        width, took = len(str(self.epochs)), time.monotonic() - self._epoch_began
        self._progress.log(
            f"epoch {self._epoch + 1:{width}d}/{self.epochs}  {shown}  {took:.1f} s" + self._time_left(work_done)
        )
        for listener in self._listeners:
            listener({key: list(values) for key, values in self.history.items()})

    def check_stop(self) -> None:
        """Raise `StopTraining` if the caller has set `stop`."""
        if self._stop is not None and self._stop.is_set():
            raise StopTraining

    def _time_left(self, work_done: float) -> str:
        if self._first_steps is None or not 0 < work_done < 1:
            return ""
        taken = time.monotonic() - self._first_steps
        return f"  {format_seconds(taken / work_done - taken)} left" if taken > 2 else ""
