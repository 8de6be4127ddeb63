"""Exported models: an ONNX or LiteRT file that answers as the model that it was made from, without TensorFlow."""

import json
import os
import threading
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np

from imgclassify.backend import native_stderr_silenced
from imgclassify.classifier import Classifier
from imgclassify.data.images import to_bytes
from imgclassify.models.familiarity import UNFAMILIAR
from imgclassify.models.inference import batch_length
from imgclassify.prediction import BaseClassifier
from imgclassify.runs.manifest import ModelFileError

SUFFIXES = (".onnx", ".tflite")
PICTURES, PROBABILITIES, FAMILIARITY = "pictures", "probabilities", "familiarity"  # names of input and outputs
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # of ONNX Runtime: a GPU where there is one
_MEMBER = "metadata.json"  # in a LiteRT file, which may have an archive at its end
# Probabilities (N, classes), and familiarity (N,) or None, of pictures, uint8 (N, H, W, 3).
Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class About:
    """What an exported file says of itself: all that is needed to use it, also by other programs."""

    model: str  # its name
    class_names: tuple[str, ...]  # one per output
    input_shape: tuple[int, int, int]  # height, width, channels: RGB
    crop: float  # side of the central square, as a share of the picture's shorter side, that is shrunk to the input
    unfamiliar_below: float  # pictures of a lower familiarity are none of the classes
    data: str  # what it was trained on
    accuracy: str  # in a sentence
    model_sha256: str | None  # of the file that it was made from
    written_by: str

    @classmethod
    def of(cls, classifier: Classifier) -> "About":
        """What is to be said of a classifier's file."""
        manifest = classifier.manifest
        name = Path(classifier.name).name  # no path, which may hold a user's name
        facts = (manifest.dataset.source, manifest.describe_accuracy(), manifest.sha256)
        shape, author = (classifier.input_size, classifier.input_size, 3), f"imgclassify {version('imgclassify')}"
        return cls(name, classifier.class_names, shape, classifier.crop, UNFAMILIAR, *facts, author)

    def properties(self) -> dict[str, str]:
        """The same as names and texts, which are JSON."""
        return {name: json.dumps(value, ensure_ascii=False) for name, value in asdict(self).items()}

    @classmethod
    def read(cls, properties: Mapping[str, str]) -> "About":
        """The same again; raises `ValueError` if something is missing or has the wrong type."""
        about = msgspec.convert({name: json.loads(properties[name]) for name in cls.__dataclass_fields__}, cls)
        if len(about.class_names) < 2 or not 0 < about.crop <= 1 or min(about.input_shape) < 1:
            raise ValueError("its description is not as expected")
        return about


@dataclass(frozen=True, eq=False)
class ExportedModel(BaseClassifier):
    """A model in a file that needs neither Keras nor TensorFlow; it answers as a `Classifier` does."""

    about: About
    run: Run
    file: Path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.file.name

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per output."""
        return self.about.class_names

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a prepared picture."""
        return self.about.input_shape

    @property
    def crop(self) -> float:
        """Side of the central square that it is shown, as a share of a picture's shorter side."""
        return self.about.crop

    def answers(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities, float32 (N, classes), and familiarity, (N,), or None without a detector."""
        x, step = to_bytes(np.asarray(x)), batch_length(self.input_shape)
        some = x if len(x) else np.zeros((1, *self.input_shape), np.uint8)  # LiteRT takes at least one
        parts = [self.run(np.ascontiguousarray(some[start : start + step])) for start in range(0, len(some), step)]
        probabilities, familiarity = zip(*parts, strict=True)
        known = None if familiarity[0] is None else np.concatenate(familiarity)[: len(x)]
        return np.concatenate(probabilities)[: len(x)], known

    def __str__(self) -> str:
        return f"{self.name}: knows {', '.join(self.class_names)}. {self.about.accuracy} Trained on {self.about.data}."

    __repr__ = __str__


def load_exported(path: str | os.PathLike, *, threads: int = 0) -> ExportedModel:
    """Load a model that `export_model` wrote.

    Args:
        path: An `.onnx` or `.tflite` file.
        threads: That compute one picture; 0: one per core.

    Returns:
        An `ExportedModel`, which answers as a `Classifier` does.

    Raises:
        ModelFileError: There is no such file, it is damaged, or was written by another program.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise ModelFileError(f"An exported model ends in {' or '.join(SUFFIXES)}. Received: {path}")
    if not path.is_file():
        raise ModelFileError(f"There is no exported model {path}: `imgclassify export` writes one.")
    reader = _read_onnx if path.suffix == ".onnx" else _read_litert
    try:
        properties, run = reader(path, threads)
        model = ExportedModel(About.read(properties), run, path)
        probabilities, _ = model.answers(np.zeros((1, *model.input_shape), np.uint8))
        if probabilities.shape != (1, len(model.class_names)):
            raise ValueError("its outputs are not as many as its classes")
        return model
    except ImportError as error:
        raise ModelFileError(f"{path} needs the package {error.name}: pip install 'imgclassify[export]'") from error
    except Exception as error:  # the libraries raise many kinds for a damaged file
        why = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise ModelFileError(f"{path} is damaged, or was not written by `imgclassify export`. ({why})") from error


def onnx_runtime() -> ModuleType:
    """ONNX Runtime, which reports its use to its maker (seen in 1.32) unless this variable is set before its import."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _read_onnx(path: Path, threads: int) -> tuple[Mapping[str, str], Run]:
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    # Others, such as Core ML, may compute with fewer bits.
    wanted = [each for each in _PROVIDERS if each in onnxruntime.get_available_providers()]
    session = onnxruntime.InferenceSession(path, options, providers=wanted)
    known = {output.name for output in session.get_outputs()} & {FAMILIARITY}

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        probabilities, *familiarity = session.run([PROBABILITIES, *known], {PICTURES: x})
        return probabilities, familiarity[0] if familiarity else None

    return session.get_modelmeta().custom_metadata_map, run


def _read_litert(path: Path, threads: int) -> tuple[Mapping[str, str], Run]:
    from ai_edge_litert.interpreter import Interpreter

    with native_stderr_silenced():
        interpreter = Interpreter(os.fspath(path), num_threads=threads or None)
        interpreter.allocate_tensors()
    (given,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    by_rank: dict[int, Any] = {len(each["shape_signature"]): each["index"] for each in outputs}
    one_at_a_time = threading.Lock()  # the interpreter is not made for several threads

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        with one_at_a_time:
            if tuple(interpreter.get_input_details()[0]["shape"]) != x.shape:
                interpreter.resize_tensor_input(given["index"], x.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(given["index"], x)
            interpreter.invoke()
            found = [interpreter.get_tensor(by_rank[rank]) for rank in sorted(by_rank, reverse=True)]
        return found[0], found[1] if len(found) > 1 else None

    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(_MEMBER)), run


def add_properties(path: Path, about: About) -> None:
    """Put a description at the end of a LiteRT file, with a list of the classes as other programs expect it."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_MEMBER, json.dumps(about.properties()))
        archive.writestr("labels.txt", "\n".join(about.class_names))
