from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from imgclassify import backend
from imgclassify import visualization as v
from imgclassify.classifier import Classifier, predict_image
from imgclassify.data.check import DataReport
from imgclassify.data.images import ImageError
from imgclassify.display import BLUE, ORANGE
from imgclassify.evaluation.answers import Answers
from imgclassify.evaluation.comparison import ModelComparison
from imgclassify.evaluation.drift import LEAST, Drift, find_drift
from imgclassify.evaluation.explain import explain_prepared as explained
from imgclassify.evaluation.faithfulness import Faithfulness
from imgclassify.evaluation.metrics import BINS, Evaluation, evaluate_model, wilson_interval
from imgclassify.evaluation.robustness import CORRUPTIONS, MOVES, Robustness
from imgclassify.evaluation.unknown import Separation
from imgclassify.models.networks import build_model
from imgclassify.prediction import Prediction
from imgclassify.runs.manifest import DataRecord, Manifest
from imgclassify.runs.records import Run
from imgclassify.training.finder import LearningRates

LEARNING_RATES = LearningRates(np.geomspace(1e-6, 1, 5), np.ones(5), np.ones(5), 1e-3, 1e-2, True)
HISTORY = {
    "loss": [2.0, 1.5, 1.2],
    "accuracy": [0.3, 0.4, 0.5],
    "val_loss": [1.8, 1.4, 1.5],
    "val_accuracy": [0.35, 0.55, 0.45],
}
NAMES = ("cat", "dog", "ox")
ARRAYS = ("labels", "confidence", "known")


@pytest.fixture(autouse=True)
def nothing_shown_saved_or_left_open(monkeypatch, tmp_path):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("a figure was shown"))
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: pytest.fail("a figure was saved"))
    monkeypatch.chdir(tmp_path)
    settings = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == settings
    plt.close("all")


@pytest.fixture
def evaluation():
    probabilities = [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [0.0, 0.1, 0.9], [0.8, 0.1, 0.1]]
    return Evaluation(np.array(probabilities, np.float32), np.array([0, 1, 1, 2, 2]), NAMES, "a farm")


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def a_run(tmp_path):
    """`a_run(name, source="CIFAR-10")` is a run of two epochs."""

    def make(name: str, source: str = "CIFAR-10", **manifest) -> Run:
        history = {"loss": [1.0, 0.9], "val_accuracy": [0.5, 0.6], "val_loss": [1.1, 1.0]}
        record = Manifest(**{"history": history, "dataset": DataRecord(source=source)} | manifest)
        return Run(name, tmp_path / name, record)

    return make


def drawn(figure: Figure) -> Figure:
    """The figure after it has really been drawn, which is when Matplotlib finds most mistakes."""
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    return figure


def drift() -> Drift:
    """Two days as validated, and one with other classes, a lower confidence and refusals."""
    labels, known = np.tile([0, 1, 2], 200), np.ones(600, bool)
    confidence = np.random.default_rng(0).uniform(0.5, 1, 600)
    reference = Answers(NAMES, labels, confidence, known)
    last = Answers(NAMES, labels // 2, confidence - 0.3, labels > 0)
    parts = [np.concatenate([getattr(each, name) for each in (reference, last)]) for name in ARRAYS]
    days = np.datetime64("2026-01-01") + np.arange(1200) // 300
    return Drift("a model", reference, tuple(find_drift(reference, Answers(NAMES, *parts), days)), {})


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text) if text.get_text())


# --- style -------------------------------------------------------------------------------------------


