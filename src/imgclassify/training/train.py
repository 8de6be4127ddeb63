"""Training: from a recipe and data to a calibrated classifier, kept as a run."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from imgclassify import backend
from imgclassify.classifier import Classifier
from imgclassify.data.photos import take_rows
from imgclassify.evaluation.calibration import calibrate
from imgclassify.evaluation.metrics import Evaluation
from imgclassify.models.familiarity import Detector
from imgclassify.models.inference import predict_probabilities
from imgclassify.progress import Progress
from imgclassify.recipes import Recipe
from imgclassify.runs import provenance
from imgclassify.runs.manifest import Manifest
from imgclassify.runs.names import runs_dir
from imgclassify.runs.records import new_run
from imgclassify.settings import short_mode
from imgclassify.training.keeping import HALF_A_MINUTE, Keeper
from imgclassify.training.loop import DivergedError, Loop
from imgclassify.training.plans import make_plan, new_network
from imgclassify.training.transfer import Job, LogisticLoop, fit_detector, prepare_job
from imgclassify.training.watch import History, StopTraining, Watch
from imgclassify.training.workers import ALONE, LostError, Workers


def train_model(
    recipe: str | Recipe = "baseline",
    data=None,
    *,
    seed: int = 0,
    share: float = 1.0,
    precision: str = "auto",
    name: str | None = None,
    resume: str | None = None,
    stop: threading.Event | None = None,
    on_begin: Callable[[str], None] | None = None,
    on_epoch_end: Callable[[History], None] | None = None,
    progress: Progress | None = None,
    workers: Workers = ALONE,
    **settings,
) -> tuple[Classifier, History]:
    """Train a fresh network, or go on with an unfinished run, and keep it in `artifacts/runs/<time>-<name>/`.

    Ctrl-C, Interrupt in a notebook, SIGTERM or `stop` end the training early: `manifest.status` is then "interrupted",
    and the run and the returned classifier have the weights of the epoch with the best validation accuracy so far.
    Otherwise it is "complete", with the last epoch's weights, or those that `Recipe.patience` keeps. After an error, it
    is "failed", and the run has the best weights so far. The model is calibrated on the validation pictures; see
    `calibrate`. An interrupt meanwhile is raised, and leaves the uncalibrated model.

    Checkpoints are written after each epoch and every 30 seconds, unless that would take a hundredth of the time. A
    resumed training ends with the weights of an unbroken one, bit for bit, on the same machine. A disk that is full or
    read-only is said, and ends no training.

    Args:
        recipe: A name in `RECIPES`, or a `Recipe`.
        data: A `Dataset`, what `load_and_preprocess_data()` returns, or a name or folder for `load_dataset`; None for
            CIFAR-10. Its test part is not used.
        seed: For the split, the initial weights, the order and the variations of the pictures, and dropout.
        share: Of the training pictures, above 0 to 1, classes in proportion; those held out stay the same.
        precision: "auto" or one of `backend.PRECISIONS`; the returned network is float32 in any case.
        name: Name of the run; default: the recipe's.
        resume: An unfinished run, by name, or "latest"; recipe, seed, share, precision and name are then the run's, and
            so is the data, unless it is given.
        stop: If it is set from another thread, the training ends after the current step, within half a second.
        on_begin: Called with the run's name, once its record is written.
        on_epoch_end: Called after every epoch with the history so far.
        progress: Where to show the progress; default: the terminal or the notebook's cell.
        workers: Who trains it together; see `join_workers`. Each calls this function. Worker 0 decides what is trained,
            keeps the run and calibrates the network; the others pass their copy of the data, and nothing else. They
            return when the run is complete, with an uncalibrated network. After an exception in one of them, end its
            process: the others wait for it.
        **settings: Other values for the recipe's fields, for instance `epochs=5`.

    Returns:
        `(classifier, history)`: the history has one value per epoch for each of "loss", "accuracy", "val_loss" and
        "val_accuracy", with a single view and before calibration; the first two are means over the pictures that the
        epoch trained on, which may be only the hard ones. The manifest's `metrics` are those of the finished model.

    Raises:
        DatasetError: The data is unavailable, or too small to be split.
        ValueError: The recipe is unknown, a setting or the name is out of range, there is no such run, or it is being
            trained by another process.
        ModelFileError: The run to resume is complete, or was trained on other data.
        DivergedError: The loss is not finite, as with too high a learning rate; the run is "failed".
        MemoryError: A batch does not fit into the (graphics) memory.
        LostError: The connection to another worker is lost; the run can be resumed.
    """
    options: dict[str, Any] = {"resume": resume, "name": name, "seed": seed, "share": share, "precision": precision}
    record, chosen, data, rows = make_plan(recipe, data, workers=workers, settings=settings, **options)
    seed, precision = record.seed or 0, record.precision or "float32"

    backend.set_seed(seed)
    network = new_network(chosen, data, rows[0])
    run = "" if workers.index > 0 else record.run or new_run(name or chosen.name)
    classifier = Classifier.of(Classifier(network, replace(record, run=run, status="running")), data.class_names)
    pictures, (train_rows, val_rows) = classifier.fitting(data.x_train), rows
    held_out = take_rows(pictures, val_rows), data.y_train[val_rows]
    folder = runs_dir() / run if run else None
    with progress or Progress() as progress, contextlib.closing(Keeper(folder, progress)) as keeper:
        listeners = [lambda history: keeper.record(replace(classifier.manifest, history=history))]
        listeners += [on_epoch_end] if on_epoch_end else []
        watch = Watch(
            chosen.epochs, progress, stop=stop, patience=chosen.patience, listeners=listeners, workers=workers
        )
        _begin(classifier.manifest, keeper, watch, on_begin)
        training = pictures, data.y_train, train_rows
        prepare = functools.partial(prepare_job, network, chosen, training, held_out, seed=seed, workers=workers)
        status, error, job = _fit(prepare, functools.partial(_start, chosen, precision, workers), watch, keeper)
        wall_time = round(time.monotonic() - watch.began, 1)
        classifier = classifier.recorded(status=status, history=watch.history, wall_time_s=wall_time)
        # Calibration needs only the learned layers, unless several views of each picture are averaged.
        seen = job if job is not None and chosen.views == 1 else Job(network, None, held_out)
        if error is not None:
            if run:
                _keep_what_there_is(classifier, keeper, seen)
            raise _in_words(error, chosen) from error
        fit = functools.partial(fit_detector, network, chosen, job or seen, groups=data.groups, rows=train_rows)
        classifier = _keep(classifier, keeper, seen, progress, fit=fit) if run else classifier
        with contextlib.suppress(*[LostError] if run else []):  # the others stay until the run is safe
            workers.any(False)
        if status == "interrupted" or watch.ended_early:
            progress.say(_how_it_ended(watch, chosen, run))
    return classifier, watch.history


def train_variants(
    recipe: str | Recipe, data, variants: Mapping[str, dict[str, Any]], *, seeds: Sequence[int] = (0, 1), **settings
) -> dict[str, list[Manifest]]:
    """Train variants of a recipe, each with several seeds, for a fair comparison.

    Args:
        recipe: As for `train_model`.
        data: As for `train_model`.
        variants: For each variant's label, the options of `train_model` that make it; for instance
            `{"as it is": {}, "half the data": {"share": 0.5}}`.
        seeds: One training for each; in short mode, only the first is used.
        **settings: Options of `train_model` for all variants.

    Returns:
        For each label, the manifests of its runs, in the order of the seeds.

    Raises:
        KeyboardInterrupt: A training was interrupted; the runs so far are kept.
        DatasetError, ValueError: As for `train_model`.
    """
    manifests: dict[str, list[Manifest]] = {}
    for label, options in variants.items():
        for seed in seeds[:1] if short_mode() else seeds:
            classifier, _ = train_model(recipe, data, seed=seed, **settings | options)
            if classifier.manifest.status != "complete":
                raise KeyboardInterrupt
            manifests.setdefault(label, []).append(classifier.manifest)
    return manifests


def _begin(manifest: Manifest, keeper: Keeper, watch: Watch, on_begin: Callable[[str], None] | None) -> None:
    """Write the run's record, and say what has changed since it was begun."""
    if changes := provenance.describe_changes(manifest.machine, manifest.versions, watch.workers.count):
        watch.progress.say(f"Begun with {changes}: the weights may differ from those of an unbroken training.")
    keeper.record(manifest)
    if on_begin:
        on_begin(manifest.run)


