"""Manifests: what is recorded about a model, in a JSON file next to it."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from imgclassify.atomic import replacing
from imgclassify.recipes import Recipe

FORMAT = 2
STATUSES = ("running", "complete", "interrupted", "failed", "unknown")
# What the old key "growing" meant: a number of sizes, and before that False or True, which meant four.
_OLD_SIZES = {0: [1.0], 1: [5 / 8, 6 / 8, 7 / 8, 1.0], 2: [5 / 8, 1.0], 3: [5 / 8, 6 / 8, 1.0]}
_OLD_SIZES[4] = _OLD_SIZES[1]
_OLD_VIEWS = {0: 1, 1: 2, 2: 6}  # what the old key "tta" meant: a level, and before that False or True


class ModelFileError(ValueError):
    """A model or manifest cannot be found, read, trusted or written; the message says which, why and what to do."""


@dataclass(frozen=True)
class DataRecord:
    """The data that a model was trained on.

    Attributes:
        name: Short name, as `load_dataset` knows it; the folder's name for a user's own pictures.
        source: What the pictures are, for figures and tables.
        fingerprint: `Dataset.fingerprint`.
        folder: Where the pictures were, as an absolute path; empty for other data.
        training_pictures, validation_pictures: Their numbers.
    """

    name: str = "cifar10"
    source: str = "unknown data"
    fingerprint: str | None = None
    folder: str = ""
    training_pictures: int = 0
    validation_pictures: int = 0

    def location(self) -> str:
        """The name or folder with which `load_dataset` loads this data again."""
        return self.folder or self.name


@dataclass(frozen=True)
class Manifest:
    """What is known about a model. Without a manifest file, all fields have their defaults.

    Attributes:
        run: Name of the run that it comes from.
        status: "running", "complete", "interrupted", "failed", or "unknown" if nothing is recorded.
        created: When the training began, ISO 8601, UTC.
        recipe: How it was trained.
        seed, share, precision: As given to `train_model`.
        dataset: What it was trained on.
        class_names: One name per output.
        input_shape: Height, width and channels of its input.
        temperatures: Calibration divides the logits by each of these and averages the answers; it is part of the
            network.
        outside_temperatures: Those that version 0.1.0 applied outside the network; they become layers when it is read.
        outside_temperatures: Those that version 0.1.0 applied outside the network; on reading they become layers.
        metrics: Measurements of the saved model, such as "val_accuracy".
        history: Lists with one value per epoch: "loss", "accuracy", "val_loss", "val_accuracy".
        wall_time_s: Seconds that the training took.
        versions, machine, commit: What it was trained with.
        sha256: Checksum of the model file.
        format: Version of the manifest's format.
    """

    run: str = ""
    status: str = "unknown"
    created: str = ""
    recipe: Recipe | None = None
    seed: int | None = None
    share: float = 1.0
    precision: str | None = None
    dataset: DataRecord = field(default_factory=DataRecord)
    class_names: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()
    temperatures: tuple[float, ...] = ()
    outside_temperatures: tuple[float, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, list[float]] = field(default_factory=dict)
    wall_time_s: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    commit: str | None = None
    sha256: str | None = None
    format: int = FORMAT

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Manifest":
        """A manifest from its JSON, also of older versions; unknown keys are ignored.

        Raises:
            ValueError: A value has the wrong type; the message names the key.
        """
        if not isinstance(record, Mapping):
            raise ValueError(f"a manifest must be a JSON object. Received: {type(record).__name__}")
        known = {key: value for key, value in _upgraded(record).items() if key in _CHECKS}
        return cls(**{key: _checked(key, value, *_CHECKS[key]) for key, value in known.items()}, format=FORMAT)

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values: lists instead of tuples, and None for numbers that are not finite."""
        return _for_json(asdict(self))

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe's fields, seed, share and precision: everything that decides a training, except the data."""
        recipe = asdict(self.recipe) if self.recipe else {}
        return recipe | {"seed": self.seed, "share": self.share, "precision": self.precision}

    @property
    def views(self) -> int:
        """How many views of a picture the model averages at prediction."""
        return self.recipe.views if self.recipe else 1

    def describe_accuracy(self) -> str:
        """The recorded accuracy of the model in one sentence: on test pictures, else on validation pictures."""
        for part, addition in (("test", ""), ("val", "; not measured on test pictures")):
            if (accuracy := self.metrics.get(f"{part}_accuracy")) is not None:
                pictures = {"test": "test", "val": "validation"}[part]
                return f"Right on {accuracy:.1%} of the {pictures} pictures of {self.dataset.source}{addition}."
        return "Its accuracy is not recorded."


def manifest_path(model: Path) -> Path:
    """Where the manifest of a model file is."""
    return model.with_suffix(".json")


def read_manifest(model: Path) -> Manifest:
    """The manifest of a model file; one with all defaults if there is none.

    Raises:
        ModelFileError: It exists but cannot be read.
    """
    path = manifest_path(model)
    try:
        return Manifest.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Manifest()
    except RecursionError as error:
        raise ModelFileError(f"{path} is damaged: it is nested too deeply.") from error
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged: {error}") from error


def write_manifest(model: Path, manifest: Manifest) -> None:
    """Write the manifest of a model file, whole or not at all."""
    with replacing(manifest_path(model)) as part:
        part.write_text(manifest_text(manifest), encoding="utf-8")