def test_every_figure_is_on_white_whatever_the_notebooks_settings(tiny, tiny_model, pictures, evaluation, a_run):
    prediction = predict_image(tiny_model, tiny.x_test[0])
    with plt.rc_context({"figure.facecolor": "none", "figure.max_open_warning": 0}):
        figures = {
            "plot_augmentations": v.plot_augmentations(tiny, variants=1),
            "plot_channels": v.plot_channels(tiny),
            "plot_class_counts": v.plot_class_counts(tiny),
            "plot_class_samples": v.plot_class_samples(tiny, count=2),
            "plot_class_scores": v.plot_class_scores(evaluation),
            "plot_confidence": v.plot_confidence(evaluation),
            "plot_confused": v.plot_confused(pictures, evaluation),
            "plot_confusion_matrix": v.plot_confusion_matrix(evaluation),
            "plot_corruptions": v.plot_corruptions(pictures[0]),
            "plot_coverage": v.plot_coverage({"a model": evaluation}),
            "plot_data_check": v.plot_data_check(DataReport("pets", {"cat": {"train": 3}}, ((1, 1),) * 3, (), (), ())),
            "plot_drift": v.plot_drift(drift()),
            "plot_explanations": v.plot_explanations([[explained(tiny_model, pictures[0])]]),
            "plot_faithfulness": v.plot_faithfulness({"random": Faithfulness(np.ones((3, 2)), np.ones((3, 2)))}),
            "plot_history": v.plot_history(HISTORY),
            "plot_learning_curve": v.plot_learning_curve({1000: [0.5]}),
            "plot_learning_rates": v.plot_learning_rates(LEARNING_RATES),
            "plot_mean_images": v.plot_mean_images(tiny),
            "plot_mistakes": v.plot_mistakes(pictures, evaluation),
            "plot_model_view": v.plot_model_view(pictures[0]),
            "plot_nearest": v.plot_nearest(pictures[0], pictures, {"cat": (np.array([1]), np.array([0.5]))}),
            "plot_pairs": v.plot_pairs([(pictures[0], pictures[1], "one")]),
            "plot_prediction": v.plot_prediction(prediction),
            "plot_qualities": v.plot_qualities(tiny_model, pictures[0]),
            "plot_reliability": v.plot_reliability(evaluation),
            "plot_right_answers": v.plot_right_answers(pictures, evaluation),
            "plot_robustness": v.plot_robustness({"tiny": robustness(evaluation)}),
            "plot_runs": v.plot_runs([a_run("a")]),
            "plot_samples": v.plot_samples(pictures),
            "plot_separation": v.plot_separation({"energy": {"noise": Separation(0.9, 0.1)}}),
            "plot_size_and_time": v.plot_size_and_time({"onnx": (1, 2)}),
            "plot_spread": v.plot_spread({"as it is": [0.5]}),
            "plot_won_and_lost": v.plot_won_and_lost(pictures, comparison(evaluation)),
        }
        given = [v.plot_history(HISTORY, figure=Figure()), v.plot_runs([a_run("a")], figure=Figure())]
    assert sorted(figures) == sorted(v.__all__)
    for figure in (*figures.values(), *given):
        assert figure.get_facecolor() == (1, 1, 1, 1)


# --- history -----------------------------------------------------------------------------------------


def test_the_history_plot_has_accuracy_and_loss_of_training_and_validation_over_epochs():
    left, right = drawn(v.plot_history(HISTORY, title="Baseline, CIFAR-10")).axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("epoch", "accuracy")
    assert right.get_xlabel() == "epoch"
    assert right.get_ylabel().startswith("loss")
    for axes, key in ((left, "accuracy"), (right, "loss")):
        training, validation, best = axes.lines
        assert training.get_xdata().tolist() == [1, 2, 3]
        assert list(training.get_ydata()) == HISTORY[key]
        assert list(validation.get_ydata()) == HISTORY[f"val_{key}"]
        assert list(best.get_xdata()) == [2]
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == ["training (measured on the way)", "validation", "best validation accuracy: 55.0%, epoch 2"]
    assert left.figure.get_suptitle() == "Baseline, CIFAR-10"


def test_the_history_plot_takes_a_keras_history_as_it_comes_from_fit():
    history = backend.keras().callbacks.History()
    history.history = HISTORY
    assert len(v.plot_history(history).axes) == 2


