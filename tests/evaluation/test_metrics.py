import html.parser

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from imgclassify import backend, evaluate_model
from imgclassify.evaluation.metrics import BINS, Evaluation, _squared_error, recorded_metrics, wilson_interval
from imgclassify.models.inference import predict_probabilities

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
    """A network whose three probabilities are the colours of a picture of one pixel; counts the pictures it sees."""

    input_shape = (None, 1, 1, 3)
    output_shape = (None, 3)
    name = "pixels"

    def __init__(self):
        self.seen = backend.tensorflow().Variable(0)

    def __call__(self, x, training=None):
        self.seen.assign_add(backend.tensorflow().shape(x)[0])
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


def test_scores_by_class_computed_by_hand(hand_computed):
    """The confusion matrix is [[1, 0, 0], [0, 1, 1], [1, 0, 1]]."""
    cat, dog, ox = hand_computed.by_class.values()
    assert (cat.pictures, dog.pictures, ox.pictures) == (1, 2, 2)
    assert [each.precision.value for each in (cat, dog, ox)] == [0.5, 1, 0.5]
    assert [each.recall.value for each in (cat, dog, ox)] == [1, 0.5, 0.5]
    assert [each.f1.value for each in (cat, dog, ox)] == pytest.approx([2 / 3, 2 / 3, 0.5])
    assert dog.recall == cat.precision == (0.5, *wilson_interval(1, 2))
    assert hand_computed.balanced_accuracy == pytest.approx(2 / 3)


def test_scores_by_class_are_scikit_learns_and_lie_in_their_intervals():
    chance = np.random.default_rng(0)
    labels, probabilities = chance.integers(0, 4, 300), chance.dirichlet(np.ones(4), 300).astype(np.float32)
    evaluation = Evaluation(probabilities, labels, tuple("abcd"))
    expected = precision_recall_fscore_support(labels, evaluation.predicted)
    for row, scores in enumerate(evaluation.by_class.values()):
        shares = scores.precision, scores.recall, scores.f1
        assert [*(each.value for each in shares), scores.pictures] == pytest.approx([each[row] for each in expected])
        assert all(0 < each.low < each.value < each.high < 1 for each in shares)
    assert evaluation.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, evaluation.predicted))


def test_the_interval_of_f1_covers_as_often_as_it_says():
    """F1 of a class is 0.6 here; the bounds come from many draws of 200 pictures."""
    chance, covered = np.random.default_rng(1), 0
    for _ in range(200):
        true, said = chance.multinomial(200, [0.3, 0.2, 0.2, 0.3]), ((1, 1), (1, 0), (0, 1), (0, 0))
        labels, predicted = (np.repeat([pair[i] for pair in said], true) for i in (0, 1))
        evaluation = Evaluation(np.eye(2, dtype=np.float32)[predicted], labels, ("no", "yes"))
        f1 = evaluation.by_class["yes"].f1
        covered += f1.low <= 0.6 <= f1.high
    assert 180 <= covered <= 198


def test_a_class_without_pictures_has_no_scores():
    nothing = Evaluation(np.eye(3, dtype=np.float32)[[0, 1]], np.array([0, 1]), NAMES).by_class["ox"]
    assert nothing.pictures == 0
    assert np.isnan([*nothing.precision, *nothing.recall, *nothing.f1]).all()


def calibrated_evaluation(count: int, *, shift: float = 0, seed: int = 0) -> Evaluation:
    """Two classes; the answers are right as often as they say, less `shift`."""
    chance = np.random.default_rng(seed)
    sure = chance.uniform(0.6, 1, count)
    labels = (chance.random(count) >= sure - shift).astype(np.int64)
    return Evaluation(np.stack([sure, 1 - sure], axis=1).astype(np.float32), labels, ("right", "wrong"))


