"""Training: from a recipe and data to a calibrated classifier, kept as a run."""

import contextlib
import datetime as dt
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from imgclassify import backend
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import Dataset, DatasetError, in_proportion
from imgclassify.data.loading import as_dataset
from imgclassify.data.photos import take_rows
from imgclassify.evaluation.calibration import calibrate
from imgclassify.evaluation.metrics import Evaluation
from imgclassify.models.backbones import BACKBONES
from imgclassify.models.familiarity import Detector
from imgclassify.models.inference import predict_probabilities
from imgclassify.models.networks import build_model, whiten
from imgclassify.progress import Progress
from imgclassify.recipes import Recipe, check_name, get_recipe
from imgclassify.runs import provenance
from imgclassify.runs.manifest import DataRecord, Manifest, ModelFileError, read_manifest
from imgclassify.runs.names import RUN_MODEL, find_run, runs_dir
from imgclassify.runs.records import new_run
from imgclassify.settings import short_mode
from imgclassify.training.keeping import HALF_A_MINUTE, Keeper
from imgclassify.training.loop import DivergedError, Loop
from imgclassify.training.transfer import Job, LogisticLoop, fit_detector, prepare_job
from imgclassify.training.watch import History, StopTraining, Watch
from imgclassify.training.workers import ALONE, LostError, Workers

_SHORT_EPOCHS, _SHORT_VARIANTS = 3, 2  # in short mode
_WHITENING_SAMPLE = 5000  # training pictures that the whitening is computed from
_LARGEST_SEED = 2**32 - 1  # numpy's


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
        on_epoch_end: Called after every epoch with the history so far.
        progress: Where to show the progress; default: the terminal or the notebook's cell.
        workers: Who trains it together; see `join_workers`. Each calls this function. Worker 0 decides what is trained,
            keeps the run and calibrates the network; the others pass their copy of the data, and nothing else.
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
        LostError: Another worker is gone; the run can be resumed.
    """
    if workers.index > 0:
        record, chosen, data, rows = _joined(workers, data)
    else:
        if resume is None:
            chosen = in_short_mode(get_recipe(recipe, **settings))
            data = as_dataset(data, size=chosen.size)
            check_name(chosen.name if name is None else name)
            rows = split_rows(data, chosen, share, seed)
            settings = {"seed": seed, "share": share, "precision": backend.choose_precision(precision)}
            record = _new_record(chosen, data, rows, workers=workers.count, **settings)
        else:
            record, chosen, data, rows = _begun(resume, data)
        record = replace(record, run=record.run or new_run(name or chosen.name))
        _invite(workers, chosen, record, data)
    seed, precision, run = record.seed or 0, record.precision or "float32", record.run

    backend.set_seed(seed)
    network = new_network(chosen, data, rows[0])
    classifier = Classifier.of(Classifier(network, replace(record, status="running")), data.class_names)
    pictures, (train_rows, val_rows) = classifier.fitting(data.x_train), rows
    held_out = take_rows(pictures, val_rows), data.y_train[val_rows]
    folder = runs_dir() / run if workers.index == 0 else None
    with progress or Progress() as progress, contextlib.closing(Keeper(folder, progress)) as keeper:
        listeners = [lambda history: keeper.record(replace(classifier.manifest, history=history))]
        listeners += [on_epoch_end] if on_epoch_end else []
        watch = Watch(
            chosen.epochs, progress, stop=stop, patience=chosen.patience, listeners=listeners, workers=workers
        )
        if changes := provenance.describe_changes(record.machine, record.versions, workers.count):
            progress.say(f"Begun with {changes}: the weights may differ from those of an unbroken training.")
        keeper.record(classifier.manifest)
        training = pictures, data.y_train, train_rows
        prepare = functools.partial(prepare_job, network, chosen, training, held_out, seed=seed, workers=workers)
        status, error, job = _fit(prepare, functools.partial(_start, chosen, precision, workers), watch, keeper)
        if error is not None and workers.is_lost(error):
            raise LostError("another worker is gone") from error
        wall_time = round(time.monotonic() - watch.began, 1)
        classifier = classifier.recorded(status=status, history=watch.history, wall_time_s=wall_time)
        # Calibration needs only the learned layers, unless several views of each picture are averaged.
        seen = job if job is not None and chosen.views == 1 else Job(network, None, held_out)
        if error is not None:
            _keep_what_there_is(classifier, keeper, seen)
            raise _in_words(error, chosen) from error
        if workers.index > 0:
            return classifier, watch.history
        fit = functools.partial(fit_detector, network, chosen, job or seen, groups=data.groups, rows=train_rows)
        classifier = _keep(classifier, keeper, seen, progress, fit=fit)
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


def in_short_mode(recipe: Recipe) -> Recipe:
    """The recipe, in short mode with few epochs and variants."""
    if not short_mode():
        return recipe
    return replace(recipe, epochs=min(recipe.epochs, _SHORT_EPOCHS), variants=min(recipe.variants, _SHORT_VARIANTS))


def split_rows(data: Dataset, recipe: Recipe, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1. Received: share={share}")
    if not 0 <= seed <= _LARGEST_SEED:
        raise ValueError(f"seed must be from 0 to {_LARGEST_SEED}. Received: seed={seed}")
    train_rows, val_rows = data.validation_split(recipe.validation_fraction, seed)
    if share < 1:
        count = max(1, round(share * len(train_rows)))
        train_rows = train_rows[in_proportion(data.y_train[train_rows], count, seed)]
    return train_rows, val_rows


def new_network(recipe: Recipe, data: Dataset, train_rows: np.ndarray):
    """An untrained network of the recipe for this data."""
    backbone, loaded = recipe.architecture in BACKBONES, data.x_train.shape[1]
    if backbone and data.groups is not None and loaded < recipe.size:
        found = f"The photos were loaded at {loaded} pixels, but {recipe.name} takes {recipe.size}:"
        raise DatasetError(f"{found} load them by load_dataset(folder, size={recipe.size}), or pass the folder itself.")
    shape = (recipe.size, recipe.size, 3) if backbone else data.x_train.shape[1:]
    network = build_model(recipe.architecture, input_shape=shape, num_classes=len(data.class_names))
    if not backbone:
        whiten(network, data.x_train[train_rows[:: max(1, len(train_rows) // _WHITENING_SAMPLE)]])
    return network


def _new_record(
    recipe: Recipe, data: Dataset, rows: tuple[np.ndarray, np.ndarray], *, workers: int, **settings: Any
) -> Manifest:
    """What a manifest records before the training begins."""
    return Manifest(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        recipe=recipe,
        dataset=DataRecord(data.name, data.source, data.fingerprint, data.folder, *map(len, rows)),
        versions=provenance.describe_versions(),
        commit=provenance.source_commit(),
        machine=provenance.describe_machine(workers),
        **settings,
    )


def unfinished_run(run: str) -> tuple[Manifest, Recipe]:
    """The record of a run that can be resumed, and its recipe.

    Raises:
        ValueError: There is no run with this name; see `find_run`.
        ModelFileError: It is complete, or its record cannot be read.
    """
    record = read_manifest(runs_dir() / find_run(run) / RUN_MODEL)
    if record.status not in ("running", "interrupted", "failed") or record.recipe is None:
        raise ModelFileError(f"The run {find_run(run)} is {record.status}: only an unfinished one can be resumed.")
    return record, record.recipe


def _begun(run: str, data) -> tuple[Manifest, Recipe, Dataset, tuple[np.ndarray, np.ndarray]]:
    """The record of an unfinished run, its recipe, its data, and the rows to train on and to validate on."""
    record, recipe = unfinished_run(run)
    data = as_dataset(record.dataset.location() if data is None else data, size=recipe.size)
    rows, before = split_rows(data, recipe, record.share, record.seed or 0), record.dataset
    counts = before.training_pictures, before.validation_pictures
    if data.fingerprint != before.fingerprint or tuple(map(len, rows)) != counts:
        other = f"The run {record.run} was trained on other pictures than those of {data.source}"
        raise ModelFileError(f"{other}: pass its data.")
    return replace(record, temperatures=(), metrics={}, sha256=None), recipe, data, rows


def _invite(workers: Workers, recipe: Recipe, record: Manifest, data: Dataset) -> None:
    """Tell the other workers what is trained, and hear whether they can; see `_joined`."""
    if workers.count == 1:
        return
    if recipe.optimizer == "logistic":
        raise ValueError(f"The recipe {recipe.name} does not train in steps: it needs no other workers.")
    told = ("seed", "share", "precision", "run")
    settings = {name: getattr(record, name) for name in told}
    workers.share({"recipe": asdict(recipe), "fingerprint": data.fingerprint, "settings": settings})
    if workers.any(False):
        raise DatasetError("Another worker cannot train on the same pictures; its own message says why.")


def _joined(workers: Workers, data) -> tuple[Manifest, Recipe, Dataset, tuple[np.ndarray, np.ndarray]]:
    """What worker 0 trains, with this worker's copy of the data; the result is as that of `_begun`."""
    plan, problem = workers.share(), None
    recipe, settings = Recipe(**plan["recipe"]), plan["settings"]
    try:
        data = as_dataset(data, size=recipe.size)
        if data.fingerprint != plan["fingerprint"]:
            problem = DatasetError(
                f"Worker 0 trains on other pictures than those of {data.source}: pass the same ones."
            )
    except DatasetError as error:
        problem = error
    workers.any(problem is not None)
    if problem is not None:
        raise problem
    rows = split_rows(data, recipe, settings["share"], settings["seed"])
    return _new_record(recipe, data, rows, workers=workers.count, **settings), recipe, data, rows


