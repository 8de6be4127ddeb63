"""Detector files: what is written is read, and a damaged or foreign one is one sentence and harms nothing."""

import json
import re
import zipfile

import numpy as np
import pytest

from imgclassify import load_model
from imgclassify.classifier import Classifier
from imgclassify.models.familiarity import LAST, Detector, make_detector
from imgclassify.models.networks import build_model
from imgclassify.runs.detectors import detector_path
from imgclassify.runs.manifest import Manifest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.keras"


@pytest.fixture
def saved(path) -> Classifier:
    """A small model with a detector, saved."""
    random = np.random.default_rng(0)
    references = [random.normal(size=(5, width)).astype(np.float16) for width in (32, 64)]
    network = build_model(num_classes=3)
    first = next(layer.name for layer in network.layers if layer.name.startswith("conv2d"))
    scores = [random.random(50) for _ in range(2)]
    detector = make_detector("neighbours", [first, LAST], references, scores)
    return Classifier(network, Manifest(class_names=("a", "b", "c")), detector=detector).save(path)


def test_what_is_written_is_read(saved, path):
    found, x = load_model(path), np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), np.uint8)
    for one, other in zip(found.with_familiarity(x), saved.with_familiarity(x), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert (found.detector.kind, found.detector.layers) == (saved.detector.kind, saved.detector.layers)


def test_a_model_without_a_detector_replaces_an_old_one(saved, path):
    Classifier(saved.network, saved.manifest).save(path, replace=True)
    assert not detector_path(path).exists()
    assert load_model(path).detector is None


def test_a_manifest_without_a_checksum_or_none_at_all_loses_no_detector(saved, path):
    manifest = path.with_suffix(".json")
    manifest.write_text(re.sub('"sha256": ".*?"', '"sha256": null', manifest.read_text()))
    assert load_model(path).detector is not None
    manifest.unlink()
    assert load_model(path).detector is not None


def test_a_missing_detector_is_no_problem(saved, path, capsys):
    detector_path(path).unlink()
    assert load_model(path).detector is None
    assert capsys.readouterr().err == ""


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(detector_path(path)) as file:
        return dict(file)


def rewrite(path, **changes) -> None:
    np.savez(detector_path(path), **{name: each for name, each in (arrays(path) | changes).items() if each is not None})


def about(path, old: str, new: str) -> np.ndarray:
    return np.array(arrays(path)["about"].item().replace(old, new))


DAMAGE = {
    "cut off": lambda path: detector_path(path).write_bytes(detector_path(path).read_bytes()[:-100]),
    "no archive": lambda path: detector_path(path).write_bytes(b"PK" + b"\0" * 500),
    "empty": lambda path: detector_path(path).write_bytes(b""),
    "without a layer": lambda path: rewrite(path, reference1=None),
    "without the known pictures": lambda path: rewrite(path, known2=None),
    "another width": lambda path: rewrite(path, reference1=np.ones((5, 63), np.float16)),
    "too many axes": lambda path: rewrite(path, reference1=np.ones((5, 64, 1), np.float16)),
    "no pictures": lambda path: rewrite(path, reference1=np.ones((0, 64), np.float16)),
    "texts": lambda path: rewrite(path, reference1=np.full((5, 64), "x")),
    "not finite": lambda path: rewrite(path, known0=np.full(50, np.nan, np.float32)),
    "a pickle": lambda path: rewrite(path, known0=np.array([Trap(path.with_name("trap"))], object)),
    "half known": lambda path: rewrite(path, known0=np.zeros(50, np.float16)),
    "nothing known": lambda path: rewrite(path, known0=np.zeros(0, np.float32)),
    "too much known": lambda path: rewrite(path, known0=np.zeros(2_000_000, np.float32)),
    "too many pictures": lambda path: rewrite(path, reference1=np.ones((3000, 64), np.float16)),
    "a layer twice": lambda path: rewrite(path, about=about(path, '"conv2d', f'"{LAST}", "conv2d')),
    "no classes": lambda path: boundaries(path, 1),
    "one class": lambda path: boundaries(path, 2),
    "too many classes": lambda path: boundaries(path, 2000),
    "another kind": lambda path: rewrite(path, about=about(path, "neighbours", "guess")),
    "another layer": lambda path: rewrite(path, about=about(path, "conv2d", "no_layer")),
    "no JSON": lambda path: rewrite(path, about=np.array("{")),
    "a list": lambda path: rewrite(path, about=np.array("[]")),
}


def boundaries(path, rows: int) -> None:
    """A detector of the other kind, with so many rows."""
    said = json.dumps(json.loads(arrays(path)["about"].item()) | {"kind": "boundaries", "layers": [LAST]})
    rewrite(path, about=np.array(said), reference0=np.ones((rows, 65), np.float32))


class Trap:
    """Creates a file if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_detector_is_one_sentence_and_the_model_still_answers(damage, saved, path, capsys):
    damage(path)
    found = load_model(path)
    assert found.detector is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not path.with_name("trap").exists()
    assert f"{detector_path(path)} cannot be used (" in said
    assert "pictures of other things are not recognised as such." in said
    prediction = found.predict(np.zeros((40, 40, 3), np.uint8))
    assert (prediction.known, prediction.familiarity) == (True, None)


def test_a_detector_of_another_model_is_not_used(saved, path, tmp_path, capsys):
    other = Classifier(saved.network, Manifest(class_names=("x", "y", "z"), seed=1), detector=saved.detector)
    other.network.layers[-1].set_weights([weights + 1 for weights in other.network.layers[-1].get_weights()])
    other.save(tmp_path / "other.keras")
    detector_path(tmp_path / "other.keras").replace(detector_path(path))
    assert load_model(path).detector is None
    assert "it belongs to another model" in capsys.readouterr().err


def test_a_bomb_is_not_unpacked(saved, path, capsys):
    with zipfile.ZipFile(detector_path(path), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("about.npy", bytes(30_000_000))
    assert load_model(path).detector is None
    assert "it is too large" in capsys.readouterr().err


def test_a_full_disk_loses_the_detector_only(path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    random, network = np.random.default_rng(0), build_model(num_classes=3)
    reference = random.normal(size=(5, 64)).astype(np.float16)
    detector: Detector = make_detector("neighbours", [LAST], [reference], [random.random(50)])
    monkeypatch.setattr(np, "savez", full)
    Classifier(network, Manifest(class_names=("a", "b", "c")), detector=detector).save(path)
    full = f"{detector_path(path)} cannot be written: No space left on device. The model is complete without it."
    assert full in capsys.readouterr().err
    assert load_model(path).class_names == ("a", "b", "c")
    assert not list(path.parent.glob(".*npz"))
