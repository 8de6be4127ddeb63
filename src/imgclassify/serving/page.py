"""The page without a server: a folder with a model and all that a browser needs to run it, for any web space."""

import gzip
import hashlib
import os
from dataclasses import asdict
from pathlib import Path

from imgclassify.atomic import replacing
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import Dataset
from imgclassify.progress import Progress
from imgclassify.runs.manifest import ModelFileError, strict_json
from imgclassify.serving.exported import ExportedModel
from imgclassify.serving.lookup import kept_export
from imgclassify.settings import PACKAGE

_WEB, _RUNTIME = PACKAGE / "serving" / "web", "ort-wasm-simd-threaded.wasm.gz"
# ONNX Runtime Web is in the package, so that a page can be written without a network; see web/README.md.
_COPIED = ("index.html", "page.js", "classifier.js", "prepare.js", "ort.wasm.bundle.min.mjs", _RUNTIME)
_STYLES = (PACKAGE / "style.css", PACKAGE / "serving" / "card.css", _WEB / "page.css")
_SCRIPT = PACKAGE / "widgets" / "element.js"  # what page.js begins with, as the scripts of the widgets do


def write_page(model, folder: str | os.PathLike, *, data: Dataset | None = None, replace: bool = False) -> Path:
    """Write a page on which anybody can use a model: upload, drop, paste, camera; answers are computed in the browser.

    The folder can be put on any web space; the pictures that people classify never leave their devices. The model is
    exported in eight bits, which makes the download smaller; if its answers change too much by that, in float32.

    Args:
        model: An `ExportedModel` in an `.onnx` file, a `Classifier`, or a Keras model.
        folder: Where to write the page; created if it does not exist.
        data: As for `export_model`.
        replace: Whether a page that is there may be replaced; other files in the folder stay.

    Returns:
        The path of its index.html.

    Raises:
        ModelFileError: The folder is not empty and `replace` is False, or is a file, or the model cannot be exported.
    """
    folder = Path(folder).expanduser()
    if folder.is_file():
        raise ModelFileError(f"{folder} is a file, expected a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not replace:
        raise ModelFileError(f"{folder} exists and is not empty: use replace=True (--replace), or another folder.")
    exported = model if isinstance(model, ExportedModel) else _small(model, data)
    if exported.file.suffix != ".onnx":
        raise ModelFileError(f"A page needs an .onnx file. Received: {exported.file}")
    packed = gzip.compress(exported.file.read_bytes(), mtime=0)
    contents = {name: (_WEB / name).read_bytes() for name in _COPIED}
    contents["page.js"] = _SCRIPT.read_bytes() + contents["page.js"]
    contents["page.css"] = b"".join(path.read_bytes() for path in _STYLES)
    contents["model.onnx.gz"] = packed
    sizes = {"model": len(packed), "runtime": len(contents[_RUNTIME])}
    facts = {"bytes": sizes, "checksum": hashlib.sha256(packed).hexdigest()[:16]}
    contents["about.json"] = strict_json(asdict(exported.about) | facts).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        with replacing(folder / name) as part:
            part.write_bytes(content)
    return folder / "index.html"


def _small(model, data: Dataset | None) -> ExportedModel:
    """A model's ONNX file in eight bits if its answers are near enough, else in float32."""
    classifier = Classifier.of(model)
    try:
        return kept_export(classifier, "onnx-int8", data=data)
    except ModelFileError as error:
        Progress().say(f"{error} It is used in float32.")
        return kept_export(classifier, "onnx", data=data)