def manifest_text(manifest: Manifest) -> str:
    """The text of a manifest's file."""
    return strict_json(asdict(manifest)) + "\n"


def strict_json(value: Any) -> str:
    """Strict JSON: numbers that are not finite, as in a training that diverged, become null.

    Example:
        >>> strict_json(math.nan)
        'null'
    """
    return json.dumps(_for_json(value), indent=1, ensure_ascii=False, allow_nan=False)


def _upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an older version, converted to the format of this one."""
    record = dict(record)
    recipe = record.get("recipe")
    if isinstance(recipe, Mapping):
        recipe = dict(recipe)
        for old, new, values in (("growing", "sizes", _OLD_SIZES), ("tta", "views", _OLD_VIEWS)):
            if old in recipe:
                value = recipe.pop(old)
                if not isinstance(value, int) or value not in values:
                    raise ValueError(f'"{old}" of the recipe is not as expected. Received: {value!r:.40}')
                recipe[new] = values[value]
        recipe.pop("averaging", None)  # the mean over the last steps' weights, which is no longer offered
        record["recipe"] = recipe
    if "temperature" in record:
        temperature = _checked("temperature", record.pop("temperature"), (int, float), _number)
        mixture = _checked("mixture", record.pop("mixture", [1.0]), list, _numbers)
        record.setdefault("temperatures", [temperature * each for each in mixture])
        if len(mixture) > 1:
            record.setdefault("outside_temperatures", list(mixture))
    return record


def _checked(key: str, value: Any, kind: type | tuple[type, ...], build) -> Any:
    """A field's value; raises `ValueError` with one sentence about what is wrong with it."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f'"{key}" has the wrong type. Received: {type(value).__name__}')
    try:
        return build(value)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f'"{key}" is not as expected: {error}') from error


def _recipe(record: Mapping[str, Any] | None) -> Recipe | None:
    kinds: dict[str, Any] = {each.name: (int, float) if each.type is float else each.type for each in fields(Recipe)}
    for key, value in (record or {}).items():
        if key == "sizes":
            _numbers(value)
        elif key in kinds and (not isinstance(value, kinds[key]) or isinstance(value, bool)):
            raise ValueError(f"{key} is a {type(value).__name__}")
    return Recipe(**record) if record else None


def _data(record: Mapping[str, Any]) -> DataRecord:
    names = {each.name: each.type for each in fields(DataRecord)}
    known = {key: value for key, value in record.items() if key in names}
    for key, value in known.items():
        expected: Any = int if "pictures" in key else str
        right = isinstance(value, expected) and not isinstance(value, bool)
        if not right and not (key == "fingerprint" and value is None):
            raise ValueError(f"{key} is a {type(value).__name__}")
    return DataRecord(**known)


def _names(values: list) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise ValueError("expected names")
    return tuple(values)


def _number(value: Any) -> int | float:
    """A finite number that fits into a float."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"expected a number, found a {type(value).__name__}")
    if not abs(value) <= sys.float_info.max:
        raise ValueError("expected a number, found one that is too large or not finite")
    return value


def _numbers(values: Any) -> tuple:
    if not isinstance(values, list):
        raise ValueError(f"expected a list of numbers, found a {type(values).__name__}")
    return tuple(map(_number, values))


def _measured(value: Any) -> int | float:
    """A number; null stands for one that was not finite."""
    return math.nan if value is None else _number(value)


def _history(record: Mapping[str, Any]) -> dict[str, list[float]]:
    if not all(isinstance(values, list) for values in record.values()):
        raise ValueError("expected lists of numbers")
    return {key: [float(_measured(value)) for value in values] for key, values in record.items()}


def _metrics(record: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, or two numbers for an interval."""
    return {
        key: list(map(_measured, value)) if key.endswith("interval") and isinstance(value, list) else _measured(value)
        for key, value in record.items()
    }


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Strings, numbers and lists of strings."""
    for key, value in record.items():
        if not isinstance(value, (str, int, float, type(None))):
            _checked(key, value, list, _names)
    return dict(record)


def _status(value: str) -> str:
    if value not in STATUSES:
        raise ValueError(f"expected one of {', '.join(STATUSES)}, found {value!r}")
    return value


def _for_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_OPTIONAL_TEXT = (str, type(None))
# For each key that is read: its types, and the function that checks and converts its value.
_CHECKS: dict[str, tuple[Any, Any]] = {
    "run": (str, str),
    "status": (str, _status),
    "created": (str, str),
    "recipe": ((dict, type(None)), _recipe),
    "seed": ((int, type(None)), lambda value: value),
    "share": ((int, float), _number),
    "precision": (_OPTIONAL_TEXT, lambda value: value),
    "dataset": (dict, _data),
    "class_names": (list, _names),
    "input_shape": (list, _numbers),
    "temperatures": (list, _numbers),
    "outside_temperatures": (list, _numbers),
    "metrics": (dict, _metrics),
    "history": (dict, _history),
    "wall_time_s": ((int, float), _number),
    "versions": (dict, _facts),
    "machine": (dict, _facts),
    "commit": (_OPTIONAL_TEXT, lambda value: value),
    "sha256": (_OPTIONAL_TEXT, lambda value: value),
}
