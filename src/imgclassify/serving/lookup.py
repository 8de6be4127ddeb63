"""Lookup: the exported file that a name means, without TensorFlow unless it has to be written first."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from imgclassify.classifier import Classifier
from imgclassify.runs.manifest import Manifest, ModelFileError, read_manifest
from imgclassify.runs.names import IMAGENET, find_model
from imgclassify.serving.export import export_path
from imgclassify.serving.exported import SUFFIXES, load_exported


def exported_file(name: str, *, say: Callable[[str], object]) -> Path:
    """Path of an exported file: the name itself, or the ONNX file of the model that it means.

    If there is no such file, or it was made from another model, the model is exported, by a process of its own, so
    that TensorFlow's memory is free afterwards; needs the extra "export".

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
    path = export_path(model, "onnx")
    if is_export_of(path, model):
        return path
    say(f"{name} is exported to {path} first, which takes a minute.")
    command = [sys.executable, "-m", "imgclassify.cli", "export", name, "-o", str(path), "--replace", "--no-record"]
    ended = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        why = (ended.stderr.strip().splitlines() or ["its process was ended"])[-1]
        raise ModelFileError(f"{name} could not be exported. ({why.removeprefix('imgclassify: ')})")
    return path


def is_export_of(path: Path, model: Classifier) -> bool:
    """Whether an exported file was made from this model; never, if the model has no file, unless it is ImageNet's."""
    try:
        about = load_exported(path).about
    except ModelFileError:
        return False
    if model.manifest.run == IMAGENET:
        return about.model == IMAGENET
    return model.manifest.sha256 is not None and about.model_sha256 == model.manifest.sha256
