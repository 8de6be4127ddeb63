import gc
import logging
import threading
import weakref

import numpy as np
import pytest
from scipy.special import softmax

from imgclassify import backend, predict_image
from imgclassify.models import inference
from imgclassify.models.inference import combine_views, predict_probabilities, predict_views
from imgclassify.models.networks import with_temperatures


class Traced:
    """A network whose probabilities are the colours of a picture's only pixel; counts its tracings."""

    input_shape = (None, 1, 1, 3)
    output_shape = (None, 3)
    name = "traced"

    def __init__(self):
        self.traces = 0

    def __call__(self, x, training=None):
        self.traces += 1
        assert training is False
        return x[:, 0, 0, :]


def plain_keras(**options):
    """A plain Keras model with few weights."""
    keras = backend.keras()
    inputs = keras.layers.Input((32, 32, 3))
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.GlobalAveragePooling2D()(inputs))
    return keras.Model(inputs, outputs, **options)


# --- many pictures, one compilation ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_network_is_traced_once_for_any_number_of_pictures(dtype):
    network, random = Traced(), np.random.default_rng(0)
    for count in (1, 2, 7, 256, 257, 1203, 3):
        x = random.integers(0, 2, (count, 1, 1, 3)).astype(dtype)
        scaled = x[:, 0, 0] / np.float32(255) if dtype == np.uint8 else x[:, 0, 0]
        assert np.array_equal(predict_probabilities(network, x), scaled)
    assert network.traces == 1


def test_each_kind_of_pictures_and_number_of_views_is_traced_once():
    network = Traced()
    for _ in range(3):
        for x in (np.zeros((2, 1, 1, 3), np.uint8), np.zeros((2, 1, 1, 3), np.float32)):
            predict_probabilities(network, x)
            predict_probabilities(network, x, views=2)
    assert network.traces == 2 * (1 + 2)  # called once for each view


def test_predicting_with_a_plain_keras_model_in_a_loop_traces_once(monkeypatch):
    network, calls = plain_keras(), []
    call = type(network).call
    monkeypatch.setattr(
        type(network), "call", lambda self, *args, **named: calls.append(1) or call(self, *args, **named)
    )
    for number in range(10):
        predict_image(network, np.full((32, 32, 3), number, np.uint8))
    assert len(calls) == 1


