"""Detector files: what tells other things from a model's classes, beside the model; data, and no code."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from imgclassify.atomic import replacing
from imgclassify.data.download import file_sha256
from imgclassify.models.familiarity import KINDS, LAST, MOST, Detector, layer_outputs
from imgclassify.progress import Progress

_MOST_BYTES = 20_000_000  # unpacked; ours have at most 5 MB
_MOST_CLASSES = 100  # of "boundaries", whose memory grows with their square


def detector_path(model: Path) -> Path:
    """Where the detector of a model file is."""
    return model.with_suffix(".familiarity.npz")


def write_detector(model: Path, detector: Detector | None, sha256: str | None) -> None:
    """Write the detector of the model file with this checksum, whole or not at all; without one, remove an old one."""
    path = detector_path(model)
    if detector is None:
        path.unlink(missing_ok=True)
        return
    about = json.dumps({"model": sha256, "kind": detector.kind, "layers": detector.layers})
    arrays: dict[str, Any] = {"about": np.array(about)}
    arrays |= {f"reference{number}": each for number, each in enumerate(detector.references)}
    arrays |= {f"known{number}": each for number, each in enumerate(detector.known)}
    with replacing(path, lasting=True) as part, part.open("wb") as file:
        np.savez(file, **arrays)


def read_detector(model: Path, network) -> Detector | None:
    """The detector of a model file with this network; None if there is none, or, which is said, none of use."""
    path = detector_path(model)
    if not path.exists():
        return None
    try:
        detector = _read(path, file_sha256(model))
        if [each.shape[-1] for each in layer_outputs(network, detector.layers)] != detector.widths:
            raise ValueError("its layers are not those of the network")
        return detector
    except Exception as error:  # numpy, zipfile, json and Keras raise many kinds for a damaged file
        problem = f"{error!s:.100}" or type(error).__name__
        Progress().say(f"{path} cannot be used ({problem}): pictures of other things are not recognised as such.")
        return None


def _read(path: Path, sha256: str) -> Detector:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _MOST_BYTES:
            raise ValueError("it is too large")
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].item())
        if about["model"] != sha256:
            raise ValueError("it belongs to another model")
        kind, layers = about["kind"], tuple(map(str, about["layers"]))
        arrays = {name: file[name] for name in file.files if name != "about"}
    references = tuple(arrays[f"reference{number}"] for number in range(len(layers)))
    known = tuple(arrays[f"known{number}"] for number in range(len(layers) + 1))
    numbers = all(each.dtype in (np.float16, np.float32) and np.isfinite(each).all() for each in references)
    numbers = numbers and all(each.dtype == np.float32 and np.isfinite(each).all() for each in known)
    lengths = [(each.ndim, 0 < len(each) <= MOST) for each in (*references, *known)]
    shapes = lengths == [(2, True)] * len(references) + [(1, True)] * len(known)
    if kind not in KINDS or not layers or len(set(layers)) < len(layers) or not shapes or not numbers:
        raise ValueError("its arrays are not as expected")
    if kind == "boundaries" and (layers != (LAST,) or not 3 <= len(references[0]) <= _MOST_CLASSES + 1):
        raise ValueError("its classes are not as expected")
    return Detector(kind, layers, references, known)