def test_the_corrected_calibration_error_is_zero_on_average_where_calibration_is_perfect():
    perfect = [calibrated_evaluation(400, seed=seed) for seed in range(20)]
    plain = [each.calibration_error for each in perfect]
    squares = [_squared_error(each.confidence, each.correct) for each in perfect]
    assert min(plain) > 0.015  # chance alone
    assert abs(np.mean(squares)) < 0.0005


def test_the_corrected_calibration_error_finds_a_wrong_one_and_its_interval_covers_it():
    covered = []
    for seed in range(10):
        value, low, high = calibrated_evaluation(1000, shift=0.1, seed=seed).corrected_calibration_error
        assert 0 <= low < value < high < 0.2
        assert calibrated_evaluation(1000, seed=seed).corrected_calibration_error.low == 0
        assert value > 0.05
        covered.append(low < 0.1 < high)
    assert sum(covered) >= 8


def test_coverage_begins_with_the_surest_answers(hand_computed):
    accuracy, share = hand_computed.coverage()
    assert share == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert accuracy == pytest.approx([1, 1, 2 / 3, 3 / 4, 3 / 5])


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


def test_a_plain_models_classes_are_numbers():
    assert evaluate_model(ReadsThePixels(), PICTURES, LABELS).per_class == {"0": 1.0, "1": 0.5, "2": 0.5}


def test_loss_and_accuracy_are_those_of_keras(tiny, tiny_model):
    ours = evaluate_model(tiny_model, tiny.x_test, tiny.y_test)
    keras = backend.keras()
    truth = np.eye(3, dtype=np.float32)[tiny.y_test]
    theirs = np.asarray(keras.losses.categorical_crossentropy(truth, ours.probabilities))
    assert ours.loss == pytest.approx(theirs.mean(), rel=1e-4)
    hits = np.asarray(keras.metrics.categorical_accuracy(truth, ours.probabilities))
    assert ours.accuracy == pytest.approx(hits.mean())


@pytest.mark.parametrize("views", [1, 2, 6])
def test_the_number_of_views_can_be_chosen(tiny, tiny_model, views):
    measured = evaluate_model(tiny_model, tiny.x_test, tiny.y_test, views=views)
    assert np.array_equal(measured.probabilities, predict_probabilities(tiny_model.network, tiny.x_test, views=views))


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
    assert evaluation.interval == wilson_interval(right, count) == pytest.approx((low, high), abs=2e-5)
    # The formula, written out.
    z, share = 1.959964, right / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    assert evaluation.interval == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_the_text_has_the_accuracy_its_interval_the_data_and_every_class(hand_computed):
    first, head, *classes = str(hand_computed).splitlines()
    assert first == "accuracy 60.00% (95 % interval 23.07% to 88.24%), loss 0.655, on 5 pictures of a farm"
    assert head.split() == ["recall", "precision", "F1"]
    assert [line.split()[:2] for line in classes] == [["cat", "100.0%"], ["dog", "50.0%"], ["ox", "50.0%"]]
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


def test_a_class_without_pictures_has_no_accuracy_and_no_warning():
    evaluation = Evaluation(PROBABILITIES[:3], LABELS[:3], NAMES)
    assert np.isnan(evaluation.per_class["ox"])
    assert "nan" not in str(evaluation)
    assert "nan" not in evaluation._repr_html_()
    (row,) = [line for line in str(evaluation).splitlines() if line.split()[:1] == ["ox"]]
    assert "none" in row


def test_each_picture_is_predicted_once_whatever_is_asked_of_the_evaluation():
    network = ReadsThePixels()
    evaluation = evaluate_model(network, PICTURES, LABELS, class_names=NAMES)
    for name in ("accuracy", "loss", "interval", "confusion", "per_class", "correct", "confidence"):
        getattr(evaluation, name)
    _ = evaluation.calibration_error, evaluation.calibration()
    _ = evaluation.most_confused(), str(evaluation), evaluation._repr_html_()
    assert network.seen.numpy() == 5


