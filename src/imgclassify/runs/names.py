"""Names: find the model or run that a typed name means."""

import contextlib
import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from imgclassify.recipes import RECIPES
from imgclassify.runs.files import MODEL_SUFFIXES
from imgclassify.runs.manifest import Manifest, ModelFileError, read_manifest
from imgclassify.settings import artifacts_dir, model_dirs

BEST, LATEST = "best", "latest"
IMAGENET = "imagenet"  # a model that is built, not read; no file
RUN_MODEL = "model.keras"  # in the folder of a run
_STAMP = r"\d{8}-\d{6}-"  # the beginning of a run's name: date and time


def published_name(recipe: str = "baseline", dataset: str = "cifar10") -> str:
    """File name under which a recipe's model for a data set is published in the artifacts folder.

    Example:
        >>> published_name("fast", "digits")
        'digits_fast.keras'
    """
    if (recipe, dataset) == ("baseline", "cifar10"):
        return "cifar10_model.h5"
    return f"{dataset}_{'model' if recipe == 'baseline' else recipe}.keras"


def photo_model() -> str:
    """Name of the model that answers by default where a person brings a photo: "guided", without it "best"."""
    return "guided" if published_name("guided") in {path.name for path in list_models()} else BEST


def list_models() -> list[Path]:
    """All published models: files in the artifacts folder, then shipped ones with other names."""
    found: dict[str, Path] = {}
    for folder in model_dirs():
        for path in sorted(folder.glob("*")):
            if path.suffix in MODEL_SUFFIXES and not path.name.startswith("."):
                found.setdefault(path.name, path)
    return list(found.values())


def runs_dir() -> Path:
    """Folder of the runs."""
    return artifacts_dir() / "runs"


def lock_of(folder: Path) -> Path:
    """The lock file that a training holds in its run's folder."""
    return folder / ".lock"


def run_names() -> list[str]:
    """Names of all runs, newest first."""
    return sorted((path.name for path in runs_dir().glob("*") if path.is_dir()), reverse=True)


def short_name(run: str) -> str:
    """A run's name without its time.

    Example:
        >>> short_name("20261124-210000-quick")
        'quick'
    """
    return re.sub(rf"^{_STAMP}(?=.)", "", run)


def find_model(path_or_name: str | os.PathLike = BEST, *, dataset: str = "cifar10") -> Path:
    """Path of a model, from any name that this package prints.

    Args:
        path_or_name: "best" for the shipped CIFAR-10 model with the highest recorded validation accuracy; a `.keras`
            or `.h5` file, or a run's folder; the file name of a published model; a recipe ("baseline") for its
            published model of `dataset`; a data set ("digits") for its published baseline; a run's name; its name
            without the time, for the newest run of that name; or "latest" for the newest run of all.
        dataset: Which data set a recipe's name refers to.

    Raises:
        ModelFileError: There is no such model; the message suggests similar names.
    """
    text = os.fspath(path_or_name)
    path = Path(text).expanduser()
    if (path / RUN_MODEL).is_file():
        return path / RUN_MODEL
    if path.suffix in MODEL_SUFFIXES and path.is_file():
        return path
    models = {model.name: model for model in list_models()}
    own = dataset != "cifar10" and published_name(BEST, dataset) in models  # "best" is a recipe too
    if text == BEST and not own and (best := _best_of(models.values())) is not None:
        return best
    for name in (text, published_name(text, dataset), published_name(dataset=text)):
        if name in models:
            return models[name]
    run = None
    with contextlib.suppress(ValueError):
        run = find_run(text)
    if run is not None:
        if (path := runs_dir() / run / RUN_MODEL).is_file():
            return path
        raise ModelFileError(f"The run {run} has no model: it has not finished an epoch, or its model was removed.")
    if path.suffix in MODEL_SUFFIXES:
        raise ModelFileError(f"There is no model file {text}.{_suggestion(text, models)}")
    known = [BEST, LATEST, IMAGENET, *RECIPES, *models, *run_names(), *map(short_name, run_names())]
    raise ModelFileError(
        f'No model for "{text}".{_suggestion(text, known)} A model is "best", a recipe, a .keras or .h5 file, a run, '
        f'or "latest". Published: {", ".join(models) or "none"}.'
    )


def name_of(model: Path) -> str:
    """The name by which `find_model` finds a model file: its run, its published name, or else its path."""
    if model.name == RUN_MODEL and model.resolve() == (runs_dir() / model.parent.name / RUN_MODEL).resolve():
        return model.parent.name
    published = any(each.name == model.name and each.resolve() == model.resolve() for each in list_models())
    return model.name if published else str(model)


def find_run(name: str) -> str:
    """A run's full name, from its name with or without the time, or from "latest".

    Raises:
        ValueError: There is no such run; the message suggests similar names.
    """
    names = run_names()
    meant = [run for run in names if name in (run, LATEST)] or [run for run in names if name == short_name(run)]
    if meant:  # the first is the newest
        return meant[0]
    if not names:
        raise ValueError(f'There is no run "{name}": there are no runs yet.')
    similar = _suggestion(name, [*names, *map(short_name, names)])
    raise ValueError(f'There is no run "{name}".{similar} The newest are: {", ".join(names[:5])}.')


def _best_of(models: Iterable[Path]) -> Path | None:
    """The CIFAR-10 model with the highest recorded validation accuracy; models without a record come last."""
    ranked = {}
    for model in models:
        manifest = Manifest()
        with contextlib.suppress(ModelFileError):
            manifest = read_manifest(model)
        if model.name.startswith("cifar10_") and manifest.dataset.name == "cifar10":
            ranked[model] = max(-1.0, manifest.metrics.get("val_accuracy", -1.0))  # in this order, NaN comes last too
    return max(ranked, key=ranked.__getitem__, default=None)


def _suggestion(name: str, known: Iterable[str]) -> str:
    """A sentence with the most similar names; empty if there are none."""
    close = difflib.get_close_matches(name, list(dict.fromkeys(each for each in known if each != name)))
    return f" Did you mean {' or '.join(close)}?" if close else ""
