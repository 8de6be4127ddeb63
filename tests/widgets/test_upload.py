import datetime as dt
import io
import logging
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

ipywidgets = pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install -e '.[notebooks]'")

from imgclassify import backend
from imgclassify.classifier import Classifier, load_model, predict_image, save_model
from imgclassify.models.networks import build_model
from imgclassify.runs.manifest import DataRecord, ModelFileError
from imgclassify.settings import artifacts_dir
from imgclassify.widgets.upload import UploadClassifier, example_pictures

pytestmark = pytest.mark.usefixtures("nothing_shipped")

ALERT = 'role="alert"'


@pytest.fixture
def box(tiny_model):
    return UploadClassifier(tiny_model)


@pytest.fixture(scope="module")
def pets():
    """Another classifier, with other classes."""
    backend.set_seed(0)
    return Classifier.of(build_model(num_classes=2), ("cat", "dog"))


def chosen(name: str, content: bytes) -> dict:
    """A file as the browser's part of ipywidgets 8 hands it over."""
    modified = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return {
        "name": name,
        "type": "image/png",
        "size": len(content),
        "content": memoryview(content),
        "last_modified": modified,
    }


def press_enter(text) -> None:
    """What the browser's part of a text box sends when Enter is pressed."""
    text._handle_custom_msg({"event": "submit"}, [])


def labels(box) -> list[str]:
    return [prediction.label for prediction in box.predictions]


def models(box) -> list[str]:
    """The entries of the list of models."""
    return [label for label, _ in box.models.options]


def text_of(html: str) -> str:
    """The text of HTML, as a person reads it."""
    parts = []
    parser = HTMLParser()
    parser.handle_data = parts.append
    parser.feed(html)
    return "".join(parts)


def test_the_box_shows_nothing_before_a_file_is_chosen(box):
    assert box.output.value == ""
    assert box.predictions == []
    assert box.upload.multiple
    assert box.upload.accept == "image/*"


def test_the_box_brings_the_style_that_its_classes_refer_to(box):
    assert "imgclassify" in box._dom_classes
    assert any(isinstance(child, ipywidgets.HTML) and "<style>" in child.value for child in box.children)


@pytest.mark.parametrize("color", ["red", "lime", "blue"])
def test_a_chosen_picture_is_classified_at_once(box, png, color):
    box.upload.value = (chosen("my photo.png", png(color)),)
    (prediction,) = box.predictions
    assert prediction.label == {"lime": "green"}.get(color, color)
    assert "my photo.png" in box.output.value
    assert f"{prediction.confidence:.1%}" in box.output.value
    assert box.message.value == ""


def test_several_pictures_are_shown_in_their_order(box, png):
    box.upload.value = (chosen("1.png", png("red")), chosen("2.png", png("blue")))
    assert labels(box) == ["red", "blue"]
    assert box.output.value.index("1.png") < box.output.value.index("2.png")


def test_the_same_file_can_be_chosen_again(box, png):
    for _ in range(3):
        box.output.value = ""
        box.upload.value = (chosen("photo.png", png("red")),)
        assert box.upload.value == ()
        assert "photo.png" in box.output.value
        assert len(box.predictions) == 1


def test_a_bad_file_is_one_sentence_and_the_good_ones_are_classified(box, png):
    bad = (chosen("notes.txt", b"no picture"), chosen("empty.png", b""))
    box.upload.value = (bad[0], chosen("good.png", png("blue")), bad[1])
    assert labels(box) == ["blue"]
    assert box.message.value.count(ALERT) == 2
    assert "notes.txt is not a picture of a known format" in box.message.value
    assert "empty.png is empty" in box.message.value
    assert "Traceback" not in box.message.value
    assert "good.png" in box.output.value
    assert box.upload.value == ()


def test_the_next_choice_replaces_the_last_one(box, png):
    box.upload.value = (chosen("old.png", b"broken"),)
    box.upload.value = (chosen("new.png", png("red")),)
    assert box.message.value == ""
    assert "old.png" not in box.output.value
    assert "new.png" in box.output.value


def test_names_of_files_are_escaped(box, png):
    evil = "<img src=x onerror=alert(1)>.png"
    box.upload.value = (chosen(evil, png("red")), chosen("<b>.png", b"broken"))
    assert "<img src=x" not in box.output.value
    assert "&lt;img src=x" in box.output.value
    assert "<b>" not in box.message.value
    assert "&lt;b&gt;.png" in box.message.value


