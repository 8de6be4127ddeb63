import base64
import csv
import io
import logging
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

ipywidgets = pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install -e '.[notebooks]'")

from imgclassify import backend
from imgclassify.classifier import Classifier, load_model, predict_image, save_model
from imgclassify.models.networks import build_model
from imgclassify.runs.manifest import DataRecord, ModelFileError
from imgclassify.settings import artifacts_dir
from imgclassify.widgets.cards import PhotoCard
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


def drop(box, *files: tuple[str, bytes]) -> None:
    """What the browser's part of the drop zone sends for small files that are chosen together."""
    for number, (name, content) in enumerate(files):
        key = f"{name}{number}"
        message = {"id": key, "name": name, "size": len(content), "first": number == 0, "offset": 0}
        box.upload._handle_custom_msg(message, [memoryview(content)])


def cards(box) -> list[PhotoCard]:
    return [card for card in box.output.children if isinstance(card, PhotoCard)]


def names(box) -> list[str]:
    return [card.name for card in box.output.children]


def problems(box) -> list[str]:
    return [card.problem for card in box.output.children if card.problem]


def table(box) -> list[dict]:
    """The downloaded table."""
    content = base64.b64decode(re.search(r'base64,([^"]+)"', box.table.value)[1])
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def press_enter(text) -> None:
    """What the browser's part of a text box sends when Enter is pressed."""
    text._handle_custom_msg({"event": "submit"}, [])


def labels(box) -> list[str]:
    return [prediction.label for prediction in box.predictions]


def models(box) -> list[str]:
    """The entries of the list of models, without ImageNet's, which is always offered."""
    return [label for label, _ in box.models.options if not label.startswith("imagenet: ")]


def figures(box) -> list[list[str]]:
    """The captions of each photo's figures beside its answer."""
    return [re.findall(r"<figcaption>([^<]*)<", card.answer.value) for card in cards(box)]


def test_the_switch_shows_what_speaks_for_each_answer(box, png, pets):
    drop(box, ("red.png", png((200, 20, 20))), ("blue.png", png((20, 20, 200))))
    seen = "what the model sees"
    assert figures(box) == [[seen], [seen]]
    before = [card.answer.value for card in cards(box)]
    box.why.value = True
    assert figures(box) == [[seen, "what speaks for red"], [seen, "what speaks for blue"]]
    drop(box, ("green.png", png((20, 200, 20))))
    assert figures(box) == [[seen, "what speaks for green"]]
    cards(box)[0].use(pets)
    assert figures(box)[0][1] in ("what speaks for cat", "what speaks for dog")
    drop(box, ("red.png", png((200, 20, 20))), ("blue.png", png((20, 20, 200))))
    box.why.value = False
    assert [re.sub(r"\d+ ms", "", each.answer.value) for each in cards(box)] == [
        re.sub(r"\d+ ms", "", each) for each in before
    ]


