import io
import re
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install -e '.[notebooks]'")

from imgclassify.classifier import classify_custom_image
from imgclassify.recipes import Recipe
from imgclassify.runs.records import list_runs
from imgclassify.widgets import panel as panel_module
from imgclassify.widgets.panel import TrainingPanel

pytestmark = pytest.mark.usefixtures("nothing_shipped")

PNG = b"\x89PNG"
ALERT = 'role="alert"'


@pytest.fixture
def panel(tiny):
    panel = TrainingPanel(tiny)
    panel.epochs.value, panel.batch_size.value = 2, 16
    yield panel
    panel.stop.click()
    assert panel.wait(60)


def train(panel) -> None:
    """Press Start and wait for the end."""
    panel.start.click()
    assert panel.wait(60)


def stop_when(panel, status: str) -> None:
    """Press Stop as soon as the status begins with this."""
    panel.status.observe(lambda change: change["new"].startswith(status) and panel.stop.click(), names="value")


def test_start_returns_at_once_trains_in_the_background_and_keeps_a_run(panel):
    panel.start.click()
    assert panel.start.disabled
    assert not panel.stop.disabled
    assert panel.wait(60)
    assert panel.message.value == ""
    manifest = panel.model.manifest
    accuracy = f"{manifest.metrics['val_accuracy']:.2%}"
    assert panel.status.value == f"Finished: validation accuracy {accuracy}; kept as the run {manifest.run}."
    assert manifest.status == "complete"
    assert panel.runs.options == (manifest.run,)
    assert manifest.run in panel.table.value
    assert bytes(panel.curves.value).startswith(PNG)
    assert not panel.start.disabled
    assert panel.stop.disabled


def test_the_controls_reach_the_training(panel):
    panel.learning_rate.value, panel.seed.value, panel.share.value = 0.005, 7, 0.5
    panel.augmentation.value = "flip"
    train(panel)
    manifest = panel.model.manifest
    assert manifest.recipe == Recipe("baseline", epochs=2, batch_size=16, learning_rate=0.005, augmentation="flip")
    assert (manifest.seed, manifest.share, manifest.dataset.training_pictures) == (7, 0.5, 24)


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("epochs", 0, "at least 1"),
        ("batch_size", -1, "at least 1"),
        ("learning_rate", 0.0, "above 0 and finite"),
        ("seed", -1, "from 0 to 4294967295"),
    ],
)
def test_nonsense_in_a_field_is_reported_and_left_as_it_is(panel, field, value, bound):
    control = getattr(panel, field)
    control.value = value
    assert control.value == value  # no bounds that would change it silently
    train(panel)
    assert ALERT in panel.message.value
    assert f"{field} must be {bound}. Received: {field}={value}" in panel.message.value
    assert panel.status.value == "Failed."
    assert control.value == value
    assert list_runs() == []
    assert not panel.start.disabled


def test_a_message_is_gone_when_the_next_training_starts(panel):
    panel.epochs.value = 0
    train(panel)
    panel.epochs.value = 1
    train(panel)
    assert panel.message.value == ""
    assert panel.status.value.startswith("Finished")


def test_stop_ends_the_training_early_with_a_usable_model(panel, tiny):
    panel.epochs.value = 1000
    panel.start.click()
    end = time.monotonic() + 60
    while len(panel.history.get("loss", [])) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    panel.stop.click()
    assert panel.wait(60)
    assert panel.status.value.startswith("Stopped: validation accuracy ")
    assert panel.model.manifest.status == "interrupted"
    assert 2 <= len(panel.history["loss"]) < 1000
    assert classify_custom_image(panel.model, tiny.x_test[0]).label in tiny.class_names


def test_a_stopped_training_is_resumed(panel, tiny):
    panel.epochs.value = 30
    panel.curves.observe(lambda _: panel.stop.click(), names="value")  # drawn by the training, after each epoch
    train(panel)
    stopped = panel.model.manifest
    assert stopped.status == "interrupted"
    panel.resume.click()
    assert "Choose one run in the list first." in panel.message.value
    panel.runs.value = (stopped.run,)
    panel.curves.unobserve_all()
    panel.resume.click()
    assert panel.wait(60)
    assert panel.message.value == ""
    assert panel.model.manifest.status == "complete"
    assert panel.model.manifest.run == stopped.run
    assert len(panel.history["loss"]) == 30
    assert panel.runs.options == (stopped.run,)
    panel.resume.click()
    assert "is complete: only an unfinished one can be resumed" in panel.message.value