def test_an_unforeseen_error_is_shown_too_not_lost_in_a_log(monkeypatch, box, png):
    def broken(*_, **__):
        raise RuntimeError("out of paper")

    monkeypatch.setattr(Classifier, "predict", broken)
    box.upload.value = (chosen("photo.png", png("red")),)
    assert ALERT in box.message.value
    assert "photo.png could not be classified (RuntimeError: out of paper)" in box.message.value
    assert "Traceback" in box.message.value  # in the details to unfold
    assert box.upload.value == ()


def test_a_picture_goes_the_same_way_as_in_classify_custom_image(box, tiny, tiny_model, caplog):
    file = io.BytesIO()
    Image.fromarray(tiny.x_test[4]).save(file, "PNG")
    with caplog.at_level(logging.WARNING):
        box.upload.value = (chosen("4.png", file.getvalue()),)
    assert box.predictions[0].probabilities == predict_image(tiny_model, tiny.x_test[4]).probabilities
    assert np.array_equal(box.predictions[0].image, tiny.x_test[4])
    assert caplog.text == ""


def test_an_upload_above_the_limit_is_reported_and_the_rest_is_classified(tiny_model, png):
    box = UploadClassifier(tiny_model, max_bytes=1_000_000)
    box.upload.value = (chosen("large.png", bytes(2_000_000)), chosen("small.png", png("red")))
    assert "large.png has 2.0 MB: at most 1 MB can be uploaded." in box.message.value
    assert labels(box) == ["red"]


# --- path box and examples ---------------------------------------------------------------------------


def test_a_file_is_classified_by_its_path_also_in_quotes(box, png, tmp_path):
    path = tmp_path / "large one.png"
    path.write_bytes(png("blue"))
    for written in (str(path), f' "{path}" ', f"'{path}'"):
        box.path.value = written
        box.open_path.click()
        assert labels(box) == ["blue"]
        assert box.message.value == ""


def test_enter_in_the_path_box_classifies_the_file(box, png, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png("blue"))
    box.path.value = str(path)
    assert labels(box) == []  # writing alone does nothing
    press_enter(box.path)
    assert labels(box) == ["blue"]
    box.path.value = "/no/such.png"
    press_enter(box.path)
    assert "/no/such.png does not exist" in box.message.value
    assert labels(box) == []


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("", "Enter the path of a picture in the box first."), ("/no/such.png", "/no/such.png does not exist")],
)
def test_a_missing_path_is_reported(box, path, sentence):
    box.path.value = path
    box.open_path.click()
    assert ALERT in box.message.value
    assert sentence in box.message.value


def test_without_path_box_no_file_of_this_computer_can_be_read(tiny_model):
    box = UploadClassifier(tiny_model, path_box=False)
    assert box.path is None
    assert box.open_path is None
    assert not any(
        isinstance(widget, ipywidgets.Text) for row in box.children for widget in getattr(row, "children", ())
    )


def test_a_file_above_the_upload_limit_is_classified_by_its_path(tiny_model, png, tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png("red"))
    box = UploadClassifier(tiny_model, max_bytes=10)
    box.path.value = str(path)
    box.open_path.click()
    assert labels(box) == ["red"]


def test_the_examples_are_classified_by_a_click(box):
    photo = next(button for button in box.examples if button.description == "cat photo")
    photo.click()
    assert len(box.predictions) == 1
    assert "cat photo" in box.output.value


@pytest.mark.real_data
def test_test_pictures_are_among_the_examples_if_the_data_is_there(cifar10, cifar10_settings, monkeypatch):
    for name, value in cifar10_settings.items():
        monkeypatch.setenv(name, value)
    names = [name for name, _ in example_pictures()]
    assert f"test: {cifar10.class_names[cifar10.y_test[0]]}" in names


def test_the_known_classes_are_always_in_view(box):
    shown = "".join(widget.value for widget in box.children if isinstance(widget, ipywidgets.HTML))
    assert "red, green, blue" in shown


# --- models ------------------------------------------------------------------------------------------


def test_without_a_model_the_box_takes_the_best(tiny_model, png):
    classifier = tiny_model.recorded(dataset=DataRecord(name="cifar10"))
    classifier.save(artifacts_dir() / "cifar10_best.keras")
    box = UploadClassifier()
    assert models(box) == ["cifar10_best.keras"]
    assert box.classify([("a.png", png("red"))])[0].label == "red"


