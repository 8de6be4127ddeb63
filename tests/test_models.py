import numpy as np
import pytest

from imgclassify import build_model, runtime
from imgclassify.models import _convolve, fold_temperature, training_copy, whiten


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
    with pytest.raises(ValueError, match=r"use one of \['airbench', 'baseline'\]\. Received: architecture='resnet'"):
        build_model("resnet")


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_fewer_than_two_classes_are_refused(num_classes):
    with pytest.raises(ValueError, match=rf"must be at least 2\. Received: num_classes={num_classes}"):
        build_model(num_classes=num_classes)


@pytest.mark.parametrize("input_shape", [(17, 32, 3), (32, 17, 3), (32, 32), (32, 32, 0)])
def test_pictures_too_small_for_the_pooling_are_refused(input_shape):
    with pytest.raises(ValueError, match=r"at least 18 x 18 pixels\. Received: input_shape="):
        build_model(input_shape=input_shape)


# --- airbench --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(200, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2) * 40 + 128
    return np.clip(smooth + rng.normal(size=(200, 32, 32, 3)) * 10, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def airbench(pictures):
    model = build_model("airbench")
    whiten(model, pictures)
    return model


def test_airbench_has_2283336_parameters_of_which_the_whitening_is_fixed(airbench):
    assert airbench.count_params() == 2_283_336
    assert airbench.count_params() * 4 < 10_000_000  # bytes, to be shipped
    fixed = sum(weights.size for weights in airbench.get_layer("whitening").get_weights())
    assert fixed == 12 * 24 + 24


def test_airbench_is_made_of_kerass_own_layers_and_ends_in_probabilities(airbench, pictures):
    assert all(type(layer).__module__.startswith("keras.") for layer in airbench.layers)
    output = np.asarray(airbench(pictures[:4].astype(np.float32) / 255))
    assert output.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-5)


def test_whitening_gives_uncorrelated_answers_of_like_size_each_with_its_negative(airbench, pictures):
    layer = airbench.get_layer("whitening")
    answers = np.asarray(layer(pictures / np.float32(255)))
    flat = answers[:, ::2, ::2].reshape(-1, 24)
    assert flat[:, 12:] == pytest.approx(-flat[:, :12], abs=1e-4)
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


@pytest.mark.parametrize("architecture", ["baseline", "airbench"])
def test_a_training_copy_computes_the_same_in_float32(architecture, pictures):
    model = build_model(architecture)
    draw = np.random.default_rng(0).normal
    model.set_weights([weights + draw(0, 0.01, weights.shape) for weights in model.get_weights()])  # biases not zero
    x = pictures[:8] / np.float32(255)
    copy = training_copy(model, "float32")
    assert np.asarray(copy(x)) == pytest.approx(np.asarray(model(x)), abs=1e-6)


def test_a_training_copy_in_mixed_precision_ends_in_float32_and_is_close(airbench, pictures):
    x = pictures[:8] / np.float32(255)
    copy = training_copy(airbench, "mixed_bfloat16")
    policies = [layer.dtype_policy.name for layer in copy.layers[1:]]
    assert set(policies[:-1]) == {"mixed_bfloat16"}
    assert policies[-1] == "float32"
    assert np.asarray(copy(x)) == pytest.approx(np.asarray(airbench(x)), abs=0.05)
    assert {weight.dtype for weight in copy.weights} == {"float32"}


def test_fused_batch_normalisation_trains_like_kerass_own(airbench, pictures):
    x = pictures[:16] / np.float32(255)
    copy = training_copy(airbench, "float32")
    own = runtime.keras().models.clone_model(airbench)
    own.set_weights(airbench.get_weights())
    assert np.asarray(copy(x, training=True)) == pytest.approx(np.asarray(own(x, training=True)), abs=1e-3)
    for ours, theirs in zip(copy.get_weights(), own.get_weights(), strict=True):
        assert ours == pytest.approx(theirs, rel=0.05, abs=1e-3)  # the unbiased variance differs by n / (n - 1)
    assert not np.array_equal(copy.get_weights()[-2], airbench.get_weights()[-2])  # the moving averages have moved


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("kernel", "pictures", "parts"), [((3, 3), 8, 1), ((3, 3), 8, 4), ((2, 3), 6, 4), ((1, 4), 5, 2)]
)
def test_a_kernels_gradient_by_convolutions_is_tensorflows_own(padding, kernel, pictures, parts):
    tf = runtime.tensorflow()
    draw = np.random.default_rng(0).normal
    x, weights = (tf.constant(draw(size=shape), tf.float32) for shape in ((pictures, 9, 7, 4), (*kernel, 4, 6)))
    answers, gradients = [], []
    for convolve in (lambda: tf.nn.conv2d(x, weights, 1, padding), lambda: _convolve(x, weights, padding, parts)):
        with tf.GradientTape() as tape:
            tape.watch((x, weights))
            answers.append(convolve())
            loss = tf.reduce_sum(answers[-1] ** 2)
        gradients.append(tape.gradient(loss, (x, weights)))
    assert np.array_equal(*answers)
    for one, other in zip(*gradients, strict=True):
        assert np.asarray(other) == pytest.approx(np.asarray(one), rel=1e-4, abs=1e-3)


