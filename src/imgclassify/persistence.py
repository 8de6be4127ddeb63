"""Models on disk, each with its manifest: a JSON file beside it that says how the model came about."""

import contextlib
import json
import math
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from imgclassify import runtime
from imgclassify.download import file_sha256

MODEL_SUFFIXES = (".keras", ".h5")


class ModelFileError(ValueError):
    """A model file cannot be found, read, trusted or written; the message says which, why and what to do."""


def published_name(recipe: str = "baseline", dataset: str = "cifar10") -> str:
    """File name under which a recipe's model for a data set is published in the artifacts folder."""
    if dataset == "cifar10" and recipe == "baseline":
        return "cifar10_model.h5"
    return f"{dataset}_model.keras" if recipe == "baseline" else f"{dataset}_{recipe}.keras"


def list_models() -> list[Path]:
    """All published models: files in the artifacts folder, then shipped ones that are not hidden by these."""
    found: dict[str, Path] = {}
    for folder in runtime.model_dirs():
        for path in sorted(folder.glob("*")):
            if path.suffix in MODEL_SUFFIXES and not path.name.startswith("."):
                found.setdefault(path.name, path)
    return list(found.values())


def find_model(path_or_recipe: str | os.PathLike = "best") -> Path:
    """Path of a model: of the best published one, of a recipe's or data set's, or of a file or run.

    Args:
        path_or_recipe: "best" for the shipped CIFAR-10 model with the highest recorded validation accuracy;
            a recipe ("baseline"), or a data set ("digits") for its baseline; a `.keras` or `.h5` file; a run, by
            its name or folder.

    Raises:
        ModelFileError: There is none.
    """
    text = os.fspath(path_or_recipe)
    path = Path(text).expanduser()
    if (path / "model.keras").exists():
        return path / "model.keras"
    if path.suffix in MODEL_SUFFIXES:
        if path.is_file():
            return path
        raise ModelFileError(f"There is no model file {text}.")
    run = runtime.artifacts_dir() / "runs" / text / "model.keras"
    if run.exists():
        return run
    models = {model.name: model for model in list_models()}
    if text == "best":
        shipped = [model for name, model in models.items() if name.startswith("cifar10_")]
        ranked = {model: accuracy for model in shipped if (accuracy := _recorded_accuracy(model)) is not None}
        if ranked:
            return max(ranked, key=ranked.get)
    for name in (published_name(text), published_name(dataset=text)):
        if name in models:
            return models[name]
    raise ModelFileError(
        f'No model for "{text}": give "best", a recipe, a .keras or .h5 file or a run. '
        f"Published here: {', '.join(models) or 'none'}."
    )


def load_model(path_or_recipe: str | os.PathLike = "best"):
    """Load a trained model with its manifest.

    Nothing in the file is executed: `.keras` files are read in Keras' safe mode, `.h5` files after a look at
    their configuration.

    Args:
        path_or_recipe: See `find_model`.

    Returns:
        A `keras.Model` in float32, compiled for `evaluate()`; `model.manifest` is its manifest, a dict, empty
        for a file that has none.

    Raises:
        ModelFileError: There is no such model, it is damaged, does not match its manifest, or carries code.
    """
    path = find_model(path_or_recipe)
    manifest = read_manifest(path)
    if "sha256" in manifest and manifest["sha256"] != file_sha256(path):
        raise ModelFileError(
            f"{path} is not the file that {_manifest_path(path).name} describes: it is damaged or was replaced. "
            "Restore it, or delete the manifest to load the file without it."
        )
    keras = runtime.keras()
    try:
        if path.suffix == ".h5":
            _refuse_code(path)
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except ModelFileError:
        raise
    except Exception as error:  # Keras, h5py and zipfile raise many kinds for a damaged file
        raise ModelFileError(
            f"{path} cannot be loaded with Keras {keras.__version__}{_written_with(manifest)}: "
            f"it is damaged or of another version. ({_first_line(error)})"
        ) from error
    model.compile(loss="categorical_crossentropy", metrics=["accuracy"])
    model.manifest = manifest
    return model


