"""Detectors: their scores against numpy, the p-values, and what they look at."""

import numpy as np
import pytest

from imgclassify import backend
from imgclassify.models.familiarity import (
    KINDS,
    LAST,
    layer_outputs,
    layers_to_watch,
    make_detector,
    score,
    unit,
)
from imgclassify.models.inference import predict_probabilities, predict_with_familiarity
from imgclassify.models.networks import build_model, with_temperatures


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_neighbours_is_the_cosine_to_the_tenth_nearest(random):
    values, reference = random.normal(size=(5, 7)).astype(np.float32), random.normal(size=(40, 7)).astype(np.float32)
    cosines = values @ reference.T / np.outer(*(np.linalg.norm(each, axis=1) for each in (values, reference)))
    found = score("neighbours", values, unit(reference).numpy())
    assert found.numpy() == pytest.approx(np.sort(cosines, axis=1)[:, -10], abs=1e-6)


def test_of_few_training_pictures_the_farthest_counts():
    found = score("neighbours", np.array([[2.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    assert found.numpy() == pytest.approx([0])


def test_boundaries_is_the_mean_distance_to_them_over_that_to_the_mean(random):
    values, mean = random.normal(size=(6, 4)).astype(np.float32), random.normal(size=4).astype(np.float32)
    kernel, bias = random.normal(size=(4, 3)).astype(np.float32), random.normal(size=3).astype(np.float32)
    expected = []
    for each in values:
        logits = each @ kernel + bias
        best = logits.argmax()
        # The distance from a point to the plane on which the logits of two classes are equal.
        distances = [
            (logits[best] - logits[other]) / np.linalg.norm(kernel[:, best] - kernel[:, other])
            for other in range(3)
            if other != best
        ]
        expected.append(np.mean(distances) / np.linalg.norm(each - mean))
    reference = np.vstack([np.append(mean, 0), np.column_stack([kernel.T, bias])])
    assert score("boundaries", values, reference).numpy() == pytest.approx(expected, rel=1e-5)


def test_familiarity_of_known_pictures_is_evenly_spread_for_one_layer_and_for_several(random):
    reference = unit(random.normal(size=(50, 6)).astype(np.float32)).numpy()
    for count in (1, 3):
        known = [random.normal(size=(400, 6)).astype(np.float32) for _ in range(count)]
        scores = [score("neighbours", each, reference).numpy() for each in known]
        detector = make_detector("neighbours", [LAST] * count, [reference] * count, scores)
        familiarity = np.sort(detector.familiarity(known).numpy())
        assert familiarity == pytest.approx((np.arange(400) + 2) / 401, abs=0.02)
        new = [random.normal(size=(2000, 6)).astype(np.float32) for _ in range(count)]
        assert (detector.familiarity(new).numpy() < 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_what_is_far_from_all_training_pictures_is_unfamiliar(random):
    near, far = np.eye(4, dtype=np.float32)[[0] * 60], np.eye(4, dtype=np.float32)[[1] * 3]
    near = near + 0.1 * random.normal(size=near.shape).astype(np.float32)
    reference = unit(near[:30]).numpy()
    detector = make_detector("neighbours", [LAST], [reference], [score("neighbours", near[30:], reference).numpy()])
    assert detector.familiarity([far]).numpy() == pytest.approx([1 / 31] * 3)


def test_nan_is_unfamiliar():
    detector = make_detector("neighbours", [LAST], [np.eye(3, dtype=np.float32)], [np.linspace(0, 1, 99)])
    assert detector.familiarity([np.full((1, 3), np.nan, np.float32)]).numpy() == pytest.approx([0.01])


@pytest.mark.parametrize(
    ("architecture", "widths"),
    [("baseline", [32, 64, 64, 64]), ("airbench", [24, 64, 64, 192, 192, 192, 240, 240, 240, 240])],
)
@pytest.mark.parametrize("temperatures", [(), (0.8, 1.5)])
def test_all_nonlinear_layers_are_looked_at_and_calibration_is_not(architecture, widths, temperatures):
    network = with_temperatures(build_model(architecture, num_classes=3), temperatures)
    names = layers_to_watch(network, last_only=False)
    assert names[-1] == LAST
    assert [each.shape[-1] for each in layer_outputs(network, names)] == widths
    assert layers_to_watch(network, last_only=True) == [LAST]


def test_feature_maps_count_by_their_means(random):
    network = build_model(num_classes=3)
    name = layers_to_watch(network, last_only=False)[0]
    x = random.random((2, 32, 32, 3)).astype(np.float32)
    keras = backend.keras()
    maps, means = (
        keras.Model(network.inputs[0], output)(x)
        for output in (network.get_layer(name).output, layer_outputs(network, [name])[0])
    )
    assert np.asarray(means) == pytest.approx(np.asarray(maps).mean(axis=(1, 2)), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("views", [1, 2, 6])
def test_probabilities_stay_the_same_bit_for_bit_beside_the_familiarity(kind, views, random):
    network = build_model(num_classes=3)
    reference = random.normal(size=(4, 64 + (kind == "boundaries"))).astype(np.float32)
    detector = make_detector(kind, [LAST], [reference], [np.linspace(-1, 1, 100)])
    assert detector.widths == [64]
    x = random.integers(0, 256, (600, 32, 32, 3), np.uint8)
    probabilities, familiarity = predict_with_familiarity(network, x, detector, views=views)
    assert (probabilities == predict_probabilities(network, x, views=views)).all()
    (outputs,) = layer_outputs(network, [LAST])
    features = np.asarray(backend.keras().Model(network.inputs[0], outputs)(x / np.float32(255)))
    assert familiarity == pytest.approx(detector.familiarity([features]).numpy(), abs=0.011)
    assert familiarity.shape == (600,)
