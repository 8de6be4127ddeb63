import datetime as dt
import io
import logging

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install -e '.[notebooks]'")

from imgclassify.widgets import UploadClassifier

pytestmark = pytest.mark.usefixtures("nothing_shipped")

RED = "color:#b00020"


@pytest.fixture
def box(tiny_model):
    return UploadClassifier(tiny_model)


def chosen(name: str, content: bytes) -> dict:
    """A file as the browser's part of ipywidgets 8 hands it over."""
    modified = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return {"name": name, "type": "image/png", "size": len(content), "content": memoryview(content),
            "last_modified": modified}


def picture(color: str, size=(60, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def test_the_box_shows_nothing_before_a_file_is_chosen(box):
    assert box.output.value == ""
    assert box.predictions == []
    assert box.upload.multiple
    assert box.upload.accept == "image/*"


@pytest.mark.parametrize("color", ["red", "lime", "blue"])
def test_a_chosen_picture_is_classified_at_once(box, color):
    box.upload.value = (chosen("my photo.png", picture(color)),)
    (prediction,) = box.predictions
    assert prediction.label == {"lime": "green"}.get(color, color)
    assert "my photo.png" in box.output.value
    assert f"{prediction.confidence:.1%}" in box.output.value
    assert box.message.value == ""


def test_several_pictures_are_shown_in_their_order(box):
    box.upload.value = (chosen("1.png", picture("red")), chosen("2.png", picture("blue")))
    assert [prediction.label for prediction in box.predictions] == ["red", "blue"]
    assert box.output.value.index("1.png") < box.output.value.index("2.png")


def test_the_same_file_can_be_chosen_again(box):
    for _ in range(3):
        box.output.value = ""
        box.upload.value = (chosen("photo.png", picture("red")),)
        assert box.upload.value == ()
        assert "photo.png" in box.output.value
        assert len(box.predictions) == 1


def test_a_bad_file_is_one_red_sentence_and_the_good_ones_are_classified(box):
    bad = (chosen("notes.txt", b"no picture"), chosen("empty.png", b""))
    box.upload.value = (bad[0], chosen("good.png", picture("blue")), bad[1])
    assert [prediction.label for prediction in box.predictions] == ["blue"]
    assert box.message.value.count(RED) == 2
    assert "notes.txt is not a picture of a known format" in box.message.value
    assert "empty.png is empty" in box.message.value
    assert "Traceback" not in box.message.value
    assert "good.png" in box.output.value
    assert box.upload.value == ()


def test_the_next_choice_replaces_the_last_one(box):
    box.upload.value = (chosen("old.png", b"broken"),)
    box.upload.value = (chosen("new.png", picture("red")),)
    assert box.message.value == ""
    assert "old.png" not in box.output.value
    assert "new.png" in box.output.value


def test_names_of_files_are_escaped(box):
    evil = "<img src=x onerror=alert(1)>.png"
    box.upload.value = (chosen(evil, picture("red")), chosen("<b>.png", b"broken"))
    assert "<img src=x" not in box.output.value
    assert "&lt;img src=x" in box.output.value
    assert "<b>" not in box.message.value
    assert "&lt;b&gt;.png" in box.message.value


def test_an_unforeseen_error_is_shown_too_not_lost_in_a_log(monkeypatch, box):
    def broken(*_, **__):
        raise RuntimeError("out of paper")

    monkeypatch.setattr("imgclassify.widgets.classify_custom_image", broken)
    box.upload.value = (chosen("photo.png", picture("red")),)
    assert RED in box.message.value
    assert "photo.png could not be classified (RuntimeError: out of paper)" in box.message.value
    assert box.upload.value == ()


def test_a_picture_goes_the_same_way_as_in_classify_custom_image(box, tiny, tiny_model, caplog):
    from imgclassify.prediction import predict_image

    file = io.BytesIO()
    Image.fromarray(tiny.x_test[4]).save(file, "PNG")
    with caplog.at_level(logging.WARNING):
        box.upload.value = (chosen("4.png", file.getvalue()),)
    assert box.predictions[0].probabilities == predict_image(tiny_model, tiny.x_test[4]).probabilities
    assert np.array_equal(box.predictions[0].image, tiny.x_test[4])
    assert caplog.text == ""
