from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from imgclassify import Classifier, Manifest, Recipe, backend, evaluate_model
from imgclassify.evaluation.calibration import at_temperatures, calibrate

COLOURS = ("red", "green", "blue")


def three_colours(views: int = 1, strength: float = 8, size: int = 1) -> Classifier:
    """A classifier whose logits are the mean colour of a picture, times `strength`."""
    keras = backend.keras()
    layers = keras.layers
    network = keras.Sequential(
        [layers.Input((size, size, 3)), layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax", use_bias=False)]
    )
    network.layers[-1].set_weights([np.eye(3, dtype=np.float32) * strength])
    recipe = Recipe("mine", architecture="airbench", views=views)
    return Classifier(network, Manifest(class_names=COLOURS, input_shape=(size, size, 3), recipe=recipe))


def pictures_right_as_often_as(temperatures):
    """Pictures, and labels drawn with the mean of the probabilities at these temperatures."""
    random = np.random.default_rng(0)
    x = random.random((20_000, 1, 1, 3)).astype(np.float32)
    odds = np.mean([softmax(8 * x[:, 0, 0] / each, axis=1) for each in temperatures], axis=0)
    return x, (odds.cumsum(axis=1) < random.random((len(x), 1))).sum(axis=1).clip(max=2)


@pytest.fixture(scope="module")
def overconfident(tiny):
    """A classifier, pictures and labels of which a third is wrong, so that it is too sure of itself."""
    labels = np.where(np.arange(60) % 3 == 0, (tiny.y_train + 1) % 3, tiny.y_train)
    return SimpleNamespace(classifier=three_colours(strength=12, size=32), x=tiny.x_train, y=labels)


def test_calibration_lowers_the_error_of_an_overconfident_model_and_no_class_changes(overconfident):
    given = overconfident
    before = evaluate_model(given.classifier, given.x, given.y)
    calibrated = calibrate(given.classifier, given.x, given.y).classifier
    after = evaluate_model(calibrated, given.x, given.y)
    assert all(1 < each <= 4 for each in calibrated.manifest.temperatures)
    assert np.array_equal(before.predicted, after.predicted)
    assert after.calibration_error < 0.5 * before.calibration_error
    assert after.loss < before.loss


@pytest.mark.parametrize("views", [1, 2, 6])
def test_what_calibration_measures_is_what_the_calibrated_classifier_gives(overconfident, views):
    given = overconfident
    result = calibrate(three_colours(views, strength=12, size=32), given.x, given.y)
    for measured, options in ((result.measured, {}), (result.single, {"views": 1})):
        again = evaluate_model(result.classifier, given.x, given.y, **options)
        assert measured.probabilities == pytest.approx(again.probabilities, abs=1e-5)
        assert measured.probabilities.dtype == np.float32
        assert np.array_equal(measured.labels, again.labels)
        assert measured.class_names == COLOURS
    recorded = result.metrics("val")
    assert recorded["val_accuracy"] == result.measured.accuracy
    assert recorded.get("val_accuracy_without_tta") == (result.single.accuracy if views > 1 else None)


def test_the_original_classifier_is_not_modified(overconfident):
    given = overconfident
    weights, manifest = given.classifier.network.get_weights(), given.classifier.manifest
    layers = list(given.classifier.network.layers)
    calibrated = calibrate(given.classifier, given.x, given.y).classifier
    assert np.array_equal(given.classifier.network.get_weights()[0], weights[0])
    assert given.classifier.network.layers == layers
    assert given.classifier.manifest is manifest
    assert manifest.temperatures == ()
    assert len(calibrated.manifest.temperatures) == 2


def test_temperatures_are_layers_of_the_network(overconfident, tmp_path):
    given = overconfident
    calibrated = calibrate(given.classifier, given.x, given.y).classifier
    scales = [layer.scale for layer in calibrated.network.layers if type(layer).__name__ == "Rescaling"]
    assert scales == pytest.approx([1 / each for each in calibrated.manifest.temperatures])
    path = calibrated.save(tmp_path / "model.keras").file
    alone = backend.keras().models.load_model(path)
    answers = alone.predict(given.x / np.float32(255), verbose=0)
    assert answers == pytest.approx(calibrated.probabilities(given.x, views=1), abs=1e-6)


@pytest.mark.parametrize("views", [1, 2, 6])
def test_calibration_predicts_each_view_of_each_picture_once(tiny, views):
    keras, tf = backend.keras(), backend.tensorflow()

    class Counting(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.seen = tf.Variable(0)

        def call(self, x):
            self.seen.assign_add(tf.shape(x)[0])
            return x

    layers, counting = keras.layers, Counting()
    inputs = layers.Input((32, 32, 3))
    outputs = layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(counting(inputs)))
    recipe = Recipe("mine", architecture="airbench", views=views)
    classifier = Classifier.of(keras.Model(inputs, outputs)).recorded(recipe=recipe)
    calibrate(classifier, tiny.x_train, tiny.y_train)
    assert counting.seen.numpy() == views * len(tiny.x_train)


@pytest.mark.parametrize("views", [1, 6])
def test_calibration_on_pictures_that_are_all_right_stays_within_its_bounds(tiny, views):
    temperatures = calibrate(three_colours(views, size=32), tiny.x_train, tiny.y_train).classifier.manifest.temperatures
    assert len(temperatures) == 2
    assert all(0.25 <= each <= 4 for each in temperatures)


def test_two_temperatures_straighten_what_one_cannot():
    classifier, (x, labels) = three_colours(), pictures_right_as_often_as((0.5, 3))
    before = evaluate_model(classifier, x, labels)
    calibrated = calibrate(classifier, x, labels).classifier
    both = evaluate_model(calibrated, x, labels)
    single = [evaluate_model(three_colours(strength=8 / each), x, labels) for each in np.geomspace(0.25, 4, 17)]
    assert sorted(calibrated.manifest.temperatures) == pytest.approx([0.5, 3], rel=0.1)
    assert both.calibration_error < 0.01 < 0.03 < min(each.calibration_error for each in single)
    assert both.loss < min(each.loss for each in single) < before.loss
    assert np.array_equal(before.predicted, both.predicted)


def test_both_temperatures_are_the_same_if_one_is_enough():
    found = calibrate(three_colours(), *pictures_right_as_often_as((2,))).classifier.manifest.temperatures
    assert found == pytest.approx((2, 2), rel=0.25)
    assert np.prod(found) ** 0.5 == pytest.approx(2, rel=0.05)


def test_a_model_is_calibrated_only_once():
    classifier, (x, labels) = three_colours(), pictures_right_as_often_as((2,))
    calibrated = calibrate(classifier, x, labels).classifier
    with pytest.raises(ValueError, match="already calibrated"):
        calibrate(calibrated, x, labels)


def test_a_model_without_finite_answers_is_left_uncalibrated(tiny):
    classifier = three_colours(size=32)
    classifier.network.layers[-1].set_weights([np.full((3, 3), np.nan, np.float32)])
    result = calibrate(classifier, tiny.x_train, tiny.y_train)
    assert result.classifier.network is classifier.network
    assert result.classifier.manifest.temperatures == ()
    assert np.isnan(result.measured.probabilities).all()


def test_labels_that_the_classifier_does_not_know_are_refused(tiny):
    with pytest.raises(ValueError, match=r"between 0 and 2\. Received: 0 to 3"):
        calibrate(three_colours(size=32), tiny.x_train, np.minimum(np.arange(60), 3))


def test_at_temperatures_is_the_mean_over_the_softmax_of_the_logits_at_each():
    logits = np.random.default_rng(0).normal(size=(6, 4, 3))
    expected = (softmax(logits / 0.5, axis=-1) + softmax(logits / 2, axis=-1)) / 2
    assert at_temperatures(softmax(logits, axis=-1), (0.5, 2)) == pytest.approx(expected)
