"""Export: a model as one file for programs without Keras, held to the model's own answers before it is kept."""

import contextlib
import datetime as dt
import os
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from imgclassify import backend
from imgclassify.atomic import replacing
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import Dataset, DatasetError
from imgclassify.data.download import file_sha256
from imgclassify.data.loading import load_dataset, size_for
from imgclassify.models.familiarity import UNFAMILIAR
from imgclassify.models.inference import compile_network
from imgclassify.progress import Progress
from imgclassify.runs.files import record_export
from imgclassify.runs.manifest import ExportRecord, ModelFileError
from imgclassify.serving.exported import (
    FAMILIARITY,
    PICTURES,
    PROBABILITIES,
    About,
    add_properties,
    load_exported,
)
from imgclassify.settings import PACKAGE, artifacts_dir

Format = Literal["onnx", "onnx-int8", "litert"]
FORMATS = get_args(Format)
_SUFFIXES = {"onnx": ".onnx", "onnx-int8": ".int8.onnx", "litert": ".tflite"}
_COMPARED, _CALIBRATED, _TIMED = 256, 300, 15  # pictures
_DIFFERENCE = 1e-4  # of a probability, in float32
_CHANGED = {"onnx": 0.0, "onnx-int8": 0.01, "litert": 0.0}  # share of answers that may be others
_VERDICTS = {"onnx": 0.01, "onnx-int8": 0.02, "litert": 0.01}  # share of pictures that only one of the two may know
_OPSET = 17  # of ONNX: of 2022, which browsers and phones run


@dataclass(frozen=True)
class Export:
    """An exported file, and how its answers compare with the model's."""

    path: Path
    to: Format
    record: ExportRecord

    def __str__(self) -> str:
        record = self.record
        changed = f"{record.changed} of {record.pictures} answers are" if record.changed else "no answer is"
        text = f"{self.path.name}: {record.megabytes:.1f} MB, {record.milliseconds:.1f} ms per picture. "
        text += f"Compared with the model on {record.pictures} pictures: {changed} another class, "
        return text + f"and probabilities differ by at most {record.difference:.2g}."

    __repr__ = __str__


def export_path(name: str, file: Path | None, to: Format) -> Path:
    """Where a model of this name is exported to by default: beside its file, if it has one outside the package.

    Other models are exported to the artifacts folder.
    """
    folder = artifacts_dir() if file is None or PACKAGE in file.resolve().parents else file.parent
    return folder / f"{Path(file or name).stem}{_SUFFIXES[to]}"


def export_model(
    model,
    to: Format = "onnx",
    path: str | os.PathLike | None = None,
    *,
    data: Dataset | None = None,
    replace: bool = False,
    record: bool = True,
    progress: Progress | None = None,
) -> Export:
    """Export a model to one file that answers as it does, with calibration, views and detector.

    The file takes prepared pictures, uint8 (N, H, W, 3), and gives `probabilities`, (N, classes), and with a detector
    `familiarity`, (N,). It says itself what its classes are and how pictures are prepared; see `About`. It is read back
    and compared with the model on 256 pictures, which were not trained on where there are as many: in float32,
    probabilities may differ by 0.0001, and no answer may be another class; in eight bits, one answer in a hundred may.
    Of the verdicts "none of its classes", one in a hundred may differ, in eight bits two. Needs the extra "export".

    Args:
        model: A `Classifier`, or a Keras model from square RGB pictures to probabilities.
        to: "onnx"; "onnx-int8", for which weights and activations are rounded to eight bits, with ranges from 300
            training pictures; or "litert", for phones.
        path: The file to write; see `export_path` for the default.
        data: Pictures to compare on, and in eight bits to measure ranges on; default: what the model was trained on.
        replace: Whether an existing file may be overwritten.
        record: Whether the result is added to the model's manifest, if the model has a file.
        progress: Where to show the progress.

    Returns:
        An `Export`: the file's path, and how it compares with the model.

    Raises:
        ModelFileError: The answers differ by more, the file exists and `replace` is False, a package is missing, or the
            network has an operation that the format does not know. No file is left behind.
        DatasetError: The data is unavailable.
        ValueError: The format is unknown, or the model takes no square RGB pictures.
    """
    if to not in FORMATS:
        raise ValueError(f"A model is exported to {', '.join(FORMATS)}. Received: {to!r}")
    classifier = Classifier.of(model)
    about = About.of(classifier)
    target = Path(path).expanduser() if path else export_path(classifier.name, classifier.file, to)
    if target.suffix != (suffix := Path(f"model{_SUFFIXES[to]}").suffix):
        raise ModelFileError(f"A file in the format {to} ends in {suffix}. Received: {target}")
    if target.exists() and not replace:
        raise ModelFileError(f"{target} exists already: use replace=True (--replace), or another name.")
    with progress or Progress() as progress:
        training, others = _pictures(classifier, data)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, lasting=True) as part:
            progress.update(f"converting to {to}")
            with _named_errors(classifier, to), backend.tracing(), backend.quiet():
                if to == "litert":
                    _write_litert(classifier, about, part)
                else:
                    _write_onnx(classifier, about, part, quantised_on=training if to == "onnx-int8" else None)
            progress.update("comparing")
            found = _compare(classifier, part, others, to)
    if record and classifier.file is not None:
        try:
            record_export(classifier.file, to, found, sha256=classifier.manifest.sha256)
        except OSError as error:
            progress.say(
                f"The manifest of {classifier.name} cannot be written: {error.strerror}. {target} is complete."
            )
    return Export(target, to, found)


