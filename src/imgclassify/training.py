"""The one training loop, and publishing what it gives."""

import contextlib
import datetime as dt
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from imgclassify import persistence, runtime
from imgclassify.augmentation import augment
from imgclassify.data import Dataset, dataset_from_arrays, in_proportion, load_dataset
from imgclassify.evaluation import Evaluation, calibrate, evaluate_model
from imgclassify.models import build_model, training_copy, whiten
from imgclassify.optimization import build_optimizer
from imgclassify.persistence import ModelFileError
from imgclassify.prediction import predict_probabilities
from imgclassify.progress import Progress, format_seconds
from imgclassify.recipes import Recipe, check_name, get_recipe, recorded_settings

HISTORY_KEYS = ("loss", "accuracy", "val_loss", "val_accuracy")
_SHORT_EPOCHS = 3  # in short mode
_CHUNK_SECONDS = 0.3  # the longest the compiled loop goes on before it looks at Stop, but for the step it is in
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
_RUN_OPTIONS = (
    "seed",
    "share",
    "precision",
    "name",
    "stop",
    "on_epoch",
    "show_progress",
    "progress",
)  # of train_model, not of a recipe


def train_model(
    recipe: str | Recipe = "baseline",
    data=None,
    *,
    seed: int = 0,
    share: float = 1.0,
    precision: str = "auto",
    name: str | None = None,
    stop: threading.Event | None = None,
    on_epoch: Callable[[dict[str, list[float]]], None] | None = None,
    show_progress: bool = True,
    progress: Progress | None = None,
    **settings,
):
    """Train a fresh network, always from the start, and keep it as a run in `artifacts/runs/<time>-<name>/`.

    An interrupt (Ctrl-C, or Interrupt in a notebook) or `stop` ends the training early: the run and the
    returned model then have the weights of the epoch with the best validation accuracy so far, and
    `model.manifest["status"]` is "interrupted". Otherwise they have the last epoch's, or the mean over the last
    steps where the recipe averages them, and it is "complete". An interrupt during the calibration is raised; the
    run then has the model uncalibrated, as "interrupted". After an error, the best weights so far stay in the run
    too, as "failed". The model is calibrated on the validation pictures; see `calibrate`.

    Args:
        recipe: A name in `RECIPES`, or a `Recipe`.
        data: A `Dataset`, or what `load_and_preprocess_data()` returns; None for CIFAR-10. Its test part is not used.
        seed: For the split, the initial weights, the order and the variants of the pictures, and dropout.
        share: Train on this share of the training pictures only, above 0 to 1, classes in proportion; the
            pictures held out for validation stay the same.
        precision: "float32", "mixed_float16" or "mixed_bfloat16"; "auto" is `runtime.default_precision()`.
            The saved and returned model is float32 in any case.
        name: Name of the run; default: the recipe's.
        stop: Set from another thread, it ends the training after the step that is being computed; a step of the
            baseline takes milliseconds, one of "fast" up to about half a second on two cores.
        on_epoch: Called after every epoch with the history so far.
        show_progress: Show one line an epoch, with the time left.
        progress: Where to show it; default: the terminal or the notebook's cell.
        **settings: Other values for the recipe's fields, for instance `epochs=5`.

    Returns:
        `(model, history)`: a `keras.Model` with its `manifest`, and a dict with a list of one value an epoch
        for each of "loss", "accuracy", "val_loss", "val_accuracy". These are measured as the training goes, without
        test-time augmentation and calibration, the former two on the pictures that the epoch trained on, which may be
        the hard ones; the manifest's "metrics" are those of the model as it is.

    Raises:
        DatasetError: The data cannot be had, or is too small to be split.
        ValueError: The recipe, a setting or the name is none.
        MemoryError: A batch does not fit into the (graphics) memory.
    """
    recipe = get_recipe(recipe, **settings)
    check_name(recipe.name if name is None else name)
    if runtime.short_mode():
        recipe = replace(recipe, epochs=min(recipe.epochs, _SHORT_EPOCHS))
    data = _as_dataset(data)
    precision = runtime.default_precision() if precision == "auto" else precision
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be auto or one of {', '.join(PRECISIONS)}. Received: precision={precision!r}")
    train_rows, val_rows = data.validation_split(recipe.validation_fraction, seed)
    train_rows = _share_of(train_rows, data.y_train, share, seed)

    runtime.set_seed(seed)
    model = build_model(recipe.architecture, input_shape=data.x_train.shape[1:], num_classes=len(data.class_names))
    whiten(model, data.x_train[train_rows[:: max(1, len(train_rows) // 5000)]])
    run = _new_run(name or recipe.name)
    manifest = {"run": run.parent.name} | _new_manifest(
        recipe, seed, share, precision, data, len(train_rows), len(val_rows)
    )
    persistence.write_manifest(run, manifest)

    def record(history: dict[str, list[float]]) -> None:
        persistence.write_manifest(run, manifest | {"history": history})
        if on_epoch is not None:
            on_epoch(history)

    started = time.monotonic()
    with progress or Progress(show_progress) as progress:
        watch = _Watch(recipe.epochs, stop, record, progress)
        status, failure = "complete", None
        try:
            _fit(model, recipe, data, train_rows, val_rows, precision, seed, watch)
        except (KeyboardInterrupt, _StopTraining):
            status = "interrupted"
        except Exception as error:
            status, failure = "failed", error
        history = watch.history
        if watch.weights is not None:
            model.set_weights(watch.weights if status == "complete" else watch.best_weights)
        manifest |= {"status": status, "history": history, "wall_time_s": round(time.monotonic() - started, 1)}
        if failure is None or history["loss"]:
            with contextlib.suppress(Exception) if failure else contextlib.nullcontext():
                model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
                model.manifest = manifest | {"metrics": {}, "status": "failed" if failure else "interrupted"}
                persistence.save_model(model, run)  # as it is: whatever happens from here on, the weights are kept
                if history["loss"]:
                    progress.log("calibrating on the validation pictures")
                    x_val, y_val = data.x_train[val_rows], data.y_train[val_rows]
                    temperatures, measured = calibrate(model, x_val, y_val)
                    model.manifest |= temperatures | {"status": status}
                    model.manifest["metrics"] = measure("val", model, x_val, y_val, measured)
                    persistence.save_model(model, run, replace=True)
        else:
            persistence.write_manifest(run, manifest)
        if isinstance(failure, runtime.tensorflow().errors.ResourceExhaustedError):
            raise MemoryError(
                f"A batch of {recipe.batch_size} pictures does not fit into memory: "
                f"try batch_size={max(1, recipe.batch_size // 2)}."
            ) from failure
        if failure is not None:
            raise failure
        if status == "interrupted":
            kept = (
                f"the weights of epoch {watch.best_epoch + 1}, the best so far,"
                if history["loss"]
                else "the weights as they stood, before the end of an epoch,"
            )
            progress.say(
                f"Stopped after {len(history['loss'])} of {recipe.epochs} epochs; {kept} "
                f"are kept as the run {run.parent.name}."
            )
    return model, history


def train_variants(
    recipe: str | Recipe,
    data,
    variants: Mapping[str, dict[str, object]],
    *,
    seeds: Sequence[int] = (0, 1),
    **settings,
) -> dict[str, list[dict]]:
    """Train variants of a recipe, each with several seeds, for a fair comparison.

    Args:
        recipe: As for `train_model`.
        data: As for `train_model`.
        variants: For each variant's label the options of `train_model` that make it, for instance
            `{"as it is": {}, "half the data": {"share": 0.5}}`.
        seeds: One training each; in short mode only the first.
        **settings: Options of `train_model` for all of them.

    Returns:
        For each label the manifests of its runs, in the order of the seeds.

    Raises:
        KeyboardInterrupt: A training was interrupted; the runs so far are kept.
        DatasetError, ValueError: As for `train_model`.
    """
    manifests: dict[str, list[dict]] = {}
    for label, options in variants.items():
        for seed in seeds[:1] if runtime.short_mode() else seeds:
            model, _ = train_model(recipe, data, seed=seed, **settings | options)
            if model.manifest["status"] != "complete":
                raise KeyboardInterrupt
            manifests.setdefault(label, []).append(model.manifest)
    return manifests


def train_or_load_model(
    recipe: str | Recipe = "baseline",
    data=None,
    *,
    path: str | os.PathLike | None = None,
    replace: bool = False,
    **options,
):
    """Load the recipe's published model where there is one, else train and publish it.

    The published file is `cifar10_model.h5` for the baseline on CIFAR-10, `<data>_model.keras` for other data and
    `<data>_<recipe>.keras` for other recipes, in the artifacts folder. A training becomes the published file only
    when it is complete; interrupted, it stays a run. On publication the test data is measured, for the record.

    Args:
        recipe: As for `train_model`.
        data: As for `train_model`. It is not read where a model is loaded.
        path: Another place for the published file, `.keras` or `.h5`.
        replace: Train anew and replace the published file once the training is complete.
        **options: As for `train_model`.

    Returns:
        `(model, history)` as `train_model` does; loaded, the history is the one in the manifest.

    Raises:
        ModelFileError: The published file is damaged, or was made with other settings than those asked for,
            or of other classes; it is left as it is.
        DatasetError: The data cannot be had.
        ValueError: As for `train_model`.
    """
    settings = {key: value for key, value in options.items() if key not in _RUN_OPTIONS}
    wanted = get_recipe(recipe, **settings)
    data = data if data is None else _as_dataset(data)
    target, existing = find_published(wanted.name, data.name if data else "cifar10", path)
    if existing is not None and not replace:
        model = persistence.load_model(existing)
        asked = asdict(wanted) if isinstance(recipe, Recipe) else settings
        asked = asked | {
            key: options[key] for key in ("seed", "share", "precision") if options.get(key, "auto") != "auto"
        }
        _check_as_asked(existing, model.manifest, asked, data)
        return model, model.manifest.get("history", {key: [] for key in HISTORY_KEYS})

    data = data or load_dataset("cifar10")
    model, history = train_model(recipe, data, **options)
    if model.manifest["status"] == "complete":
        model.manifest["metrics"] |= measure("test", model, data.x_test, data.y_test)
        persistence.save_model(model, target, replace=replace)
        model.manifest = persistence.read_manifest(target)
    return model, history


def find_published(recipe: str, dataset: str, path: str | os.PathLike | None = None) -> tuple[Path, Path | None]:
    """Where a recipe's model is published, and where one lies already (there, or among the shipped ones), or None.

    Raises:
        ModelFileError: `path` is no place for a model.
    """
    file_name = persistence.published_name(recipe, dataset)
    target = persistence.check_target(path or runtime.artifacts_dir() / file_name, replace=True)
    candidates = [target] if path else [folder / file_name for folder in runtime.model_dirs()]
    return target, next((candidate for candidate in candidates if candidate.exists()), None)


def _as_dataset(data) -> Dataset:
    if data is None:
        return load_dataset("cifar10")
    return data if isinstance(data, Dataset) else dataset_from_arrays(*data)


def _check_as_asked(path: Path, manifest: dict, asked: dict, data: Dataset | None) -> None:
    made = recorded_settings(manifest) | {
        "seed": manifest.get("seed"),
        "share": manifest.get("share", 1.0),
        "precision": manifest.get("precision"),
    }
    other = {key: value for key, value in asked.items() if value is not None and made.get(key) != value}
    if other:
        raise ModelFileError(
            f"{path} was trained with {', '.join(f'{key}={made.get(key)}' for key in other)}, asked for was "
            f"{', '.join(f'{key}={value}' for key, value in other.items())}. Leave that out to load it, "
            "call train_model() for a run beside it, or pass replace=True to replace it."
        )
    if data is not None and tuple(manifest.get("class_names", data.class_names)) != data.class_names:
        raise ModelFileError(
            f"{path} was trained on other classes ({', '.join(manifest['class_names'])}) than this data has "
            f"({', '.join(data.class_names)}): pass another path=."
        )
    trained_on = manifest.get("dataset", {}).get("fingerprint")
    if data is not None and data.name != "cifar10" and trained_on not in (None, data.fingerprint):
        raise ModelFileError(f"{path} was trained on other pictures than those of {data.source}: pass another path=.")


def _fit(
    model,
    recipe: Recipe,
    data: Dataset,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
    precision: str,
    seed: int,
    watch: "_Watch",
) -> None:
    """Train a copy of the model, of which `watch` keeps the weights."""
    loop = Loop(model, recipe, precision, data.x_train[train_rows], data.y_train[train_rows], seed)
    x_val, y_val = data.x_train[val_rows], data.y_train[val_rows]
    try:
        for epoch in range(recipe.epochs):
            watch.epoch_begins(epoch)
            for done in loop.run_epoch(epoch):
                watch.goes_on(done, loop.work_done(epoch + done))
            probabilities = predict_probabilities(loop.network, x_val, on_batch=watch.obey)
            validation = Evaluation(probabilities, y_val, data.class_names)
            numbers = (loop.loss, loop.accuracy, validation.loss, validation.accuracy)
            watch.epoch_ends(numbers, loop.network.get_weights(), loop.work_done(epoch + 1))
    finally:
        if watch.weights is None:  # stopped in the first epoch
            watch.weights = watch.best_weights = loop.network.get_weights()


class Loop:
    """Trains a network epoch by epoch, by a compiled function that runs for a third of a second or one step at a time.

    Keras' `fit` with a `train_step` like `_step` and many steps an execution took a tenth longer for the baseline in
    bfloat16 (two cores of an AMD EPYC), and its executions are a number of steps, not a time.

    Attributes:
        network: What is trained, a copy of the model; see `training_copy`.
        loss, accuracy: Means over the last epoch's batches, as they were trained on, which may be hard pictures only.
    """

    def __init__(self, model, recipe: Recipe, precision: str, pictures: np.ndarray, labels: np.ndarray, seed: int):
        tf = runtime.tensorflow()
        self._batch = min(recipe.batch_size, len(pictures))
        self._towers = runtime.towers(self._batch)
        self.network = training_copy(model, precision, towers=self._towers)
        self._recipe, self._classes = recipe, model.output_shape[-1]
        self._pictures, self._labels = tf.constant(pictures), tf.constant(labels, tf.int32)
        self._steps = recipe.steps(len(pictures))
        # Eighths of the pictures' size, each for the same number of steps.
        self._sizes = [5 + 3 * i // (recipe.growing - 1) for i in range(recipe.growing)] or [8]
        self._ends = np.cumsum([0, *self._steps])  # of the epochs, in steps since the beginning
        self._random = np.random.default_rng(seed)
        # "Alternating flip" (Jordan, 2024): in turn as it is and mirrored, rather than by chance.
        self._mirrored = self._random.random(len(pictures)) < 0.5
        # Of each picture, the probability that its class was given when it was last trained on.
        self._certainty = tf.Variable(tf.zeros(len(pictures)), trainable=False)
        self._optimizer = build_optimizer(recipe, self._ends[-1], scale_loss=precision == "mixed_float16")
        self._optimizer.build(self.network.trainable_variables)
        self._averaged = math.ceil(recipe.averaging * self._ends[-1])  # steps, the last ones
        self._averages = [tf.Variable(weight, trainable=False) for weight in self.network.weights if self._averaged]
        self._advance = tf.function(self._some_steps, autograph=False)  # traced once: tensors of one shape each

    def run_epoch(self, epoch: int) -> Iterator[float]:
        """Train for one epoch; yields the share of it that is done, every third of a second or every step.

        After the last one the network has the mean of the weights, where the recipe averages them.
        """
        tf, steps = runtime.tensorflow(), self._steps[epoch]
        rows = np.arange(len(self._pictures))
        if steps < self._steps[0]:
            rows = np.argsort(np.nan_to_num(self._certainty.numpy()))[: steps * self._batch]
        # Of one length in all epochs, so that nothing is traced again; the last batch of the first is filled up by it.
        order = tf.constant(np.resize(self._random.permutation(rows), self._steps[0] * self._batch), tf.int32)
        mirrored = tf.constant(self._mirrored)
        self._mirrored[rows] ^= True
        averaged_from = int(self._ends[-1] - self._averaged - self._ends[epoch])
        step, self.loss, correct = 0, 0.0, 0.0
        while step < steps:
            size, end = self.size_at(epoch, step)
            step, losses, hits = self._advance(order, mirrored, *map(tf.constant, (size, step, end, averaged_from)))
            step, self.loss, correct = int(step), self.loss + float(losses), correct + float(hits)
            yield step / steps
        self.loss /= steps
        self.accuracy = correct / (steps * self._batch)
        if self._averages and epoch == len(self._steps) - 1:
            self.network.set_weights([average.numpy() for average in self._averages])

    def size_at(self, epoch: int, step: int) -> tuple[tuple[int, int], int]:
        """Height and width of the pictures at this step, and the step of this epoch where that ends."""
        total, before = int(self._ends[-1]), int(self._ends[epoch])
        stage = len(self._sizes) * (before + step) // total
        end = -(-(stage + 1) * total // len(self._sizes)) - before
        return tuple(side * self._sizes[stage] // 8 for side in self._pictures.shape[1:3]), min(self._steps[epoch], end)

    def work_done(self, epochs: float) -> float:
        """Share of the whole training's work that these first epochs are, where a step costs as its pictures' area."""
        share = float(np.interp(epochs, np.arange(len(self._ends)), self._ends)) / self._ends[-1]
        areas = [size * size for size in self._sizes]
        return float(np.interp(share, np.linspace(0, 1, len(areas) + 1), np.cumsum([0, *areas])) / sum(areas))

    def _some_steps(self, order, mirrored, size, step, end, averaged_from):
        """Steps from `step` to `end`, as far as time allows -> (next step, sum of losses, number of hits).

        Weights are averaged from the step `averaged_from` on, which like the others counts from the epoch's beginning.
        """
        tf, batch = runtime.tensorflow(), self._batch
        started = tf.timestamp()

        def body(step, losses, hits):
            rows = tf.ensure_shape(order[step * batch : (step + 1) * batch], batch)  # `_convolve` splits by it
            loss, hit = self._step(rows, mirrored, size)
            if self._averages:
                tf.cond(step >= averaged_from, lambda: self._average(step - averaged_from + 1), lambda: 0)
            return step + 1, losses + loss, hits + hit

        def on(now, *_):
            return (now < end) & ((now == step) | (tf.timestamp() - started < _CHUNK_SECONDS))

        return tf.while_loop(on, body, (step, 0.0, 0.0), parallel_iterations=1)

    def _step(self, rows, mirrored, size):
        """One step on a batch of rows; its towers run side by side. Returns the mean loss and the number of hits."""
        tf, keras = runtime.tensorflow(), runtime.keras()
        x = augment(tf.gather(self._pictures, rows), self._recipe.augmentation, mirrored=tf.gather(mirrored, rows))
        x = tf.cast(x, tf.float32) / 255
        if self._recipe.growing:
            full = tf.reduce_all(size == x.shape[1:3])
            x = tf.cond(full, lambda: x, lambda: tf.image.resize(x, size, antialias=True))
        labels = tf.gather(self._labels, rows)
        variables, results = self.network.trainable_variables, []
        for pictures, answers in zip(tf.split(x, self._towers), tf.split(labels, self._towers), strict=True):
            with tf.GradientTape() as tape:
                probabilities = self.network(pictures, training=True)
                loss = tf.reduce_mean(
                    keras.losses.categorical_crossentropy(
                        tf.one_hot(answers, self._classes), probabilities, label_smoothing=self._recipe.label_smoothing
                    )
                )
                scaled = self._optimizer.scale_loss(loss)
            hits = tf.equal(tf.argmax(probabilities, axis=1, output_type=tf.int32), answers)
            certainty = tf.gather(probabilities, answers, batch_dims=1)
            results.append(
                (loss, tf.reduce_sum(tf.cast(hits, tf.float32)), certainty, tape.gradient(scaled, variables))
            )
        losses, hits, certainty, gradients = zip(*results, strict=True)
        if self._recipe.hard_fraction < 1:
            self._certainty.scatter_update(tf.IndexedSlices(tf.concat(certainty, axis=0), rows))
        self._optimizer.apply([tf.add_n(each) / self._towers for each in zip(*gradients, strict=True)], variables)
        return tf.add_n(losses) / self._towers, tf.add_n(hits)

    def _average(self, count):
        """Take the weights as they are into their mean over `count` steps, of which this is the last."""
        tf = runtime.tensorflow()
        for average, weight in zip(self._averages, self.network.weights, strict=True):
            average.assign_add((weight - average) / tf.cast(count, tf.float32))
        return 0


class _StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised amid a training when the caller has set `stop`."""


class _Watch:
    """Keeps the history and the best weights of a training, shows its progress and obeys `stop`."""

    def __init__(
        self,
        epochs: int,
        stop: threading.Event | None,
        on_epoch: Callable[[dict[str, list[float]]], None],
        progress: Progress,
    ):
        self.history: dict[str, list[float]] = {key: [] for key in HISTORY_KEYS}
        self.weights, self.best_weights, self.best_epoch = None, None, -1
        self._epochs, self._stop, self._on_epoch, self._progress = epochs, stop, on_epoch, progress
        self._started = None  # after the first steps, so that tracing does not count

    def epoch_begins(self, epoch: int) -> None:
        self._epoch, self._epoch_started = epoch, time.monotonic()

    def goes_on(self, done: float, work_done: float) -> None:
        self.obey()
        self._started = self._started or time.monotonic()
        self._progress.update(f"epoch {self._epoch + 1}/{self._epochs}  {done:4.0%}" + self._time_left(work_done))

    def epoch_ends(self, numbers: tuple[float, ...], weights: list[np.ndarray], work_done: float) -> None:
        for key, number in zip(HISTORY_KEYS, numbers, strict=True):
            self.history[key].append(number)
        accuracies = self.history["val_accuracy"]
        self.weights = weights
        if self.best_weights is None or accuracies[-1] > accuracies[self.best_epoch]:
            self.best_weights, self.best_epoch = weights, self._epoch
        shown = "  ".join(f"{key} {self.history[key][-1]:.3f}" for key in HISTORY_KEYS)
        took = time.monotonic() - self._epoch_started
        self._progress.log(
            f"epoch {self._epoch + 1:{len(str(self._epochs))}d}/{self._epochs}  {shown}  {took:.1f} s"
            + self._time_left(work_done)
        )
        self._on_epoch({key: list(values) for key, values in self.history.items()})

    def obey(self) -> None:
        if self._stop is not None and self._stop.is_set():
            raise _StopTraining

    def _time_left(self, work_done: float) -> str:
        taken = time.monotonic() - self._started
        return f"  {format_seconds(taken / work_done - taken)} left" if taken > 2 and work_done < 1 else ""


def measure(part: str, model, x: np.ndarray, y: np.ndarray, measured: Evaluation | None = None) -> dict[str, object]:
    """What a manifest records of its model on pictures of a part, "val" or "test", which may be `measured` already."""
    measured = measured or evaluate_model(model, x, y)
    metrics = {
        f"{part}_accuracy": measured.accuracy,
        f"{part}_loss": measured.loss,
        f"{part}_calibration_error": measured.calibration_error(),
        f"{part}_interval": list(measured.interval),
        f"{part}_pictures": len(measured.labels),
    }
    if model.manifest["recipe"]["tta"]:
        metrics[f"{part}_accuracy_without_tta"] = evaluate_model(model, x, y, tta=0).accuracy
    return metrics


def _share_of(rows: np.ndarray, labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A share of `rows`, classes in proportion."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1. Received: share={share}")
    return rows if share == 1 else rows[in_proportion(labels[rows], max(1, round(share * len(rows))), seed)]


def _new_manifest(
    recipe: Recipe, seed: int, share: float, precision: str, data: Dataset, trained_on: int, validated_on: int
) -> dict:
    return {
        "format": 1,
        "status": "running",
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "recipe": asdict(recipe),
        "seed": seed,
        "share": share,
        "precision": precision,
        "dataset": {
            "name": data.name,
            "source": data.source,
            "fingerprint": data.fingerprint,
            "training_pictures": trained_on,
            "validation_pictures": validated_on,
        },
        "class_names": list(data.class_names),
        "input_shape": list(data.x_train.shape[1:]),
        "versions": runtime.describe_versions(),
        "commit": runtime.source_commit(),
        "machine": runtime.describe_machine(),
    }


def _new_run(name: str) -> Path:
    """Make the folder of a new run; returns the path of its model file, not yet written."""
    runs = runtime.artifacts_dir() / "runs"
    stamp = dt.datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
        folder = runs / f"{stamp}-{name}{suffix}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder / "model.keras"
    raise FileExistsError(f"{runs} has a thousand runs of this second")