def _start(recipe: Recipe, precision: str, workers: Workers, job: Job) -> Loop | LogisticLoop:
    """The loop that does a job."""
    if recipe.optimizer == "logistic":
        return LogisticLoop(job.network, *job.training)
    return Loop(job.network, recipe, job.training, precision, workers=workers)


def _fit(
    prepare: Callable[..., Job], start: Callable[[Job], Loop | LogisticLoop], watch: Watch, keeper: Keeper
) -> tuple[str, Exception | None, Job | None]:
    """Train, and give the network the learned weights; returns the status, the error if there was one, and the job."""
    job, loop, status, error = None, None, "complete", None
    try:
        with watch.obeying_signals():
            job = prepare(report=watch.on_preparation)
            loop = start(job)
            keeper.restore(loop, watch)
            _run_epochs(loop, job, watch, keeper)
    except StopTraining:
        status = "interrupted"
        keeper.checkpoint(loop, watch)
    except KeyboardInterrupt:
        status = "interrupted"
    except Exception as caught:
        if watch.workers.is_lost(caught):
            raise LostError.of(caught) from caught
        status, error = "failed", caught
    weights = watch.weights if status == "complete" else watch.best_weights
    if weights is None and loop is not None:  # stopped in the first epoch
        weights = loop.network.get_weights()
    if job is not None and weights is not None:
        job.network.set_weights(weights)
    return status, error, job