def test_the_history_of_a_single_epoch_is_visible():
    figure = drawn(v.plot_history({key: values[:1] for key, values in HISTORY.items()}))
    assert all(line.get_marker() == "o" for axes in figure.axes for line in axes.lines)
    assert [tick for tick in figure.axes[0].get_xticks() if 0.5 < tick < 1.5] == [1]


def test_a_history_without_validation_is_plotted():
    left, _ = drawn(v.plot_history({"loss": [1.0, 0.5], "accuracy": [0.5, 0.7]})).axes
    assert len(left.lines) == 1


@pytest.mark.parametrize("history", [{}, {"loss": [], "accuracy": []}, {"loss": [1.0]}])
def test_a_history_without_an_epoch_is_refused(history):
    with pytest.raises(ValueError, match=r'at least one epoch of "loss" and "accuracy"\. Received: '):
        v.plot_history(history)


def test_plotting_a_history_does_not_modify_it():
    history = {key: list(values) for key, values in HISTORY.items()}
    v.plot_history(history)
    assert history == HISTORY


def test_a_given_figure_is_drawn_in_and_no_other_made():
    before, given = plt.get_fignums(), Figure()
    assert v.plot_history(HISTORY, figure=given) is given
    assert len(given.axes) == 2
    assert plt.get_fignums() == before


# --- runs and trainings compared ---------------------------------------------------------------------


def test_runs_are_overlaid_by_name_and_those_without_an_epoch_left_out(a_run):
    runs = [a_run("a"), a_run("b"), a_run("c", history={})]
    left, right = drawn(v.plot_runs(runs)).axes
    assert [line.get_label() for line in left.lines] == ["a", "b"]
    assert [line.get_label() for line in right.lines] == ["a", "b"]
    assert (left.get_xlabel(), left.get_ylabel()) == ("epoch", "validation accuracy")
    assert left.get_title(loc="left") == "CIFAR-10"
    with pytest.raises(ValueError, match=r"None of these runs has finished an epoch\."):
        v.plot_runs(runs[2:])


def test_runs_of_each_data_set_have_a_row_of_panels_of_their_own(a_run):
    runs = [a_run("a"), a_run("b", "digits"), a_run("c"), a_run("d", "leaves", history={})]
    one, two = v.plot_runs(runs[:1]), drawn(v.plot_runs(runs))
    axes = np.reshape(two.axes, (2, 2))
    for (left, right), source, names in zip(axes, ("CIFAR-10", "digits"), (["a", "c"], ["b"]), strict=True):
        assert left.get_title(loc="left") == source
        for panel in (left, right):
            assert [line.get_label() for line in panel.lines] == names
            assert list(panel.lines[0].get_xdata()) == [1, 2]
        assert list(left.lines[0].get_ydata()) == [0.5, 0.6]
        assert list(right.lines[0].get_ydata()) == [1.1, 1.0]
    assert two.get_figheight() == 2 * one.get_figheight()
    given = v.plot_runs(runs, figure=Figure(figsize=(9, 3)))
    assert len(given.axes) == 4
    assert given.get_size_inches().tolist() == [9, 6]


def test_mistakes_are_shown_with_what_speaks_for_the_answer(tiny_model, tiny):
    wrong = evaluate_model(tiny_model, tiny.x_test, (tiny.y_test + 1) % 3)
    figure = drawn(v.plot_mistakes(tiny.x_test, wrong, count=8, model=tiny_model))
    shown = [axes.images[0].get_array().shape for axes in figure.axes if axes.images]
    assert [shape[0] for shape in shown] == [32] * 6 + [224] * 6 + [32] * 2 + [224] * 2
    assert "for red" in texts(figure) or "for green" in texts(figure) or "for blue" in texts(figure)


