"""Keeping: a training's run, with its record, checkpoints and model; a disk that fails does not end the training."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgclassify.classifier import Classifier
from imgclassify.progress import Progress
from imgclassify.runs.checkpoint import read_checkpoint, remove_checkpoints, write_checkpoint
from imgclassify.runs.locks import LockedError, locked
from imgclassify.runs.manifest import Manifest, write_manifest
from imgclassify.runs.names import RUN_MODEL, lock_of
from imgclassify.training.loop import Loop
from imgclassify.training.watch import Watch

HALF_A_MINUTE = 30.0
_MOST = 0.01  # share of the time that checkpoints may take


class Keeper:
    """Keeps a training in its run, whose folder it locks until `close`.

    What cannot be written is said once, and tried again at the next occasion; the training goes on in memory.

    Args:
        folder: The run's; it is created. None to keep nothing, for all workers but one.
        progress: Where problems are said.

    Raises:
        ValueError: Another training is writing this run.
    """

    def __init__(self, folder: Path | None, progress: Progress):
        self._kept, self._folder, self._progress = folder is not None, folder or Path(), progress
        self._model = self._folder / RUN_MODEL
        self._said, self._last, self._cost = set[str](), time.monotonic(), 0.0
        self._lock = contextlib.ExitStack()
        if folder is None:
            return
        self._try(lambda: None)  # creates the folder
        try:
            self._lock.enter_context(locked(lock_of(folder)))
        except LockedError as error:
            raise ValueError(f"The run {folder.name} is being trained already.") from error

    def record(self, manifest: Manifest) -> None:
        """Write the run's manifest."""
        self._try(lambda: write_manifest(self._model, manifest))

    def restore(self, loop, watch: Watch) -> None:
        """Go on from the run's last checkpoint, if it has one; all workers begin or go on as worker 0 does."""
        if not isinstance(loop, Loop):
            return
        state = read_checkpoint(self._folder) if self._kept else None
        if state is None and watch.workers.count > 1 and self._kept:
            state = {"loop": loop.state(), "watch": watch.state()}
        if (state := watch.workers.share(state)) is not None:
            loop.restore(state["loop"])
            watch.restore(state["watch"], loop.network.get_weights())
            if len(watch.history["loss"]) > loop.epoch:
                list(loop.run_epoch(loop.epoch))  # its steps are done

    def checkpoint(self, loop, watch: Watch, *, every: float | None = None) -> None:
        """Write a checkpoint of a `Loop`; any other has nothing to write.

        With `every`, not before so many seconds after the last one, nor before a hundred times as long as that took.
        Several workers, of which one may be lost, have one after each epoch.
        """
        began = time.monotonic()
        often = 0.0 if watch.workers.count > 1 and every == 0 else self._cost / _MOST
        waiting = every is not None and began - self._last < max(every, often)
        if waiting or not self._kept or not isinstance(loop, Loop):
            return
        state = {"loop": loop.state(), "watch": watch.state()}
        self._try(lambda: write_checkpoint(self._folder, state))
        self._last = time.monotonic()
        self._cost = self._last - began

    def save(self, classifier: Classifier) -> Classifier:
        """The classifier, saved in the run if that is possible; a complete one needs no checkpoints any more."""
        saved = self._try(lambda: classifier.save(self._model, replace=True))
        if saved is not None and classifier.manifest.status == "complete":
            remove_checkpoints(self._folder)
        return saved or classifier

    def close(self) -> None:
        """Release the run."""
        self._lock.close()

    def _try(self, write: Callable[[], Any]) -> Any:
        """What `write` returns; None, with a sentence, if the disk does not take it."""
        if not self._kept:
            return None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return write()
        except OSError as error:
            sentence = f"{error.filename or self._folder} cannot be written: {error.strerror or error}."
            if sentence not in self._said:
                self._said.add(sentence)
                self._progress.say(f"{sentence} The training goes on in memory, and is saved as soon as that works.")
        return None
