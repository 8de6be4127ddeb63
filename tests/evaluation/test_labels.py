"""Doubtful labels: which are named, and what corrections do to an accuracy."""

from dataclasses import replace

import numpy as np
import pytest

from imgclassify.evaluation.labels import Doubt, doubtful_labels, with_corrections
from imgclassify.evaluation.metrics import Evaluation
from imgclassify.training.features import cross_validate

NAMES = ("cat", "dog", "ox")


@pytest.fixture
def evaluation():
    probabilities = [[0.9, 0.06, 0.04], [0.03, 0.9, 0.07], [0.01, 0.01, 0.98], [0.5, 0.3, 0.2], [0.04, 0.56, 0.4]]
    return Evaluation(np.array(probabilities, np.float32), np.array([0, 0, 0, 1, 0]), NAMES)


def test_labels_that_the_model_finds_unlikely_are_named_the_least_likely_first(evaluation):
    found = doubtful_labels(evaluation)
    assert [(each.row, each.label, each.suggestion) for each in found] == [
        (2, "cat", "ox"),
        (1, "cat", "dog"),
        (4, "cat", "dog"),
    ]
    assert found[0].confidence == pytest.approx(0.01)
    assert found[0].alternative == pytest.approx(0.98)
    assert str(found[0]) == "cat 1.0%, ox 98.0%"
    assert len(doubtful_labels(evaluation, below=0.4)) == 4
    assert doubtful_labels(evaluation, below=0.001) == []


def test_a_label_that_the_model_would_give_too_is_never_doubtful():
    unsure = Evaluation(np.full((1, 40), 0.025, np.float32), np.array([0]), tuple(map(str, range(40))))
    assert doubtful_labels(unsure) == []


def test_rows_are_those_of_the_data_where_pictures_were_left_out(evaluation):
    some = replace(evaluation, rows=np.array([3, 5, 7, 8, 9]))
    assert [each.row for each in doubtful_labels(some)] == [7, 5, 9]


def test_corrections_change_the_labels_and_nothing_else(evaluation):
    corrected = with_corrections(evaluation, {1: "dog", 2: "ox"})
    assert corrected.labels.tolist() == [0, 1, 2, 1, 0]
    assert evaluation.labels.tolist() == [0, 0, 0, 1, 0]
    assert (evaluation.accuracy, corrected.accuracy) == (1 / 5, 3 / 5)
    assert corrected.probabilities is evaluation.probabilities


@pytest.mark.parametrize("corrections", [{5: "cat"}, {-1: "cat"}, {0: "cow"}])
def test_corrections_of_other_rows_or_classes_are_refused(evaluation, corrections):
    with pytest.raises(ValueError, match="5 rows up to 4, and the classes cat, dog, ox"):
        with_corrections(evaluation, corrections)


def test_corrections_find_their_rows_where_pictures_were_left_out(evaluation):
    some = replace(evaluation, rows=np.array([3, 5, 7, 8, 9]))
    assert with_corrections(some, {7: "ox"}).labels.tolist() == [0, 0, 2, 1, 0]
    with pytest.raises(ValueError, match="5 rows up to 9"):
        with_corrections(some, {4: "ox"})


def test_an_unlikely_answer_does_not_hide_other_doubts():
    doubted = np.full(40, 0.01)
    doubted[[1, 2]] = 0.03, 0.59
    level = np.full(40, 0.025)
    many = Evaluation(np.array([level, doubted], np.float32), np.array([0, 1]), tuple(map(str, range(40))))
    assert [(each.row, each.suggestion) for each in doubtful_labels(many)] == [(1, "2")]


def test_planted_labels_are_found_by_cross_validation(tiny):
    chance = np.random.default_rng(0)
    planted = chance.permutation(len(tiny.y_train))[:3]
    labels = tiny.y_train.copy()
    labels[planted] = (labels[planted] + 1) % 3
    found = doubtful_labels(cross_validate(replace(tiny, y_train=labels), recipe="head"))
    assert {each.row for each in found[:3]} == set(planted.tolist())
    assert all(isinstance(each, Doubt) for each in found)
    for each in found[:3]:
        assert each.suggestion == tiny.class_names[tiny.y_train[each.row]]
