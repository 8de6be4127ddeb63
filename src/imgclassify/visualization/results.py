"""Figures of results: where a classifier is right, how sure it is, and what it says about a picture."""

import numpy as np
from matplotlib.figure import Figure

from imgclassify.classifier import Classifier, Prediction
from imgclassify.data.images import Picture, decode_image, prepare_image
from imgclassify.display import BLUE, GREY, ORANGE
from imgclassify.evaluation.metrics import BINS, Evaluation, wilson_interval
from imgclassify.visualization.data import plot_samples
from imgclassify.visualization.style import new_figure, percent, show_picture


def plot_confusion_matrix(evaluation: Evaluation) -> Figure:
    """Counts of true against predicted classes; the colour shows the share of the true class."""
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = evaluation.confusion
    figure, ((axes,),) = new_figure(figsize=(0.55 * len(counts) + 2.6, 0.55 * len(counts) + 1.7))
    shown = ConfusionMatrixDisplay(
        counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), display_labels=evaluation.class_names
    ).plot(ax=axes, cmap="Blues", im_kw={"vmin": 0, "vmax": 1}, xticks_rotation="vertical", colorbar=False)
    for text, count in zip(shown.text_.flat, counts.flat, strict=True):
        text.set(text=f"{count}", fontsize=8, alpha=1 if count else 0.6)
    title = f"{evaluation.accuracy:.1%} of {len(evaluation.labels):,} right, {evaluation.source}".removesuffix(", ")
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown.im_, ax=axes, shrink=0.8, label="share of the true class")
    percent(bar.ax.yaxis)
    return figure


def plot_class_accuracy(evaluation: Evaluation) -> Figure:
    """Accuracy of each class, lowest last, with the overall accuracy as a line."""
    shares = {name: share for name, share in evaluation.per_class.items() if share == share}
    names = sorted(shares, key=shares.__getitem__, reverse=True)
    figure, ((axes,),) = new_figure(figsize=(7.5, 0.28 * len(names) + 1.1))
    bars = axes.barh(names, [shares[name] for name in names], color=BLUE)
    axes.bar_label(bars, fmt="{:.1%}", label_type="center", color="white", fontsize=9)
    axes.axvline(evaluation.accuracy, color=ORANGE, label=f"all classes: {evaluation.accuracy:.1%}")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.05), xlabel="share classified correctly", title=f"Accuracy by class, {evaluation.source}")
    percent(axes.xaxis)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_confidence(evaluation: Evaluation) -> Figure:
    """How confident the model was where it was right and where it was wrong."""
    figure, ((axes,),) = new_figure(figsize=(7.5, 3.2))
    bins = np.linspace(0, 1, 21)
    right, wrong = evaluation.confidence[evaluation.correct], evaluation.confidence[~evaluation.correct]
    labels = [f"right ({len(right):,})", f"wrong ({len(wrong):,})"]
    axes.hist([right, wrong], bins, stacked=True, color=[BLUE, ORANGE], label=labels)
    axes.set_title(f"Confidence of right and wrong predictions, {evaluation.source}")
    axes.set(xlabel="confidence of the prediction", ylabel="pictures")
    percent(axes.xaxis)
    axes.legend(frameon=False, loc="upper left")
    return figure


def plot_reliability(evaluation: Evaluation) -> Figure:
    """Accuracy against confidence, in equal ranges of confidence, and how many pictures each range has.

    With perfect calibration the points lie on the diagonal: of the pictures classified with a confidence of 80 %,
    80 % are right. The bars are 95 % intervals of the accuracy (Wilson, 1927).
    """
    counts, confidence, accuracy = evaluation.calibration()
    figure, ((axes,), (below,)) = new_figure(2, 1, figsize=(5.2, 5.4), height_ratios=[3, 1], sharex=True)
    filled = np.flatnonzero(counts)
    bounds = np.array([wilson_interval(round(accuracy[i] * counts[i]), int(counts[i])) for i in filled]).T
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect calibration")
    spread = np.abs(bounds - accuracy[filled])
    axes.errorbar(confidence[filled], accuracy[filled], yerr=spread, fmt="o-", color=BLUE, markersize=4, capsize=2)
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"expected calibration error {evaluation.calibration_error:.3f}, {evaluation.source}")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    below.bar((np.arange(BINS) + 0.5) / BINS, counts, width=0.9 / BINS, color=GREY)
    below.set(xlabel="confidence", ylabel="pictures")
    percent(axes.xaxis, axes.yaxis)
    return figure


def plot_mistakes(images: np.ndarray, evaluation: Evaluation, *, count: int = 12) -> Figure | None:
    """The mistakes made with the highest confidence, with predicted and true class; None if there are none.

    Args:
        images: The evaluated pictures, uint8 or float in [0, 1], (N, H, W, 3).
        evaluation: Their evaluation.
        count: How many to show.
    """
    wrong = np.flatnonzero(~evaluation.correct)
    if len(wrong) == 0:
        return None
    worst = wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")][:count]
    names, titles = evaluation.class_names, []
    for i in worst:
        sure = f"{evaluation.confidence[i]:.1%}" if evaluation.confidence[i] <= 0.999 else ">99.9%"
        titles.append(f"{names[evaluation.predicted[i]]} {sure}\ntrue: {names[evaluation.labels[i]]}")
    title = f"Most confident mistakes, {evaluation.source}"
    return plot_samples(images[worst], titles, columns=6, title=title, side=1.55)


def plot_model_view(picture: Picture, model=None) -> Figure:
    """A picture next to what a model sees of it.

    Args:
        picture: See `decode_image`.
        model: A `Classifier`, or a Keras model; default: a model that sees 32 x 32 pixels.

    Raises:
        ImageError: The picture cannot be used.
    """
    image = decode_image(picture)
    view = prepare_image(image) if model is None else Classifier.of(model).prepare(image)
    titles = ["the picture", f"what the model sees: {view.shape[1]} x {view.shape[0]} pixels"]
    return plot_samples([np.asarray(image), view], titles, columns=2, side=3.2)


def plot_prediction(
    prediction: Prediction, picture: Picture | None = None, *, true_label: str | None = None, top: int = 5
) -> Figure:
    """The picture, what the model sees of it, and its most probable classes as bars.

    Args:
        prediction: From `predict_image` or `classify_custom_image`.
        picture: The original picture; without it, only the model's view is shown.
        true_label: The true class, if it is known.
        top: How many classes to show.

    Raises:
        ImageError: `picture` cannot be used.
    """
    panels = 2 if picture is None else 3
    figure, (row,) = new_figure(1, panels, figsize=(3 * panels + 0.8, 3), width_ratios=[1] * (panels - 1) + [1.2])
    if picture is not None:
        show_picture(row[0], np.asarray(decode_image(picture)), "the picture")
    height, width = prediction.image.shape[:2]
    show_picture(row[-2], prediction.image, f"what the model sees: {width} x {height} pixels")
    labels, values = zip(*prediction.top(top), strict=True)
    bars = row[-1].barh(labels, values, color=[BLUE, *[GREY] * (len(labels) - 1)])
    row[-1].bar_label(bars, fmt="{:.1%}", padding=3, fontsize=9)
    row[-1].invert_yaxis()
    truth = f" (true class: {true_label})" if true_label else ""
    row[-1].set(xlim=(0, 1.25), xticks=[0, 0.5, 1], xlabel="probability", title=prediction.label + truth)
    percent(row[-1].xaxis)
    return figure
