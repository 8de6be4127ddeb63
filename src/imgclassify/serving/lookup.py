"""Lookup: the exported file of a model; where nobody has asked for one, it is written to the cache, once."""

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

from imgclassify.classifier import Classifier
from imgclassify.data.dataset import Dataset
from imgclassify.data.download import file_sha256
from imgclassify.progress import Progress
from imgclassify.runs.manifest import ModelFileError
from imgclassify.runs.names import IMAGENET, find_model
from imgclassify.serving.export import Format, export_model, export_path
from imgclassify.serving.exported import SUFFIXES, ExportedModel, load_exported
from imgclassify.settings import cache_dir


def find_exported(name: str, *, say: Callable[[str], object], threads: int = 0) -> ExportedModel:
    """An exported model by the name of its file, or of the model that it was made from, without TensorFlow.

    If a model has no such file, or one of another version, it is exported to the cache, by a process of its own, so
    that TensorFlow's memory is free afterwards; needs the extra "export".

    Args:
        name: An `.onnx` or `.tflite` file, or any name that `load_model` takes.
        say: Called with a sentence before a model is exported, which takes a while.
        threads: As for `load_exported`.

    Raises:
        ModelFileError: There is no such model, or it cannot be exported.
    """
    if name.endswith(SUFFIXES):
        return load_exported(name, threads=threads)
    file = None if name == IMAGENET else find_model(name)
    sha256 = None if file is None else file_sha256(file)
    beside = export_path(name, file, "onnx")
    path = _kept(sha256 or IMAGENET, beside)
    with contextlib.suppress(ModelFileError):
        found = load_exported(beside, threads=threads)
        if found.about.model_sha256 == sha256 and (file is not None or found.about.model == IMAGENET):
            return found
    with contextlib.suppress(ModelFileError):
        return load_exported(path, threads=threads)
    say(f"{name} is exported to {path} first, which takes a minute.")
    command = [sys.executable, "-m", "imgclassify.cli", "export", name, "-o", str(path), "--replace", "--no-record"]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        why = (ended.stderr.strip().splitlines() or ["its process was ended"])[-1]
        raise ModelFileError(f"{name} could not be exported. ({why.removeprefix('imgclassify: ')})")
    return load_exported(path, threads=threads)


def kept_export(
    classifier: Classifier, to: Format = "onnx", *, data: Dataset | None = None, progress: Progress | None = None
) -> ExportedModel:
    """A model as an exported file in the cache folder, written the first time; nothing is recorded in its manifest.

    The arguments and errors are those of `export_model`.
    """
    path = _kept(digest_of(classifier), export_path(classifier.name, classifier.file, to))
    with contextlib.suppress(ModelFileError):
        return load_exported(path)
    written = export_model(classifier, to, path, data=data, replace=True, record=False, progress=progress)
    return load_exported(written.path)


def digest_of(classifier: Classifier) -> str:
    """Checksum of all that decides what a model answers."""
    network, detector = classifier.network, classifier.detector
    about = (classifier.class_names, classifier.crop, classifier.manifest.views, version("imgclassify"))
    found = hashlib.sha256(repr((*about, network.get_config())).encode())
    if detector is not None:
        found.update(repr((detector.kind, detector.layers)).encode())
    for array in (*network.get_weights(), *(detector.references + detector.known if detector else ())):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _kept(digest: str, path: Path) -> Path:
    return cache_dir() / "exported" / digest[:16] / path.name