def save_model(model, path: str | os.PathLike, manifest: dict | None = None, *, replace: bool = False) -> Path:
    """Write a model and its manifest, each whole or not at all.

    Args:
        model: A float32 Keras model; not modified.
        path: A `.keras` or `.h5` file; its folder is created. The manifest goes beside it as `.json`.
        manifest: What is known of the model; default: `model.manifest`. The file's SHA-256 is added.
        replace: Whether an existing file may be overwritten.

    Returns:
        `path`.

    Raises:
        ModelFileError: The file exists and `replace` is False, or has another suffix.
    """
    path = check_target(path, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = dict(manifest if manifest is not None else getattr(model, "manifest", None) or {})
    part = path.with_name(f".{uuid.uuid4().hex[:8]}{path.suffix}")
    text = _manifest_path(part)
    try:
        with _absl_quiet():  # .h5 is Keras' older format, and chosen on purpose
            model.save(part, include_optimizer=False)
        text.write_text(_as_json(manifest | {"sha256": file_sha256(part)}), encoding="utf-8")
        part.replace(path)  # both are written; nothing but a crash between these two lines can part them
        text.replace(_manifest_path(path))
    finally:
        part.unlink(missing_ok=True)
        text.unlink(missing_ok=True)
    return path


def check_target(path: str | os.PathLike, *, replace: bool = False) -> Path:
    """`path` as a place for a model; raises `ModelFileError` where it is none, before work is spent on it."""
    path = Path(path).expanduser()
    if path.suffix not in MODEL_SUFFIXES:
        raise ModelFileError(f"A model file ends in {' or '.join(MODEL_SUFFIXES)}. Received: {path}")
    if path.exists() and not replace:
        raise ModelFileError(
            f"{path} exists already and is not overwritten: pass replace=True, or choose another name."
        )
    return path


def read_manifest(path: Path) -> dict:
    """The manifest beside a model file; empty where there is none.

    Raises:
        ModelFileError: It is there but not readable.
    """
    try:
        manifest = json.loads(_manifest_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{_manifest_path(path)} is damaged: {error}") from error
    if not isinstance(manifest, dict):
        raise ModelFileError(f"{_manifest_path(path)} is damaged: expected a JSON object.")
    return manifest


def write_manifest(path: Path, manifest: dict) -> None:
    """Write the manifest beside a model file, whole or not at all."""
    target = _manifest_path(path)
    part = target.with_name(f".{uuid.uuid4().hex[:8]}.json")
    try:
        part.write_text(_as_json(manifest), encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _as_json(manifest: dict) -> str:
    """Strict JSON: a loss that is no finite number, as of a diverged training, becomes null."""

    def finite(value: object) -> object:
        if isinstance(value, dict):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")


def describe_accuracy(model) -> str:
    """What the model's manifest records of its accuracy, in one sentence: on test pictures, else in validation."""
    manifest = getattr(model, "manifest", None) or {}
    metrics, source = manifest.get("metrics", {}), manifest.get("dataset", {}).get("source", "unknown data")
    if "test_accuracy" in metrics:
        return f"Right on {metrics['test_accuracy']:.1%} of the test pictures of {source}."
    if "val_accuracy" in metrics:
        return (
            f"Right on {metrics['val_accuracy']:.1%} of the validation pictures of {source}; not measured on test ones."
        )
    return "Its accuracy is not recorded."


def _recorded_accuracy(path: Path) -> float | None:
    """Validation accuracy in a CIFAR-10 model's manifest, -1 where none is recorded; None for other data's models."""
    with contextlib.suppress(ModelFileError, KeyError, TypeError, AttributeError):
        manifest = read_manifest(path)
        if manifest.get("dataset", {}).get("name", "cifar10") != "cifar10":
            return None
        return float(manifest["metrics"]["val_accuracy"])
    return -1.0


def _refuse_code(path: Path) -> None:
    """Raise `ModelFileError` where an `.h5` file holds layers that are not Keras' own or carry code."""
    import h5py

    with h5py.File(path, "r") as file:
        config = json.loads(file.attrs["model_config"])

    def dicts(value: object) -> Iterator[dict]:
        if isinstance(value, dict):
            yield value
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            yield from dicts(item)

    for part in dicts(config):
        module = part.get("module") or "keras"
        if (
            "Lambda" in str(part.get("class_name"))
            or part.get("class_name") == "function"
            or module.partition(".")[0] not in ("keras", "builtins")
        ):
            raise ModelFileError(
                f"{path} carries code ({part.get('class_name')} of {module}) and is not loaded: "
                "only models of Keras' own layers are."
            )


def _written_with(manifest: dict) -> str:
    version = manifest.get("versions", {}).get("keras")
    return f", written with Keras {version}" if version else ""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


@contextlib.contextmanager
def _absl_quiet() -> Iterator[None]:
    from absl import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