def test_explanations_have_a_row_for_each_picture_and_a_panel_for_each_map(tiny_model, pictures):
    rows = [[explained(tiny_model, pictures[0])], [explained(tiny_model, pictures[1], method="grad-cam")] * 2]
    figure = drawn(v.plot_explanations(rows, title="Why"))
    mixed = drawn(v.plot_explanations([[*rows[0], *rows[1]]]))
    assert len([axes for axes in mixed.axes if axes.images]) == 2 + 3
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 2 + 3
    np.testing.assert_array_equal(panels[0].images[0].get_array(), pictures[0])
    np.testing.assert_array_equal(panels[1].images[0].get_array(), rows[0][0].overlay)
    for text in ("Why", "32 x 32 pixels", f"HiResCAM\nfor {rows[0][0].label}", "Grad-CAM\nfor "):
        assert text in texts(figure)


def test_faithfulness_is_drawn_as_the_mean_of_all_pictures():
    falling, rising = np.array([[1.0, 1], [0.5, 0], [0, 0]]), np.array([[0.0, 0], [0.5, 1], [1, 1]])
    figure = drawn(v.plot_faithfulness({"hirescam": Faithfulness(falling, rising)}, title="baseline"))
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), [1, 0.25, 0])
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0, 0.75, 1])
    assert left.get_legend().get_texts()[0].get_text() == "HiResCAM: 0.375"
    assert right.get_legend().get_texts()[0].get_text() == "HiResCAM: 0.625"


def test_the_nearest_pictures_are_beside_their_classes(pictures):
    found = {"cat": (np.array([1, 2]), np.array([0.9, 0.8])), "dog": (np.array([3]), np.array([0.7]))}
    figure = drawn(v.plot_nearest(pictures[0], pictures, found))
    shown = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    for image, row in zip(shown, (0, 1, 2, 3), strict=True):
        np.testing.assert_array_equal(image, pictures[row])
    for text in ("the picture", "cat\n0.90", "dog\n0.70"):
        assert text in texts(figure)


def robustness(evaluation: Evaluation) -> Robustness:
    """The same evaluation under every corruption."""
    return Robustness(evaluation, dict.fromkeys(CORRUPTIONS | MOVES, (evaluation,) * 3))


def test_robustness_is_drawn_as_a_table_for_each_model(evaluation):
    measured = {"one": robustness(evaluation), "other": robustness(evaluation)}
    figure = drawn(v.plot_robustness(measured, value="calibration_error"))
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("one", "other")
    assert [text.get_text() for text in left.texts] == [f"{evaluation.calibration_error:.2f}"] * 3 * 19
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["as they are", *CORRUPTIONS, *MOVES]
    assert "calibration error" in texts(figure)
    accuracy = drawn(v.plot_robustness(measured))
    assert accuracy.axes[0].texts[0].get_text() == f"{evaluation.accuracy:.0%}"


def test_qualities_are_drawn_for_jpeg_and_for_sizes(tiny_model):
    red = np.zeros((300, 500, 3), np.uint8)
    red[..., 0] = 200
    figure = drawn(v.plot_qualities(tiny_model, red))
    shapes = [axes.images[0].get_array().shape[:2] for axes in figure.axes if axes.images]
    assert shapes == [(300, 500)] * 5 + [(240, 400), (120, 200), (60, 100), (30, 50), (15, 25)]
    for text in ("JPEG 5", "longer side 25 pixels", "red"):
        assert text in texts(figure)


def test_sizes_and_times_are_bars_with_their_numbers():
    figure = drawn(v.plot_size_and_time({"onnx": (8.25, 3.9), "eight bits": (2.0, 1.5)}, title="one model"))
    sizes, times = figure.axes
    assert [bar.get_width() for bar in sizes.patches] == [8.25, 2.0]
    assert [text.get_text() for text in times.texts] == ["3.9", "1.5"]
    assert [label.get_text() for label in sizes.get_yticklabels()] == ["onnx", "eight bits"]
    assert sizes.yaxis_inverted()
    assert (sizes.get_xlabel(), times.get_xlabel()) == ("MB", "ms per picture")