def test_the_number_of_a_stopped_training_is_explained(tiny):
    x = tiny.x_train.copy()
    _, rows = tiny.validation_split(0.2, 0)
    x[rows] = np.roll(x[rows], 1, axis=-1)  # the better the training pictures are learned, the worse these
    panel = TrainingPanel(replace(tiny, x_train=x))
    panel.epochs.value, panel.batch_size.value = 1000, 16
    panel.learning_rate.value = 1e-4
    panel.curves.observe(lambda _: len(panel.history["loss"]) == 8 and panel.stop.click(), names="value")
    train(panel)
    accuracies = panel.history["val_accuracy"]
    best = max(accuracies)
    assert len(accuracies) == 8
    assert accuracies[-1] < best  # so that the number could be mistaken for that of the last epoch
    assert f"Stopped: validation accuracy {best:.2%}" in panel.status.value
    assert f"{best:.2%} (best epoch: {accuracies.index(best) + 1})" in panel.table.value
    assert "interrupted" in panel.table.value


def test_a_training_stopped_in_its_first_epoch_has_no_number(panel):
    panel.epochs.value = 1000
    stop_when(panel, "Building the network")
    train(panel)
    run = panel.model.manifest.run
    assert panel.status.value == f"Stopped: no epoch was finished; kept as the run {run}."
    assert panel.message.value == ""
    assert list_runs()[0].val_accuracy is None


def test_a_second_training_starts_afresh(panel):
    first = []
    for _ in range(2):
        train(panel)
        first.append(panel.history["val_loss"])
    assert first[0] == first[1]
    assert len(panel.runs.options) == 2


def test_a_second_click_on_start_begins_no_second_training(panel):
    panel.start.click()
    panel.start.click()
    assert panel.wait(60)
    assert len(list_runs()) == 1


def test_the_progress_is_shown_epoch_by_epoch(panel):
    seen = []
    panel.status.observe(lambda change: seen.append(change["new"]), names="value")
    train(panel)
    assert seen[:2] == ["Loading the data ...", "Building the network ..."]
    assert any(re.search(r"epoch 1/2  loss \d", text) for text in seen)
    assert any(re.search(r"epoch 2/2  loss \d", text) for text in seen)


def test_an_error_in_the_training_is_shown_and_the_panel_keeps_working(panel, monkeypatch):
    monkeypatch.setattr(panel_module, "train_model", lambda *_, **__: 1 / 0)
    train(panel)
    assert ALERT in panel.message.value
    assert "ZeroDivisionError" in panel.message.value
    assert panel.status.value == "Failed."
    assert not panel.start.disabled


def test_runs_are_compared_and_deleted_only_after_asking(panel):
    for seed in (0, 1):
        panel.seed.value = seed
        train(panel)
    panel.compare.click()
    assert bytes(panel.overlay.value).startswith(PNG)
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


def test_deleting_without_a_choice_and_comparing_without_runs_are_reported(panel):
    panel.delete.click()
    assert "Choose one or more runs" in panel.message.value
    panel.compare.click()
    assert "None of these runs has finished an epoch." in panel.message.value


def test_choosing_a_recipe_shows_its_settings(panel, monkeypatch):
    monkeypatch.setitem(panel_module.RECIPES, "quick", Recipe("quick", epochs=4, batch_size=8, learning_rate=0.01))
    panel.recipe.options = ["baseline", "quick"]
    panel.recipe.value = "quick"
    assert (panel.epochs.value, panel.batch_size.value, panel.learning_rate.value) == (4, 8, 0.01)


def test_the_reason_for_digits_is_shown_in_the_panel():
    panel = TrainingPanel()
    panel.epochs.value = 1
    panel.share.value = 0.05
    train(panel)
    assert ALERT in panel.message.value
    assert "NOT CIFAR-10" in panel.message.value
    assert panel.model.manifest.dataset.name == "digits"


def test_a_stop_before_the_data_is_there_begins_no_training(monkeypatch, tiny):
    panel = TrainingPanel()

    def load(*_, **__):
        panel.stop.click()
        return tiny

    monkeypatch.setattr(panel_module, "load_dataset", load)
    train(panel)
    assert panel.status.value == "Stopped before the training began."
    assert list_runs() == []


def test_a_stop_ends_a_download(monkeypatch):
    panel = TrainingPanel()

    def load(*_, progress, **__):
        progress.update("10 of 170 MB")
        panel.stop.click()
        progress.update("11 of 170 MB")
        pytest.fail("the download went on")

    monkeypatch.setattr(panel_module, "load_dataset", load)
    train(panel)
    assert panel.status.value == "Stopped before the training began."


def test_a_stop_that_comes_too_late_changes_nothing(panel):
    train(panel)
    before = panel.status.value
    panel.stop.click()
    assert panel.status.value == before


def test_a_figure_that_cannot_be_drawn_does_not_end_the_training(panel, monkeypatch):
    monkeypatch.setattr(panel_module, "plot_history", lambda *_, **__: 1 / 0)
    train(panel)
    assert panel.status.value.startswith("Finished")
    assert "ZeroDivisionError" in panel.message.value


def test_curves_are_on_white_whatever_the_notebooks_settings(panel):
    panel.epochs.value = 1
    with plt.rc_context({"figure.facecolor": "none"}):
        train(panel)
    assert Image.open(io.BytesIO(panel.curves.value)).convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
