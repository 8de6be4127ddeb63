"""Heat maps against cases that are computed by hand, for every kind of Keras network, and how they are judged."""

import gc
import weakref

import numpy as np
import pytest

from imgclassify import Classifier, ImageError, backend, build_model, explain_image, load_model
from imgclassify.evaluation import explain as module
from imgclassify.evaluation.explain import METHODS, TrainingPictures, blurred, explain_prepared, heat_maps
from imgclassify.evaluation.faithfulness import (
    centre_maps,
    measure_faithfulness,
    random_maps,
    similarity,
    with_shuffled_weights,
)
from imgclassify.models.networks import with_temperatures

LEAD = 2.0  # by which red's logit grows with each unit of mean red


@pytest.fixture(scope="module")
def reddish():
    """A network whose first class is red, and second green, by the mean of each colour; on a grid of 8 x 8 cells."""
    keras = backend.keras()
    network = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.AveragePooling2D(4),
            keras.layers.Conv2D(2, 1, use_bias=False, name="colours"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    network.set_weights([np.eye(3)[:, :2].reshape(1, 1, 3, 2), LEAD * 64 * np.eye(2), np.zeros(2)])
    return Classifier.of(network, ("red", "green"))


def patch(top: int, left: int, colour: int, image: np.ndarray | None = None) -> np.ndarray:
    """A black picture, or the given one, with a square of 8 x 8 pixels in red (0), green (1) or blue (2)."""
    image = np.zeros((32, 32, 3), np.uint8) if image is None else image.copy()
    image[top : top + 8, left : left + 8, colour] = 255
    return image


@pytest.mark.parametrize("method", ["hirescam", "grad-cam"])
def test_a_map_shows_the_patch_that_speaks_for_the_class(reddish, method):
    both = patch(8, 16, 0, patch(0, 0, 1))
    red, green = heat_maps(reddish, np.stack([both, both]), [0, 1], method=method, layer="colours")
    expected = np.zeros((8, 8))
    expected[2:4, 4:6] = 1
    np.testing.assert_allclose(red, expected, atol=1e-6)
    expected = np.zeros((8, 8))
    expected[:2, :2] = 1
    np.testing.assert_allclose(green, expected, atol=1e-6)


def test_hirescam_takes_each_places_gradient_and_grad_cam_their_mean():
    keras = backend.keras()
    network = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            keras.layers.Conv2D(1, 1, use_bias=False, name="maps"),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    kernel = np.array([[3.0, 0], [-1, 0], [2, 0], [0, 0]])  # of the first class: 3 and -1 above, 2 and 0 below
    network.set_weights([np.ones((1, 1, 1, 1)), kernel, np.zeros(2)])
    x = np.full((1, 2, 2, 1), 0.5, np.float32)
    (map_,) = heat_maps(network, x, [0], layer="maps")
    np.testing.assert_allclose(map_, [[1, 0], [2 / 3, 0]], atol=1e-6)
    (map_,) = heat_maps(network, x, [0], method="grad-cam", layer="maps")
    np.testing.assert_allclose(map_, np.ones((2, 2)), atol=1e-6)  # the mean gradient, 1, at each place


def test_a_map_of_two_classes_shows_what_tells_them_apart(reddish):
    keras = backend.keras()
    network = keras.Sequential([*reddish.network.layers[:-1], keras.layers.Dense(3, activation="softmax")])
    network.build((None, 32, 32, 3))
    network.layers[-1].set_weights([np.array([[9.0, 9, 0], [9, 0, 0]]), np.zeros(3)])
    both = patch(8, 16, 0, patch(0, 0, 1))[np.newaxis]
    (map_,) = heat_maps(network, both, [0], against=[1], layer="colours")
    assert map_[:2, :2].min() == 1  # green tells the first from the second; red speaks for both
    assert map_[2:4, 4:6].max() == 0


def networks():
    """The same trained-like network, flat, functional, nested in another, and with calibration at its end."""
    keras = backend.keras()
    backend.set_seed(0)
    flat = build_model(num_classes=3)
    inputs = keras.Input((32, 32, 3))
    functional = keras.Model(inputs, flat(inputs))
    body = keras.Sequential(flat.layers[:-3])
    nested = keras.Sequential([keras.Input((32, 32, 3)), keras.Model(inputs, body(inputs)), *flat.layers[-3:]])
    return {"flat": flat, "functional": functional, "nested": nested, "calibrated": with_temperatures(flat, (0.8, 1.5))}


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_the_same_for_a_network_in_any_form(method, monkeypatch):
    monkeypatch.setattr(module, "_MASKS", 60)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    maps = {name: heat_maps(network, x, [0, 1, 2], method=method) for name, network in networks().items()}
    for name, each in maps.items():
        assert each.max() == 1
        np.testing.assert_allclose(each, maps["flat"], atol=0.05 if name == "calibrated" else 1e-3, err_msg=name)


def test_maps_are_made_of_a_plain_keras_file(tmp_path):
    keras = backend.keras()
    backend.set_seed(0)
    network = build_model(num_classes=3)
    network.save(tmp_path / "plain.h5")
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    loaded = keras.models.load_model(tmp_path / "plain.h5", compile=False)
    np.testing.assert_allclose(heat_maps(loaded, x, [0, 1]), heat_maps(network, x, [0, 1]), atol=1e-3)


def test_a_map_does_not_depend_on_the_batch_nor_on_the_type_of_the_pixels(reddish):
    x = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
    together = heat_maps(reddish, x, [0] * 70)
    np.testing.assert_allclose(together[69:], heat_maps(reddish, x[69:], [0]), atol=1e-5)
    np.testing.assert_allclose(together, heat_maps(reddish, x / np.float32(255), [0] * 70), atol=1e-4)


@pytest.mark.parametrize("method", ["occlusion", "rise"])
def test_what_is_hidden_and_matters_is_found_without_a_look_inside(reddish, method):
    (map_,) = heat_maps(reddish, patch(8, 16, 0)[np.newaxis], [0], method=method)
    assert map_.shape == (32, 32)
    inside = map_[8:16, 16:24].mean()
    assert inside > 0.5
    assert inside > 3 * map_.mean()


def test_nothing_that_speaks_for_a_class_is_said(reddish):
    explanation = explain_prepared(reddish, patch(0, 0, 1), label="red")
    assert explanation.empty
    assert str(explanation) == "nothing that speaks for red was found"
    rather = explain_prepared(reddish, patch(0, 0, 1), label="red", against="green")
    assert str(rather) == "nothing that speaks for red rather than green was found"
    assert "nothing that speaks" in rather._repr_html_()


def test_a_picture_of_any_size_is_explained_by_its_answer(reddish, tmp_path):
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.fromarray(patch(8, 16, 0)).resize((320, 320)).save(path)
    explanation = explain_image(reddish, path)
    assert (str(explanation), explanation.label) == ("what speaks for red", "red")
    assert explanation.image.shape == (32, 32, 3)
    overlay = explanation.overlay
    assert overlay.shape == (224, 224, 3)
    red, green, blue = overlay[84, 140].astype(int)
    assert red > green > blue  # orange
    assert len(set(overlay[5, 5])) == 1  # grey


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "pink"}, "The model's classes are red, green. Received: 'pink'"),
        ({"label": "red", "against": "pink"}, "Received: 'pink'"),
        ({"method": "guess"}, "method must be one of hirescam, grad-cam, occlusion, rise. Received: method='guess'"),
        ({"layer": "colours", "method": "rise"}, "rise looks at no layer"),
        ({"layer": "dense_9"}, "The layers with feature maps are .*colours.* Received: layer='dense_9'"),
    ],
)
def test_what_is_unknown_is_named_with_what_is_known(reddish, options, said):
    with pytest.raises(ValueError, match=said):
        explain_image(reddish, patch(0, 0, 0), **options)
    with pytest.raises(ImageError):
        explain_image(reddish, b"no picture")