def test_a_network_that_cannot_be_explained_still_answers(png):
    keras = backend.keras()
    layers = [keras.Input((32, 32, 3)), keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    box = UploadClassifier(keras.Sequential(layers))
    box.why.value = True
    drop(box, ("red.png", png((200, 20, 20))))
    assert figures(box) == [["what the model sees"]]
    assert "The layers with feature maps are none" in cards(box)[0].answer.value
    assert len(box.predictions) == 1


def test_the_box_shows_nothing_before_a_file_is_chosen(box):
    assert box.output.children == ()
    assert box.table.value == ""
    assert box.predictions == []


def test_the_box_brings_the_style_that_its_classes_refer_to(box):
    assert "imgclassify" in box._dom_classes
    assert any(isinstance(child, ipywidgets.HTML) and "<style>" in child.value for child in box.children)


@pytest.mark.parametrize("color", ["red", "lime", "blue"])
def test_a_dropped_photo_is_classified_at_once(box, png, color):
    drop(box, ("my photo.png", png(color)))
    (prediction,) = box.predictions
    assert prediction.label == {"lime": "green"}.get(color, color)
    (card,) = cards(box)
    assert card.name == card.crop.name == "my photo.png"
    assert f"{prediction.confidence:.1%}" in card.answer.value
    assert box.message.value == ""


def test_several_photos_are_shown_in_their_order(box, png):
    drop(box, ("1.png", png("red")), ("2.png", png("blue")))
    assert labels(box) == ["red", "blue"]
    assert names(box) == ["1.png", "2.png"]


def test_the_same_file_can_be_dropped_again(box, png):
    for _ in range(3):
        drop(box, ("photo.png", png("red")))
        assert names(box) == ["photo.png"]


def test_a_bad_file_is_one_sentence_in_its_place_and_the_good_ones_are_classified(box, png):
    drop(box, ("notes.txt", b"no picture"), ("good.png", png("blue")), ("empty.png", b""))
    assert labels(box) == ["blue"]
    assert names(box) == ["notes.txt", "good.png", "empty.png"]
    notes, empty = problems(box)
    assert "notes.txt is not a picture of a known format" in notes
    assert "empty.png is empty" in empty
    assert ALERT in box.output.children[0].value
    assert "Traceback" not in box.output.children[0].value


def test_the_next_choice_replaces_the_last_one_and_leaves_no_widgets_behind(box, png):
    counts = []
    for _ in range(3):
        drop(box, ("old.png", b"broken"), ("old 2.png", png("red")))
        drop(box, ("new.png", png("red")))
        assert names(box) == ["new.png"]
        counts.append(len(ipywidgets.widgets.widget._instances))
    assert len(set(counts)) == 1


def test_names_of_files_are_escaped(box, png):
    drop(box, ("<b>x.png", b"broken"), ("<i>.png", png("red")))
    assert "<b>x" not in box.output.children[0].value
    assert "&lt;b&gt;x.png" in box.output.children[0].value
    assert "<i>" not in cards(box)[0].answer.value


def test_an_unforeseen_error_is_shown_too_not_lost_in_a_log(monkeypatch, box, png):
    def broken(*_, **__):
        raise RuntimeError("out of paper")

    monkeypatch.setattr(Classifier, "predict", broken)
    drop(box, ("photo.png", png("red")))
    assert problems(box) == ["photo.png could not be used (RuntimeError: out of paper)."]
    assert "Traceback" in box.output.children[0].value  # in the details to unfold


def test_a_picture_goes_the_same_way_as_in_classify_custom_image(box, tiny, tiny_model, caplog):
    file = io.BytesIO()
    Image.fromarray(tiny.x_test[4]).save(file, "PNG")
    with caplog.at_level(logging.WARNING):
        drop(box, ("4.png", file.getvalue()))
    assert box.predictions[0].probabilities == predict_image(tiny_model, tiny.x_test[4]).probabilities
    assert np.array_equal(box.predictions[0].image, tiny.x_test[4])
    assert caplog.text == ""


def test_photos_that_memory_could_not_hold_together_are_left_out_by_name(box, png, monkeypatch):
    content = png("red")
    monkeypatch.setattr("imgclassify.widgets.upload._KEPT_BYTES", 2 * len(content))
    drop(box, *((f"{number}.png", content) for number in range(3)))
    assert labels(box) == ["red", "red"]
    assert problems(box)[0].startswith("2.png was left out, because at most")


def test_photos_that_a_page_could_not_show_together_are_left_out_by_name(box, png, monkeypatch):
    monkeypatch.setattr("imgclassify.widgets.upload._KEPT", 2)
    drop(box, *((f"{number}.png", png("red")) for number in range(3)))
    assert labels(box) == ["red", "red"]
    assert problems(box)[0].startswith("2.png was left out, because at most 2 photos")


# --- the square --------------------------------------------------------------------------------------


@pytest.fixture
def striped() -> bytes:
    """A photo with three squares: red, green and blue."""
    pixels = np.zeros((100, 300, 3), np.uint8)
    for place in range(3):
        pixels[:, 100 * place : 100 * (place + 1), place] = 210
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_moved_square_is_classified_in_place_of_the_centre(box, striped):
    drop(box, ("stripes.png", striped))
    (card,) = cards(box)
    assert card.crop.square == [1.0, 0.0, 1.0]
    for left, label in ((0.0, "red"), (2.0, "blue"), (1.0, "green")):
        card.crop.square = [left, 0.0, 1.0]
        assert labels(box) == [label]
        assert f'"verdict">{label}<' in card.answer.value
        assert card.crop.said.startswith(label)
        assert table(box)[0]["class"] == label


def test_the_square_is_cut_out_pixel_for_pixel(box, tiny_model):
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    box.classify([("noise", picture)])
    cards(box)[0].crop.square = [0.75, 0.25, 0.5]  # 32 x 32 pixels, as the model has it
    assert np.array_equal(box.predictions[0].image, picture[16:48, 48:80])


@pytest.mark.parametrize("square", [[9.0, -9.0, 7.0], [float("nan"), 0.0, 1.0], [0.0, 0.0, -1.0]])
def test_a_square_outside_the_photo_is_brought_inside(box, striped, square):
    drop(box, ("stripes.png", striped))
    cards(box)[0].crop.square = square
    assert cards(box)[0].message.value == ""
    assert len(box.predictions) == 1


def test_a_photo_that_has_gone_when_its_square_is_moved_is_reported_in_its_card(box, png, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png("red"))
    box.classify([("photo.png", path)])
    path.unlink()
    (card,) = cards(box)
    card.crop.square = [0.0, 0.0, 0.5]
    assert "photo.png does not exist" in card.message.value
    path.write_bytes(png("red"))
    card.crop.square = [0.1, 0.0, 0.5]
    assert card.message.value == ""


def test_a_file_object_is_read_once_and_its_square_can_be_moved(box, png):
    box.classify([("file", io.BytesIO(png("red")))])
    cards(box)[0].crop.square = [0.0, 0.0, 0.5]
    assert labels(box) == ["red"]
    assert cards(box)[0].message.value == ""


def test_the_first_square_is_what_the_model_sees(tiny_model, striped):
    box = UploadClassifier(tiny_model.recorded(crop=0.5))
    drop(box, ("stripes.png", striped))
    assert cards(box)[0].crop.square == [1.25, 0.25, 0.5]


# --- the table ---------------------------------------------------------------------------------------


def test_the_table_holds_all_results_in_their_order(box, png):
    drop(box, ("a, b.png", png("red")), ("bad.png", b"no"), ('"quoted"\n.png', png("blue")))
    rows = table(box)
    assert [row["file"] for row in rows] == ["a, b.png", "bad.png", '"quoted" .png']
    assert [row["class"] for row in rows] == ["red", "", "blue"]
    top = box.predictions[0].top(3)
    columns = ("class", "confidence"), ("second", "second confidence"), ("third", "third confidence")
    assert [(rows[0][name], float(rows[0][share])) for name, share in columns] == [
        (name, round(share, 4)) for name, share in top
    ]
    assert rows[1]["confidence"] == ""
    assert [(row["familiarity"], row["known"]) for row in rows] == [("", "")] * 3  # this model has no detector
    assert "bad.png is not a picture" in rows[1]["problem"]
    assert rows[0]["problem"] == ""


def test_the_table_says_what_is_none_of_the_classes(box, png):
    drop(box, ("one.png", png("red")), ("two.png", png("red")))
    for card, familiarity in zip(cards(box), (0.8, 0.01), strict=True):
        card.prediction = replace(card.prediction, familiarity=familiarity)
    box._offer_table()
    assert [(row["familiarity"], row["known"]) for row in table(box)] == [("0.8000", "yes"), ("0.0100", "no")]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1+1", "\t=1", "＝1"])
def test_names_that_a_spreadsheet_would_compute_are_made_harmless(pets, png, name):
    box = UploadClassifier(Classifier.of(pets, (name, "dog")))
    box.classify([(name, png("red")), (name, b"no")])
    assert [row["file"] for row in table(box)] == [f"'{name}"] * 2
    assert {table(box)[0]["class"], table(box)[0]["second"]} == {f"'{name}", "dog"}
    assert table(box)[1]["problem"].startswith("'")


def test_ordinary_names_stay_as_they_are(box, png):
    box.classify([("a=b-c+d@e.png", png("red"))])
    assert table(box)[0]["file"] == "a=b-c+d@e.png"


# --- path box and examples ---------------------------------------------------------------------------


def test_a_file_is_classified_by_its_path_also_in_quotes(box, png, tmp_path):
    path = tmp_path / "large one.png"
    path.write_bytes(png("blue"))
    for written in (str(path), f' "{path}" ', f"'{path}'"):
        box.path.value = written
        box.open_path.click()
        assert labels(box) == ["blue"]
        assert problems(box) == []


def test_enter_in_the_path_box_classifies_the_file(box, png, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png("blue"))
    box.path.value = str(path)
    assert labels(box) == []  # writing alone does nothing
    press_enter(box.path)
    assert labels(box) == ["blue"]
    box.path.value = "/no/such.png"
    press_enter(box.path)
    assert problems(box) == ["/no/such.png does not exist: expected a picture file."]
    assert labels(box) == []


def test_an_empty_path_is_reported(box):
    box.open_path.click()
    assert ALERT in box.message.value
    assert "Enter the path of a picture in the box first." in box.message.value


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
    assert names(box) == ["cat photo"]


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
    drop(box, ("a.png", png("red")))
    assert labels(box) == ["red"]
    assert box.message.value == ""


def test_choosing_another_model_classifies_the_shown_photos_again(tiny_model, pets, png):
    path = save_model(pets, artifacts_dir() / "pets_model.keras")
    box = UploadClassifier(tiny_model)
    drop(box, ("1.png", png("red")), ("bad.png", b"no"), ("2.png", png("blue")))
    given = box.models.value
    box.models.value = path
    assert set(labels(box)) <= {"cat", "dog"}
    assert len(box.predictions) == 2
    assert names(box) == ["1.png", "bad.png", "2.png"]
    assert {row["class"] for row in table(box)} <= {"cat", "dog", ""}
    classes = "".join(child.value for child in box.children if isinstance(child, ipywidgets.HTML))
    assert "It knows only these classes: <b>cat, dog</b>." in classes
    box.models.value = given
    assert labels(box) == ["red", "blue"]


def test_a_moved_square_stays_when_another_model_is_chosen(tiny_model, pets, striped):
    path = save_model(pets.recorded(crop=0.5), artifacts_dir() / "pets_model.keras")
    box = UploadClassifier(tiny_model)
    drop(box, ("moved.png", striped), ("central.png", striped))
    moved, central = cards(box)
    moved.crop.square = [2.0, 0.0, 1.0]
    box.models.value = path
    assert moved.crop.square == [2.0, 0.0, 1.0]
    assert central.crop.square == central.crop.start == [1.25, 0.25, 0.5]
    assert set(labels(box)) <= {"cat", "dog"}
    box.models.value = box.models.options[0][1]
    assert labels(box) == ["blue", "green"]


def test_choosing_another_model_with_nothing_shown_shows_nothing(tiny_model, pets):
    path = save_model(pets, artifacts_dir() / "pets_model.keras")
    box = UploadClassifier(tiny_model)
    box.models.value = path
    assert (box.output.children, box.message.value, box.predictions) == ((), "", [])


def test_the_model_of_imagenet_is_always_offered_and_answers(tiny_model, png):
    box = UploadClassifier(tiny_model)
    box.classify([("a.png", png("red"))])
    box.models.value = "imagenet"
    assert len(box.predictions[0].probabilities) == 1000
    assert box.predictions[0].image.shape == (224, 224, 3)
    assert box.message.value == ""


def test_many_classes_are_folded_away(png):
    backend.set_seed(0)
    many = Classifier.of(build_model(num_classes=1000), [f"class <{number}>" for number in range(1000)])
    box = UploadClassifier(many)
    shown = "".join(child.value for child in box.children if isinstance(child, ipywidgets.HTML))
    assert "<summary>It knows 1,000 classes, such as class &lt;0&gt;, class &lt;1&gt;" in shown
    assert "class &lt;999&gt;" in shown.partition("<details>")[2]
    assert len(box.classify([("a.png", png("red"))])) == 1


def test_a_model_of_large_pictures_sees_them_as_jpeg(png):
    backend.set_seed(0)
    box = UploadClassifier(Classifier.of(build_model(input_shape=(224, 224, 3), num_classes=2)))
    (prediction,) = box.classify([("a.png", png("red", (500, 400)))])
    assert prediction.image.shape == (224, 224, 3)
    assert "data:image/jpeg" in cards(box)[0].answer.value
    assert len(cards(box)[0].answer.value) < 60_000


def test_a_damaged_model_in_the_choice_is_reported_and_the_last_one_stays(tiny_model, png):
    path = save_model(tiny_model, artifacts_dir() / "colours_model.keras")
    box = UploadClassifier(tiny_model)
    box.classify([("before.png", png("blue"))])
    path.write_bytes(b"damaged")
    box.models.value = path
    assert "colours_model.keras" in box.message.value
    assert ALERT in box.message.value
    assert box.models.index == 0  # the list names the model that is in use
    assert names(box) == ["before.png"]
    assert box.classify([("a.png", png("red"))])[0].label == "red"
