"""Report: all that is measured of a model, as one record in JSON beside its file."""

import datetime as dt
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from imgclassify.atomic import replacing
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import Dataset
from imgclassify.data.download import file_sha256
from imgclassify.data.loading import load_dataset
from imgclassify.evaluation.explain import heat_maps
from imgclassify.evaluation.faithfulness import (
    centre_maps,
    measure_faithfulness,
    random_maps,
    similarity,
    with_shuffled_weights,
)
from imgclassify.evaluation.metrics import Estimate, evaluate_model
from imgclassify.evaluation.robustness import CORRUPTIONS, measure_robustness
from imgclassify.evaluation.unknown import as_thumbnails
from imgclassify.models.familiarity import UNFAMILIAR
from imgclassify.runs import provenance
from imgclassify.runs.manifest import Manifest, ModelFileError, strict_json
from imgclassify.runs.records import list_runs
from imgclassify.settings import artifacts_dir

_SHOWN, _CORRUPTED, _EXPLAINED, _OTHERS = 1000, 500, 200, 300  # pictures at most
_TIMED, _BATCHES = 64, 9  # pictures in a batch that is timed, and repetitions


@dataclass(frozen=True)
class Report:
    """What was measured of a model on the test pictures of its data, and when; with its manifest, all of its card."""

    name: str  # of the model
    sha256: str  # of its file
    measured: str  # when, ISO 8601, UTC
    source: str  # name of the data
    confusion: tuple[tuple[int, ...], ...]  # counts; row = true class, column = predicted class
    loss: float | None  # this and others are None if they are not finite or could not be measured
    calibration_error: float | None
    corrected_calibration_error: tuple[float | None, ...]  # without the part of chance, with its 95 % interval
    parameters: int
    megabytes: float  # of its file
    milliseconds: float  # for one picture, median
    per_second: float  # pictures in batches of 64, median
    seeds: Mapping[str, float] = field(default_factory=dict)  # accuracies of trainings like this one, by seed
    passed: Mapping[str, float] = field(default_factory=dict)  # share of each kind of pictures that the detector passes
    corrupted: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # accuracy at each strength
    clean: float = 0.0  # accuracy on the same pictures as they are
    corrupted_calibration_error: float = 0.0  # mean over corruptions and strengths
    corrupted_pictures: int = 0
    faithfulness: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # areas of deletion and insertion
    beats_random: float | None = None  # p-value
    shuffled: float | None = None  # mean rank correlation with the maps of shuffled weights
    explained_pictures: int = 0
    machine: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def accuracy(self) -> Estimate:
        """Accuracy with its 95 % interval; this and all other shares from 0 to 1."""
        counts = np.array(self.confusion)
        return Estimate.of_share(counts.trace(), counts.sum())

    @property
    def corrupted_means(self) -> list[float]:
        """Mean accuracy over the fifteen corruptions, at each strength."""
        return np.mean([self.corrupted[name] for name in CORRUPTIONS], axis=0).tolist()


def report_path(model: Path) -> Path:
    """Where the report of a model file is."""
    return model.with_suffix(".report.json")


def read_report(model: Path) -> Report:
    """The report of a model file.

    Raises:
        ModelFileError: There is none, it is damaged, or belongs to another file than this one.
    """
    path = report_path(model)
    try:
        report = msgspec.convert(json.loads(path.read_text(encoding="utf-8")), Report)
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read ({error!s:.200}): measure the model again.") from error
    if not model.is_file() or report.sha256 != file_sha256(model):
        raise ModelFileError(f"{path} is of another model than {model}: measure it again.")
    return report


def write_report(model: Path, report: Report) -> None:
    """Write the report of a model file, whole or not at all."""
    with replacing(report_path(model)) as part:
        part.write_text(strict_json(report) + "\n", encoding="utf-8")