def test_a_spread_has_a_point_per_training_and_a_mark_at_the_mean():
    (axes,) = drawn(v.plot_spread({"as it is": [0.5, 0.7], "less of it": [0.4]}, xlabel="share right")).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["as it is", "less of it"]
    points, mean, *_ = axes.get_lines()
    assert list(points.get_xdata()) == [0.5, 0.7]
    assert list(mean.get_xdata()) == pytest.approx([0.6])
    assert axes.get_xlabel() == "share right"


def test_a_learning_curve_goes_through_the_means_in_order_of_size():
    (axes,) = drawn(v.plot_learning_curve({4000: [0.6, 0.7], 1000: [0.4, 0.5]}, title="baseline")).axes
    curve = axes.get_lines()[-1]
    assert list(curve.get_xdata()) == [1000, 4000]
    assert list(curve.get_ydata()) == pytest.approx([0.45, 0.65])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1,000", "4,000"]


# --- pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "panels"), [(1, 1), (4, 4), (5, 8)])
def test_a_sample_grid_has_a_panel_for_each_picture(pictures, count, panels):
    figure = drawn(v.plot_samples(pictures[:count], list("abcde")[:count], columns=4, title="Some"))
    assert len(figure.axes) == panels
    assert [axes.get_title() for axes in figure.axes if axes.images] == list("abcde")[:count]
    assert figure.get_suptitle() == "Some"


def test_pictures_are_drawn_pixel_for_pixel_and_not_modified(pictures):
    before = pictures.copy()
    figure = v.plot_samples(pictures)
    for axes, picture in zip(figure.axes, pictures, strict=True):
        assert axes.images[0].get_interpolation() == "nearest"
        assert np.array_equal(axes.images[0].get_array(), picture)
    assert np.array_equal(pictures, before)


def test_class_samples_show_each_class_in_its_row_and_repeat_by_seed(tiny):
    figure = drawn(v.plot_class_samples(tiny, count=4))
    again, other = v.plot_class_samples(tiny, count=4), v.plot_class_samples(tiny, count=4, seed=1)
    shown = [[axes.images[0].get_array() for axes in each.axes] for each in (figure, again, other)]
    assert len(shown[0]) == 12
    for number, picture in enumerate(shown[0]):
        assert picture.mean(axis=(0, 1)).argmax() == number // 4  # red, green and blue rows
    assert np.array_equal(shown[0], shown[1])
    assert not np.array_equal(shown[0], shown[2])
    assert "made-up colours" in texts(figure)
    assert all(name in texts(figure) for name in tiny.class_names)


def test_augmentations_show_a_row_per_kind_with_the_original_first_and_repeat_by_seed(tiny):
    figure = drawn(v.plot_augmentations(tiny, pictures=1, variants=3, seed=4))
    shown = [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]
    assert len(shown) == 4 * (1 + 3)
    original = shown[0]
    assert any(np.array_equal(original, picture) for picture in tiny.x_train)
    assert all(np.array_equal(shown[row], original) for row in (4, 8, 12))
    assert all((picture == 127).all(axis=-1).sum() >= 144 for picture in shown[9:12])  # what cutout hides
    again = [
        np.asarray(axes.get_images()[0].get_array()) for axes in v.plot_augmentations(tiny, variants=3, seed=4).axes
    ]
    assert all(np.array_equal(one, other) for one, other in zip(shown, again, strict=True))


def test_class_counts_show_training_and_test_pictures_of_each_class(tiny):
    (axes,) = drawn(v.plot_class_counts(tiny)).axes
    assert [bar.get_width() for bar in axes.patches] == [20, 20, 20, 10, 10, 10]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["red", "green", "blue"]
    assert axes.get_xlabel() == "pictures"
    assert "made-up colours" in axes.get_title()


