import numpy as np
import pytest

from imgclassify import backend, build_model
from imgclassify.models.fast_layers import _convolve, training_copy
from imgclassify.models.networks import whiten


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


def test_fused_batch_normalisation_trains_like_keras_own(airbench, pictures):
    x = pictures[:16] / np.float32(255)
    copy = training_copy(airbench, "float32")
    own = backend.keras().models.clone_model(airbench)
    own.set_weights(airbench.get_weights())
    assert np.asarray(copy(x, training=True)) == pytest.approx(np.asarray(own(x, training=True)), abs=1e-3)
    for ours, theirs in zip(copy.get_weights(), own.get_weights(), strict=True):
        # The unbiased variance differs by n / (n - 1).
        np.testing.assert_allclose(ours, theirs, rtol=0.05, atol=1e-3)
    assert not np.array_equal(copy.get_weights()[-2], airbench.get_weights()[-2])  # the moving averages have moved


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("kernel", "pictures", "parts"), [((3, 3), 8, 1), ((3, 3), 8, 4), ((2, 3), 6, 4), ((1, 4), 5, 2)]
)
def test_a_kernels_gradient_by_convolutions_is_tensorflows_own(padding, kernel, pictures, parts):
    tf = backend.tensorflow()
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
    tf = backend.tensorflow()
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
    tf = backend.tensorflow()
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
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize("architecture", ["baseline", "airbench"])
def test_the_gradients_of_a_training_copy_in_bfloat16_point_the_same_way(architecture, pictures):
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


@pytest.mark.parametrize("architecture", ["baseline", "airbench"])
def test_what_a_training_copy_has_learned_goes_back_into_the_model(architecture, pictures):
    model, x = build_model(architecture), pictures[:8] / np.float32(255)
    copy = training_copy(model, "float32")
    draw = np.random.default_rng(0).normal
    copy.set_weights([weights + draw(0, 0.01, weights.shape) for weights in copy.get_weights()])
    assert np.asarray(model(x)) != pytest.approx(np.asarray(copy(x)), abs=1e-6)
    model.set_weights(copy.get_weights())
    assert np.asarray(model(x)) == pytest.approx(np.asarray(copy(x)), abs=1e-6)
