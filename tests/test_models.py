import numpy as np
import pytest

from imgclassify import build_model


@pytest.fixture(scope="module")
def baseline():
    return build_model()


def test_the_baseline_is_the_network_of_the_design_layer_by_layer(baseline):
    described = []
    for layer in baseline.layers:
        kind = type(layer).__name__
        if kind == "Conv2D":
            described.append((kind, layer.filters, layer.kernel_size, layer.activation.__name__))
            assert layer.padding == "valid"
            assert layer.strides == (1, 1)
        elif kind == "MaxPooling2D":
            described.append((kind, layer.pool_size))
        elif kind == "Dense":
            described.append((kind, layer.units, layer.activation.__name__))
        elif kind == "Dropout":
            described.append((kind, layer.rate))
        else:
            described.append((kind,))
    assert described == [
        ("Conv2D", 32, (3, 3), "relu"),
        ("MaxPooling2D", (2, 2)),
        ("Conv2D", 64, (3, 3), "relu"),
        ("MaxPooling2D", (2, 2)),
        ("Conv2D", 64, (3, 3), "relu"),
        ("Flatten",),
        ("Dense", 64, "relu"),
        ("Dropout", 0.5),
        ("Dense", 10, "softmax"),
    ]


def test_the_baseline_has_122570_parameters(baseline):
    assert baseline.count_params() == 122_570


def test_the_baseline_takes_cifar10_pictures_and_gives_ten_probabilities(baseline):
    assert baseline.input_shape == (None, 32, 32, 3)
    pictures = np.random.default_rng(0).random((4, 32, 32, 3), dtype=np.float32)
    output = np.asarray(baseline(pictures))
    assert output.shape == (4, 10)
    assert output.dtype == np.float32
    assert (output > 0).all()
    assert output.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)


def test_dropout_acts_in_training_only(baseline):
    pictures = np.random.default_rng(0).random((2, 32, 32, 3), dtype=np.float32)
    first, second = (np.asarray(baseline(pictures)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, np.asarray(baseline(pictures, training=True)))


def test_the_model_comes_uncompiled_and_without_a_manifest(baseline):
    assert not baseline.compiled
    assert not hasattr(baseline, "manifest")


def test_other_sizes_and_numbers_of_classes_can_be_had():
    model = build_model(input_shape=(18, 24, 1), num_classes=2)
    assert model.input_shape == (None, 18, 24, 1)
    assert model.output_shape == (None, 2)


def test_an_unknown_architecture_is_refused_with_those_that_exist():
    with pytest.raises(
        ValueError, match=r"use one of \['airbench', 'airbench-wide', 'baseline'\]\. Received: architecture='resnet'"
    ):
        build_model("resnet")


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match=rf"must be at least 2\. Received: num_classes={num_classes}"):
        build_model(num_classes=num_classes)


@pytest.mark.parametrize("input_shape", [(17, 32, 3), (32, 17, 3), (32, 32), (32, 32, 0)])
def test_pictures_too_small_for_the_pooling_are_refused(input_shape):
    with pytest.raises(ValueError, match=r"at least 18 x 18 pixels\. Received: input_shape="):
        build_model(input_shape=input_shape)
