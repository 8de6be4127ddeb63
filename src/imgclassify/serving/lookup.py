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
from imgclassify.runs.manifest import Manifest, ModelFileError, read_manifest
from imgclassify.runs.names import IMAGENET, find_model
from imgclassify.serving.export import Format, export_model, export_path
from imgclassify.serving.exported import SUFFIXES, ExportedModel, load_exported
from imgclassify.settings import cache_dir


def exported_file(name: str, *, say: Callable[[str], object]) -> Path:
    """Path of an exported file: the name itself, or the ONNX file of the model that it means, without TensorFlow.

    If there is no such file, or it was made from another model, the model is exported to the cache, by a process of
    its own, so that TensorFlow's memory is free afterwards; needs the extra "export".

    Args:
        name: An `.onnx` or `.tflite` file, or any name that `load_model` takes.
        say: Called with a sentence before a model is exported, which takes a while.

    Raises:
        ModelFileError: There is no such model, or it cannot be exported.
    """
    if name.endswith(SUFFIXES):
        return Path(name)
    if name == IMAGENET:
        model = Classifier(None, Manifest(run=IMAGENET))
    else:
        file = find_model(name)
        model = Classifier(None, read_manifest(file), file)
    digest = IMAGENET if model.file is None else file_sha256(model.file)
    path = _kept(digest, export_path(model, "onnx"))
    for each in (export_path(model, "onnx"), path):
        if _is_export_of(each, model):
            return each
    say(f"{name} is exported to {path} first, which takes a minute.")
    command = [sys.executable, "-m", "imgclassify.cli", "export", name, "-o", str(path), "--replace", "--no-record"]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        why = (ended.stderr.strip().splitlines() or ["its process was ended"])[-1]
        raise ModelFileError(f"{name} could not be exported. ({why.removeprefix('imgclassify: ')})")
    return path


def kept_export(
    classifier: Classifier, to: Format = "onnx", *, data: Dataset | None = None, progress: Progress | None = None
) -> ExportedModel:
    """A model as an exported file in the cache folder, written the first time; nothing is recorded in its manifest.

    The arguments and errors are those of `export_model`.
    """
    path = _kept(digest_of(classifier), export_path(classifier, to))
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


def _is_export_of(path: Path, model: Classifier) -> bool:
    """Whether an exported file was made from this model; never, if the model has no file, unless it is ImageNet's."""
    try:
        about = load_exported(path).about
    except ModelFileError:
        return False
    if model.manifest.run == IMAGENET:
        return about.model == IMAGENET
    return model.manifest.sha256 is not None and about.model_sha256 == model.manifest.sha256