def test_a_model_that_is_saved_while_its_calls_are_noted_can_be_loaded(tmp_path):
    network = build_model(num_classes=3)

    class Saved:  # as another thread might save it
        layers = network.layers

        def __call__(self, x, training):
            Classifier.of(network).save(tmp_path / "meanwhile.keras")
            return network(x, training=training)

    module._run(Saved(), np.zeros((1, 32, 32, 3), np.float32))
    assert load_model(tmp_path / "meanwhile.keras").class_names == ("0", "1", "2")


@pytest.mark.parametrize("against", [None, 2])
def test_the_gradient_is_that_of_the_log_odds_of_the_calibrated_answer(against):
    tf = backend.tensorflow()
    backend.set_seed(1)
    network = with_temperatures(build_model(num_classes=3), (0.5, 1.7))
    x = tf.constant(np.random.default_rng(0).random((2, 32, 32, 3)), tf.float32)
    _, logits = module._run(network, x)
    assert len(logits) == 2
    second = tf.constant([-1 if against is None else against] * 2)
    lead = module._lead(logits, tf.constant([0, 1]), second).numpy()
    answers = network(x).numpy().astype(np.float64)
    own = answers[[0, 1], [0, 1]]
    other = 1 - own if against is None else answers[:, against]
    np.testing.assert_allclose(lead, np.log(own / other), atol=1e-4)


