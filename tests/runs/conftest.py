"""What the tests of runs share: records and published models made of a few bytes, and a network of few weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imgclassify import backend
from imgclassify.settings import artifacts_dir

TRAINED = {
    "status": "complete",
    "recipe": {"name": "baseline", "epochs": 2, "batch_size": 64},
    "seed": 0,
    "share": 0.5,
    "precision": "float32",
    "dataset": {"source": "CIFAR-10"},
    "wall_time_s": 90.0,
    "history": {"loss": [1.0, 0.9]},
    "metrics": {"val_accuracy": 0.5},
}


def _write(model: Path, manifest: dict | bytes | None, is_there: bool) -> Path:
    model.parent.mkdir(parents=True, exist_ok=True)
    if is_there:
        model.touch()
    if manifest is not None:
        content = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        model.with_suffix(".json").write_bytes(content)
    return model


@pytest.fixture
def record() -> Callable[..., Path]:
    """`record(name, **manifest)` makes a run, trained as usual except for these values; returns its folder.

    `model` says whether there is a model file, which is empty; `content` is a manifest as bytes.
    """

    def make(name: str, *, model: bool = False, content: bytes | None = None, **manifest) -> Path:
        path = artifacts_dir() / "runs" / name / "model.keras"
        return _write(path, TRAINED | manifest if content is None else content, model).parent

    return make


@pytest.fixture
def published() -> Callable[..., Path]:
    """`published(name, **manifest)` makes a published model, an empty file; without values, it has no manifest."""

    def make(name: str, *, content: bytes | None = None, folder: Path | None = None, **manifest) -> Path:
        return _write((folder or artifacts_dir()) / name, content or manifest or None, True)

    return make


@pytest.fixture(scope="session")
def small():
    """A plain Keras model of few weights: three classes, and pictures like CIFAR-10's; not to be modified."""
    keras = backend.keras()
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((32, 32, 3)), layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    )