def test_the_channel_plot_states_each_channels_mean_and_standard_deviation(tiny):
    (axes,) = drawn(v.plot_channels(tiny)).axes
    assert axes.get_xlabel() == "pixel value / 255"
    assert axes.get_ylabel() == "share of pixels"
    for channel, (line, name) in enumerate(zip(axes.lines, ("red", "green", "blue"), strict=True)):
        values = tiny.x_train[..., channel] / 255
        assert line.get_label() == f"{name}: mean {values.mean():.3f}, standard deviation {values.std():.3f}"
        assert line.get_ydata().sum() == pytest.approx(1)


def test_mean_images_are_the_means_of_their_classes(tiny):
    figure = drawn(v.plot_mean_images(tiny))
    for number, axes in enumerate(figure.axes):
        assert axes.get_title() == tiny.class_names[number]
        expected = tiny.x_train[tiny.y_train == number].mean(axis=0) / 255
        assert np.asarray(axes.images[0].get_array()) == pytest.approx(expected, abs=1 / 255)


def test_pairs_are_drawn_one_above_the_other(pictures):
    pairs = [(pictures[0], pictures[1], "one"), (pictures[2], pictures[3], "two")]
    figure = drawn(v.plot_pairs(pairs, title="Twins"))
    assert [axes.get_title() for axes in figure.axes] == ["one", "two", "", ""]
    assert np.array_equal(figure.axes[2].images[0].get_array(), pictures[1])


# --- measurements ------------------------------------------------------------------------------------


def test_the_confusion_matrix_has_named_axes_and_every_count(evaluation):
    axes, colors = drawn(v.plot_confusion_matrix(evaluation)).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert [label.get_text() for label in axes.get_xticklabels()] == list(NAMES)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    counts = [[0] * 3 for _ in range(3)]
    for text in axes.texts:
        column, row = text.get_position()
        counts[row][column] = int(text.get_text())
    assert counts == evaluation.confusion.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert np.asarray(axes.images[0].get_array())[1].tolist() == [0, 0.5, 0.5]
    assert axes.get_title() == "60.0% of 5 right, a farm"
    assert colors.get_ylabel() == "share of the true class"


def test_class_scores_are_sorted_by_f1_with_intervals_and_leave_out_classes_without_pictures():
    predicted = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    evaluation = Evaluation(predicted, np.array([0, 1, 1, 2]), ("a", "b", "c", "d"), "made up")
    (axes,) = drawn(v.plot_class_scores(evaluation)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a", "b"]
    precision, recall, f1 = axes.containers
    assert precision[0].get_xdata().tolist() == [1, 0.5, 1]
    assert recall[0].get_xdata().tolist() == [1, 1, 0.5]
    assert f1[0].get_xdata() == pytest.approx([1, 2 / 3, 2 / 3])
    (bars,) = recall[2]
    ends = [bar[:, 0].tolist() for bar in bars.get_segments()]
    assert ends == [pytest.approx(wilson_interval(*each)) for each in ((1, 1), (1, 1), (1, 2))]


def test_a_class_that_is_never_said_has_its_recall_shown():
    evaluation = Evaluation(np.eye(2, dtype=np.float32)[[0, 0]], np.array([0, 1]), ("a", "b"))
    (axes,) = drawn(v.plot_class_scores(evaluation)).axes
    assert axes.containers[1][0].get_xdata().tolist() == [1, 0]


def test_the_coverage_plot_ends_with_the_accuracy_on_all_pictures(evaluation):
    (axes,) = drawn(v.plot_coverage({"a model": evaluation})).axes
    (line,) = axes.lines
    assert line.get_xdata()[-1] == 1
    assert line.get_ydata()[-1] == evaluation.accuracy
    assert axes.get_legend().get_texts()[0].get_text() == "a model: 60.0% of all"


@pytest.mark.parametrize(("shares", "shown"), [(False, "1"), (True, "50%")])
def test_the_confusion_matrix_shows_counts_or_shares(evaluation, shares, shown):
    figure = drawn(v.plot_confusion_matrix(evaluation, shares=shares))
    written = [text.get_text() for text in figure.axes[0].texts]
    assert len(written) == 9
    assert written[4] == shown  # dogs said to be dogs: one of two


def test_the_confidence_plot_counts_right_and_wrong_predictions(evaluation):
    (axes,) = drawn(v.plot_confidence(evaluation)).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["right (3)", "wrong (2)"]
    assert sum(bar.get_height() for bar in axes.patches) == 5
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("confidence of the prediction", "pictures")


def test_the_reliability_diagram_has_each_filled_range_and_counts_all_pictures(evaluation):
    above, below = drawn(figure := v.plot_reliability(evaluation)).axes
    counts, confidence, accuracy = evaluation.calibration()
    assert len(counts) == len(below.patches) == BINS
    diagonal, points = above.get_lines()[:2]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata()) == [0, 1]
    assert points.get_xdata() == pytest.approx(confidence[counts > 0])
    assert points.get_ydata() == pytest.approx(accuracy[counts > 0])
    assert [bar.get_height() for bar in below.patches] == counts.tolist()
    assert counts.sum() == 5
    assert f"{evaluation.calibration_error:.3f}, a farm" in texts(figure)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def test_mistakes_are_shown_with_truth_loss_and_three_answers_the_highest_loss_first(pictures, evaluation):
    figure = drawn(v.plot_mistakes(pictures, evaluation))
    ox = "true: ox\nloss 2.3\ncat 80.0%\ndog 10.0%\nox 10.0%"
    assert titles(figure)[:2] == [ox, "true: dog\nloss 1.2\nox 60.0%\ndog 30.0%\ncat 10.0%"]
    assert np.array_equal(figure.axes[0].images[0].get_array(), pictures[4])
    shown = v.plot_mistakes(pictures, evaluation, count=1)
    assert sum(bool(axes.images) for axes in shown.axes) == 1