def measure_report(classifier, data: Dataset) -> Report:
    """Measure a model on the test pictures of its data; takes some minutes.

    All test pictures give accuracy and calibration. Of a random 1,000 of them, all are shown to the detector, 500 are
    corrupted and 200 explained. The detector also sees 300 handwritten digits, and 300 pictures of noise.

    Args:
        classifier: A model with its file.
        data: What it was trained on, or other data of the same classes.

    Raises:
        ValueError: The model has no file.
    """
    classifier = Classifier.of(classifier)
    if classifier.file is None:
        raise ValueError(f"{classifier.name} has no file beside which a report could lie: save it first.")
    evaluation = evaluate_model(classifier, data.x_test, data.y_test, source=data.source)
    rows = np.random.default_rng(0).permutation(len(data.y_test))
    x, y = np.asarray(data.x_test[rows[:_CORRUPTED]]), data.y_test[rows[:_CORRUPTED]]
    robustness = measure_robustness(classifier, x, y)
    once, many = _speed(classifier, x)
    return Report(
        name=classifier.name,
        sha256=file_sha256(classifier.file),
        measured=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        source=data.source,
        confusion=tuple(map(tuple, evaluation.confusion.tolist())),
        loss=evaluation.loss,
        calibration_error=evaluation.calibration_error,
        corrected_calibration_error=evaluation.corrected_calibration_error,
        parameters=classifier.network.count_params(),
        megabytes=classifier.file.stat().st_size / 1e6,
        milliseconds=once,
        per_second=many,
        seeds=_seeds(classifier.manifest) if data.fingerprint == classifier.manifest.dataset.fingerprint else {},
        passed=_passed(classifier, data.x_test[rows[:_SHOWN]], digits=data.name != "digits"),
        clean=robustness.clean.accuracy,
        corrupted={name: tuple(each.accuracy for each in row) for name, row in robustness.changed.items()},
        corrupted_calibration_error=robustness.mean_calibration_error(),
        corrupted_pictures=len(y),
        **_explanations(classifier, x[:_EXPLAINED]),
        machine=provenance.describe_machine(),
        versions=provenance.describe_versions(),
    )


def _speed(classifier: Classifier, x: np.ndarray) -> tuple[float, float]:
    """Milliseconds for one picture, and pictures per second in batches: medians."""
    batch = np.resize(classifier.fitting(x)[: min(_TIMED, len(x))], (_TIMED, *classifier.input_shape))

    def seconds(pictures: np.ndarray) -> float:
        classifier.probabilities(pictures)
        taken = []
        for _ in range(_BATCHES):
            begun = time.perf_counter()
            classifier.probabilities(pictures)
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken)

    return 1000 * seconds(batch[:1]), _TIMED / seconds(batch)


def _passed(classifier: Classifier, known: np.ndarray, *, digits: bool) -> dict[str, float]:
    """Share of known pictures, of noise and, unless they are what it knows, of digits that the detector passes."""
    if classifier.detector is None:
        return {}
    side = min(32, classifier.input_size)
    noise = np.random.default_rng(0).integers(0, 256, (_OTHERS, side, side, 3), np.uint8)
    kinds = {"test pictures": known, "noise": as_thumbnails(list(noise), side)}
    if digits:
        kinds["handwritten digits"] = as_thumbnails(list(load_dataset("digits").x_test[:_OTHERS]), side)
    return {
        kind: float((classifier.with_familiarity(pictures)[1] >= UNFAMILIAR).mean()) for kind, pictures in kinds.items()
    }


def _explanations(classifier: Classifier, x: np.ndarray) -> dict:
    pictures = np.asarray(classifier.fitting(x)[:])
    said = classifier.probabilities(pictures, views=1).argmax(axis=1)
    try:
        maps = heat_maps(classifier, pictures, said)
    except ValueError:  # a network without feature maps
        return {}
    kinds = {"HiResCAM": maps, "random": random_maps(len(x)), "centre": centre_maps(len(x))}
    measured = {kind: measure_faithfulness(classifier, pictures, said, heat) for kind, heat in kinds.items()}
    alike = similarity(maps, heat_maps(with_shuffled_weights(classifier), pictures, said))
    return {
        "faithfulness": {
            kind: (float(each.deletion_area.mean()), float(each.insertion_area.mean()))
            for kind, each in measured.items()
        },
        "beats_random": measured["HiResCAM"].better_than(measured["random"]),
        "shuffled": float(np.nanmean(alike)) if np.isfinite(alike).any() else None,
        "explained_pictures": len(x),
    }


def _seeds(manifest: Manifest) -> dict[str, float]:
    """Test accuracies of the trainings by this recipe on this data that are recorded in the artifacts folder, by seed.

    Runs that were not measured on test pictures count with none.
    """
    known = [run.manifest for run in list_runs()]
    path = artifacts_dir() / "accuracies.json"
    if path.is_file():
        known += [
            Manifest.from_dict(each)
            for each in json.loads(path.read_text(encoding="utf-8"))
            if each.get("trained_by", "imgclassify") == "imgclassify"
        ]
    same = [each for each in [*known, manifest] if _alike(each) == _alike(manifest)]
    found = {str(each.seed): each.metrics.get("test_accuracy") for each in same}
    return {seed: value for seed, value in sorted(found.items()) if value is not None}


def _alike(manifest: Manifest) -> tuple:
    """All that decides a training, except the seed and the precision."""
    return manifest.recipe, manifest.share, manifest.dataset.fingerprint
