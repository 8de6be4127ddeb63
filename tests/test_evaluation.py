import html.parser

import numpy as np
import pytest
from scipy.special import softmax

from imgclassify import evaluation as module
from imgclassify import runtime
from imgclassify.evaluation import Evaluation, calibrate, evaluate_model

NAMES = ("cat", "dog", "ox")

# Five pictures of three classes; the second is a dog taken for an ox, the last an ox taken for a cat.
PROBABILITIES = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.1, 0.3, 0.6],
        [0.2, 0.5, 0.3],
        [0.0, 0.1, 0.9],
        [0.5, 0.1, 0.4],
    ],
    np.float32,
)
PICTURES = PROBABILITIES[:, None, None]  # of one pixel, see ReadsThePixels
LABELS = np.array([0, 1, 1, 2, 2])


class ReadsThePixels:
    """A model whose three probabilities are the red, green and blue of a picture of one pixel."""

    input_shape = (None, 1, 1, 3)
    output_shape = (None, 3)

    def __call__(self, x, training=None):
        return x[:, 0, 0, :]


@pytest.fixture
def hand_computed() -> Evaluation:
    return evaluate_model(ReadsThePixels(), PICTURES, LABELS, class_names=NAMES, source="a farm")


def test_a_case_computed_by_hand(hand_computed):
    assert hand_computed.predicted.tolist() == [0, 2, 1, 2, 0]
    assert hand_computed.correct.tolist() == [True, False, True, True, False]
    assert hand_computed.confidence == pytest.approx([0.7, 0.6, 0.5, 0.9, 0.5])
    assert hand_computed.accuracy == 0.6
    assert hand_computed.loss == pytest.approx(-np.log([0.7, 0.3, 0.5, 0.9, 0.4]).mean())
    assert hand_computed.confusion.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert hand_computed.per_class == {"cat": 1.0, "dog": 0.5, "ox": 0.5}
    assert hand_computed.most_confused() == [("dog", "ox", 1), ("ox", "cat", 1)]
    assert hand_computed.source == "a farm"


def test_the_confusion_matrix_counts_every_picture_once(hand_computed):
    assert hand_computed.confusion.shape == (3, 3)
    assert hand_computed.confusion.sum() == len(LABELS)
    assert hand_computed.confusion.sum(axis=1).tolist() == np.bincount(LABELS).tolist()


def test_asking_for_the_mistakes_does_not_change_the_confusion_matrix(hand_computed):
    before = hand_computed.confusion
    hand_computed.most_confused()
    assert np.array_equal(hand_computed.confusion, before)


def test_perfect_predictions_give_a_diagonal_matrix_and_no_loss():
    perfect = Evaluation(np.eye(3, dtype=np.float32)[LABELS], LABELS, NAMES)
    assert perfect.accuracy == 1
    assert np.array_equal(perfect.confusion, np.diag([1, 2, 2]))
    assert perfect.loss == 0
    assert perfect.most_confused() == []
    assert perfect.interval[1] == 1


def test_a_certain_mistake_has_a_large_but_finite_loss():
    wrong = Evaluation(np.array([[0, 1, 0]], np.float32), np.array([0]), NAMES)
    assert wrong.loss == pytest.approx(-np.log(1e-7))


def test_class_numbers_columns_and_one_hot_rows_are_the_same_labels(hand_computed):
    for labels in (LABELS[:, None], np.eye(3)[LABELS], LABELS.astype(np.uint8), LABELS.tolist()):
        other = evaluate_model(ReadsThePixels(), PICTURES, labels, class_names=NAMES)
        assert np.array_equal(other.labels, LABELS)
        assert other.loss == hand_computed.loss


def test_uint8_and_scaled_pictures_give_the_same_measurements(tiny, tiny_model):
    exact = evaluate_model(tiny_model, tiny.x_test, tiny.y_test)
    scaled = evaluate_model(tiny_model, tiny.x_test.astype(np.float32) / 255, np.eye(3)[tiny.y_test])
    assert np.array_equal(exact.probabilities, scaled.probabilities)
    assert exact.class_names == ("red", "green", "blue")


