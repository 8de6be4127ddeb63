"""The camera box without a browser: frames in, answers out, whatever the frames are."""

import base64
import io
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

pytest.importorskip("anywidget", reason="anywidget is not installed: pip install -e '.[notebooks]'")

from imgclassify import backend
from imgclassify.classifier import classify_custom_image, load_model
from imgclassify.data.images import ImageError
from imgclassify.evaluation.explain import explain_image
from imgclassify.models.networks import build_model
from imgclassify.widgets.camera import CameraClassifier


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


@pytest.mark.parametrize(("size", "side"), [(32, 96), (64, 192), (96, 288), (224, 288), (300, 300)])
def test_a_frame_has_at_least_the_models_size(size, side):
    assert CameraClassifier(build_model(input_shape=(size, size, 3))).frame_side == side


def test_what_a_large_model_saw_is_sent_small(png):
    camera = CameraClassifier(build_model(input_shape=(224, 224, 3)))
    answers = []
    camera.send = answers.append
    receive(camera, {"frame": "a/1"}, [png("red", (288, 288))])
    assert answers[0]["view"].startswith("data:image/jpeg")
    assert camera.prediction.image.shape == (224, 224, 3)


def test_a_plain_network_has_numbers_for_class_names():
    assert CameraClassifier(build_model(num_classes=3)).class_names == ["0", "1", "2"]


def test_an_answer_carries_three_classes_and_what_the_model_saw(camera, frame):
    receive(camera, {"frame": "a/1"}, [memoryview(frame)])
    (answer,) = camera.answers
    assert answer["frame"] == "a/1"
    assert answer["top"] == camera.prediction.top(3)
    assert answer["verdict"] == ""
    content = base64.b64decode(answer["view"].partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), camera.prediction.image)


def test_an_answer_shows_what_speaks_for_it_if_asked(camera, tiny_model, frame):
    receive(camera, {"frame": "a/1", "why": True}, [memoryview(frame)])
    receive(camera, {"frame": "a/2", "why": False}, [memoryview(frame)])
    asked, plain = camera.answers
    assert asked["caption"] == str(explain_image(tiny_model, frame)) == "what speaks for red"
    shown = Image.open(io.BytesIO(base64.b64decode(asked["view"].partition(",")[2])))
    assert shown.size == (224, 224)
    assert plain["caption"] == ""
    assert asked["top"] == plain["top"]


def test_a_network_that_cannot_be_explained_still_answers(frame, monkeypatch):
    keras = backend.keras()
    layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    camera = CameraClassifier(keras.Sequential(layers))
    monkeypatch.setattr(camera, "send", (answers := []).append)
    receive(camera, {"frame": "a/1", "why": True}, [memoryview(frame)])
    assert answers[0]["top"] == camera.prediction.top(3)
    assert answers[0]["caption"].startswith("The answer cannot be explained: The layers with feature maps are none")


def test_an_answer_says_if_the_picture_is_none_of_the_classes(frame, monkeypatch):
    camera = CameraClassifier(load_model("guided"))
    monkeypatch.setattr(camera, "send", (answers := []).append)
    coffee = Path(skimage.__file__).parent / "data" / "coffee.png"
    receive(camera, {"frame": "a/1"}, [memoryview(coffee.read_bytes())])
    assert not camera.prediction.known
    assert answers[0]["verdict"] == "none of its classes"
    assert answers[0]["top"] == camera.prediction.top(3)


@pytest.mark.parametrize(
    ("message", "buffers", "sentence"),
    [
        ({"frame": "a/1"}, [b"words"], "The frame is not a picture"),
        ({"frame": "a/1"}, [b""], "The frame is empty"),
        ({"frame": "a/1"}, [], "The frame could not be used (IndexError"),
        ("nonsense", [], "The frame could not be used (IndexError"),
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


# --- bursts ------------------------------------------------------------------------------------------


@pytest.fixture
def bursts():
    """A camera box without a model and with two burst buttons; its `photos` and `answers` are kept."""
    photos, answers = [], []
    camera = CameraClassifier(on_frame=lambda *taken: photos.append(taken), bursts=("cup", "pen"))
    camera.photos, camera.answers, camera.send = photos, answers, answers.append
    return camera


def test_frames_of_a_burst_are_handed_over_with_the_name_of_their_button(bursts, frame):
    for number, name in enumerate(("cup", "pen", "cup")):
        receive(bursts, {"frame": f"a/{number}", "burst": name}, [memoryview(frame)])
    assert bursts.photos == [("cup", frame), ("pen", frame), ("cup", frame)]
    assert bursts.answers == [{"frame": "a/0"}, {"frame": "a/1"}, {"frame": "a/2"}]


def test_a_frame_of_an_unknown_button_is_refused(bursts, frame):
    for name in ("spoon", 3, ["cup"]):
        receive(bursts, {"frame": "a/1", "burst": name}, [frame])
        assert "no button" in bursts.answers[-1]["error"]
    assert bursts.photos == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(ImageError("Enough photos."), "Enough photos."), (OSError("no disk"), "could not be used (OSError: no disk)")],
)
def test_what_the_owner_of_a_burst_raises_is_answered(frame, error, sentence):
    def refuse(*_):
        raise error

    camera = CameraClassifier(on_frame=refuse, bursts=("cup",))
    answers = []
    camera.send = answers.append
    receive(camera, {"frame": "a/1", "burst": "cup"}, [frame])
    assert sentence in answers[0]["error"]


def test_a_model_can_come_later(bursts, tiny_model, frame):
    assert bursts.class_names == []
    receive(bursts, {"frame": "a/1"}, [frame])
    assert bursts.answers[0]["error"] == "There is no model yet that could classify the frame."
    bursts.use(tiny_model)
    assert bursts.class_names == ["red", "green", "blue"]
    receive(bursts, {"frame": "a/2"}, [frame])
    assert bursts.answers[1]["top"] == bursts.prediction.top(3)


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
