"""What is none of a model's classes: detectors that are fitted, and scores that are compared."""

import re

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from imgclassify import backend, predict_image
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import named_parts
from imgclassify.data.splits import folds
from imgclassify.evaluation.unknown import Separation, _separation, as_thumbnails, compare_scores, detector_from
from imgclassify.models.backbones import BACKBONE, FEATURES
from imgclassify.models.familiarity import LAST
from imgclassify.models.inference import predict_probabilities
from imgclassify.models.networks import build_model, with_temperatures
from imgclassify.runs.manifest import Manifest
from imgclassify.visualization import plot_prediction, plot_separation


def waves(count: int, length: int, seed: int) -> np.ndarray:
    """Pictures of waves of this length in any direction and colour."""
    random, y, x = np.random.default_rng(seed), *np.mgrid[:32, :32]
    angles, phases = random.uniform(0, 2 * np.pi, (2, count, 1, 1))
    shape = np.sin(2 * np.pi * (np.cos(angles) * x + np.sin(angles) * y) / length + phases)
    colours = random.uniform(20, 100, (count, 1, 1, 3))
    return (128 + colours * shape[..., None]).astype(np.uint8)


@pytest.fixture(scope="module")
def data():
    """Long waves: two classes at random, for nothing is learned here."""
    parts = waves(400, 16, 0), np.arange(400) % 2, waves(200, 16, 1), np.arange(200) % 2
    return named_parts(parts, name="waves", source="made-up waves", class_names=("even", "odd"))


@pytest.fixture(scope="module")
def classifier(data):
    backend.set_seed(0)
    network = with_temperatures(build_model("airbench", num_classes=2), (0.9, 1.2))
    detector = detector_from(network, "airbench", data.x_train[:300], data.x_train[300:])
    return Classifier(network, Manifest(class_names=data.class_names), detector=detector)


def test_known_pictures_pass_and_others_do_not(classifier, data):
    _, familiarity = classifier.with_familiarity(data.x_test)
    assert (familiarity >= 0.05).mean() == pytest.approx(0.95, abs=0.1)
    _, familiarity = classifier.with_familiarity(waves(100, 3, 2))
    assert (familiarity >= 0.05).mean() < 0.1


def test_a_prediction_says_that_it_is_none_of_the_classes(classifier, data):
    other = predict_image(classifier, waves(1, 3, 2)[0])
    assert not other.known
    assert other.label in data.class_names
    assert re.fullmatch(r"none of its classes; nearest: (even|odd) [\d.]+%, (even|odd) [\d.]+%", str(other))
    assert 'class="verdict">none of its classes<' in other._repr_html_()
    assert f">nearest: {other.label}<" in other._repr_html_()
    assert 'class="bars plain"' in other._repr_html_()
    assert plot_prediction(other).axes[-1].get_title() == f"none of its classes; nearest: {other.label}"
    label, confidence = other
    assert (label, confidence) == (other.label, other.confidence)


def test_a_prediction_of_a_known_picture_looks_as_it_always_did(classifier, data):
    known = next(each for each in map(classifier.answer, data.x_test) if each.familiarity > 0.5)
    assert known.known
    assert re.fullmatch(r"(even|odd) [\d.]+%, (even|odd) [\d.]+%", str(known))
    assert f'class="verdict">{known.label}<' in known._repr_html_()
    assert "none of" not in known._repr_html_()


def test_without_a_detector_everything_is_known(classifier, data):
    plain = Classifier(classifier.network, classifier.manifest)
    prediction = plain.answer(waves(1, 3, 2)[0])
    assert (prediction.known, prediction.familiarity) == (True, None)
    with pytest.raises(ValueError, match="has no detector"):
        plain.with_familiarity(data.x_test)


def test_too_few_pictures_give_no_detector(classifier, data):
    assert detector_from(classifier.network, "airbench", data.x_train[:300], data.x_train[300:339]) is None
    assert detector_from(classifier.network, "airbench", data.x_train[:300], data.x_train[300:340]) is not None


def test_a_network_that_diverged_gives_no_detector(data):
    network = build_model("airbench", num_classes=2)
    network.set_weights([np.full_like(weights, np.nan) for weights in network.get_weights()])
    assert detector_from(network, "airbench", data.x_train[:300], data.x_train[300:]) is None


