"""The backbone that ImageNet's classes guide to CIFAR-10's."""

import numpy as np
import pytest

from imgclassify import backend, build_model
from imgclassify.data.cifar import CIFAR10
from imgclassify.models.backbones import _KINDS, BACKBONE, FEATURES, GUIDED, imagenet_class_names
from imgclassify.training.features import fit_last_layer

SHAPE = (96, 96, 3)


@pytest.fixture(scope="module")
def network():
    return build_model(GUIDED, input_shape=SHAPE)


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).random((3, *SHAPE), dtype=np.float32)


def test_the_kinds_are_of_the_class_and_no_kind_is_of_two_classes():
    names = imagenet_class_names()
    examples = ("airliner", "sports car", "goldfinch", "tabby", "gazelle", "collie", "bullfrog", "sorrel", "container")
    for example, kinds in zip((*examples, "fire engine"), _KINDS, strict=True):
        assert any(example in names[kind] for kind in kinds), example
    every = [kind for kinds in _KINDS for kind in kinds]
    assert len(every) == len(set(every))
    assert len(_KINDS) == len(CIFAR10.class_names)


def test_an_untrained_one_adds_up_what_the_backbone_says_of_the_kinds(network, pictures):
    inside = np.asarray(build_model(BACKBONE, input_shape=SHAPE, num_classes=1000)(pictures))
    votes = np.stack([inside[:, list(kinds)].sum(axis=1) for kinds in _KINDS], axis=1)
    expected = np.exp(8 * votes) / np.exp(8 * votes).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(network(pictures)), expected, atol=1e-5)


def test_fitting_changes_the_weights_of_the_features_only(pictures):
    network = build_model(GUIDED, input_shape=SHAPE)
    before = network.layers[-1].get_weights()[0]
    features = backend.keras().Model(network.inputs[0], network.get_layer(FEATURES).output)(pictures)
    fit_last_layer(network, np.asarray(features), np.array([0, 1, 2]))
    after = network.layers[-1].get_weights()[0]
    np.testing.assert_array_equal(after[-10:], before[-10:])
    assert np.abs(after[:-10, :3]).max() > 0


def test_other_numbers_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"knows the ten classes of CIFAR-10\. Received: num_classes=3$"):
        build_model(GUIDED, input_shape=SHAPE, num_classes=3)