def test_log_odds_are_finite_where_the_network_is_sure():
    tf = backend.tensorflow()
    logits = tf.Variable([[200.0, 0, -100]])
    with tf.GradientTape() as tape:
        lead = module._lead([logits, logits / 2], tf.constant([0]), tf.constant([-1]))
    assert lead.numpy() == pytest.approx(100, abs=1)
    gradient = tape.gradient(lead, logits).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[0, 0] > 0.4


def test_softmax_inside_a_network_and_calls_by_keyword_do_no_harm():
    keras = backend.keras()
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, activation="softmax", name="maps")(inputs)  # not the answer
    flat = keras.layers.Reshape((196, 4))(x)
    seen = keras.layers.MultiHeadAttention(2, 4)(query=flat, value=flat)
    outputs = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(seen))  # logits
    network = keras.Model(inputs, outputs)
    maps = heat_maps(network, np.random.default_rng(0).random((2, 16, 16, 3), np.float32), [0, 1], layer="maps")
    assert maps.shape == (2, 14, 14)
    assert maps.max() == 1


def test_a_layer_that_is_called_twice_counts_where_it_is_called_last():
    keras = backend.keras()
    relu = keras.layers.ReLU(name="shared")
    inputs = keras.Input((16, 16, 3))
    first = relu(keras.layers.Conv2D(4, 3, name="first")(inputs))
    last = relu(keras.layers.Conv2D(4, 3, name="second")(first))
    top = keras.layers.Conv2D(3, 1)(keras.layers.GlobalAveragePooling2D(keepdims=True)(last))  # a grid of 1 x 1
    network = keras.Model(inputs, keras.layers.Softmax()(keras.layers.Flatten()(top)))
    x = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    chosen = heat_maps(network, x, [0, 1], method="grad-cam")
    assert chosen.shape == (2, 12, 12)
    np.testing.assert_array_equal(chosen, heat_maps(network, x, [0, 1], method="grad-cam", layer="shared"))


@pytest.mark.parametrize("method", ["hirescam", "rise"])
@pytest.mark.parametrize(("classes", "against"), [([0], None), ([0, 1, 3], None), ([0, -1, 0], None), ([0] * 3, [1])])
def test_classes_that_are_not_those_of_the_pictures_are_refused(method, classes, against):
    x = np.zeros((3, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="Expected one class from 0 to 2 per picture"):
        heat_maps(build_model(num_classes=3), x, classes, against=against, method=method)
    with pytest.raises(ValueError, match="at least one picture"):
        heat_maps(build_model(num_classes=3), x[:0], [], method=method)


def test_a_network_in_bfloat16_and_one_of_grey_pictures_are_explained():
    keras = backend.keras()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = build_model(input_shape=(32, 32, 1), num_classes=2)
    finally:
        keras.config.set_dtype_policy(policy)
    grey = np.random.default_rng(0).integers(0, 256, (32, 32, 1), np.uint8)
    explanation = explain_prepared(Classifier.of(network, ("one", "two")), grey, label="one")
    assert explanation.image.shape == (32, 32, 3)
    assert explanation.heat.dtype == np.float32
    assert "speaks for one" in explanation._repr_html_()


def test_occlusion_takes_pictures_that_are_resized_when_they_are_read(reddish):
    large = Classifier.of(reddish).fitting(np.repeat(np.repeat(patch(8, 16, 0), 2, 0), 2, 1)[np.newaxis])
    (map_,) = heat_maps(reddish, large, [0], method="occlusion")
    assert map_[8:16, 16:24].mean() > 0.5


def test_an_overlay_does_not_make_much_of_little():
    from imgclassify.display import overlay

    heat = np.zeros((32, 32), np.float32)
    heat[0, 0], heat[8, 8] = 1, 0.01
    shown = overlay(np.full((32, 32, 3), 128, np.uint8), heat).astype(int)
    strong, faint = (np.ptp(shown[7 * cell + 3, 7 * cell + 3]) for cell in (0, 8))
    assert faint < strong / 5


def test_a_network_without_feature_maps_is_refused():
    keras = backend.keras()
    network = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match=r"The layers with feature maps are none\."):
        heat_maps(network, np.zeros((1, 4, 4, 3), np.uint8), [0])


def test_explaining_leaves_the_network_as_it_was_and_does_not_keep_it():
    network = build_model(num_classes=3)
    x = np.zeros((1, 32, 32, 3), np.uint8)
    own, before = [set(vars(layer)) for layer in network.layers], network.get_weights()
    heat_maps(network, x, [0])
    assert [set(vars(layer)) for layer in network.layers] == own
    assert all(np.array_equal(a, b) for a, b in zip(before, network.get_weights(), strict=True))
    reference = weakref.ref(network)
    del network
    gc.collect()
    assert reference() is None


