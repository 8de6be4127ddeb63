"""The label review: what it shows, what it writes, and that it goes on where it was left."""

import json

import numpy as np
import pytest

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install -e '.[notebooks]'")

from imgclassify.evaluation.labels import Doubt
from imgclassify.widgets.review import LabelReview

DOUBTS = [Doubt(4, "cat", "dog", 0.01, 0.9), Doubt(7, "dog", "ox", 0.02, 0.7), Doubt(2, "ox", "cat", 0.03, 0.6)]
NAMES = ("cat", "dog", "ox")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "reviews" / "labels.json"


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), np.uint8)


@pytest.fixture
def review(pictures, path):
    return LabelReview(pictures, DOUBTS, NAMES, path)


def written(path) -> list[tuple]:
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [tuple(entry[key] for key in ("row", "label", "decided")) for entry in entries]


def test_each_decision_is_written_at_once_and_the_next_picture_shown(review, pictures, path):
    before = pictures.copy()
    assert (review.keep.description, review.correct.description) == ("Keep: cat", "Correct: dog")
    assert "1 of 3. Labelled <b>cat</b>" in review.picture.value
    assert not path.exists()
    review.correct.click()
    assert written(path) == [(4, "cat", "dog")]
    assert "2 of 3. Labelled <b>dog</b>" in review.picture.value
    review.keep.click()
    assert written(path) == [(4, "cat", "dog"), (7, "dog", "dog")]
    review.other.value = "dog"
    assert written(path) == [(4, "cat", "dog"), (7, "dog", "dog"), (2, "ox", "dog")]
    assert review.corrections == {2: "dog", 4: "dog"}
    assert "No more doubtful labels: 3 decided, 2 of them corrected." in review.picture.value
    assert review.keep.disabled
    np.testing.assert_array_equal(pictures, before)


def test_a_decision_can_be_taken_back(review, path):
    assert review.back.disabled
    review.correct.click()
    review.back.click()
    assert "1 of 3" in review.picture.value
    review.keep.click()
    assert written(path) == [(4, "cat", "cat")]
    assert review.corrections == {}


def test_another_review_of_the_file_goes_on_where_it_was_left(review, pictures, path):
    review.correct.click()
    again = LabelReview(pictures, DOUBTS, NAMES, path)
    assert "2 of 3" in again.picture.value
    assert again.corrections == {4: "dog"}
    more = [Doubt(9, "cat", "ox", 0.04, 0.8), *DOUBTS]
    assert "1 of 4" in LabelReview(pictures, more, NAMES, path).picture.value


def test_decisions_stay_with_their_pictures_when_rows_move(review, pictures, path):
    review.correct.click()
    moved = np.concatenate([pictures[:1], pictures])
    doubts = [each._replace(row=each.row + 1) for each in DOUBTS]
    again = LabelReview(moved, doubts, NAMES, path)
    assert again.corrections == {5: "dog"}
    other = LabelReview(pictures[::-1], DOUBTS, NAMES, path)
    assert other.corrections == {}
    assert "1 of 3" in other.picture.value
    relabelled = LabelReview(pictures, [DOUBTS[0]._replace(label="ox")], NAMES, path)
    assert "1 of 1" in relabelled.picture.value


def test_the_list_names_the_files_of_photos(tmp_path, path):
    from PIL import Image

    from imgclassify import load_dataset

    for name, color in (("cat", "red"), ("dog", "blue")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            shade = Image.new("RGB", (40, 30 + number), color)
            shade.save(tmp_path / "photos" / name / f"{number}.png")
    data = load_dataset(tmp_path / "photos", size=96)
    LabelReview(data.x_train, [Doubt(0, "cat", "dog", 0.01, 0.9)], ("cat", "dog"), path).correct.click()
    (entry,) = json.loads(path.read_text(encoding="utf-8"))
    assert entry["file"] == data.x_train.photos[0].path


def test_without_doubts_it_says_so(pictures, path):
    review = LabelReview(pictures, [], NAMES, path)
    assert "No more doubtful labels: 0 decided" in review.picture.value
    review.keep.click()
    assert not path.exists()


@pytest.mark.parametrize("content", ["words", "{}x", '[{"row": "x"}]', "[1]", "7", "[" * 100_000])
def test_a_file_of_something_else_is_left_alone(pictures, path, content):
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"labels\.json is no list of decided labels"):
        LabelReview(pictures, DOUBTS, NAMES, path)
    assert path.read_text(encoding="utf-8") == content


def test_a_place_that_cannot_be_written_to_is_said_and_nothing_is_lost(review, monkeypatch, path):
    review.correct.click()

    def full(*arguments, **options):
        raise OSError("No space left on device")

    monkeypatch.setattr("imgclassify.widgets.review.replacing", full)
    review.keep.click()
    assert "No space left on device" in review.message.value
    assert "2 of 3" in review.picture.value
    assert written(path) == [(4, "cat", "dog")]
