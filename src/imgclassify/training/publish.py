"""Publishing: one model per recipe and data set, loaded if it exists, trained otherwise."""

import contextlib
import inspect
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imgclassify.classifier import Classifier, load_model
from imgclassify.data.dataset import Dataset
from imgclassify.data.loading import as_dataset, load_dataset
from imgclassify.evaluation.metrics import Evaluation, check_labels, recorded_metrics
from imgclassify.models.inference import combine_views, predict_views
from imgclassify.progress import Progress
from imgclassify.recipes import Recipe, get_recipe
from imgclassify.runs.files import check_target
from imgclassify.runs.locks import LockedError, locked
from imgclassify.runs.manifest import Manifest, ModelFileError
from imgclassify.runs.names import published_name
from imgclassify.settings import artifacts_dir, model_dirs
from imgclassify.training.train import train_model
from imgclassify.training.watch import HISTORY_KEYS, History
from imgclassify.training.workers import ALONE

_RUN_OPTIONS = inspect.getfullargspec(train_model).kwonlyargs  # all other options are settings of the recipe


def train_or_load_model(
    recipe: str | Recipe = "baseline",
    data=None,
    *,
    path: str | os.PathLike | None = None,
    replace: bool = False,
    **options,
) -> tuple[Classifier, History]:
    """Load the recipe's published model if there is one, else train and publish it.

    The published file is `cifar10_model.h5` for the baseline on CIFAR-10, `<data>_model.keras` for other data and
    `<data>_<recipe>.keras` for other recipes, in the artifacts folder. Only a complete training becomes the
    published file; an interrupted one stays a run. A model is measured on the test data when it is published.

    Args:
        recipe: As for `train_model`.
        data: As for `train_model`. If a model is loaded, CIFAR-10 is not read.
        path: Another path for the published file, `.keras` or `.h5`.
        replace: Train again, and replace the published file once the training is complete.
        **options: As for `train_model`. Of several workers, only worker 0 publishes.

    Returns:
        `(classifier, history)`, like `train_model`; the history of a loaded model is the one in its manifest.

    Raises:
        ModelFileError: The published file is damaged, or was trained with other settings than requested, or on
            other classes; it is not changed.
        DatasetError: The data is unavailable.
        ValueError: As for `train_model`.
    """
    workers = options.get("workers", ALONE)
    if workers.index > 0:
        return train_model(recipe, data, **options)
    settings = {key: value for key, value in options.items() if key not in _RUN_OPTIONS}
    wanted = get_recipe(recipe, **settings)
    data = data if data is None else as_dataset(data, size=wanted.size)
    target, existing = find_published(wanted.name, data.name if data else "cifar10", path)
    if existing is not None and not replace:
        if workers.count > 1:
            raise ModelFileError(f"{existing} is there: pass replace=True, or call train_model() for a run beside it.")
        classifier = load_model(existing)
        asked = asdict(wanted)
        if not isinstance(recipe, Recipe):
            asked = {key: asked[key] for key, value in settings.items() if value is not None}
        run_options = {key: options[key] for key in ("seed", "share", "precision") if key in options}
        asked = asked | {key: value for key, value in run_options.items() if value != "auto"}
        _check_as_asked(existing, classifier.manifest, asked, data)
        return classifier, dict(classifier.manifest.history) or {key: [] for key in HISTORY_KEYS}

    data = data or load_dataset("cifar10")
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(target.with_name(f".{target.name}.training")):
            classifier, history = train_model(recipe, data, **options)
            if classifier.manifest.status == "complete":
                classifier = measured_on_test(classifier, data)
                classifier = classifier.save(target, replace=replace)
    except LockedError as error:
        raise ModelFileError(f"Another training is to become {target}: wait for it, or pass another path=.") from error
    except OSError as error:
        say = (options.get("progress") or Progress()).say
        say(f"{target} cannot be written: {error.strerror or error}. The model is returned, but not published.")
    return classifier, history


def measured_on_test(classifier: Classifier, data: Dataset) -> Classifier:
    """The classifier with its results on the test data in its manifest; each view is predicted only once."""
    labels = check_labels(data.x_test, data.y_test, len(classifier.class_names))
    views = predict_views(classifier.network, classifier.fitting(data.x_test), views=classifier.manifest.views)
    measured, single = (Evaluation(probabilities, labels) for probabilities in (combine_views(views), views[0]))
    metrics = recorded_metrics("test", measured, single if len(views) > 1 else None)
    return classifier.recorded(metrics={**classifier.manifest.metrics, **metrics})


def find_published(recipe: str, dataset: str, path: str | os.PathLike | None = None) -> tuple[Path, Path | None]:
    """Where a recipe's model is published, and where one already exists (there or among the shipped ones), or None.

    Raises:
        ModelFileError: `path` cannot be the path of a model.
    """
    file_name = published_name(recipe, dataset)
    target = check_target(path or artifacts_dir() / file_name, replace=True)
    candidates = [target] if path else [folder / file_name for folder in model_dirs()]
    return target, next((candidate for candidate in candidates if candidate.exists()), None)


def _check_as_asked(path: Path, manifest: Manifest, asked: dict[str, Any], data: Dataset | None) -> None:
    """Raise `ModelFileError` if a published model is not the one requested."""
    made = manifest.settings
    if other := {key: value for key, value in asked.items() if value is not None and made.get(key) != value}:
        raise ModelFileError(
            f"{path} was trained with {', '.join(f'{key}={made.get(key)}' for key in other)}, not with "
            f"{', '.join(f'{key}={value}' for key, value in other.items())} as asked. Leave that out to load it, "
            "call train_model() for a run beside it, or pass replace=True to replace it."
        )
    if data is None:
        return
    if manifest.class_names and manifest.class_names != data.class_names:
        raise ModelFileError(
            f"{path} was trained on other classes ({', '.join(manifest.class_names)}) than this data has "
            f"({', '.join(data.class_names)}): pass another path=."
        )
    if data.name != "cifar10" and manifest.dataset.fingerprint not in (None, data.fingerprint):
        raise ModelFileError(f"{path} was trained on other pictures than those of {data.source}: pass another path=.")
