"""The camera box without a browser: frames in, answers out, whatever the frames are."""

import base64
import io
from importlib import resources

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("anywidget", reason="anywidget is not installed: pip install -e '.[notebooks]'")

from imgclassify.classifier import classify_custom_image
from imgclassify.data.images import ImageError
from imgclassify.models.networks import build_model
from imgclassify.widgets.camera import MAX_FRAME_BYTES, CameraClassifier


@pytest.fixture
def frame(png) -> bytes:
    """A frame as the browser sends it: a small square PNG."""
    return png((200, 20, 20), (96, 96))


@pytest.fixture
def camera(tiny_model, monkeypatch):
    """A camera box whose `answers` are kept in place of being sent to a browser."""
    camera = CameraClassifier(tiny_model)
    camera.answers = []
    monkeypatch.setattr(camera, "send", camera.answers.append)
    return camera


def receive(camera, message, buffers: list) -> None:
    """A message from the browser."""
    camera._handle_custom_msg(message, buffers)


def test_a_frame_is_classified_like_an_uploaded_picture(camera, tiny_model, frame):
    prediction = camera.classify_frame(frame)
    assert prediction is camera.prediction
    assert prediction.probabilities == classify_custom_image(tiny_model, frame).probabilities


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


def test_a_plain_network_has_numbers_for_class_names():
    assert CameraClassifier(build_model(num_classes=3)).class_names == ["0", "1", "2"]


def test_an_answer_carries_three_classes_and_what_the_model_saw(camera, frame):
    receive(camera, {"frame": "a/1"}, [memoryview(frame)])
    (answer,) = camera.answers
    assert answer["frame"] == "a/1"
    assert answer["top"] == camera.prediction.top(3)
    content = base64.b64decode(answer["view"].partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), camera.prediction.image)


@pytest.mark.parametrize(
    ("message", "buffers", "sentence"),
    [
        ({"frame": "a/1"}, [b"words"], "The frame is not a picture"),
        ({"frame": "a/1"}, [b""], "The frame is empty"),
        ({"frame": "a/1"}, [bytes(MAX_FRAME_BYTES + 1)], "at most 1 MB"),
        ({"frame": "a/1"}, [], "The frame could not be classified (IndexError"),
        ("nonsense", [], "The frame could not be classified (IndexError"),
    ],
)
def test_whatever_is_wrong_is_answered_in_one_sentence(camera, frame, message, buffers, sentence):
    receive(camera, message, buffers)
    (answer,) = camera.answers
    assert sentence in answer["error"]
    assert camera.prediction is None
    receive(camera, {"frame": "a/2"}, [frame])
    assert camera.answers[1]["frame"] == "a/2"
    assert "top" in camera.answers[1]


def test_a_frame_above_the_limit_is_refused_before_it_is_decoded(camera):
    with pytest.raises(ImageError, match="at most 1 MB are accepted"):
        camera.classify_frame(bytes(MAX_FRAME_BYTES + 1))


def test_a_model_of_other_pictures_is_refused_at_once():
    with pytest.raises(ValueError, match="square RGB"):
        CameraClassifier(build_model(input_shape=(32, 32, 1)))


@pytest.mark.parametrize("name", ["widgets/camera.js", "widgets/camera.css", "style.css"])
def test_script_and_style_are_shipped_and_fetch_nothing(name):
    text = resources.files("imgclassify").joinpath(name).read_text(encoding="utf-8")
    assert "import " not in text
    assert "//cdn" not in text
    assert "url(" not in text


def test_the_box_has_the_packages_style_and_its_own(camera):
    for name in ("style.css", "widgets/camera.css"):
        assert resources.files("imgclassify").joinpath(name).read_text(encoding="utf-8") in str(camera._css)