def _start(recipe: Recipe, precision: str, workers: Workers, job: Job) -> Loop | LogisticLoop:
    """The loop that does a job."""
    if recipe.optimizer == "logistic":
        return LogisticLoop(job.network, *job.training)
    return Loop(job.network, recipe, job.training, precision, workers)


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
        status, error = "failed", caught
    weights = watch.weights if status == "complete" else watch.best_weights
    if weights is None and loop is not None:  # stopped in the first epoch
        weights = loop.network.get_weights()
    if job is not None and weights is not None:
        job.network.set_weights(weights)
    return status, error, job


def _run_epochs(loop: Loop | LogisticLoop, job: Job, watch: Watch, keeper: Keeper) -> None:
    """Train and validate, from the first epoch that is not finished to the last."""
    for epoch in range(len(watch.history["loss"]), watch.epochs):
        if watch.ended_early:
            return
        watch.on_epoch_begin(epoch)
        for done in loop.run_epoch(epoch):
            keeper.checkpoint(loop, watch, every=HALF_A_MINUTE)
            watch.on_batch_end(done, loop.work_done(epoch + done))
        pictures, labels = job.validation
        mine = pictures[watch.workers.part(len(labels))]
        probabilities = predict_probabilities(loop.network, mine, on_batch_end=watch.check_stop)
        measured = Evaluation(watch.workers.gather(probabilities), labels)
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
