"""The camera box without a browser: frames in, answers out, whatever the frames are."""

import base64
import io
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from imgclassify.camera import MAX_FRAME_BYTES, CameraClassifier
from imgclassify.images import ImageError
from imgclassify.prediction import classify_custom_image


def png(color: tuple[int, int, int] = (200, 20, 20), side: int = 96) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), color).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def camera(tiny_model, monkeypatch):
    camera = CameraClassifier(tiny_model)
    camera.answers = []
    monkeypatch.setattr(camera, "send", camera.answers.append)
    return camera


def test_a_frame_is_classified_like_an_uploaded_picture(camera, tiny_model):
    prediction = camera.classify_frame(png())
    assert prediction is camera.prediction
    assert prediction.probabilities == classify_custom_image(tiny_model, png()).probabilities


def test_a_frame_is_not_mirrored(camera):
    picture = np.zeros((96, 96, 3), np.uint8)
    picture[:, :48] = 255
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    seen = camera.classify_frame(file.getvalue()).image
    assert seen[:, :15].min() > 250
    assert seen[:, 17:].max() < 5


def test_the_browser_learns_the_classes_and_the_size_of_a_frame(camera):
    assert camera.class_names == ["red", "green", "blue"]
    assert camera.frame_side == 3 * 32


def test_an_answer_carries_three_classes_and_what_the_model_saw(camera):
    camera._on_frame(camera, {"frame": "a/1"}, [memoryview(png())])
    (answer,) = camera.answers
    assert answer["frame"] == "a/1"
    assert answer["top"] == camera.prediction.top(3)
    content = base64.b64decode(answer["view"].partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), camera.prediction.image)


@pytest.mark.parametrize(("message", "buffers", "sentence"), [
    ({"frame": "a/1"}, [b"words"], "The frame is not a picture"),
    ({"frame": "a/1"}, [b""], "The frame is empty"),
    ({"frame": "a/1"}, [bytes(MAX_FRAME_BYTES + 1)], "at most 1 MB"),
    ({"frame": "a/1"}, [], "The frame could not be classified (IndexError"),
    ("nonsense", [], "The frame could not be classified (IndexError"),
])  # fmt: skip
def test_whatever_is_wrong_is_answered_in_one_sentence(camera, message, buffers, sentence):
    camera._on_frame(camera, message, buffers)
    (answer,) = camera.answers
    assert sentence in answer["error"]
    assert camera.prediction is None
    camera._on_frame(camera, {"frame": "a/2"}, [png()])
    assert "top" in camera.answers[1]


def test_a_frame_above_the_limit_is_refused_before_it_is_decoded(camera):
    with pytest.raises(ImageError, match="at most 1 MB are accepted"):
        camera.classify_frame(bytes(MAX_FRAME_BYTES + 1))


def test_a_model_of_other_pictures_is_refused_at_once():
    from imgclassify.models import build_model

    with pytest.raises(ValueError, match="square RGB"):
        CameraClassifier(build_model(input_shape=(32, 32, 1)))


def test_script_and_style_are_shipped_and_fetch_nothing():
    for name in ("camera.js", "camera.css"):
        text = resources.files("imgclassify").joinpath(name).read_text(encoding="utf-8")
        assert "import " not in text
        assert "//cdn" not in text
        assert "url(" not in text