def test_a_blurred_picture_keeps_its_colours_but_no_detail():
    image = patch(8, 16, 0)
    image[::2] = 255 - image[::2]
    hidden = blurred(image)
    assert (hidden.dtype, hidden.shape) == (np.float32, image.shape)
    assert hidden.mean() == pytest.approx(image.mean() / 255, abs=0.02)
    assert hidden.std() < image.std() / 255 / 4


def test_the_nearest_training_pictures_are_those_with_the_same_features(reddish):
    x = np.stack([patch(0, 0, 0), patch(0, 0, 0, patch(16, 16, 1)), patch(0, 0, 1), patch(8, 8, 0, patch(0, 0, 1))])
    training = TrainingPictures(reddish, x, np.array([0, 0, 1, 1]))
    rows, similar = training.nearest(patch(20, 20, 0), "red")
    assert rows.tolist() == [0, 1]
    np.testing.assert_allclose(similar, [1, np.sqrt(0.5)], atol=1e-5)
    rows, similar = training.nearest(patch(20, 20, 0), "green", count=1)
    assert rows.tolist() == [3]


def test_deleting_and_inserting_a_map_by_hand(reddish):
    x = patch(8, 16, 0)[np.newaxis]
    right = np.zeros((1, 8, 8), np.float32)
    right[0, 2:4, 4:6] = 1
    good = measure_faithfulness(reddish, x, [0], right, steps=16)
    assert good.deletion.shape == (17, 1)
    network = reddish.network
    whole, none = (float(network(each)[0, 0]) for each in (x / np.float32(255), blurred(x[0])[np.newaxis]))
    np.testing.assert_allclose([good.deletion[0, 0], good.insertion[-1, 0]], whole, atol=1e-5)
    np.testing.assert_allclose([good.deletion[-1, 0], good.insertion[0, 0]], none, atol=1e-5)
    bad = measure_faithfulness(reddish, x, [0], 1 - right, steps=16)
    assert good.insertion_area > bad.insertion_area
    assert good.deletion_area < bad.deletion_area
    assert good.score > bad.score


def test_a_true_map_beats_a_random_one_and_a_random_one_does_not(reddish):
    chance = np.random.default_rng(0)
    x = np.stack([patch(*chance.integers(0, 24, 2), 0) for _ in range(40)]) // 2
    random = measure_faithfulness(reddish, x, [0] * 40, random_maps(40))
    assert measure_faithfulness(reddish, x, [0] * 40, heat_maps(reddish, x, [0] * 40)).better_than(random) < 1e-6
    assert measure_faithfulness(reddish, x, [0] * 40, random_maps(41)[1:]).better_than(random) > 0.01
    assert centre_maps(2)[0, 16, 16] > centre_maps(2)[0, 0, 0]


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "count"), [("baseline", 500), ("best", 200), ("guided", 60)])
def test_the_maps_of_shipped_models_beat_chance_and_depend_on_the_weights(cifar10, name, count):
    model = load_model(name)
    x = np.asarray(model.fitting(cifar10.x_test[:count])[:])
    said = model.probabilities(x, views=1).argmax(axis=1)
    maps = heat_maps(model, x, said)
    random = measure_faithfulness(model, x, said, random_maps(count))
    assert measure_faithfulness(model, x, said, maps).better_than(random) < 0.01
    assert np.nanmean(similarity(maps, heat_maps(with_shuffled_weights(model), x, said))) < 0.3


def test_shuffled_weights_are_the_same_values_in_another_order(tiny_model):
    before = tiny_model.network.get_weights()
    shuffled = with_shuffled_weights(tiny_model)
    assert shuffled.class_names == tiny_model.class_names
    for one, other in zip(before, shuffled.network.get_weights(), strict=True):
        np.testing.assert_array_equal(np.sort(one.ravel()), np.sort(other.ravel()))
    assert not np.array_equal(before[0], shuffled.network.get_weights()[0])
    np.testing.assert_array_equal(before[0], tiny_model.network.get_weights()[0])


def test_similarity_is_the_rank_correlation():
    from scipy.stats import spearmanr

    one, other = np.random.default_rng(0).random((2, 3, 4, 4))
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)]
    np.testing.assert_allclose(similarity(one, other), expected)
    other[2] = 0.5
    assert np.isnan(similarity(one, other)).tolist() == [False, False, True]
    np.testing.assert_allclose(similarity(one, one * 3), 1)