def _run_epochs(loop: Loop | LogisticLoop, job: Job, watch: Watch, keeper: Keeper) -> None:
    """Train and validate, from the first epoch that is not finished to the last."""
    workers, (pictures, labels) = watch.workers, job.validation
    if workers.count > 1:
        pictures = take_rows(pictures, np.arange(len(labels))[workers.part(len(labels))])
    for epoch in range(len(watch.history["loss"]), watch.epochs):
        if watch.ended_early:
            return
        watch.on_epoch_begin(epoch)
        for done in loop.run_epoch(epoch):
            keeper.checkpoint(loop, watch, every=HALF_A_MINUTE)
            watch.on_batch_end(done, loop.work_done(epoch + done))
        probabilities = predict_probabilities(loop.network, pictures, on_batch_end=watch.check_stop)
        measured = Evaluation(workers.gather(probabilities), labels)
        if not np.isfinite(measured.loss):  # by the last step, whose own loss was still finite
            raise DivergedError(
                "The training diverged: its validation loss is not finite. Try a smaller learning rate."
            )
        numbers = (loop.loss, loop.accuracy, measured.loss, measured.accuracy)
        watch.on_epoch_end(numbers, loop.network.get_weights(), loop.work_done(epoch + 1))
        keeper.checkpoint(loop, watch, every=0)


def _keep(
    classifier: Classifier,
    keeper: Keeper,
    seen: Job,
    progress: Progress,
    *,
    fit: Callable[[], Detector | None] = lambda: None,
) -> Classifier:
    """Save the classifier in its run: first as it is, so that the weights are safe, then finished."""
    status = classifier.manifest.status
    kept = keeper.save(classifier.recorded(status="failed" if status == "failed" else "interrupted"))
    if not classifier.manifest.history["loss"]:
        return kept
    progress.log("calibrating on the validation pictures")
    calibrated = calibrate(classifier, *seen.validation, learned=seen.network)
    measured = keeper.save(calibrated.classifier.recorded(metrics=calibrated.metrics("val")))
    progress.log("comparing known pictures with training pictures")
    try:
        detector = fit()
    except Exception as error:  # the model is complete without it
        progress.say(f"There is no detector of other things: {type(error).__name__}: {error!s:.200}")
        return measured
    return keeper.save(replace(measured, detector=detector)) if detector else measured


def _keep_what_there_is(classifier: Classifier, keeper: Keeper, seen: Job) -> None:
    """After an error, keep the best weights so far, or at least the record; further errors are ignored."""
    with contextlib.suppress(Exception):
        if classifier.manifest.history["loss"]:
            _keep(classifier, keeper, seen, Progress(enabled=False))
        else:
            keeper.record(classifier.manifest)


def _in_words(error: Exception, recipe: Recipe) -> Exception:
    if not isinstance(error, backend.tensorflow().errors.ResourceExhaustedError):
        return error
    smaller = max(1, recipe.batch_size // 2)
    return MemoryError(f"A batch of {recipe.batch_size} pictures does not fit into memory: try batch_size={smaller}.")


def _how_it_ended(watch: Watch, recipe: Recipe, run: str) -> str:
    finished = len(watch.history["loss"])
    best = f"the weights of epoch {watch.best_epoch + 1}, the best so far, are"
    kept = best if finished else "what was learned so far is"
    why = f", because the validation loss has not fallen for {recipe.patience}" if watch.ended_early else ""
    return f"Stopped after {finished} of {recipe.epochs} epochs{why}; {kept} kept as the run {run}."
