"""The learning-rate finder: what it measures, what it suggests, and how it ends."""

import re
import threading

import numpy as np
import pytest
from matplotlib.figure import Figure

from imgclassify import find_learning_rate, train_model
from imgclassify.progress import Progress
from imgclassify.recipes import get_recipe
from imgclassify.runs.records import list_runs
from imgclassify.training import finder
from imgclassify.training.finder import LearningRates, _measured
from imgclassify.training.loop import DivergedError, Loop
from imgclassify.training.watch import StopTraining
from imgclassify.visualization import plot_learning_rates


@pytest.fixture(scope="module")
def found(tiny) -> LearningRates:
    options = {"batch_size": 16, "steps": 60, "precision": "float32", "progress": Progress(enabled=False)}
    return find_learning_rate("baseline", tiny, **options)


def curve(*points: tuple[float, float], steps: int = 71) -> LearningRates:
    """What is measured of losses that are straight lines between these points (exponent of the rate, loss)."""
    rates = np.geomspace(1e-6, 10, steps)
    losses = np.interp(np.log10(rates), *zip(*points, strict=True))
    return _measured(rates, losses, losses)


def test_rates_rise_exponentially_and_the_loss_first_falls(found):
    assert found.rates[0] == pytest.approx(1e-6)
    ratios = found.rates[1:] / found.rates[:-1]
    np.testing.assert_allclose(ratios, ratios[0])
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    assert found.losses[0] == pytest.approx(np.log(3), abs=0.3)  # of three classes
    assert found.smoothed.min() < 0.7 * found.smoothed[0]
    assert found.clear


def test_a_training_with_the_suggested_rate_learns(found, tiny, nothing_shipped, quiet):
    assert 1e-5 < found.valley < found.rates[np.argmin(found.smoothed)]
    _, history = train_model(
        "baseline", tiny, epochs=5, batch_size=16, learning_rate=found.valley, precision="float32", progress=quiet
    )
    assert history["loss"][-1] < 0.8 * history["loss"][0]


def test_the_search_ends_when_the_loss_explodes(found):
    assert len(found.rates) < 60
    assert found.smoothed[-1] > 4 * found.smoothed.min()
    assert np.argmin(found.smoothed) > 20


def test_the_same_seed_measures_the_same(found, tiny, quiet):
    again = find_learning_rate("baseline", tiny, batch_size=16, steps=60, precision="float32", progress=quiet)
    np.testing.assert_allclose(again.losses[:20], found.losses[:20], rtol=1e-4)


def test_with_a_constant_rate_the_losses_are_those_of_the_training_loop(tiny, nothing_shipped, quiet):
    settings = {"batch_size": 16, "precision": "float32", "progress": quiet}
    constant = {"lowest": 1e-3, "highest": 1e-3 * (1 + 1e-9)}
    found = find_learning_rate("baseline", tiny, steps=12, **constant, **settings)
    _, history = train_model("baseline", tiny, epochs=4, learning_rate=1e-3, **settings)
    np.testing.assert_allclose(found.losses.reshape(4, 3).mean(axis=1), history["loss"], rtol=1e-4)


def test_the_valley_is_the_middle_of_the_fall_and_the_steepest_rate_lies_in_it():
    measured = curve((-6, 2.0), (-4, 2.0), (-3, 1.8), (-2, 0.5), (1, 9.0))
    assert measured.valley == pytest.approx(1e-3, rel=0.5)
    assert 1e-3 < measured.steepest < 1e-2
    assert measured.clear


def test_a_curve_that_does_not_fall_is_called_unclear():
    noise = np.random.default_rng(0).normal(0, 0.05, 71)
    rates = np.geomspace(1e-6, 10, 71)
    measured = _measured(rates, 2 + noise, np.full(71, 2.0) - np.linspace(0, 0.01, 71))
    assert not measured.clear
    assert "hardly falls: try more steps" in str(measured)


def test_a_curve_that_only_rises_suggests_its_first_rate():
    assert curve((-6, 1.0), (1, 9.0)).valley == pytest.approx(1e-6)