def test_loss_and_accuracy_are_those_of_keras(tiny, tiny_model):
    ours = evaluate_model(tiny_model, tiny.x_test, tiny.y_test)
    keras = runtime.keras()
    truth = np.eye(3, dtype=np.float32)[tiny.y_test]
    theirs = np.asarray(keras.losses.categorical_crossentropy(truth, ours.probabilities))
    assert ours.loss == pytest.approx(theirs.mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),  # by Wilson's formula with z = 1.959964
        (0, 10, 0.0, 0.2775328),
        (6810, 10_000, 0.6717996, 0.6900632),
    ],
)
def test_the_interval_is_wilsons(right, count, low, high):
    labels = np.zeros(count, int)
    predicted = np.where(np.arange(count) < right, 0, 1)
    evaluation = Evaluation(np.eye(2, dtype=np.float32)[predicted], labels, ("a", "b"))
    assert evaluation.interval == pytest.approx((low, high), abs=2e-5)
    # The formula, written out.
    z, share = 1.959964, right / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    assert evaluation.interval == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_the_text_has_the_accuracy_its_interval_the_data_and_every_class(hand_computed):
    first, *classes = str(hand_computed).splitlines()
    assert first == "accuracy 60.00% (95 % interval 23.07% to 88.24%), loss 0.655, on 5 pictures of a farm"
    assert [line.split() for line in classes] == [["cat", "100.0%"], ["dog", "50.0%"], ["ox", "50.0%"]]
    assert repr(hand_computed) == str(hand_computed)


def test_the_html_is_well_formed_and_escapes_names():
    evaluation = Evaluation(PROBABILITIES, LABELS, ("<b>cat", "dog & co", "ox"), source="<script>")
    page = evaluation._repr_html_()
    assert "60.00%" in page
    assert "&lt;b&gt;cat" in page
    assert "dog &amp; co" in page
    assert "<script>" not in page

    class Tags(html.parser.HTMLParser):
        open, rows = [], 0

        def handle_starttag(self, tag, attrs):
            self.open.append(tag)
            self.rows += tag == "tr"

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.rows == 4


def test_a_class_without_pictures_has_no_accuracy_and_warns_nobody():
    evaluation = Evaluation(PROBABILITIES[:3], LABELS[:3], NAMES)
    assert np.isnan(evaluation.per_class["ox"])
    assert "nan" in str(evaluation)


def test_each_picture_is_predicted_once_whatever_is_asked_of_the_evaluation(monkeypatch):
    predicted = []
    predict = module.predict_probabilities

    def counting(model, x, **options):
        predicted.append(len(x))
        return predict(model, x, **options)

    monkeypatch.setattr(module, "predict_probabilities", counting)
    evaluation = evaluate_model(ReadsThePixels(), PICTURES, LABELS, class_names=NAMES)
    for name in ("accuracy", "loss", "interval", "confusion", "per_class", "correct", "confidence"):
        getattr(evaluation, name)
    _ = evaluation.most_confused(), str(evaluation), evaluation._repr_html_()
    assert predicted == [5]


@pytest.mark.parametrize(("x", "y"), [(5, 4), (0, 0), (4, 5)])
def test_pictures_and_labels_must_be_equally_many_and_some(x, y):
    with pytest.raises(ValueError, match=f"must be equally many and at least one. Received: {x} and {y}"):
        evaluate_model(ReadsThePixels(), PICTURES[:x], LABELS[:y], class_names=NAMES)


@pytest.mark.parametrize(("label", "said"), [(3, "must lie between 0 and 2"), (-1, "must be class numbers: whole")])
def test_labels_that_the_model_does_not_know_are_refused(label, said):
    with pytest.raises(ValueError, match=rf"Labels {said}.*\. Received: .*{label}"):
        evaluate_model(ReadsThePixels(), PICTURES[:2], np.array([1, label]), class_names=NAMES)


def test_labels_of_another_form_are_refused():
    with pytest.raises(ValueError, match=r"class numbers \(N,\) or one-hot \(N, classes\)"):
        evaluate_model(ReadsThePixels(), PICTURES, np.zeros((5, 2, 2)), class_names=NAMES)


# --- calibration -----------------------------------------------------------------------------------


def made_up(confidence: list[float], correct: list[bool]) -> Evaluation:
    """Predictions of class 0 of two with these confidences (above one half), right or wrong as said."""
    first = np.array(confidence, np.float32)
    return Evaluation(np.stack([first, 1 - first], axis=1), np.where(correct, 0, 1), ("a", "b"))


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy_over_bins():
    measured = made_up([0.9] * 10 + [0.6] * 10, [True] * 7 + [False] * 3 + [True] * 6 + [False] * 4)
    assert measured.calibration_error() == pytest.approx((0.2 * 10 + 0.0 * 10) / 20, abs=1e-6)
    counts, confidence, accuracy = measured.calibration(bins=10)
    assert counts.tolist() == [0, 0, 0, 0, 0, 0, 10, 0, 0, 10] or counts.tolist() == [0, 0, 0, 0, 0, 10, 0, 0, 10, 0]
    assert confidence[counts > 0] == pytest.approx([0.6, 0.9])
    assert accuracy[counts > 0] == pytest.approx([0.6, 0.7])
    assert np.isnan(accuracy[counts == 0]).all()