def test_predicting_from_several_threads_traces_once():
    network = Traced()
    task = {"target": predict_probabilities, "args": (network, np.zeros((3, 1, 1, 3), np.uint8))}
    threads = [threading.Thread(**task) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert network.traces == 1


def test_tensorflow_does_not_complain_of_retracing_when_many_networks_are_used(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(8):
            predict_probabilities(Traced(), np.zeros((2, 1, 1, 3), np.uint8))
    assert caplog.text == ""


def test_a_compiled_network_follows_its_weights():
    network, x = plain_keras(), np.full((1, 32, 32, 3), 255, np.uint8)
    predict_probabilities(network, x)
    network.layers[-1].set_weights([np.zeros((3, 3)), np.array([0, 0, 20])])
    assert predict_probabilities(network, x)[0] == pytest.approx([0, 0, 1], abs=1e-6)


@pytest.mark.parametrize("temperatures", [(), (0.5, 2.0)])
def test_a_network_is_forgotten_after_its_predictions(temperatures):
    x = np.zeros((2, 32, 32, 3), np.uint8)
    network = with_temperatures(plain_keras(), temperatures)
    for views in (1, 2, 6):
        predict_probabilities(network, x, views=views)
    predict_views(network, x / np.float32(255), views=2)
    predict_image(network, x[0])
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


def test_a_network_with_silu_is_freed_with_its_graph():
    """TensorFlow's SiLU registers a gradient, which would keep the graph and with it the weights."""
    layers, x = backend.keras().layers, np.random.default_rng(0).random((4, 32, 32, 3), np.float32)

    def graph_of_a_prediction() -> weakref.ref:
        given, answers = layers.Input((32, 32, 3)), layers.Dense(3, "softmax")
        parts = [given, layers.GlobalAveragePooling2D(), layers.Activation("silu"), answers]
        network = backend.keras().Sequential(parts)
        assert predict_probabilities(network, x) == pytest.approx(np.asarray(network(x)), abs=1e-6)
        (function,) = inference._compiled[network].values()
        return weakref.ref(function.graph)

    graph = graph_of_a_prediction()
    gc.collect()  # the network, and with it its entry in the dictionary of compiled functions
    gc.collect()  # the function
    assert graph() is None


# --- what comes out -----------------------------------------------------------------------------------


def test_no_pictures_give_no_probabilities():
    assert predict_probabilities(Traced(), np.empty((0, 1, 1, 3), np.uint8)).shape == (0, 3)
    assert predict_views(Traced(), np.empty((0, 1, 1, 3), np.uint8), views=2).shape == (2, 0, 3)


def test_probabilities_are_float32_whatever_the_pictures_are(tiny, tiny_model):
    for x in (tiny.x_test[:2], tiny.x_test[:2] / 255, (tiny.x_test[:2] / 255).astype(np.float32)):
        assert predict_probabilities(tiny_model.network, x).dtype == np.float32


def test_pictures_of_each_type_on_their_scale_give_the_same(tiny, tiny_model):
    exact = predict_probabilities(tiny_model.network, tiny.x_test)
    for dtype in (np.float32, np.float64):
        x = tiny.x_test.astype(dtype) / 255
        assert predict_probabilities(tiny_model.network, x) == pytest.approx(exact, abs=1e-6)


def test_many_pictures_keep_their_order_over_batches_and_threads(tiny, tiny_model):
    one_by_one = np.concatenate([predict_probabilities(tiny_model.network, each[np.newaxis]) for each in tiny.x_test])
    x = np.concatenate([tiny.x_test] * 25)  # 750 pictures: three batches
    expected = np.concatenate([one_by_one] * 25)
    assert predict_probabilities(tiny_model.network, x) == pytest.approx(expected, abs=1e-6)


def test_pictures_are_not_modified(tiny, tiny_model):
    x = tiny.x_test[:3].copy()
    predict_probabilities(tiny_model.network, x, views=6)
    predict_views(tiny_model.network, x, views=6)
    assert np.array_equal(x, tiny.x_test[:3])


def test_a_prediction_can_be_stopped_between_batches():
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_probabilities(Traced(), np.zeros((2000, 1, 1, 3), np.uint8), on_batch_end=stop)
    assert len(calls) == 2


@pytest.mark.parametrize(("count", "batches"), [(1, 0), (256, 0), (257, 2), (700, 3)])
def test_a_listener_hears_of_every_batch_if_there_are_several(count, batches):
    calls = []
    predict_probabilities(Traced(), np.zeros((count, 1, 1, 3), np.uint8), on_batch_end=lambda: calls.append(1))
    assert len(calls) == batches


# --- several views -------------------------------------------------------------------------------------


def moved(pictures, by: int):
    """Pictures moved down and to the right by this many pixels, or up and to the left; the border is reflected."""
    side = pictures.shape[1]
    seen = [abs(at) if at < side else 2 * (side - 1) - at for at in np.arange(side) - by]
    return pictures[:, seen][:, :, seen]


@pytest.mark.parametrize(("views", "moves"), [(1, None), (2, [0]), (6, [-1, 0, 1])])
def test_the_logits_of_views_and_their_mirror_images_are_averaged(tiny, tiny_model, views, moves):
    network, x = tiny_model.network, tiny.x_test[:5]
    shown = [moved(x, by)[:, :, ::way] for by in moves for way in (1, -1)] if moves else [x]
    assert len(shown) == views
    logits = np.mean([np.log(predict_probabilities(network, view)) for view in shown], axis=0)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert predict_probabilities(network, x, views=views) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_more_views_give_other_answers(tiny, tiny_model):
    answers = [predict_probabilities(tiny_model.network, tiny.x_test[:5], views=views) for views in (1, 2, 6)]
    assert not np.allclose(answers[0], answers[1])
    assert not np.allclose(answers[1], answers[2])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("views", [1, 2, 6])
def test_views_averaged_in_the_graph_are_those_combined_outside(tiny, tiny_model, views, dtype):
    network = tiny_model.network  # with temperatures among its layers
    x = np.concatenate([tiny.x_test] * 10)
    x = x if dtype == np.uint8 else x / np.float32(255)
    each = predict_views(network, x, views=views)
    assert each.shape == (views, len(x), 3)
    assert combine_views(each) == pytest.approx(predict_probabilities(network, x, views=views), abs=1e-6)


def test_the_first_view_is_the_picture_as_it_is(tiny, tiny_model):
    first = predict_views(tiny_model.network, tiny.x_test, views=6)[0]
    assert np.array_equal(first, predict_probabilities(tiny_model.network, tiny.x_test))


def test_combined_views_are_the_softmax_of_their_mean_logits():
    logits = np.random.default_rng(0).normal(size=(6, 4, 3))
    assert combine_views(softmax(logits, axis=-1)) == pytest.approx(softmax(logits.mean(axis=0), axis=-1))


def test_a_single_view_is_left_as_it_is():
    probabilities = np.array([[[0.25, 0.75]]], np.float32)
    assert np.array_equal(combine_views(probabilities), probabilities[0])


def test_certain_views_that_contradict_one_another_stay_finite():
    assert combine_views(np.array([[[1.0, 0.0]], [[0.0, 1.0]]])) == pytest.approx(np.array([[0.5, 0.5]]))


@pytest.mark.parametrize("views", [0, 3, -1])
def test_other_numbers_of_views_are_refused(tiny, tiny_model, views):
    with pytest.raises(ValueError, match=rf"one of 1, 2, 6\. Received: views={views}"):
        predict_probabilities(tiny_model.network, tiny.x_test[:1], views=views)