def test_a_backbone_is_tried_with_a_last_layer_of_zeros(tiny, quiet):
    options = {"size": 96, "batch_size": 8, "steps": 12, "lowest": 1e-5, "highest": 1e-3}
    found = find_learning_rate("photos", tiny, **options, progress=quiet)
    assert found.losses[0] == pytest.approx(np.log(3), rel=1e-3)


def test_no_run_is_written(found, tiny, quiet):
    find_learning_rate("baseline", tiny, batch_size=16, steps=10, progress=quiet)
    assert list_runs() == []


def test_only_as_many_pictures_are_used_as_half_the_steps_take(tiny, quiet, monkeypatch):
    seen = []

    class Counting(finder._RisingLoop):
        def __init__(self, model, recipe, batches, precision):
            seen.append(len(batches))
            super().__init__(model, recipe, batches, precision)

    monkeypatch.setattr(finder, "_RisingLoop", Counting)
    find_learning_rate("baseline", tiny, batch_size=4, steps=10, highest=1e-3, progress=quiet)
    assert seen == [20]


def test_a_stop_ends_it_and_progress_shows_how_far_it_is(tiny):
    class Lines(Progress):
        def __init__(self):
            super().__init__()
            self.lines = []

        def update(self, line):
            self.lines.append(line)
            if len(self.lines) == 5:
                stop.set()

    stop, lines = threading.Event(), Lines()
    with pytest.raises(StopTraining):
        find_learning_rate("baseline", tiny, batch_size=16, steps=50, stop=stop, progress=lines)
    assert [line.split("  ")[0] for line in lines.lines] == ["trying learning rates"] * 5
    assert lines.lines[-1].endswith(" 10%")


def test_logistic_regression_has_no_learning_rate(tiny):
    with pytest.raises(ValueError, match="The recipe head fits a logistic regression, which has no learning rate"):
        find_learning_rate("head", tiny)


@pytest.mark.parametrize("settings", [{"steps": 9}, {"lowest": 0.0}, {"lowest": 2.0, "highest": 1.0}])
def test_settings_out_of_range_are_refused(settings, tiny):
    with pytest.raises(ValueError, match=r"at least 10 steps, and learning rates that rise from above 0\. Received"):
        find_learning_rate("baseline", tiny, **settings)


def test_a_loss_that_explodes_at_once_is_one_sentence(tiny, quiet):
    with pytest.raises(ValueError, match=r"explodes at once: try more steps, or a lower rate than lowest=1e\+06"):
        find_learning_rate("baseline", tiny, batch_size=16, steps=10, lowest=1e6, highest=1e9, progress=quiet)


def test_a_loss_that_is_not_finite_ends_the_search(monkeypatch, tiny, quiet):
    def breaking(self, epoch):
        for done in run_epoch(self, epoch):
            yield done
            if epoch == 4:
                raise DivergedError("not finite")

    run_epoch = Loop.run_epoch
    monkeypatch.setattr(Loop, "run_epoch", breaking)
    found = find_learning_rate("baseline", tiny, batch_size=16, steps=20, highest=1e-3, progress=quiet)
    assert len(found.losses) == 13  # four epochs of three steps, and one


def test_in_short_mode_there_are_20_steps(tiny, quiet, monkeypatch):
    monkeypatch.setenv("IMGCLASSIFY_SHORT", "1")
    assert len(find_learning_rate("baseline", tiny, batch_size=16, highest=1e-3, progress=quiet).rates) == 20


def test_muon_begins_at_a_higher_rate(tiny, quiet):
    recipe = get_recipe("fast", batch_size=16)
    assert find_learning_rate(recipe, tiny, steps=10, progress=quiet).rates[0] == pytest.approx(1e-4)


def test_the_text_names_both_suggestions(found):
    assert re.fullmatch(r"Learning rate \d\.\de-\d\d \(valley\) or \d\.\de-\d\d \(steepest fall.*\)\.", str(found))


def test_the_plot_marks_them_on_a_logarithmic_scale(found):
    (axes,) = plot_learning_rates(found, title="baseline", figure=Figure()).axes
    assert axes.get_xscale() == "log"
    assert axes.get_title() == "baseline"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["each step", "smoothed", f"valley: {found.valley:.1e}", f"steepest: {found.steepest:.1e}"]
    assert axes.get_ylim()[1] < found.losses[0] * 2  # the explosion is left out