def test_the_calibration_error_agrees_with_scikit_learns_curve():
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    measured = made_up(rng.uniform(0.5, 1, 2000).tolist(), (rng.random(2000) < 0.7).tolist())
    counts, confidence, accuracy = measured.calibration(15)
    theirs = calibration_curve(measured.correct, measured.confidence, n_bins=15)
    assert accuracy[counts > 0] == pytest.approx(theirs[0])
    assert confidence[counts > 0] == pytest.approx(theirs[1])


def test_certainty_falls_into_the_last_bin():
    counts, _, accuracy = made_up([1.0] * 4, [True] * 4).calibration()
    assert counts[-1] == 4
    assert accuracy[-1] == 1


def test_calibration_lowers_the_error_of_an_overconfident_model_and_no_class_changes(tiny):
    keras = runtime.keras()
    layers = keras.layers
    model = keras.Sequential([layers.Input((32, 32, 3)), layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")])
    model.layers[-1].set_weights([np.eye(3, dtype=np.float32) * 12, np.zeros(3, np.float32)])
    labels = np.where(np.arange(60) % 3 == 0, (tiny.y_train + 1) % 3, tiny.y_train)  # a third is wrong
    names = ("red", "green", "blue")
    model.manifest = {"class_names": names}
    before = evaluate_model(model, tiny.x_train, labels)
    found, said = calibrate(model, tiny.x_train, labels)
    model.manifest |= found
    after = evaluate_model(model, tiny.x_train, labels)
    assert said.probabilities == pytest.approx(after.probabilities, abs=1e-5)
    assert 1 < model.manifest["temperature"] <= 4
    assert np.array_equal(before.predicted, after.predicted)
    assert after.calibration_error() < 0.5 * before.calibration_error()
    assert after.loss < before.loss


def test_calibration_on_pictures_that_are_all_right_stays_within_its_bounds(tiny, tiny_run, tiny_model):
    keras = runtime.keras()
    model = keras.models.clone_model(tiny_model)
    model.set_weights(tiny_model.get_weights())
    model.manifest = {"class_names": list(tiny.class_names)}
    found, _ = calibrate(model, tiny.x_train, tiny.y_train)
    assert all(0.25 <= found["temperature"] * each <= 4 for each in (1, *found["mixture"]))


def three_colour_model():
    keras = runtime.keras()
    layers = keras.layers
    model = keras.Sequential([layers.Input((1, 1, 3)), layers.Flatten(), layers.Dense(3, "softmax", use_bias=False)])
    model.layers[-1].set_weights([np.eye(3, dtype=np.float32) * 8])
    model.manifest = {"class_names": ("red", "green", "blue")}
    return model


def pictures_right_as_often_as(temperatures):
    """Pictures, and labels drawn by the mean of the probabilities at these temperatures."""
    random = np.random.default_rng(0)
    x = random.random((20_000, 1, 1, 3)).astype(np.float32)
    odds = np.mean([softmax(8 * x[:, 0, 0] / each, axis=1) for each in temperatures], axis=0)
    return x, (odds.cumsum(axis=1) < random.random((len(x), 1))).sum(axis=1).clip(max=2)


def test_two_temperatures_straighten_what_one_cannot():
    model, (x, labels) = three_colour_model(), pictures_right_as_often_as((0.5, 3))
    before = evaluate_model(model, x, labels)
    found, _ = calibrate(model, x, labels)
    one = evaluate_model(model, x, labels)  # what is folded into the weights
    model.manifest |= found
    both = evaluate_model(model, x, labels)
    assert sorted(found["temperature"] * each for each in found["mixture"]) == pytest.approx([0.5, 3], rel=0.1)
    assert both.calibration_error() < 0.01 < 0.03 < one.calibration_error() < before.calibration_error()
    assert both.loss < one.loss < before.loss
    assert np.array_equal(before.predicted, both.predicted)


def test_a_model_is_calibrated_once():
    model, (x, labels) = three_colour_model(), pictures_right_as_often_as((2,))
    model.manifest |= calibrate(model, x, labels)[0]
    weights = model.get_weights()
    with pytest.raises(ValueError, match="calibrated already"):
        calibrate(model, x, labels)
    assert np.array_equal(model.get_weights()[0], weights[0])


def test_both_temperatures_are_the_same_where_one_is_enough():
    model, (x, labels) = three_colour_model(), pictures_right_as_often_as((2,))
    found, _ = calibrate(model, x, labels)
    assert found["temperature"] == pytest.approx(2, rel=0.05)
    assert found["mixture"] == pytest.approx([1, 1], abs=0.2)
