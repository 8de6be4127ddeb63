"""What all tests share: a hermetic environment, small batches made on the spot, the real data if it is available."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

os.environ["MPLBACKEND"] = "Agg"  # before any test module imports matplotlib

# Where the person who runs the tests keeps the real data; the tests themselves see none of it.
_OWN_FOLDERS = ("IMGCLASSIFY_DATA_DIR", "IMGCLASSIFY_CACHE_DIR", "KERAS_HOME")
_USERS_OWN = {name: os.environ.get(name) for name in _OWN_FOLDERS}
_UNSET = ("IMGCLASSIFY_DATA_DIR", "IMGCLASSIFY_SHORT", "IMGCLASSIFY_DATASET", "IMGCLASSIFY_CIFAR10_URL")


@pytest.fixture(autouse=True)
def hermetic(monkeypatch, tmp_path):
    """No network, no settings or folders of the user: caches and artifacts go to this test's `tmp_path`."""
    for name in _UNSET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("IMGCLASSIFY_OFFLINE", "1")
    monkeypatch.setenv("IMGCLASSIFY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path / "artifacts"))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture(scope="session")
def cifar10():
    """The real CIFAR-10 as a `Dataset`, loaded once, offline, from where the user has it; else a skip."""
    from imgclassify.data.dataset import DatasetError
    from imgclassify.data.loading import load_dataset
    from imgclassify.progress import Progress

    with pytest.MonkeyPatch.context() as patch:
        for name in _UNSET:
            patch.delenv(name, raising=False)
        for name, value in _USERS_OWN.items():
            if value:
                patch.setenv(name, value)
            else:
                patch.delenv(name, raising=False)
        try:
            return load_dataset("cifar10", offline=True, progress=Progress(enabled=False))
        except DatasetError as error:
            if "CIFAR-10 was not found" not in str(error):
                raise  # it is there, but damaged
            pytest.skip("no real CIFAR-10 at hand (IMGCLASSIFY_DATA_DIR or the cache), so nothing is tested on it")


@pytest.fixture(scope="session")
def cifar10_settings(cifar10):
    """Environment variables under which another process finds the real CIFAR-10; skips where there is none."""
    return {name: value for name, value in _USERS_OWN.items() if value}


@pytest.fixture(scope="session")
def write_batches() -> Callable[..., Path]:
    """`write_batches(folder, rows=20, seed=0)` writes six small batches like CIFAR-10; returns their folder.

    The labels cycle through all ten classes, so 20 rows hold two pictures of each; pixels are random.
    """

    def write(folder: Path, rows: int = 20, seed: int = 0) -> Path:
        batches = Path(folder) / "cifar-10-batches-py"
        batches.mkdir(parents=True)
        rng = np.random.default_rng(seed)
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            pixels = rng.integers(0, 256, (rows, 3072), dtype=np.uint8)
            labels = [row % 10 for row in range(rows)]
            (batches / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2))
        return batches

    return write


@pytest.fixture
def nothing_shipped(monkeypatch, tmp_path):
    """Hides the models that the project ships: only those of the test's artifacts folder are found."""
    monkeypatch.setattr("imgclassify.settings.PACKAGE", tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quiet():
    """A `Progress` that shows only what must be said."""
    from imgclassify.progress import Progress

    return Progress(enabled=False)


@pytest.fixture(scope="session")
def tiny():
    """A `Dataset` of 60 + 30 made-up, quickly learned pictures of three classes: red, green or blue."""
    from imgclassify.data.dataset import named_parts

    rng = np.random.default_rng(0)

    def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 3
        pixels = rng.integers(0, 90, (count, 32, 32, 3))
        pixels[np.arange(count), :, :, labels] += 120
        return pixels.astype(np.uint8), labels

    arrays = (*pictures(60), *pictures(30))
    names = ("red", "green", "blue")
    return named_parts(arrays, name="tiny", source="made-up colours", class_names=names)


@pytest.fixture(scope="session")
def tiny_run(tiny, tmp_path_factory):
    """A finished training on `tiny`: its `model` (a `Classifier`), `history` and run `folder`."""
    from imgclassify.progress import Progress
    from imgclassify.training.train import train_model

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("IMGCLASSIFY_SHORT", raising=False)
        patch.setenv("IMGCLASSIFY_ARTIFACTS_DIR", str(tmp_path_factory.mktemp("tiny")))
        model, history = train_model("baseline", tiny, epochs=3, batch_size=16, progress=Progress(enabled=False))
        (folder,) = (Path(os.environ["IMGCLASSIFY_ARTIFACTS_DIR"]) / "runs").iterdir()
    return SimpleNamespace(model=model, history=history, folder=folder)


@pytest.fixture(scope="session")
def tiny_model(tiny_run):
    """A trained `Classifier` of `tiny`'s three classes; not to be modified."""
    return tiny_run.model


@pytest.fixture(autouse=True)
def no_figures_left():
    """Closes the figures that a test has left open: pyplot warns of more than twenty."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
