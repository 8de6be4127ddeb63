"""Recipes and the one training loop."""

import contextlib
import datetime as dt
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from imgclassify import persistence, runtime
from imgclassify.data import Dataset, dataset_from_arrays, in_proportion, load_dataset
from imgclassify.evaluation import evaluate_model
from imgclassify.models import build_model
from imgclassify.persistence import ModelFileError
from imgclassify.progress import Progress, format_seconds

HISTORY_KEYS = ("loss", "accuracy", "val_loss", "val_accuracy")
_SHORT_EPOCHS = 3  # in short mode
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


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is trained, but for the data and the seed.

    Attributes:
        name: Used in file names.
        architecture: See `build_model`.
        epochs: Passes over the training data.
        batch_size: Pictures a step.
        learning_rate: Adam's (Kingma and Ba, 2015).
        validation_fraction: Share of the training data that is held out for validation.
    """

    name: str
    architecture: str = "baseline"
    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    validation_fraction: float = 0.2

    def __post_init__(self):
        _check_name(self.name)
        for field, valid in (
            ("epochs", self.epochs >= 1),
            ("batch_size", self.batch_size >= 1),
            ("learning_rate", self.learning_rate > 0),
            ("validation_fraction", 0 < self.validation_fraction < 1),
        ):
            if not valid:
                bound = {"learning_rate": "above 0", "validation_fraction": "between 0 and 1"}.get(field, "at least 1")
                raise ValueError(f"{field} must be {bound}. Received: {field}={getattr(self, field)}")


def _check_name(name: str) -> None:
    """Raise `ValueError` for a name that cannot be part of a file name everywhere."""
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"A name is made of letters, digits, '-', '_' and '.'. Received: name={name!r}")


RECIPES = {recipe.name: recipe for recipe in (Recipe("baseline"),)}


def get_recipe(recipe: str | Recipe, **settings) -> Recipe:
    """A recipe by name, with some of its settings replaced; a setting of None leaves it as it is.

    Raises:
        ValueError: There is no such recipe or setting, or a value is out of range.
    """
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"Unknown recipe: use one of {sorted(RECIPES)}. Received: recipe={recipe!r}")
        recipe = RECIPES[recipe]
    chosen = {name: value for name, value in settings.items() if value is not None}
    if unknown := set(chosen) - set(asdict(recipe)):
        raise ValueError(f"A recipe has no {', '.join(sorted(unknown))}; it has {', '.join(asdict(recipe))}.")
    return replace(recipe, **chosen)


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
    `model.manifest["status"]` is "interrupted". Otherwise they have the last epoch's and it is "complete".
    After an error, the best weights so far stay in the run too, as "failed".

    Args:
        recipe: "baseline", or a `Recipe`.
        data: A `Dataset`, or what `load_and_preprocess_data()` returns; None for CIFAR-10. Its test part is not used.
        seed: For the split, the initial weights, the order of the pictures and dropout.
        share: Train on this share of the training pictures only, above 0 to 1, classes in proportion; the
            pictures held out for validation stay the same.
        precision: "float32", "mixed_float16" or "mixed_bfloat16"; "auto" is `runtime.default_precision()`.
            The saved and returned model is float32 in any case.
        name: Name of the run; default: the recipe's.
        stop: Set from another thread, it ends the training after the current batch.
        on_epoch: Called after every epoch with the history so far.
        show_progress: Show one line an epoch, with the time left.
        progress: Where to show it; default: the terminal or the notebook's cell.
        **settings: Other values for the recipe's fields, for instance `epochs=5`.

    Returns:
        `(model, history)`: a `keras.Model` with its `manifest`, and a dict with a list of one value an epoch
        for each of "loss", "accuracy", "val_loss", "val_accuracy".

    Raises:
        DatasetError: The data cannot be had, or is too small to be split.
        ValueError: The recipe, a setting or the name is none.
        MemoryError: A batch does not fit into the (graphics) memory.
    """
    recipe = get_recipe(recipe, **settings)
    _check_name(recipe.name if name is None else name)
    if runtime.short_mode():
        recipe = replace(recipe, epochs=min(recipe.epochs, _SHORT_EPOCHS))
    data = _as_dataset(data)
    precision = runtime.default_precision() if precision == "auto" else precision
    train_rows, val_rows = data.validation_split(recipe.validation_fraction, seed)
    train_rows = _share_of(train_rows, data.y_train, share, seed)
    tf, keras = runtime.tensorflow(), runtime.keras()

    runtime.set_seed(seed)
    with _dtype_policy(precision):
        model = build_model(recipe.architecture, input_shape=data.x_train.shape[1:], num_classes=len(data.class_names))
        model.compile(keras.optimizers.Adam(recipe.learning_rate), "categorical_crossentropy", metrics=["accuracy"])
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
        watch = _watch(recipe.epochs, stop, record, progress)
        status, failure = "complete", None
        try:
            model.fit(
                _batches(
                    data.x_train, data.y_train, train_rows, recipe.batch_size, len(data.class_names), shuffle_seed=seed
                ),
                validation_data=_batches(data.x_train, data.y_train, val_rows, 250, len(data.class_names)),
                epochs=recipe.epochs,
                callbacks=[watch],
                shuffle=False,
                verbose=0,
            )
        except (KeyboardInterrupt, _StopTraining):
            status = "interrupted"
        except Exception as error:
            status, failure = "failed", error
        history, epoch = watch.history, -1
        if status != "complete" and watch.best_weights is not None:
            model.set_weights(watch.best_weights)
            epoch = watch.best_epoch
        manifest |= {"status": status, "history": history, "wall_time_s": round(time.monotonic() - started, 1)}
        if failure is None or history["loss"]:
            with contextlib.suppress(OSError) if failure else contextlib.nullcontext():
                model = _in_float32(model, recipe, data)
                manifest["metrics"] = _validation_metrics(model, data, val_rows, history, epoch, precision)
                model.manifest = manifest
                persistence.save_model(model, run)
        else:
            persistence.write_manifest(run, manifest)
        if isinstance(failure, tf.errors.ResourceExhaustedError):
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
    when it is complete; interrupted, it stays a run. On publication the test data is read once, for the record.

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
        test = evaluate_model(model, data.x_test, data.y_test)
        model.manifest["metrics"] |= {
            "test_accuracy": test.accuracy,
            "test_interval": list(test.interval),
            "test_loss": test.loss,
            "test_pictures": len(test.labels),
        }
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
    made = manifest.get("recipe", {}) | {
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


def _batches(
    x: np.ndarray, y: np.ndarray, rows: np.ndarray, batch_size: int, classes: int, *, shuffle_seed: int | None = None
):
    """A `tf.data.Dataset` of (pictures float32 in [0, 1], one-hot labels); the pictures stay uint8 in memory."""
    tf = runtime.tensorflow()
    pictures, labels = tf.constant(x[rows]), tf.constant(y[rows])
    order = tf.data.Dataset.range(len(rows))
    if shuffle_seed is not None:
        order = order.shuffle(len(rows), seed=shuffle_seed, reshuffle_each_iteration=True)

    def load(batch):
        return tf.cast(tf.gather(pictures, batch), tf.float32) / 255, tf.one_hot(tf.gather(labels, batch), classes)

    # Nothing here is tuned, and the tuner's thread holds up an abandoned iterator's end, that is, whoever trains
    # again after a stop, by many seconds.
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = order.batch(batch_size).map(load, num_parallel_calls=1, deterministic=True).prefetch(2)
    return batches.with_options(options)


class _StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised inside `fit` when the caller has set `stop`."""


def _watch(epochs: int, stop: threading.Event | None, on_epoch, progress: Progress):
    """The callback that keeps the history and the best weights, shows progress and obeys `stop`."""
    keras = runtime.keras()

    class Watch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.history: dict[str, list[float]] = {key: [] for key in HISTORY_KEYS}
            self.best_weights, self.best_epoch = None, -1
            self._started = None  # at the end of the first batch, so that tracing does not count

        def on_epoch_begin(self, epoch, logs=None):
            self._epoch, self._epoch_started = epoch, time.monotonic()

        def on_train_batch_end(self, batch, logs=None):
            self._obey()
            self._started = self._started or time.monotonic()
            done = min(1.0, (batch + 1) / (self.params.get("steps") or batch + 1))
            progress.update(f"epoch {self._epoch + 1}/{epochs}  {done:4.0%}" + self._time_left(self._epoch + done))

        def on_test_batch_end(self, batch, logs=None):
            self._obey()

        def on_epoch_end(self, epoch, logs=None):
            for key in HISTORY_KEYS:
                self.history[key].append(float(logs[key]))
            if (
                self.best_weights is None
                or self.history["val_accuracy"][-1] > self.history["val_accuracy"][self.best_epoch]
            ):
                self.best_weights, self.best_epoch = self.model.get_weights(), epoch
            numbers = "  ".join(f"{key} {self.history[key][-1]:.3f}" for key in HISTORY_KEYS)
            took = time.monotonic() - self._epoch_started
            progress.log(
                f"epoch {epoch + 1:{len(str(epochs))}d}/{epochs}  {numbers}  {took:.1f} s" + self._time_left(epoch + 1)
            )
            on_epoch({key: list(values) for key, values in self.history.items()})

        def _time_left(self, epochs_done: float) -> str:
            taken = time.monotonic() - self._started
            return (
                f"  {format_seconds(taken / epochs_done * (epochs - epochs_done))} left"
                if taken > 2 and epochs_done < epochs
                else ""
            )

        def _obey(self):
            if stop is not None and stop.is_set():
                raise _StopTraining

    return Watch()


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    config = runtime.keras().config
    before = config.dtype_policy()
    config.set_dtype_policy(name)
    try:
        yield
    finally:
        config.set_dtype_policy(before)


def _in_float32(model, recipe: Recipe, data: Dataset):
    """The same network and weights, computing in float32, without the optimizer's memory."""
    exact = build_model(recipe.architecture, input_shape=data.x_train.shape[1:], num_classes=len(data.class_names))
    exact.set_weights(model.get_weights())
    exact.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    return exact


def _validation_metrics(
    model, data: Dataset, rows: np.ndarray, history: dict, epoch: int, precision: str
) -> dict[str, float]:
    """Validation loss and accuracy of the saved weights, those of `epoch`; empty where no epoch was finished."""
    if not history["loss"]:
        return {}
    if precision == "float32":
        return {key: history[key][epoch] for key in ("val_loss", "val_accuracy")}
    measured = evaluate_model(model, data.x_train[rows], data.y_train[rows], class_names=data.class_names)
    return {"val_loss": measured.loss, "val_accuracy": measured.accuracy}


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
