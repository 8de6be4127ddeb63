"""Figures of results: where a classifier is right, how sure it is, and what it says about a picture."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from imgclassify.classifier import Classifier
from imgclassify.data.images import Picture, decode_image, prepare_image, to_bytes
from imgclassify.display import BLUE, GREY, ORANGE, overlay
from imgclassify.evaluation.comparison import ModelComparison
from imgclassify.evaluation.explain import heat_maps
from imgclassify.evaluation.metrics import BINS, Evaluation, wilson_interval
from imgclassify.evaluation.unknown import Separation
from imgclassify.prediction import NONE_OF_THESE, Prediction
from imgclassify.visualization.data import plot_samples
from imgclassify.visualization.style import new_figure, percent, show_picture


def plot_confusion_matrix(evaluation: Evaluation, *, shares: bool = False) -> Figure:
    """True against predicted classes: counts, or shares of the true class, which the colour shows in any case."""
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = evaluation.confusion
    figure, ((axes,),) = new_figure(figsize=(0.55 * len(counts) + 2.6, 0.55 * len(counts) + 1.7))
    shown = ConfusionMatrixDisplay(
        counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), display_labels=evaluation.class_names
    ).plot(ax=axes, cmap="Blues", im_kw={"vmin": 0, "vmax": 1}, xticks_rotation="vertical", colorbar=False)
    for text, count, part in zip(shown.text_.flat, counts.flat, shown.confusion_matrix.flat, strict=True):
        text.set(text=f"{part:.0%}" if shares else f"{count}", fontsize=8, alpha=1 if count else 0.6)
    title = f"{evaluation.accuracy:.1%} of {len(evaluation.labels):,} right, {evaluation.source}".removesuffix(", ")
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown.im_, ax=axes, shrink=0.8, label="share of the true class")
    percent(bar.ax.yaxis)
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


def plot_class_scores(evaluation: Evaluation) -> Figure:
    """Precision, recall and F1 of each class with 95 % intervals, the highest F1 first."""
    scores = {name: each for name, each in evaluation.by_class.items() if each.pictures}
    names = sorted(scores, key=lambda name: -np.nan_to_num(scores[name].f1.value))
    figure, ((axes,),) = new_figure(figsize=(7.5, 0.36 * len(names) + 1.1))
    for shift, key, color in ((-0.22, "precision", ORANGE), (0, "recall", BLUE), (0.22, "f1", GREY)):
        values, lows, highs = np.array([getattr(scores[name], key) for name in names]).T
        spread = np.abs([values - lows, highs - values])
        places = np.arange(len(names)) + shift
        axes.errorbar(values, places, xerr=spread, fmt="o", color=color, markersize=4, capsize=2, label=key.title())
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(
        xlim=(0, 1),
        xlabel="share, with its 95 % interval",
        title=f"Scores by class, {evaluation.source}".removesuffix(", "),
    )
    percent(axes.xaxis)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_coverage(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Accuracy if only the most confident answers are given, against the share of pictures that get one.

    Args:
        evaluations: By the names of their models.
    """
    figure, ((axes,),) = new_figure(figsize=(7.5, 3.4))
    for name, evaluation in evaluations.items():
        accuracy, share = evaluation.coverage()
        axes.plot(share, accuracy, label=f"{name}: {accuracy[-1]:.1%} of all")
    axes.set(xlabel="share of pictures answered, the most confident first", ylabel="share of answers that are right")
    axes.set(xlim=(0, 1), ylim=(None, 1.005), title="Accuracy against coverage")
    percent(axes.xaxis, axes.yaxis)
    axes.legend(frameon=False, loc="lower left")
    return figure


def plot_mistakes(images: np.ndarray, evaluation: Evaluation, *, count: int = 12, model=None) -> Figure | None:
    """The mistakes with the highest loss: the true class, the loss and the three most probable classes.

    None if there are no mistakes.

    Args:
        images: The evaluated pictures, uint8 or float in [0, 1], (N, H, W, 3).
        evaluation: Their evaluation.
        count: How many to show.
        model: The model that made them; if given, what speaks for its answer is shown below each picture.
    """
    wrong = np.flatnonzero(~evaluation.correct)
    losses, titles = evaluation.losses, []
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][:count]
    for row in worst:
        true = evaluation.class_names[evaluation.labels[row]]
        titles.append("\n".join([f"true: {true}", f"loss {losses[row]:.1f}", *evaluation.describe(row, 3)]))
    heading = f"Worst mistakes, {evaluation.source}"
    if model is None or not len(worst):
        return _plot_rows(images, [(worst, titles)], heading, columns=6)
    classifier, said = Classifier.of(model), evaluation.predicted[worst]
    prepared = np.asarray(classifier.fitting(images[worst])[:])
    heat = heat_maps(classifier, prepared, said)
    maps = [overlay(to_bytes(image), each) for image, each in zip(prepared, heat, strict=True)]
    shown, texts, columns = list[np.ndarray | None](), list[str](), min(6, len(worst))
    for start in range(0, len(worst), columns):
        here = slice(start, start + columns)
        gap = columns - len(worst[here])
        shown += [*images[worst[here]], *[None] * gap, *maps[here], *[None] * gap]
        answers = [f"for {evaluation.class_names[each]}" for each in said[here]]
        texts += [*titles[here], *[""] * gap, *answers, *[""] * gap]
    return plot_samples(shown, texts, columns=columns, title=heading.removesuffix(", "), side=1.55)