@pytest.mark.parametrize(("x", "y"), [(5, 4), (0, 0), (4, 5)])
def test_there_must_be_one_label_per_picture_and_at_least_one_picture(x, y):
    with pytest.raises(ValueError, match=rf"Received: {x} pictures and {y} labels"):
        evaluate_model(ReadsThePixels(), PICTURES[:x], LABELS[:y], class_names=NAMES)


@pytest.mark.parametrize(("label", "said"), [(3, "between 0 and 2"), (-1, "class numbers: whole")])
def test_labels_that_the_model_does_not_know_are_refused(label, said):
    with pytest.raises(ValueError, match=rf"Labels must .*{said}.*\. Received: .*{label}"):
        evaluate_model(ReadsThePixels(), PICTURES[:2], np.array([1, label]), class_names=NAMES)


def test_labels_of_another_form_are_refused():
    with pytest.raises(ValueError, match=r"class numbers \(N,\) or one-hot \(N, classes\)"):
        evaluate_model(ReadsThePixels(), PICTURES, np.zeros((5, 2, 2)), class_names=NAMES)


# --- how well confidence agrees with accuracy ----------------------------------------------------------


def made_up(confidence: list[float], correct: list[bool]) -> Evaluation:
    """Predictions of class 0 of two with these confidences (above one half), right or wrong as given."""
    first = np.array(confidence, np.float32)
    return Evaluation(np.stack([first, 1 - first], axis=1), np.where(correct, 0, 1), ("a", "b"))


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy_over_ranges():
    measured = made_up([0.9] * 10 + [0.62] * 10, [True] * 7 + [False] * 3 + [True] * 6 + [False] * 4)
    assert measured.calibration_error == pytest.approx((0.2 * 10 + 0.02 * 10) / 20, abs=1e-6)
    counts, confidence, accuracy = measured.calibration()
    assert len(counts) == len(confidence) == len(accuracy) == BINS == 15
    assert np.flatnonzero(counts).tolist() == [9, 13]  # from 0.6 and from 0.867
    assert counts[[9, 13]].tolist() == [10, 10]
    assert confidence[[9, 13]] == pytest.approx([0.62, 0.9])
    assert accuracy[[9, 13]] == pytest.approx([0.6, 0.7])
    assert np.isnan(confidence[counts == 0]).all()
    assert np.isnan(accuracy[counts == 0]).all()


def test_the_calibration_error_agrees_with_scikit_learns_curve():
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    measured = made_up(rng.uniform(0.5, 1, 2000).tolist(), (rng.random(2000) < 0.7).tolist())
    counts, confidence, accuracy = measured.calibration()
    theirs = calibration_curve(measured.correct, measured.confidence, n_bins=15)
    assert accuracy[counts > 0] == pytest.approx(theirs[0])
    assert confidence[counts > 0] == pytest.approx(theirs[1])


def test_certainty_falls_into_the_last_range():
    counts, _, accuracy = made_up([1.0] * 4, [True] * 4).calibration()
    assert counts[-1] == 4
    assert accuracy[-1] == 1


# --- what a manifest records --------------------------------------------------------------------------


def test_a_manifest_records_accuracy_loss_calibration_interval_and_count(hand_computed):
    recorded = recorded_metrics("test", hand_computed)
    assert recorded == {
        "test_accuracy": 0.6,
        "test_loss": hand_computed.loss,
        "test_calibration_error": hand_computed.calibration_error,
        "test_interval": list(hand_computed.interval),
        "test_pictures": 5,
    }


def test_a_manifest_records_the_accuracy_with_a_single_view_too(hand_computed):
    single = Evaluation(PROBABILITIES[::-1], LABELS, NAMES)
    recorded = recorded_metrics("val", hand_computed, single)
    assert recorded.keys() == recorded_metrics("val", hand_computed).keys() | {"val_accuracy_without_tta"}
    assert recorded["val_accuracy_without_tta"] == single.accuracy
