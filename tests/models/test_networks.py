import numpy as np
import pytest
from scipy.special import softmax

from imgclassify import backend, build_model
from imgclassify.models.networks import PREPROCESSING, whiten, with_temperatures


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


def test_a_new_network_is_not_compiled(baseline, airbench):
    assert not baseline.compiled
    assert not airbench.compiled


@pytest.mark.parametrize("architecture", ["baseline", "airbench"])
def test_other_sizes_and_numbers_of_classes_are_possible(architecture):
    model = build_model(architecture, input_shape=(18, 24, 1), num_classes=2)
    assert model.input_shape == (None, 18, 24, 1)
    assert model.output_shape == (None, 2)


def test_an_unknown_architecture_is_refused_with_those_that_exist():
    with pytest.raises(
        ValueError, match=r"\['airbench', 'baseline', 'efficientnet-lite0', .*\]\. Received: architecture='resnet'"
    ):
        build_model("resnet")


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match=rf"at least 2\. Received: num_classes={num_classes}"):
        build_model(num_classes=num_classes)


@pytest.mark.parametrize("input_shape", [(17, 32, 3), (32, 17, 3), (32, 32), (32, 32, 0)])
def test_pictures_too_small_for_the_pooling_are_refused(input_shape):
    with pytest.raises(ValueError, match=r"at least 18 x 18 pixels\. Received: input_shape="):
        build_model(input_shape=input_shape)


def test_every_architecture_says_how_its_pictures_are_prepared(baseline, airbench):
    for model in (baseline, airbench):
        assert model.input_shape[1:3] == (PREPROCESSING[model.name].size,) * 2


# --- airbench --------------------------------------------------------------------------------------


def test_airbench_has_2283336_parameters_and_its_whitening_is_fixed(airbench):
    assert airbench.count_params() == 2_283_336
    assert airbench.count_params() * 4 < 10_000_000  # bytes, to be shipped
    fixed = sum(weights.size for weights in airbench.get_layer("whitening").get_weights())
    assert fixed == 12 * 24 + 24


def test_airbench_is_made_of_standard_keras_layers_and_ends_in_probabilities(airbench, pictures):
    assert all(type(layer).__module__.startswith("keras.") for layer in airbench.layers)
    output = np.asarray(airbench(pictures[:4].astype(np.float32) / 255))
    assert output.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)


def test_whitening_gives_uncorrelated_answers_of_like_size_each_with_its_negative(airbench, pictures):
    layer = airbench.get_layer("whitening")
    answers = np.asarray(layer(pictures / np.float32(255)))
    flat = answers[:, ::2, ::2].reshape(-1, 24)
    np.testing.assert_allclose(flat[:, 12:], -flat[:, :12], atol=1e-4)
    covariance = np.cov(flat[:, :12], rowvar=False)
    assert covariance - np.diag(covariance.diagonal()) == pytest.approx(0, abs=2e-2)
    assert 0.5 < covariance.diagonal().min() <= covariance.diagonal().max() < 1.05  # noise directions are damped
    assert flat[:, :12].mean(axis=0) == pytest.approx(np.zeros(12), abs=2e-2)


def test_whitening_is_not_trained(airbench):
    assert not {id(weight) for weight in airbench.get_layer("whitening").weights} & {
        id(weight) for weight in airbench.trainable_weights
    }


def test_whitening_leaves_the_baseline_alone(pictures):
    model = build_model()
    before = model.get_weights()
    whiten(model, pictures)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


# --- temperatures ------------------------------------------------------------------------------------


@pytest.fixture(params=["baseline", "airbench"])
def network(request):
    """Either architecture: the baseline's last layer has a bias, airbench's has none."""
    return request.getfixturevalue(request.param)


def logits_of(network, x: np.ndarray) -> np.ndarray:
    """Computed by hand from what enters the last layer."""
    last = network.layers[-1]
    kernel, *bias = last.get_weights()
    return np.asarray(backend.keras().Model(network.inputs[0], last.input)(x)) @ kernel + (bias[0] if bias else 0)


@pytest.mark.parametrize("temperatures", [(2.0,), (0.5, 2.0), (0.25, 1.0, 4.0)])
def test_temperatures_average_the_softmax_of_the_logits_at_each(network, pictures, temperatures):
    x = pictures[:8] / np.float32(255)
    logits = logits_of(network, x)
    expected = np.mean([softmax(logits / each, axis=1) for each in temperatures], axis=0)
    assert np.asarray(with_temperatures(network, temperatures)(x)) == pytest.approx(expected, abs=1e-5)


def test_temperatures_of_one_change_nothing(network, pictures):
    x = pictures[:8] / np.float32(255)
    assert np.asarray(with_temperatures(network, [1.0])(x)) == pytest.approx(np.asarray(network(x)), abs=1e-6)


def test_without_temperatures_a_network_stays_as_it_is(network):
    assert with_temperatures(network, ()) is network


def test_temperatures_change_no_pictures_class(network, pictures):
    x = pictures / np.float32(255)
    before, after = (np.asarray(each(x)).argmax(axis=1) for each in (network, with_temperatures(network, (0.4, 3.0))))
    assert np.array_equal(before, after)


def test_temperatures_are_standard_keras_layers_without_weights(network):
    calibrated = with_temperatures(network, (0.5, 2.0))
    assert all(type(layer).__module__.startswith("keras.") for layer in calibrated.layers)
    added = [type(layer).__name__ for layer in calibrated.layers if layer not in network.layers]
    assert sorted(each for each in added if each != "InputLayer") == [
        *("Average", "Dense", "Rescaling", "Rescaling", "Softmax", "Softmax")
    ]
    assert calibrated.count_params() == network.count_params()
    assert (calibrated.name, calibrated.input_shape, calibrated.output_shape) == (
        *(network.name, network.input_shape, network.output_shape),
    )


def test_temperatures_leave_the_original_network_alone(network, pictures):
    x = pictures[:8] / np.float32(255)
    before, kinds = np.asarray(network(x)), [type(layer).__name__ for layer in network.layers]
    with_temperatures(network, (0.5, 2.0))
    assert np.array_equal(np.asarray(network(x)), before)
    assert [type(layer).__name__ for layer in network.layers] == kinds


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_network_with_temperatures_is_the_same_saved_and_loaded_by_plain_keras(network, pictures, tmp_path, suffix):
    x = pictures[:8] / np.float32(255)
    calibrated = with_temperatures(network, (0.5, 2.0))
    calibrated.save(tmp_path / f"model{suffix}")
    loaded = backend.keras().models.load_model(tmp_path / f"model{suffix}")
    assert np.array_equal(np.asarray(loaded(x)), np.asarray(calibrated(x)))