def plot_right_answers(images: np.ndarray, evaluation: Evaluation, *, count: int = 8) -> Figure | None:
    """The right answers of highest confidence, and below them those of lowest; None if there are none.

    The arguments are those of `plot_mistakes`.
    """
    right = np.flatnonzero(evaluation.correct)
    order = right[np.argsort(-evaluation.confidence[right], kind="stable")]
    ends = (order[:count], order[: -count - 1 : -1])
    rows = [(chosen, [evaluation.describe(row)[0] for row in chosen]) for chosen in ends]
    return _plot_rows(images, rows, f"Surest and least sure right answers, {evaluation.source}")


def plot_confused(images: np.ndarray, evaluation: Evaluation, *, pairs: int = 4, count: int = 8) -> Figure | None:
    """Pictures of the most frequent mistakes, a row for each pair of classes; None if there are no mistakes.

    Args:
        images: The evaluated pictures, uint8 or float in [0, 1], (N, H, W, 3).
        evaluation: Their evaluation.
        pairs: How many pairs of a true and a predicted class.
        count: How many pictures of each, those of highest confidence first.
    """
    rows, names = [], list(evaluation.class_names)
    for true, said, number in evaluation.most_confused(pairs):
        taken = (evaluation.labels == names.index(true)) & (evaluation.predicted == names.index(said))
        found = np.flatnonzero(taken)
        surest = found[np.argsort(-evaluation.confidence[found], kind="stable")][:count]
        rows.append((surest, [f"{true} as {said}: {number}", *[""] * (len(surest) - 1)]))
    return _plot_rows(images, rows, f"What is taken for what, {evaluation.source}")


def plot_won_and_lost(images: np.ndarray, comparison: ModelComparison, *, count: int = 8) -> Figure | None:
    """Pictures that only the second model classifies correctly, and those that only the first does; None without any.

    The arguments are those of `plot_mistakes`.
    """
    (first, second), (one, other), rows, parts = comparison.evaluations, comparison.names, [], []
    for name, worse, found in ((other, first, comparison.won), (one, second, comparison.lost)):
        chosen, names = found[:count], first.class_names
        pairs = zip(first.labels[chosen], worse.predicted[chosen], strict=True)
        rows.append((chosen, [f"{names[true]}\nnot {names[said]}" for true, said in pairs]))
        parts += [f"only {name} is right"] if len(chosen) else []
    return _plot_rows(images, rows, "; below, ".join(parts))


def _plot_rows(
    images: np.ndarray, rows: Sequence[tuple[np.ndarray, list[str]]], title: str, *, columns: int = 0
) -> Figure | None:
    """Rows of pictures by their numbers, with their titles; those without any are left out. None if all are."""
    columns, shown, texts = columns or max((len(chosen) for chosen, _ in rows), default=0) or 1, [], []
    for chosen, titles in rows:
        gap = -len(chosen) % columns
        shown += [*images[chosen], *[None] * gap]
        texts += [*titles, *[""] * gap]
    return plot_samples(shown, texts, columns=columns, title=title.removesuffix(", "), side=1.55) if shown else None


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
    bars = row[-1].barh(labels, values, color=[BLUE if prediction.known else GREY, *[GREY] * (len(labels) - 1)])
    row[-1].bar_label(bars, fmt="{:.1%}", padding=3, fontsize=9)
    row[-1].invert_yaxis()
    truth = f" (true class: {true_label})" if true_label else ""
    title = prediction.label if prediction.known else f"{NONE_OF_THESE}; nearest: {prediction.label}"
    row[-1].set(xlim=(0, 1.25), xticks=[0, 0.5, 1], xlabel="probability", title=title + truth)
    percent(row[-1].xaxis)
    return figure


def plot_separation(scores: Mapping[str, Mapping[str, Separation]], *, title: str = "") -> Figure:
    """How well each score tells each kind of other things from known pictures, as a table; see `compare_scores`.

    In each field, the AUROC and, below it, the share of other things that passes where 95 % of known pictures do.
    """
    kinds = [kind for kind in next(iter(scores.values())) if kind != "test pictures"]
    figure, ((axes,),) = new_figure(figsize=(1.25 * len(kinds) + 2.4, 0.5 * len(scores) + 1.3))
    shown = np.array([[row[kind].auroc for kind in kinds] for row in scores.values()])
    axes.imshow(shown, cmap="Blues", vmin=0.5, vmax=1, aspect="auto")
    for y, row in enumerate(scores.values()):
        for x, kind in enumerate(kinds):
            text = f"{row[kind].auroc:.3f}\n{row[kind].passed:.0%} pass"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if shown[y, x] > 0.8 else "black")
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set_xticks(range(len(kinds)), [kind.replace(" ", "\n", 1) for kind in kinds])
    axes.set_title(title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def plot_size_and_time(measured: Mapping[str, tuple[float, float]], *, title: str = "") -> Figure:
    """Size and speed of files that hold the same model, as bars with their numbers.

    Args:
        measured: For each file's label, top to bottom, its megabytes and its milliseconds per picture.
        title: Above the panels.
    """
    figure, (panels,) = new_figure(1, 2, figsize=(8, 0.45 * len(measured) + 1.2), sharey=True)
    for axes, values, unit in zip(panels, zip(*measured.values(), strict=True), ("MB", "ms per picture"), strict=True):
        axes.bar_label(axes.barh(list(measured), values, color=BLUE), fmt="%.1f", padding=3, fontsize=9)
        axes.set_xlabel(unit)
        axes.margins(x=0.15)
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize=11)
    return figure