def test_right_answers_are_shown_surest_first_and_least_sure_below(pictures, evaluation):
    figure = drawn(v.plot_right_answers(pictures, evaluation, count=2))
    assert titles(figure) == ["ox 90.0%", "cat 70.0%", "dog 50.0%", "cat 70.0%"]
    assert np.array_equal(figure.axes[2].images[0].get_array(), pictures[2])


def test_confused_classes_are_shown_with_their_pictures_in_rows(pictures, evaluation):
    figure = drawn(v.plot_confused(pictures, evaluation))
    assert titles(figure) == ["dog as ox: 1", "ox as cat: 1"]
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert np.array_equal(shown, pictures[[1, 4]])


def comparison(evaluation: Evaluation) -> ModelComparison:
    """With a model that knows the dog and takes the cat for an ox."""
    probabilities = evaluation.probabilities.copy()
    probabilities[0], probabilities[1] = (0.1, 0.2, 0.7), (0.1, 0.8, 0.1)
    return ModelComparison(("old", "new"), (evaluation, replace(evaluation, probabilities=probabilities)))


def test_pictures_that_a_model_wins_are_above_those_that_it_loses(pictures, evaluation):
    figure = drawn(v.plot_won_and_lost(pictures, comparison(evaluation)))
    assert titles(figure) == ["dog\nnot ox", "cat\nnot ox"]
    assert figure.get_suptitle() == "only new is right; below, only old is right"
    assert np.array_equal([axes.images[0].get_array() for axes in figure.axes], pictures[[1, 0]])


def test_a_model_that_wins_nothing_is_not_in_the_title(pictures, evaluation):
    perfect = replace(evaluation, labels=evaluation.predicted)
    wrong = replace(perfect, probabilities=np.roll(perfect.probabilities, 1, axis=1))
    for pair, expected in (((perfect, wrong), "only old is right"), ((wrong, perfect), "only new is right")):
        figure = drawn(v.plot_won_and_lost(pictures, ModelComparison(("old", "new"), pair)))
        assert figure.get_suptitle() == expected
        assert len(figure.axes) == len(pictures)