def test_without_a_model_and_none_published_the_box_is_refused():
    with pytest.raises(ModelFileError, match='No model for "best"'):
        UploadClassifier()


def test_a_given_model_is_listed_by_its_runs_name_without_the_time(tiny_model, pets):
    name = "20260102-030405-my-try"
    for given in (
        tiny_model.recorded(run=name).save(artifacts_dir() / "runs" / name / "model.keras"),
        replace(tiny_model.recorded(run=name), file=None),  # in memory only
    ):
        assert models(UploadClassifier(given)) == ["this notebook's model: my-try"]
    assert models(UploadClassifier(pets)) == ["this notebook's model: baseline"]  # the network's own name
    assert models(UploadClassifier(pets.network)) == ["this notebook's model: baseline"]


def test_a_given_model_of_a_file_is_listed_by_that_file(pets, tmp_path):
    given = pets.save(tmp_path / "elsewhere" / "a_model_of_two_kinds_of_pets.keras")
    (label,) = models(UploadClassifier(given))
    assert label.startswith("this notebook's model: ")
    assert label.endswith("a_model_of_two_kinds_of_pets.keras")


def test_a_given_model_that_is_published_is_listed_once_by_its_file(tiny_model, pets):
    pets.save(artifacts_dir() / "pets_model.keras")
    published = tiny_model.save(artifacts_dir() / "tiny_model.keras")
    for given in (published, load_model("tiny")):
        box = UploadClassifier(given)
        assert models(box) == ["tiny_model.keras", "pets_model.keras"]
        assert box.models.label == "tiny_model.keras"


def test_a_published_model_with_a_damaged_manifest_does_not_keep_the_box_from_opening(tiny_model, png):
    save_model(tiny_model, artifacts_dir() / "colours_model.keras")
    (artifacts_dir() / "colours_model.json").write_text("damaged")
    box = UploadClassifier(tiny_model)
    assert models(box)[1:] == ["colours_model.keras"]
    assert box.classify([("a.png", png("red"))])[0].label == "red"


def test_another_published_model_can_be_chosen(tiny_model, png):
    path = save_model(tiny_model, artifacts_dir() / "colours_model.keras")
    box = UploadClassifier(tiny_model)
    assert models(box)[1:] == ["colours_model.keras"]
    box.models.value = path
    box.upload.value = (chosen("a.png", png("red")),)
    assert labels(box) == ["red"]
    assert box.message.value == ""


def test_choosing_another_model_classifies_the_shown_pictures_again(tiny_model, pets, png):
    path = save_model(pets, artifacts_dir() / "pets_model.keras")
    box = UploadClassifier(tiny_model)
    box.upload.value = (chosen("1.png", png("red")), chosen("2.png", png("blue")))
    given = box.models.value
    box.models.value = path
    assert set(labels(box)) <= {"cat", "dog"}
    assert len(box.predictions) == 2
    shown = text_of(box.output.value)
    assert shown.index("1.png") < shown.index("2.png")
    assert "dog" in shown
    assert "green" not in shown
    classes = "".join(child.value for child in box.children if isinstance(child, ipywidgets.HTML))
    assert "It knows only these classes: <b>cat, dog</b>." in classes
    box.models.value = given
    assert labels(box) == ["red", "blue"]


def test_choosing_another_model_with_nothing_shown_shows_nothing(tiny_model, pets):
    path = save_model(pets, artifacts_dir() / "pets_model.keras")
    box = UploadClassifier(tiny_model)
    box.models.value = path
    assert (box.output.value, box.message.value, box.predictions) == ("", "", [])


def test_a_damaged_model_in_the_choice_is_reported_and_the_last_one_stays(tiny_model, png):
    path = save_model(tiny_model, artifacts_dir() / "colours_model.keras")
    box = UploadClassifier(tiny_model)
    box.classify([("before.png", png("blue"))])
    path.write_bytes(b"damaged")
    box.models.value = path
    assert "colours_model.keras" in box.message.value
    assert ALERT in box.message.value
    assert box.models.index == 0  # the list names the model that is in use
    assert "before.png" in box.output.value
    assert box.classify([("a.png", png("red"))])[0].label == "red"