def _pictures(classifier: Classifier, data: Dataset | None) -> tuple[np.ndarray, np.ndarray]:
    """Prepared pictures to measure ranges on, and others to compare on, which were not trained on if possible."""
    manifest = classifier.manifest
    if data is None:
        where = manifest.dataset.location()
        try:
            data = load_dataset(where, size=size_for(where, classifier.input_size))
        except DatasetError as error:
            advice = "Other pictures like those that it will see will do: data= (--data)."
            raise DatasetError(f"{error} {advice}") from error
    chance, recipe = np.random.default_rng(0), manifest.recipe
    training, others = data.validation_split(recipe.validation_fraction if recipe else 0.2, manifest.seed or 0)
    training, others = chance.permutation(training), chance.permutation(others)
    rows = training[: 2 * _CALIBRATED], np.concatenate([others, training[::-1]])[:_COMPARED]
    return tuple(np.asarray(classifier.fitting(data.x_train)[each]) for each in rows)  # type: ignore[return-value]


@contextlib.contextmanager
def _named_errors(classifier: Classifier, to: Format):
    try:
        yield
    except ImportError as error:
        needed = "pip install 'imgclassify[export]'"
        raise ModelFileError(f"To export to {to}, the package {error.name} is missing: {needed}") from error
    except (MemoryError, OSError):
        raise
    except Exception as error:  # the converters raise many kinds
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ModelFileError(f"{classifier.name} cannot be exported to {to}. ({why})") from error


def _outputs(classifier: Classifier) -> tuple[Any, Any]:
    """What answers, from pictures to outputs by name, and its signature."""
    tf = backend.tensorflow()
    names = (PROBABILITIES, FAMILIARITY)[: 1 + (classifier.detector is not None)]
    compiled = compile_network(classifier.network, classifier.manifest.views, np.dtype(np.uint8), classifier.detector)
    signature = tf.TensorSpec((None, *classifier.input_shape), tf.uint8, name=PICTURES)
    return tf.function(lambda x: dict(zip(names, compiled(x), strict=True)), autograph=False), signature


def _write_onnx(classifier: Classifier, about: About, path: Path, *, quantised_on: np.ndarray | None) -> None:
    import onnx
    import tf2onnx

    from imgclassify.serving.quantise import compact, quantise

    answer, signature = _outputs(classifier)
    model, _ = tf2onnx.convert.from_function(answer, [signature], opset=_OPSET)
    if quantised_on is not None:
        half = len(quantised_on) // 2
        model = quantise(model, quantised_on[:half], quantised_on[half:])
    compact(model, exact=quantised_on is None)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.helper.set_model_props(model, about.properties())
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _write_litert(classifier: Classifier, about: About, path: Path) -> None:
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    answer, signature = _outputs(classifier)
    # The weights become constants: LiteRT does not find the variables of a nested function.
    concrete = convert_variables_to_constants_v2(answer.get_concrete_function(signature))
    path.write_bytes(backend.tensorflow().lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    add_properties(path, about)


def _compare(classifier: Classifier, path: Path, pictures: np.ndarray, to: Format) -> ExportRecord:
    """Read a file back and hold it to the model; raises `ModelFileError` if it answers otherwise."""
    exported = load_exported(path)
    (wanted, known), (found, kept) = classifier.answers(pictures), exported.answers(pictures)
    count, difference = len(pictures), float(np.abs(found - wanted).max())
    changed = int((found.argmax(axis=1) != wanted.argmax(axis=1)).sum())
    verdicts = 0 if known is None or kept is None else int(((known < UNFAMILIAR) != (kept < UNFAMILIAR)).sum())
    alike = (
        np.isfinite(found).all()
        and (to == "onnx-int8" or difference <= _DIFFERENCE)
        and (known is None) == (kept is None)
    )
    if not alike or changed > _CHANGED[to] * count or verdicts > _VERDICTS[to] * count:
        raise ModelFileError(
            f"{classifier.name} is not exported to {to}: of {count} pictures, {changed} get another class and "
            f"{verdicts} another verdict on whether they are one of the classes, and probabilities differ by up to "
            f"{difference:.2g}."
        )
    taken = []
    for picture in np.resize(pictures, (_TIMED + 1, *pictures.shape[1:])):
        begun = time.perf_counter()
        exported.answers(picture[np.newaxis])
        taken.append(1000 * (time.perf_counter() - begun))
    versions = {}
    for name in ("tensorflow", "ai-edge-litert") if to == "litert" else ("tf2onnx", "onnx", "onnxruntime"):
        with contextlib.suppress(PackageNotFoundError):  # ONNX Runtime has other names with a GPU
            versions[name] = version(name)
    return ExportRecord(
        sha256=file_sha256(path),
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        megabytes=path.stat().st_size / 1e6,
        pictures=count,
        changed=changed,
        difference=difference,
        verdicts=verdicts,
        milliseconds=statistics.median(taken[1:]),
        versions=versions,
    )