def test_an_answer_that_is_almost_certain_is_not_rounded_to_certain(pictures):
    evaluation = Evaluation(np.array([[0.9996, 0.0004]], np.float32), np.array([1]), ("cat", "dog"))
    assert titles(v.plot_mistakes(pictures[:1], evaluation))[0] == "true: dog\nloss 7.8\ncat >99.9%\ndog 0.0%"


def test_what_has_no_pictures_has_no_figure(tiny, tiny_model):
    perfect = evaluate_model(tiny_model, tiny.x_test, tiny.y_test)
    assert perfect.accuracy == 1
    assert v.plot_mistakes(tiny.x_test, perfect) is None
    assert v.plot_confused(tiny.x_test, perfect) is None
    assert v.plot_won_and_lost(tiny.x_test, ModelComparison(("a", "b"), (perfect, perfect))) is None
    wrong = replace(perfect, labels=(perfect.labels + 1) % 3)
    assert v.plot_right_answers(tiny.x_test, wrong) is None


# --- predictions -------------------------------------------------------------------------------------


def test_the_models_view_is_next_to_the_picture():
    photo = Image.new("RGB", (90, 60), "teal")
    left, right = drawn(v.plot_model_view(photo)).axes
    assert left.images[0].get_array().shape == (60, 90, 3)
    assert right.images[0].get_array().shape == (32, 32, 3)
    assert "32 x 32 pixels" in right.get_title()
    assert photo.size == (90, 60)


def test_the_view_is_that_of_the_given_model():
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    model = Classifier.of(build_model(input_shape=(48, 48, 3)))
    for each in (model, model.network):
        _, right = drawn(v.plot_model_view(photo, each)).axes
        assert np.array_equal(right.images[0].get_array(), model.prepare(photo))
        assert "48 x 48 pixels" in right.get_title()


def test_a_prediction_is_drawn_as_view_and_bars(tiny, tiny_model):
    prediction = predict_image(tiny_model, tiny.x_test[0])
    view, bars = drawn(v.plot_prediction(prediction, true_label="red")).axes
    assert np.array_equal(view.images[0].get_array(), tiny.x_test[0])
    assert [label.get_text() for label in bars.get_yticklabels()] == list(prediction.probabilities)
    assert [bar.get_width() for bar in bars.patches] == list(prediction.probabilities.values())
    assert bars.get_xlabel() == "probability"
    assert bars.get_title() == "red (true class: red)"


def test_a_prediction_with_its_picture_has_three_panels_and_top_limits_the_bars(tiny, tiny_model):
    prediction = predict_image(tiny_model, tiny.x_test[0])
    picture, _, bars = drawn(v.plot_prediction(prediction, Image.new("RGB", (90, 60)), top=2)).axes
    assert picture.images[0].get_array().shape == (60, 90, 3)
    assert len(bars.patches) == 2


def test_a_bad_picture_is_an_image_error():
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
        v.plot_model_view("gone.jpg")
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
        v.plot_prediction(Prediction("a", 1, {"a": 1}, np.zeros((2, 2, 3), np.uint8)), "gone.jpg")


# --- drift -------------------------------------------------------------------------------------------


def test_the_drift_plot_marks_the_windows_that_drift():
    found = drift()
    assert [each.drifts for each in found.windows] == [(), (), (*LEAST,), (*LEAST,)]
    figure = drawn(v.plot_drift(found))
    above, middle, below, _ = figure.axes
    for axes, value in ((above, "confidence"), (middle, "refusals")):
        assert axes.get_ylabel() == value
        colors = [bars.lines[0].get_color() for bars in axes.containers]
        assert colors == [BLUE, BLUE, ORANGE, ORANGE]
    assert middle.containers[2].lines[0].get_ydata() == pytest.approx(1 / 3)
    assert [text.get_text() for text in below.get_yticklabels()] == list(NAMES)
    assert below.images[0].get_array()[2, 2] == pytest.approx(-1 / 3)
    assert "2026-01-03" in texts(figure)
    assert "Answers by a model" in texts(figure)
