"""Manifests: what is recorded about a model, in a JSON file next to it."""

import contextlib
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

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
    """The data that a model was trained on."""

    name: str = "cifar10"  # short, as `load_dataset` knows it; the folder's name for a user's own pictures
    source: str = "unknown data"  # what the pictures are, for figures and tables
    fingerprint: str | None = None  # `Dataset.fingerprint`
    folder: str = ""  # where the pictures were, as an absolute path; empty for other data
    training_pictures: int = 0  # their number
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
        crop: Side of the central square of a picture that it is shown, as a share of the picture's shorter side.
        temperatures: Calibration divides the logits by each of these and averages the answers; it is part of the
            network.
        outside_temperatures: Those that version 0.1.0 applied outside the network; they become layers when it is read.
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
    crop: float = 1.0
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

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(f'"status" must be one of {", ".join(STATUSES)}. Received: {self.status:.40}')
        if not 0 < self.crop <= 1:
            raise ValueError(f'"crop" must be above 0 and at most 1. Received: {self.crop}')
        for key, value in self.metrics.items():
            if isinstance(value, list) and not key.endswith("interval"):
                raise ValueError(f'"metrics" is not as expected: {key} is a list')

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Manifest":
        """A manifest from its JSON, also of older versions; unknown keys are ignored.

        Raises:
            ValueError: A value has the wrong type; the message names the key.
        """
        if not isinstance(record, Mapping):
            raise ValueError(f"a manifest must be a JSON object. Received: {type(record).__name__}")
        known = {key: value for key, value in _upgraded(record).items() if key in _KINDS}
        checked = {key: _checked(key, _KINDS[key], value) for key, value in known.items()}
        for key in {"metrics", "history"} & checked.keys():
            checked[key] = _without_null(checked[key])
        return cls(**checked, format=FORMAT)

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
    """Strict JSON: numbers that are not finite, as in a training that diverged, become null."""
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
        record["recipe"] = recipe or None
    if "temperature" in record:
        temperature = _checked("temperature", float, record.pop("temperature"))
        mixture = _checked("mixture", list[float], record.pop("mixture", [1.0]))
        record.setdefault("temperatures", [temperature * each for each in mixture])
        if len(mixture) > 1:
            record.setdefault("outside_temperatures", list(mixture))
    return record


def _checked(key: str, kind: Any, value: Any) -> Any:
    """A value from JSON as its annotated type; raises `ValueError` with one sentence that names the key."""
    try:
        return _read(kind, value)
    except (TypeError, ValueError) as error:
        raise ValueError(f'"{key}" is not as expected: {error}') from error


def _read(kind: Any, value: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if isinstance(kind, UnionType):
        if value is None and type(None) in inner:
            return None
        *others, last = (each for each in inner if each is not type(None))
        for each in others:
            with contextlib.suppress(ValueError):
                return _read(each, value)
        return _read(last, value)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, Mapping):
        kinds = get_type_hints(kind)  # of a recipe, all keys must be known: they decide what is repeated
        known = {key: each for key, each in value.items() if key in kinds or kind is Recipe}
        return kind(**{key: _checked(key, kinds.get(key, object), each) for key, each in known.items()})
    if origin in (tuple, list) and isinstance(value, list):
        return origin(_read(inner[0], each) for each in value)
    if origin is Mapping and isinstance(value, Mapping):
        return {key: _read(inner[1], each) for key, each in value.items()}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= sys.float_info.max:
            raise ValueError("expected a number, found one that is too large or not finite")
        return value
    if origin is not None or not isinstance(value, kind) or isinstance(value, bool):
        expected = {str: "text", float: "a number", int: "a whole number"}.get(kind, "a list or an object")
        raise ValueError(f"expected {expected}, found {type(value).__name__}")
    return value


def _without_null(value: Any) -> Any:
    """Measurements in which null, which stands for one that was not finite, is NaN."""
    if isinstance(value, dict):
        return {key: _without_null(each) for key, each in value.items()}
    return list(map(_without_null, value)) if isinstance(value, list) else math.nan if value is None else value


def _for_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_Facts = Mapping[str, str | float | list[str] | None]
# The type of each key that is read, as JSON has it.
_KINDS: dict[str, Any] = get_type_hints(Manifest) | {
    "metrics": Mapping[str, float | list[float | None] | None],
    "history": Mapping[str, list[float | None]],
    "versions": _Facts,
    "machine": _Facts,
}
del _KINDS["format"]