def test_of_a_backbone_the_features_are_looked_at_and_folds_add_known_pictures():
    network = build_model(BACKBONE, input_shape=(96, 96, 3), num_classes=2)
    features = np.random.default_rng(0).random((60, 1280)).astype(np.float32)
    parts = folds(np.arange(60) % 2, count=4)
    assert detector_from(network, BACKBONE, features, features[:5], begin=FEATURES) is None
    detector = detector_from(network, BACKBONE, features, features[:5] + 9, begin=FEATURES, folds=parts)
    assert (detector.kind, detector.layers) == ("neighbours", (LAST,))
    assert [each.shape for each in detector.references] == [(60, 1280)]
    assert len(detector.known[0]) == 65
    # Each photo is compared with those of the other folds, never with itself.
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    train, held = parts[0]
    expected = np.sort(units[held] @ units[train].T, axis=1)[:, -10]
    assert all(np.abs(detector.known[0] - each).min() < 1e-3 for each in expected)
    assert detector.known[0].max() < 0.999


def test_scores_are_compared_on_the_same_pictures(classifier, data):
    outsiders = {"short waves": waves(80, 3, 3), "the same": waves(80, 16, 4)}
    scores = compare_scores(classifier, data, outsiders, count=150)
    assert list(scores) == [
        "maximum softmax",
        "energy",
        "Mahalanobis distance",
        "nearest neighbours",
        "decision boundaries",
        "its detector",
    ]
    for row in scores.values():
        assert list(row) == ["test pictures", "short waves", "the same"]
        assert row["test pictures"].auroc == pytest.approx(0.5)
        assert row["test pictures"].passed == pytest.approx(0.95, abs=0.15)
        assert row["the same"].auroc == pytest.approx(0.5, abs=0.15)
    assert scores["its detector"]["short waves"].auroc > 0.95
    _, familiarity = classifier.with_familiarity(outsiders["short waves"])
    _, known = classifier.with_familiarity(data.x_test[:150])
    pairs_won = mannwhitneyu(known, familiarity).statistic / (150 * 80)
    assert scores["its detector"]["short waves"].auroc == pytest.approx(pairs_won)
    probabilities = [
        predict_probabilities(build_plain(classifier), x) for x in (data.x_test[:150], outsiders["the same"])
    ]
    pairs_won = mannwhitneyu(*(each.max(axis=1) for each in probabilities)).statistic / (150 * 80)
    assert scores["maximum softmax"]["the same"].auroc == pytest.approx(pairs_won, abs=1e-3)


def build_plain(classifier):
    """The network without its temperatures."""
    logits = classifier.network.get_layer("logits").output
    return backend.keras().Model(classifier.network.inputs[0], backend.keras().layers.Softmax()(logits))


def test_separation_by_hand():
    scores = {"test pictures": np.array([3.0, 5.0]), "validation": np.linspace(0, 1, 21) * 4}  # threshold: 0.2
    assert _separation(scores, np.array([4.0, 0.1])) == Separation(0.75, 0.5)
    assert _separation(scores, np.array([5.0, 3.0])) == Separation(0.5, 1.0)


def test_thumbnails_are_cut_shrunk_and_stored_as_jpeg():
    wide = np.zeros((100, 300, 3), np.uint8)
    wide[:, 100:200] = 200
    made = as_thumbnails([wide, wide[:50]], 24)
    assert (made.shape, made.dtype) == ((2, 24, 24, 3), np.uint8)
    assert np.abs(made[0].astype(int) - 200).max() < 20
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    assert 5 < np.abs(as_thumbnails([noise], 24)[0].astype(int) - noise).mean() < 60


def test_the_figure_shows_every_score_of_every_kind():
    row = {"test pictures": Separation(0.5, 0.95), "noise": Separation(0.987, 0.02), "digits": Separation(0.6, 0.9)}
    axes = plot_separation({"energy": row, "its detector": row}, title="A title").axes[0]
    assert [each.get_text() for each in axes.texts] == ["0.987\n2% pass", "0.600\n90% pass"] * 2
    assert [each.get_text() for each in axes.get_yticklabels()] == ["energy", "its detector"]
    assert [each.get_text() for each in axes.get_xticklabels()] == ["noise", "digits"]
    assert axes.get_title() == "A title"
