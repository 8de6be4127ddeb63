"""Model files: read and write a network and its manifest."""

import io
import os
import zipfile
from dataclasses import replace as with_changes
from pathlib import Path

import numpy as np

from imgclassify import backend
from imgclassify.atomic import replacing
from imgclassify.data.download import file_sha256
from imgclassify.models.networks import with_temperatures
from imgclassify.runs.manifest import Manifest, ModelFileError, manifest_path, read_manifest, strict_json
from imgclassify.runs.safety import UnsafeModelError, check_file, check_network

MODEL_SUFFIXES = (".keras", ".h5")


def read_model(path: Path) -> tuple[object, Manifest]:
    """The network in a `.keras` or `.h5` file, and its manifest.

    Nothing in the file is executed: it is checked as data first, and only layers and functions on a list of ours are
    built; see `check_file`.

    Returns:
        A `keras.Model` in float32, compiled for Keras' own `evaluate()`, and the manifest.

    Raises:
        ModelFileError: It is damaged, does not match its manifest, carries code, or is no picture classifier.
    """
    manifest = read_manifest(path)
    if manifest.sha256 is not None and manifest.sha256 != file_sha256(path):
        raise ModelFileError(
            f"{path} is not the file that {manifest_path(path).name} describes: it is damaged or was replaced. "
            "Restore it, or delete the manifest to load the file without it."
        )
    keras = backend.keras()
    try:
        check_file(path)
        network = keras.models.load_model(path, compile=False, safe_mode=True)
        check_network(network)
    except UnsafeModelError as error:
        raise ModelFileError(f"{path} {error}.") from error
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # Keras, h5py and zipfile raise many kinds for a damaged file
        written = f", written with Keras {manifest.versions['keras']}" if "keras" in manifest.versions else ""
        why = f"it is damaged or of another version. ({type(error).__name__}: {error}".splitlines()[0][:240]
        raise ModelFileError(f"{path} cannot be loaded with Keras {keras.__version__}{written}: {why})") from error
    if manifest.outside_temperatures:
        network = with_temperatures(network, manifest.outside_temperatures)
        manifest = with_changes(manifest, outside_temperatures=())
    # An optimizer without a state: plain Keras warns on loading a file that should hold one and does not.
    network.compile("sgd", loss="categorical_crossentropy", metrics=["accuracy"])
    return network, manifest


def write_model(
    network, manifest: Manifest, path: str | os.PathLike, *, replace: bool = False, half: bool = False
) -> Manifest:
    """Write a network and its manifest, each whole or not at all.

    Args:
        network: A float32 Keras model; not modified.
        manifest: What is known of it.
        path: A `.keras` or `.h5` file; its folder is created. The manifest goes beside it as `.json`.
        replace: Whether an existing file may be overwritten.
        half: Whether weights are stored as float16, in half the space; for `.keras`. They load as float32, rounded.

    Returns:
        The manifest as written, with the file's SHA-256.

    Raises:
        ModelFileError: The file exists and `replace` is False, or has another suffix.
    """
    from absl import logging

    path = check_target(path, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Both are written before either takes its place; only a crash between the two replacements can part them.
    with replacing(manifest_path(path)) as text, replacing(path) as part:
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)  # .h5 is Keras' older format, and chosen on purpose
        try:
            network.save(part, include_optimizer=False)
        finally:
            logging.set_verbosity(verbosity)
        if half:
            _halve(part)
        manifest = with_changes(manifest, sha256=file_sha256(part))
        text.write_text(strict_json(manifest) + "\n", encoding="utf-8")
    return manifest


def _halve(path: Path) -> None:
    """Store the float32 weights of a `.keras` file as float16."""
    import h5py

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights, smaller = "model.weights.h5", io.BytesIO()
    with h5py.File(io.BytesIO(members[weights])) as full, h5py.File(smaller, "w") as half:

        def copy(name: str, item) -> None:
            if isinstance(item, h5py.Group):
                half.require_group(name).attrs.update(item.attrs)
            else:
                half.create_dataset(name, data=item[()].astype(np.float16) if item.dtype == np.float32 else item[()])

        full.visititems(copy)
    members[weights] = smaller.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)


def check_target(path: str | os.PathLike, *, replace: bool = False) -> Path:
    """`path` as a place for a model; raises `ModelFileError` if it cannot be one, before work is spent on it."""
    path = Path(path).expanduser()
    if path.suffix not in MODEL_SUFFIXES:
        raise ModelFileError(f"A model file ends in {' or '.join(MODEL_SUFFIXES)}. Received: {path}")
    if path.exists() and not replace:
        raise ModelFileError(f"{path} exists already and is not overwritten: use replace=True, or choose another name.")
    return path