def test_a_kernels_gradient_by_convolutions_needs_no_size_of_the_batch():
    tf = runtime.tensorflow()
    x, weights = (tf.random.stateless_normal(shape, (0, 0)) for shape in ((6, 5, 5, 4), (3, 3, 4, 2)))

    @tf.function(input_signature=[tf.TensorSpec((None, 5, 5, 4))], autograph=False)
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(_convolve(x, weights, "SAME", 2) ** 2)
        return tape.gradient(loss, weights)

    with tf.GradientTape() as tape:
        tape.watch(weights)
        loss = tf.reduce_sum(tf.nn.conv2d(x, weights, 1, "SAME") ** 2)
    assert np.asarray(gradient(x)) == pytest.approx(np.asarray(tape.gradient(loss, weights)), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(("precision", "kind"), [("float32", "Conv2D"), ("mixed_bfloat16", "Convolution")])
@pytest.mark.parametrize("architecture", ["baseline", "airbench"])
def test_only_in_bfloat16_kernels_gradients_are_computed_by_convolutions(architecture, precision, kind):
    copy = training_copy(build_model(architecture), precision)
    kinds = [type(layer).__name__ for layer in copy.layers if hasattr(layer, "filters")]
    assert kinds == ["Conv2D"] + [kind] * (len(kinds) - 1)  # the first has three channels; airbench's is not trained


def gradients(architecture, precision, pictures):
    """Of one output, by a model and by its training copy: pairs of arrays, one for each trained variable."""
    tf = runtime.tensorflow()
    model = build_model(architecture)
    whiten(model, pictures)
    x, found = pictures[:8] / np.float32(255), []
    for network in (model, training_copy(model, precision)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(network(x)[:, 0])
        found.append([np.asarray(each) for each in tape.gradient(loss, network.trainable_variables)])
    return zip(*found, strict=True)


@pytest.mark.parametrize("architecture", ["baseline", "airbench"])
def test_a_training_copy_has_the_same_gradients(architecture, pictures):
    for one, other in gradients(architecture, "float32", pictures):
        assert other == pytest.approx(one, abs=1e-4 * float(np.abs(one).max()))


@pytest.mark.parametrize("architecture", ["baseline", "airbench"])
def test_a_training_copys_gradients_in_bfloat16_point_the_same_way(architecture, pictures):
    for one, other in gradients(architecture, "mixed_bfloat16", pictures):
        assert np.vdot(one, other) > 0.97 * np.linalg.norm(one) * np.linalg.norm(other)


def test_a_training_copy_of_the_baseline_has_its_biases_and_relus_after_the_max_poolings(baseline):
    kinds = [type(layer).__name__ for layer in training_copy(baseline, "float32").layers]
    assert kinds == [
        *("Conv2D", "MaxPooling2D", "BiasedReLU", "Conv2D", "MaxPooling2D", "BiasedReLU"),
        *("Conv2D", "Flatten", "Dense", "Dropout", "Dense"),
    ]
    assert [layer.activation.__name__ for layer in baseline.layers if hasattr(layer, "filters")] == ["relu"] * 3


def test_moving_averages_weigh_a_step_the_same_with_any_number_of_towers(airbench):
    momenta = []
    for towers in (1, 4):
        copy = training_copy(airbench, "float32", towers=towers)
        momenta.append([layer.momentum**towers for layer in copy.layers if hasattr(layer, "momentum")])
    assert momenta[0] == pytest.approx(momenta[1])


def test_a_training_copy_of_airbench_takes_smaller_pictures(airbench, pictures):
    assert training_copy(airbench, "float32")(pictures[:2, :20, :20] / np.float32(255)).shape == (2, 10)


def test_a_temperature_divides_the_logits(airbench, pictures):
    x = pictures[:8] / np.float32(255)
    model = runtime.keras().models.clone_model(airbench)
    model.set_weights(airbench.get_weights())
    before = np.log(np.asarray(model(x)))
    fold_temperature(model, 2.0)
    after = np.log(np.asarray(model(x)))
    centred = [logits - logits.mean(axis=1, keepdims=True) for logits in (before, after)]
    assert centred[1] == pytest.approx(centred[0] / 2, abs=1e-4)
