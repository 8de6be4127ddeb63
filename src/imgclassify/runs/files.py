"""Model files: read and write a network and its manifest."""

import contextlib
import gc
import io
import os
import zipfile
from dataclasses import replace as with_changes
from pathlib import Path

import numpy as np

from imgclassify import backend
from imgclassify.atomic import replacing, sweep
from imgclassify.data.download import file_sha256
from imgclassify.models.familiarity import Detector
from imgclassify.models.networks import with_temperatures
from imgclassify.progress import Progress
from imgclassify.runs.detectors import detector_path, write_detector
from imgclassify.runs.locks import LockedError, locked
from imgclassify.runs.manifest import (
    ExportRecord,
    Manifest,
    ModelFileError,
    manifest_path,
    read_manifest,
    write_manifest,
)
from imgclassify.runs.safety import UnsafeModelError, check_file, check_network

MODEL_SUFFIXES = (".keras", ".h5")
_PATIENCE = 60  # seconds to wait for others that write or read the same model


def read_model(path: Path) -> tuple[object, Manifest]:
    """The network in a `.keras` or `.h5` file, in float32 and compiled for Keras' own `evaluate()`, and its manifest.

    Nothing in the file is executed: it is checked as data first, and only layers and functions on a list of ours are
    built; see `check_file`.

    Raises:
        ModelFileError: It is damaged, does not match its manifest, carries code, or is no picture classifier.
    """
    before = _versions(path)
    try:
        found = _read(path)
        if _versions(path) == before:
            return found
    except ModelFileError:
        if _versions(path) == before:
            raise
    try:
        with locked(_lock(path), patience=_PATIENCE):  # it was being replaced: now others have to wait
            return _read(path)
    except LockedError as error:
        raise ModelFileError(f"{path} is being written or read by others: try later.") from error


def _lock(path: Path) -> Path:
    """The lock file of those who write a model, or read it while it is written."""
    return path.with_name(f".{path.name}.lock")


def _versions(path: Path) -> list[tuple[int, ...]]:
    """What changes when the model or its manifest is replaced."""
    found = [each.stat() for each in (path, manifest_path(path)) if each.exists()]
    return [(each.st_ino, each.st_mtime_ns, each.st_size) for each in found]


def _read(path: Path) -> tuple[object, Manifest]:
    """The network and its manifest, as they are now."""
    manifest = _matching_manifest(path)
    keras = backend.keras()
    try:
        check_file(path)
        gc.collect()  # networks refer to themselves; without this, those that were dropped pile up
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


def _matching_manifest(path: Path) -> Manifest:
    """The manifest of a model file; if a kill has parted them, the new one is at hand, and takes its place."""
    manifest, coming = read_manifest(path), _coming(path)
    if manifest.sha256 is None:
        if manifest_path(path).exists():
            Progress().say(f"{manifest_path(path)} has no checksum: damage to {path.name} would not be noticed.")
        return manifest
    if manifest.sha256 == (digest := file_sha256(path)):
        return manifest
    if coming.exists() and (new := read_manifest(coming)).sha256 == digest:
        with contextlib.suppress(OSError):
            coming.replace(manifest_path(path))
        return new
    raise ModelFileError(
        f"{path} is not the file that {manifest_path(path).name} describes: it is damaged or was replaced. "
        "Restore it, or delete the manifest to load the file without it."
    )


def _coming(path: Path) -> Path:
    """Where the manifest of a model waits until the model is in its place."""
    return path.with_name(f".{path.stem}.coming.json")


def write_model(
    network,
    manifest: Manifest,
    path: str | os.PathLike,
    *,
    detector: Detector | None = None,
    replace: bool = False,
    half: bool = False,
) -> Manifest:
    """Write a network and its manifest, each whole or not at all; returns the manifest with the file's SHA-256.

    Args:
        network: A float32 Keras model; not modified.
        manifest: What is known of it.
        path: A `.keras` or `.h5` file; its folder is created. The manifest goes beside it as `.json`.
        detector: What tells other things from its classes; it goes beside the model too.
        replace: Whether an existing file may be overwritten.
        half: Whether weights are stored as float16, in half the space; for `.keras`. They load as float32, rounded.

    Raises:
        ModelFileError: The file exists and `replace` is False, or has another suffix.
    """
    path = check_target(path, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    with locked(_lock(path), patience=_PATIENCE):
        # The manifest waits beside the model until that is in its place: at every moment, one of the two manifests is
        # that of the model; see `_matching_manifest`.
        with replacing(path, lasting=True) as part:
            with backend.quiet():  # .h5 is Keras' older format, and chosen on purpose
                network.save(part, include_optimizer=False)
            if half:
                _halve(part)
            manifest = with_changes(manifest, sha256=file_sha256(part), exports={})  # those are of another file
            write_manifest(_coming(path), manifest)
        _coming(path).replace(manifest_path(path))
        try:
            write_detector(path, detector, manifest.sha256)
        except OSError as error:
            why = error.strerror or error
            Progress().say(f"{detector_path(path)} cannot be written: {why}. The model is complete without it.")
    return manifest


def record_export(path: Path, kind: str, record: ExportRecord, *, sha256: str | None) -> None:
    """Add what a model was exported to to its manifest, unless the model is no longer the one with this checksum."""
    with locked(_lock(path), patience=_PATIENCE):
        manifest = read_manifest(path)
        if manifest.sha256 == sha256:
            write_manifest(path, with_changes(manifest, exports={**manifest.exports, kind: record}))


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
