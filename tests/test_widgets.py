import datetime as dt
import io
import logging
import time

import numpy as np
import pytest
from PIL import Image

ipywidgets = pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install -e '.[notebooks]'")

from imgclassify import persistence, runtime, widgets
from imgclassify.experiments import list_runs
from imgclassify.prediction import classify_custom_image
from imgclassify.training import Recipe
from imgclassify.widgets import TrainingPanel, UploadClassifier, example_pictures

pytestmark = pytest.mark.usefixtures("nothing_shipped")

RED = "color:#b00020"


@pytest.fixture
def box(tiny_model):
    return UploadClassifier(tiny_model)


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


# --- path box, examples, models --------------------------------------------------------------------


def test_a_file_is_classified_by_its_path_also_with_quotes_round_it(box, tmp_path):
    path = tmp_path / "large one.png"
    path.write_bytes(picture("blue"))
    for written in (str(path), f' "{path}" '):
        box.path.value = written
        box.open_path.click()
        assert [prediction.label for prediction in box.predictions] == ["blue"]
        assert box.message.value == ""


@pytest.mark.parametrize(
    ("path", "sentence"),
    [("", "Write the path of a picture into the box first."), ("/no/such.png", "/no/such.png does not exist")],
)
def test_a_path_that_is_none_is_said_in_red(box, path, sentence):
    box.path.value = path
    box.open_path.click()
    assert RED in box.message.value
    assert sentence in box.message.value


def test_without_path_box_no_file_of_this_computer_can_be_read(tiny_model):
    box = UploadClassifier(tiny_model, path_box=False)
    assert box.path is None
    assert box.open_path is None
    assert not any(
        isinstance(widget, ipywidgets.Text) for row in box.children for widget in getattr(row, "children", ())
    )


def test_an_upload_above_the_limit_is_said_in_red_and_the_rest_is_classified(tiny_model):
    box = UploadClassifier(tiny_model, max_bytes=1000)
    box.upload.value = (chosen("large.png", bytes(2000)), chosen("small.png", picture("red")))
    assert "large.png has 0.0 MB: at most 0 MB can be uploaded." in box.message.value
    assert [prediction.label for prediction in box.predictions] == ["red"]


def test_the_examples_are_classified_by_a_click(box):
    photo = next(button for button in box.examples if button.description == "cat photo")
    photo.click()
    assert len(box.predictions) == 1
    assert "cat photo" in box.output.value


@pytest.mark.real_data
def test_test_pictures_are_among_the_examples_where_the_data_is(cifar10, cifar10_settings, monkeypatch):
    for name, value in cifar10_settings.items():
        monkeypatch.setenv(name, value)
    names = [name for name, _ in example_pictures()]
    assert f"test: {cifar10.class_names[cifar10.y_test[0]]}" in names


def test_the_known_classes_are_always_in_view(box):
    shown = "".join(widget.value for widget in box.children if isinstance(widget, ipywidgets.HTML))
    assert "red, green, blue" in shown


def test_another_published_model_can_be_chosen(tiny_model):
    path = persistence.save_model(tiny_model, runtime.artifacts_dir() / "colours_model.keras")
    box = UploadClassifier(tiny_model)
    assert [label for label, _ in box.models.options][1:] == ["colours_model.keras"]
    box.models.value = path
    box.upload.value = (chosen("a.png", picture("red")),)
    assert box.predictions[0].label == "red"
    assert box.message.value == ""


def test_a_damaged_model_in_the_choice_is_said_in_red_and_the_last_one_stays(tiny_model):
    path = persistence.save_model(tiny_model, runtime.artifacts_dir() / "colours_model.keras")
    box = UploadClassifier(tiny_model)
    path.write_bytes(b"damaged")
    box.models.value = path
    assert "colours_model.keras" in box.message.value
    assert RED in box.message.value
    assert box.models.index == 0  # the list names the model that is in use
    assert box.classify([("a.png", picture("red"))])[0].label == "red"


# --- the training panel ----------------------------------------------------------------------------


@pytest.fixture
def panel(tiny):
    panel = TrainingPanel(tiny)
    panel.epochs.value, panel.batch_size.value = 2, 16
    yield panel
    panel.stop.click()
    assert panel.wait(60)


def test_start_returns_at_once_trains_in_the_background_and_keeps_a_run(panel):
    panel.start.click()
    assert panel.start.disabled
    assert not panel.stop.disabled
    assert panel.wait(60)
    assert panel.message.value == ""
    assert panel.status.value.startswith("Finished: validation accuracy ")
    assert panel.model.manifest["status"] == "complete"
    assert panel.runs.options == (panel.model.manifest["run"],)
    assert panel.model.manifest["run"] in panel.table.value
    assert bytes(panel.curves.value).startswith(b"\x89PNG")
    assert not panel.start.disabled
    assert panel.stop.disabled


