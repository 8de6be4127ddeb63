"""Manifests: what is recorded about a model, in a JSON file next to it."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from imgclassify.atomic import replacing
from imgclassify.recipes import Recipe

FORMAT = 2
_Finite = Annotated[float, msgspec.Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Metric: Any = _Count | float | list[float]  # only intervals are lists
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
class ExportRecord:
    """A file that a model was exported to, and how its answers compare with the model's."""

    sha256: str  # of the exported file
    created: str  # when, ISO 8601, UTC
    megabytes: _Finite
    pictures: _Count  # that both were asked about
    changed: _Count  # of them, those with another most probable class
    difference: _Finite  # between two probabilities, the largest
    verdicts: _Count  # of them, those that only one of the two takes for one of its classes
    milliseconds: _Finite  # for one picture, median
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What is known about a model. Without a manifest file, all fields have their defaults."""

    run: str = ""  # name of the run that it comes from
    status: Literal["running", "complete", "interrupted", "failed", "unknown"] = "unknown"  # if nothing is recorded
    created: str = ""  # when the training began, ISO 8601, UTC
    recipe: Recipe | None = None  # how it was trained
    seed: int | None = None  # this and the next two as given to `train_model`
    share: _Finite = 1.0
    precision: str | None = None
    dataset: DataRecord = field(default_factory=DataRecord)  # what it was trained on
    class_names: tuple[str, ...] = ()  # one per output
    input_shape: tuple[int, ...] = ()  # height, width and channels
    crop: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0  # side of the central square, as a share of the shorter side
    temperatures: tuple[_Finite, ...] = ()  # by which calibration, a part of the network, divides the logits
    outside_temperatures: tuple[_Finite, ...] = ()  # of version 0.1.0; they become layers when the model is read
    # Measurements of the saved model, such as "val_accuracy".
    metrics: Mapping[str, _Metric] = field(default_factory=dict)  # type: ignore[valid-type] # Any, for mypy
    history: Mapping[str, list[float]] = field(default_factory=dict)  # "loss", "val_accuracy", ...: a value per epoch
    wall_time_s: _Finite = 0.0  # seconds that the training took
    versions: Mapping[str, str] = field(default_factory=dict)  # this, `machine` and `commit`: what it was trained with
    machine: Mapping[str, str | _Count | float | list[str] | None] = field(default_factory=dict)
    commit: str | None = None
    exports: Mapping[str, ExportRecord] = field(default_factory=dict)  # by format: "onnx", "onnx-int8", "litert"
    sha256: str | None = None  # of the model file
    format: int = FORMAT  # of the manifest

    def __post_init__(self):
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
        return msgspec.convert(_upgraded(record), cls)

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values: lists instead of tuples, and None for numbers that are not finite."""
        return msgspec.json.decode(strict_json(self))

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
        for part, pictures, note in (("test", "test", ""), ("val", "validation", "; not measured on test pictures")):
            if (accuracy := self.metrics.get(f"{part}_accuracy")) is not None:
                return f"Right on {accuracy:.1%} of the {pictures} pictures of {self.dataset.source}{note}."
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
    try:  # NaN, which is no JSON, is read as a text, which is no number
        return Manifest.from_dict(json.loads(path.read_text(encoding="utf-8"), parse_constant=str))
    except FileNotFoundError:
        return Manifest()
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: {error!s:.200}") from error


def write_manifest(model: Path, manifest: Manifest) -> None:
    """Write the manifest of a model file, whole or not at all."""
    with replacing(manifest_path(model), lasting=True) as part:
        part.write_text(strict_json(manifest) + "\n", encoding="utf-8")


def strict_json(value: object) -> str:
    """Strict JSON: numbers that are not finite, as in a training that diverged, become null."""
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=float), indent=1).decode()  # numpy's are numbers too


class _Calibration(msgspec.Struct):
    """How version 0.1.0 recorded the temperatures: one, and what it was multiplied by."""

    temperature: _Finite
    mixture: tuple[_Finite, ...] = (1.0,)


def _upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of an older version, converted to the format of this one."""
    record = {**record, "format": FORMAT}
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
        if unknown := recipe.keys() - {each.name for each in fields(Recipe)}:
            raise ValueError(f"unknown keys of the recipe: {', '.join(unknown)}")  # they decide what is repeated
        record["recipe"] = recipe or None
    if "temperature" in record:
        kept = msgspec.convert(record, _Calibration)
        record.setdefault("temperatures", [kept.temperature * each for each in kept.mixture])
        if len(kept.mixture) > 1:
            record.setdefault("outside_temperatures", kept.mixture)
    for key in {"metrics", "history"} & record.keys():
        record[key] = _without_null(record[key])
    return record


def _without_null(value: Any) -> Any:
    """Measurements in which null, which stands for one that was not finite, is NaN."""
    if isinstance(value, dict):
        return {key: _without_null(each) for key, each in value.items()}
    return list(map(_without_null, value)) if isinstance(value, list) else math.nan if value is None else value
