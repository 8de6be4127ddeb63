"""Answers: what a model said of many pictures, from its validation pictures or from a service's log."""

import contextlib
import datetime as dt
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from imgclassify.atomic import replacing
from imgclassify.classifier import load_model
from imgclassify.data.dataset import DatasetError
from imgclassify.data.download import file_sha256
from imgclassify.data.loading import load_dataset, size_for
from imgclassify.models.familiarity import UNFAMILIAR
from imgclassify.runs.manifest import read_manifest

_MOST_BYTES = 20_000_000  # of a file of answers, and of a line of a log


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model said of many pictures."""

    class_names: tuple[str, ...]
    labels: np.ndarray  # class numbers, (N,)
    confidence: np.ndarray  # 0 to 1, (N,)
    known: np.ndarray  # whether it took them for one of its classes, bool (N,)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows) -> "Answers":
        return Answers(self.class_names, self.labels[rows], self.confidence[rows], self.known[rows])

    @classmethod
    def of(cls, classifier, x: np.ndarray) -> "Answers":
        """The answers of a classifier, exported or not, to prepared pictures (N, H, W, 3)."""
        probabilities, familiarity = classifier.answers(x)
        known = np.ones(len(x), bool) if familiarity is None else familiarity >= UNFAMILIAR
        return cls(classifier.class_names, probabilities.argmax(axis=1), probabilities.max(axis=1), known)

    @property
    def refused(self) -> float:
        """Share of answers that are none of the classes."""
        return float(1 - self.known.mean())

    @property
    def counts(self) -> np.ndarray:
        """Number of accepted answers of each class, (classes,)."""
        return np.bincount(self.labels[self.known], minlength=len(self.class_names))


class _Line(msgspec.Struct):
    """What is read of a line of a log; it has more."""

    time: dt.datetime
    model: str
    label: str
    confidence: Annotated[float, msgspec.Meta(ge=0, le=1 + 1e-6)]  # float32 may round up
    known: bool
    key: str | None = None


def read_log(
    log: str | os.PathLike, model: str, class_names: Sequence[str]
) -> tuple[Answers, np.ndarray, dict[str, int]]:
    """The answers of one model in a service's log, their days in UTC, and how many lines were skipped, by the reason.

    Those of one key, which stands for a person, follow one another.

    Args:
        log: A file with a line of JSON for each answer: "time" (ISO 8601), "key", "model", "label",
            "confidence" and "known"; other names are ignored.
        model: A model's name; up to its ending, it must be the same in the log.
        class_names: The model's classes.

    Raises:
        ValueError: The log cannot be read, or holds no answer of this model.
    """
    decoder, numbers = msgspec.json.Decoder(_Line), {name: number for number, name in enumerate(class_names)}
    found: dict[str, list[tuple]] = {}
    skipped = Counter[str]()
    try:
        with Path(log).expanduser().open("rb") as file:
            while line := file.readline(_MOST_BYTES):
                try:
                    each = decoder.decode(line)
                    day = each.time.astimezone(dt.UTC) if each.time.tzinfo else each.time
                    row = (each.key or "", np.datetime64(day.date()), numbers[each.label], each.confidence, each.known)
                    found.setdefault(each.model, []).append(row)
                except (msgspec.DecodeError, OverflowError):  # a time that no zone has
                    skipped["damaged or cut off"] += bool(line.strip())
                except KeyError:
                    skipped["with a class that the model does not know"] += 1
    except OSError as error:
        raise ValueError(f"{log} cannot be read: {error.strerror}.") from error
    others = {name for name in found if Path(name).stem != Path(model).stem}
    if found and others == found.keys():
        raise ValueError(f"{log} has no answers by {model}, but by {', '.join(sorted(others))}: use --model.")
    skipped["by other models"] += sum(len(found.pop(name)) for name in others)
    rows = sorted((row for each in found.values() for row in each), key=itemgetter(0))
    if not rows:
        raise ValueError(f"{log} has no answers of a model that knows {', '.join(class_names[:5])}, ...")
    _, days, labels, confidence, known = map(np.array, zip(*rows, strict=True))
    return Answers(tuple(class_names), labels, confidence, known), days, dict(+skipped)


def answers_path(model: Path) -> Path:
    """Where the answers of a model file to its validation pictures are."""
    return model.with_suffix(".answers.npz")


def validation_answers(model: Path) -> Answers:
    """The answers of a model file to its validation pictures: as recorded beside it, or measured now and recorded.

    Raises:
        ModelFileError: The model cannot be read.
        DatasetError: Its data is unavailable or has changed.
        ValueError: Nothing is recorded about its training.
    """
    path, sha256 = answers_path(model), file_sha256(model)
    try:
        answers = _read(path, sha256)
        if answers.class_names == read_manifest(model).class_names:
            return answers
    except Exception:  # numpy, zipfile and json raise many kinds for a damaged file: then it is measured anew
        pass
    answers = _measured(model)
    about = json.dumps({"model": sha256, "class_names": answers.class_names})
    arrays: dict[str, Any] = {
        "labels": answers.labels.astype(np.uint16),
        "confidence": answers.confidence,
        "known": answers.known,
    }
    with contextlib.suppress(OSError), replacing(path) as part, part.open("wb") as file:  # it need not be writable
        np.savez_compressed(file, about=np.array(about), **arrays)
    return answers


def _measured(model: Path) -> Answers:
    classifier = load_model(model)
    manifest, recorded = classifier.manifest, classifier.manifest.dataset
    if manifest.recipe is None:
        raise ValueError(f"{model} was not trained by imgclassify, so its validation pictures are not known.")
    data = load_dataset(recorded.location(), size=size_for(recorded.location(), classifier.input_size))
    if recorded.folder and recorded.fingerprint not in (None, data.fingerprint):
        raise DatasetError(f"The pictures in {recorded.folder} have changed since {model} was trained.")
    _, held = data.validation_split(manifest.recipe.validation_fraction, manifest.seed or 0)
    return Answers.of(classifier, classifier.fitting(data.x_train)[held])


def _read(path: Path, sha256: str) -> Answers:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError("it is too large")
    with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
        about, *arrays = json.loads(file["about"].item()), file["labels"], file["confidence"], file["known"]
    answers = Answers(tuple(map(str, about["class_names"])), *arrays)
    labels, confidence, _ = arrays
    kinds = [(each.dtype, each.shape) for each in arrays]
    good = kinds == [(kind, (len(labels),)) for kind in (np.uint16, np.float32, np.bool_)] and len(labels) > 0
    good = good and labels.max() < len(answers.class_names) and bool(((confidence >= 0) & (confidence <= 1)).all())
    if about["model"] != sha256 or not good:
        raise ValueError("it is not as expected")
    return answers
