import numpy as np
import pytest
from scipy.stats import binomtest

from imgclassify import Classifier, backend, compare_models, evaluate_model
from imgclassify.evaluation.comparison import ModelComparison
from imgclassify.evaluation.metrics import Evaluation

NAMES = ("cat", "dog")


def comparison(first: list[int], second: list[int]) -> ModelComparison:
    """Of two models that are right (1) or wrong (0) on pictures of cats."""
    evaluations = [
        Evaluation(np.eye(2, dtype=np.float32)[1 - np.array(right)], np.zeros(len(right), np.int64), NAMES)
        for right in (first, second)
    ]
    return ModelComparison(("old", "new"), (evaluations[0], evaluations[1]))


def test_a_comparison_computed_by_hand():
    compared = comparison([1, 1, 0, 0, 0, 1], [1, 0, 1, 1, 1, 1])
    assert compared.won.tolist() == [2, 3, 4]
    assert compared.lost.tolist() == [1]
    assert compared.p_value == pytest.approx(2 * 5 / 16)  # of four differing pictures, one or none, or three or four
    assert compared.gain.value == pytest.approx(2 / 6)
    assert str(compared).startswith("new 83.33%, old 50.00%, on 6 pictures: +33.33 points (95 % interval ")
    assert str(compared).endswith("McNemar's p = 0.62); 3 won, 1 lost")


def test_models_that_agree_differ_by_nothing():
    compared = comparison([1, 0, 1], [1, 0, 1])
    assert compared.p_value == 1
    assert compared.gain == (0, 0, 0)


def test_the_p_value_is_mcnemars():
    chance = np.random.default_rng(0)
    first, second = chance.integers(0, 2, (2, 500))
    compared = comparison(first.tolist(), second.tolist())
    won, lost = int((second > first).sum()), int((first > second).sum())
    assert compared.p_value == binomtest(min(won, lost), won + lost).pvalue


def test_the_interval_of_the_gain_covers_as_often_as_it_says():
    """Both are right on 60 %, one alone on 8 %, the other alone on 12 %: a gain of 4 points."""
    covered = 0
    for seed in range(200):
        both, old, new, none = np.random.default_rng(seed).multinomial(500, [0.6, 0.08, 0.12, 0.2])
        cells = ((1, 1), (1, 0), (0, 1), (0, 0))
        first, second = (np.repeat([cell[i] for cell in cells], (both, old, new, none)) for i in (0, 1))
        gain = comparison(first.tolist(), second.tolist()).gain
        covered += gain.low <= 0.04 <= gain.high
    assert 180 <= covered <= 199


@pytest.fixture
def larger():
    """A network for pictures of 64 x 64 pixels, whose three classes have no names."""
    layers = backend.keras().layers
    answers = layers.Dense(3, activation="softmax")
    return backend.keras().Sequential([layers.Input((64, 64, 3)), layers.GlobalAveragePooling2D(), answers])


def test_evaluations_of_other_pictures_are_not_compared():
    one, other = (
        Evaluation(np.eye(2, dtype=np.float32)[labels], labels, ("a", "b")) for labels in np.eye(2, dtype=int)
    )
    with pytest.raises(ValueError, match="only on the same pictures"):
        ModelComparison(("one", "other"), (one, other))


def test_two_models_see_the_same_pictures_and_may_take_other_sizes(tiny, tiny_model, larger):
    named = Classifier.of(larger, tiny_model.class_names)
    compared = compare_models(tiny_model, named, tiny.x_test, tiny.y_test, source="made up")
    assert compared.names == (tiny_model.name, larger.name)
    for model, evaluation in zip((tiny_model, named), compared.evaluations, strict=True):
        expected = evaluate_model(model, tiny.x_test, tiny.y_test)
        assert np.array_equal(evaluation.probabilities, expected.probabilities)
        assert evaluation.source == "made up"


def test_models_of_other_classes_are_not_compared(tiny, tiny_model, larger):
    with pytest.raises(ValueError, match=r"must have the same classes\. Received: red, green, blue; and 0, 1, 2"):
        compare_models(tiny_model, larger, tiny.x_test, tiny.y_test)