def test_the_controls_reach_the_training(panel):
    panel.learning_rate.value, panel.seed.value, panel.share.value = 0.005, 7, 0.5
    panel.augmentation.value = "flip"
    panel.start.click()
    assert panel.wait(60)
    manifest = panel.model.manifest
    assert {key: manifest["recipe"][key] for key in ("epochs", "batch_size", "learning_rate", "augmentation")} == {
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 0.005,
        "augmentation": "flip",
    }
    assert (manifest["seed"], manifest["share"], manifest["dataset"]["training_pictures"]) == (7, 0.5, 24)


def test_stop_ends_the_training_early_with_a_usable_model(panel, tiny):
    panel.epochs.value = 1000
    panel.start.click()
    end = time.monotonic() + 60
    while len(panel.history.get("loss", [])) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    panel.stop.click()
    assert panel.wait(60)
    assert panel.status.value.startswith("Stopped: validation accuracy ")
    assert panel.model.manifest["status"] == "interrupted"
    assert 2 <= len(panel.history["loss"]) < 1000
    assert classify_custom_image(panel.model, tiny.x_test[0]).label in tiny.class_names


def test_a_second_training_starts_afresh(panel):
    first = []
    for _ in range(2):
        panel.start.click()
        assert panel.wait(60)
        first.append(panel.history["loss"][0])
    assert first[0] == pytest.approx(first[1], rel=1e-3)
    assert len(panel.runs.options) == 2


def test_an_error_in_the_training_is_shown_in_red_and_the_panel_goes_on(panel, monkeypatch):
    monkeypatch.setattr(widgets, "train_model", lambda *_, **__: 1 / 0)
    panel.start.click()
    assert panel.wait(60)
    assert "ZeroDivisionError" in panel.message.value
    assert panel.status.value == "Failed."
    assert not panel.start.disabled


def test_runs_are_compared_and_deleted_only_after_asking(panel):
    for seed in (0, 1):
        panel.seed.value = seed
        panel.start.click()
        assert panel.wait(60)
    panel.compare.click()
    assert bytes(panel.overlay.value).startswith(b"\x89PNG")
    assert "seed" in panel.table.value
    gone, stays = panel.runs.options
    panel.runs.value = (gone,)
    panel.delete.click()
    panel.keep.click()
    assert len(list_runs()) == 2
    panel.delete.click()
    assert len(list_runs()) == 2
    panel.runs.value = (stays,)  # after the question was asked about the other
    panel.confirm.click()
    assert [run.name for run in list_runs()] == [stays]
    assert panel.runs.options == (stays,)


def test_deleting_without_a_choice_and_comparing_without_runs_are_said_in_red(panel):
    panel.delete.click()
    assert "Choose one or several runs" in panel.message.value
    panel.compare.click()
    assert "None of these runs has finished an epoch." in panel.message.value


def test_choosing_a_recipe_shows_its_settings(panel, monkeypatch):
    monkeypatch.setitem(widgets.RECIPES, "quick", Recipe("quick", epochs=4, batch_size=8, learning_rate=0.01))
    panel.recipe.options = ["baseline", "quick"]
    panel.recipe.value = "quick"
    assert (panel.epochs.value, panel.batch_size.value, panel.learning_rate.value) == (4, 8, 0.01)


def test_the_reason_for_digits_is_said_loudly_in_the_panel():
    panel = TrainingPanel()
    panel.epochs.value = 1
    panel.start.click()
    assert panel.wait(120)
    assert "NOT CIFAR-10" in panel.message.value


def test_stop_before_the_data_is_there_begins_no_training(monkeypatch, tiny):
    panel = TrainingPanel()

    def load(*_, **__):
        panel.stop.click()
        return tiny

    monkeypatch.setattr(widgets, "load_dataset", load)
    panel.start.click()
    assert panel.wait(60)
    assert panel.status.value == "Stopped before the training began."
    assert list_runs() == []


def test_a_stop_that_comes_too_late_changes_nothing(panel):
    panel.start.click()
    assert panel.wait(60)
    before = panel.status.value
    panel.stop.click()
    assert panel.status.value == before


def test_a_figure_that_cannot_be_drawn_does_not_end_the_training(panel, monkeypatch):
    monkeypatch.setattr(widgets, "plot_history", lambda *_, **__: 1 / 0)
    panel.start.click()
    assert panel.wait(60)
    assert panel.status.value.startswith("Finished")
    assert "ZeroDivisionError" in panel.message.value
