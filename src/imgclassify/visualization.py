"""Figures. Every function returns a Matplotlib figure and neither shows nor saves it."""

import threading
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from imgclassify.augmentation import AUGMENTATIONS, augment
from imgclassify.data import Dataset
from imgclassify.evaluation import Evaluation
from imgclassify.experiments import Run
from imgclassify.images import Picture, decode_image, fit_square
from imgclassify.prediction import Prediction

_BLUE, _ORANGE, _GREY = "#2a6f97", "#e07a1f", "#9db4c0"
_STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
}
_styling = threading.Lock()  # pyplot's settings belong to the process, and panels draw in threads


def _new_figure(
    rows: int = 1, columns: int = 1, *, figure: Figure | None = None, **options
) -> tuple[Figure, np.ndarray]:
    """A figure in our style, or the empty one that is given, with its axes as an array (rows, columns)."""
    with _styling, plt.rc_context(_STYLE):
        if figure is not None:
            return figure, figure.subplots(rows, columns, squeeze=False)
        return plt.subplots(rows, columns, squeeze=False, **options)


def _show_picture(axes, image: np.ndarray, title: str = "", color: str = "black") -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9, color=color)
    axes.axis("off")


def _percent(share: float) -> str:
    return ">99.9%" if share > 0.999 else f"{share:.1%}"


def plot_history(history, *, title: str = "", figure: Figure | None = None) -> Figure:
    """Accuracy and loss over the epochs, for training and validation data; the best epoch is marked.

    The training curves are of the pictures as they were trained on: varied, and hard ones only where the recipe's
    `hard_fraction` says so.

    Args:
        history: A dict of lists with "loss", "accuracy", "val_loss", "val_accuracy", or a Keras `History`.
        title: Above both panels, for instance the data's source.
        figure: An empty figure to draw in; default: a new one of pyplot's.

    Returns:
        The figure, with two panels.

    Raises:
        ValueError: `history` holds no epoch, or not these lists.
    """
    values: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    if not values.get("loss") or not values.get("accuracy"):
        raise ValueError(f'A history has at least one epoch of "loss" and "accuracy". Received: {sorted(values)}')
    figure, ((left, right),) = _new_figure(1, 2, figure=figure, figsize=(10, 3.8))
    for axes, key, label in ((left, "accuracy", "accuracy"), (right, "loss", "loss (cross-entropy, nats)")):
        epochs = np.arange(1, len(values[key]) + 1)
        markers = "o" if len(epochs) < 3 else None
        axes.plot(epochs, values[key], color=_GREY, marker=markers, label="training (measured on the way)")
        if values.get(f"val_{key}"):
            axes.plot(epochs, values[f"val_{key}"], color=_BLUE, marker=markers, label="validation")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", alpha=0.3)
    if values.get("val_accuracy"):
        best = int(np.argmax(values["val_accuracy"]))
        for axes, key in ((left, "val_accuracy"), (right, "val_loss")):
            axes.plot(
                best + 1,
                values[key][best],
                "o",
                color=_ORANGE,
                zorder=3,
                label=f"best validation accuracy: {values['val_accuracy'][best]:.1%}, epoch {best + 1}",
            )
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.legend(frameon=False, loc="lower right", fontsize=9)
    figure.suptitle(title)
    return figure


def plot_runs(runs: Sequence[Run], *, figure: Figure | None = None) -> Figure:
    """Validation accuracy and loss of several runs over their epochs, one colour a run.

    Args:
        runs: From `list_runs` or `compare_runs(...).runs`.
        figure: An empty figure to draw in; default: a new one of pyplot's.

    Raises:
        ValueError: No run has a finished epoch.
    """
    shown = [run for run in runs if run.history.get("val_accuracy")]
    if not shown:
        raise ValueError("None of these runs has finished an epoch.")
    figure, ((left, right),) = _new_figure(1, 2, figure=figure, figsize=(10, 3.8))
    for run in shown:
        epochs = np.arange(1, len(run.history["val_accuracy"]) + 1)
        for axes, key in ((left, "val_accuracy"), (right, "val_loss")):
            axes.plot(epochs, run.history[key], marker="o", markersize=3, label=run.name)
    for axes, label in ((left, "validation accuracy"), (right, "validation loss (cross-entropy, nats)")):
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", alpha=0.3)
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def plot_samples(
    images: np.ndarray, titles: Sequence[str] | None = None, *, columns: int = 10, title: str = ""
) -> Figure:
    """A grid of pictures.

    Args:
        images: uint8, or float in [0, 1], (N, H, W, 3), N at least 1.
        titles: One a picture.
        columns: Pictures a row.
        title: Above the grid.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, grid = _new_figure(
        rows, columns, figsize=(1.05 * columns, (1.3 if titles is not None else 1.05) * rows + 0.3)
    )
    for axes in grid.flat:
        axes.axis("off")
    for i, (axes, image) in enumerate(zip(grid.flat, images, strict=False)):
        _show_picture(axes, image, "" if titles is None else titles[i])
    figure.suptitle(title)
    return figure


def plot_class_samples(data: Dataset, *, count: int = 8, seed: int = 0) -> Figure:
    """`count` random training pictures of each class, one row a class."""
    random = np.random.default_rng(seed)
    classes = len(data.class_names)
    figure, grid = _new_figure(classes, count, figsize=(0.85 * count + 1.2, 0.82 * classes + 0.4))
    for number, (name, row) in enumerate(zip(data.class_names, grid, strict=True)):
        members = np.flatnonzero(data.y_train == number)
        chosen = random.choice(members, min(count, len(members)), replace=False)
        for axes in row:
            axes.axis("off")
        for axes, i in zip(row, chosen, strict=False):
            _show_picture(axes, data.x_train[i])
        row[0].text(-0.15, 0.5, name, transform=row[0].transAxes, ha="right", va="center")
    figure.suptitle(f"Training pictures, {data.source}")
    return figure


def plot_augmentations(data: Dataset, *, pictures: int = 1, variants: int = 8, seed: int = 0) -> Figure:
    """A few training pictures and random variants of them, one row for each augmentation and picture.

    Args:
        data: The data set.
        pictures: How many training pictures, drawn at random.
        variants: How many variants of each.
        seed: For the choice of the pictures and their variants.
    """
    chosen = np.random.default_rng(seed).choice(len(data.x_train), pictures, replace=False)
    kinds = [kind for kind in AUGMENTATIONS if kind != "none"]
    figure, grid = _new_figure(
        len(kinds) * pictures, variants + 1, figsize=(1.05 * (variants + 1) + 0.5, 1.1 * len(kinds) * pictures + 0.5)
    )
    for number, (kind, row) in enumerate((kind, row) for kind in kinds for row in chosen):
        image = data.x_train[row]
        copies = augment(np.repeat(image[np.newaxis], variants, axis=0), kind, seed=seed + 1).numpy()
        _show_picture(grid[number, 0], image, "original")
        for axes, copy in zip(grid[number, 1:], copies, strict=True):
            _show_picture(axes, copy)
        grid[number, 1].set_title(kind, fontsize=9, loc="left", color=_BLUE)
    return figure


def plot_spread(accuracies: Mapping[str, Sequence[float]], *, title: str = "", xlabel: str = "accuracy") -> Figure:
    """Accuracies of several trainings each of some variants: a dot a training, a bar at the mean.

    Args:
        accuracies: For each variant's label, top to bottom, its accuracies, 0 to 1.
        title: Above the panel.
        xlabel: What was measured.
    """
    figure, ((axes,),) = _new_figure(figsize=(7.5, 0.42 * len(accuracies) + 1.3))
    for place, values in enumerate(accuracies.values()):
        axes.plot(values, [place] * len(values), "o", color=_BLUE, alpha=0.7)
        axes.plot([np.mean(values)], [place], "|", color=_ORANGE, markersize=16, markeredgewidth=2.5)
    axes.set(xlabel=xlabel, yticks=range(len(accuracies)), yticklabels=list(accuracies), title=title)
    axes.invert_yaxis()
    axes.margins(y=0.15)
    axes.grid(axis="x", alpha=0.3)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    return figure


def plot_learning_curve(accuracies: Mapping[int, Sequence[float]], *, title: str = "") -> Figure:
    """Accuracy against the number of training pictures, on a logarithmic scale: a dot a training, a line at the mean.

    Args:
        accuracies: For each number of training pictures the accuracies reached, 0 to 1.
        title: Above the panel.
    """
    figure, ((axes,),) = _new_figure(figsize=(6, 3.8))
    sizes = sorted(accuracies)
    for size in sizes:
        axes.plot([size] * len(accuracies[size]), accuracies[size], "o", color=_BLUE, alpha=0.7)
    axes.plot(sizes, [np.mean(accuracies[size]) for size in sizes], color=_ORANGE)
    axes.set_xscale("log")
    axes.set(xticks=sizes, xlabel="training pictures", ylabel="validation accuracy", title=title)
    axes.set_xticklabels([f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    return figure


def plot_class_counts(data: Dataset) -> Figure:
    """How many training and test pictures each class has."""
    figure, ((axes,),) = _new_figure(figsize=(7.5, 0.32 * len(data.class_names) + 1))
    places = np.arange(len(data.class_names))
    for offset, labels, color, label in ((-0.2, data.y_train, _BLUE, "training"), (0.2, data.y_test, _ORANGE, "test")):
        counts = np.bincount(labels, minlength=len(places))
        bars = axes.barh(places + offset, counts, 0.38, color=color, label=label)
        axes.bar_label(bars, labels=[f"{count:,}" for count in counts], padding=3, fontsize=8)
    axes.set_yticks(places, data.class_names)
    axes.invert_yaxis()
    axes.set(xlabel="pictures", title=f"Pictures a class, {data.source}")
    axes.margins(x=0.1)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_channels(data: Dataset, *, sample: int = 5000) -> Figure:
    """Distribution of the red, green and blue values in the training pictures.

    Args:
        data: The data set.
        sample: How many pictures to count, evenly spread over the training data.
    """
    figure, ((axes,),) = _new_figure(figsize=(7.5, 3.2))
    pictures = data.x_train[:: max(1, len(data.x_train) // sample)]
    for channel, (name, color) in enumerate((("red", "#c0392b"), ("green", "#27874e"), ("blue", "#2a5db0"))):
        shares = np.bincount(pictures[..., channel].ravel(), minlength=256) / pictures[..., channel].size
        mean, spread = pictures[..., channel].mean() / 255, pictures[..., channel].std() / 255
        axes.plot(
            np.arange(256) / 255, shares, color=color, label=f"{name}: mean {mean:.3f}, standard deviation {spread:.3f}"
        )
    axes.set(xlabel="pixel value / 255", ylabel="share of pixels", title=f"Pixel values by channel, {data.source}")
    axes.set_ylim(0, np.quantile([line.get_ydata().max() for line in axes.lines], 0.5) * 1.1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.legend(frameon=False, fontsize=9)
    return figure


def plot_mean_images(data: Dataset) -> Figure:
    """The mean training picture of each class."""
    means = np.stack(
        [data.x_train[data.y_train == number].mean(axis=0) / 255 for number in range(len(data.class_names))]
    )
    return plot_samples(
        means, data.class_names, columns=min(10, len(means)), title=f"Mean picture of each class, {data.source}"
    )


def plot_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray, str]], *, title: str = "") -> Figure:
    """Pictures above one another in pairs: (upper picture, lower picture, title)."""
    figure, grid = _new_figure(2, len(pairs), figsize=(1.35 * len(pairs), 3.2))
    for column, (upper, lower, text) in enumerate(pairs):
        _show_picture(grid[0, column], upper, text)
        _show_picture(grid[1, column], lower)
    figure.suptitle(title)
    return figure


def plot_confusion_matrix(evaluation: Evaluation) -> Figure:
    """Counts of true against predicted classes; the colour shows the share of the true class."""
    counts = evaluation.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 0.55 * len(counts) + 2
    figure, ((axes,),) = _new_figure(figsize=(size + 0.6, size - 0.3))
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column,
            row,
            f"{count}",
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] > 0.5 else "#999999" if count == 0 else "black",
        )
    places = np.arange(len(counts))
    axes.set_xticks(places, evaluation.class_names, rotation=45, ha="right")
    axes.set_yticks(places, evaluation.class_names)
    axes.set(
        xlabel="predicted class",
        ylabel="true class",
        title=f"{evaluation.accuracy:.1%} of {len(evaluation.labels):,} right"
        + (f", {evaluation.source}" if evaluation.source else ""),
    )
    axes.spines[:].set_visible(False)
    figure.colorbar(
        picture, ax=axes, shrink=0.8, format=PercentFormatter(1, decimals=0), label="share of the true class"
    )
    return figure


def plot_class_accuracy(evaluation: Evaluation) -> Figure:
    """Accuracy of each class, lowest last, with the overall accuracy as a line."""
    shares = {name: share for name, share in evaluation.per_class.items() if share == share}
    names = sorted(shares, key=shares.get, reverse=True)
    figure, ((axes,),) = _new_figure(figsize=(7.5, 0.28 * len(names) + 1.1))
    bars = axes.barh(names, [shares[name] for name in names], color=_BLUE)
    axes.bar_label(bars, fmt="{:.1%}", label_type="center", color="white", fontsize=9)
    axes.axvline(evaluation.accuracy, color=_ORANGE, label=f"all classes: {evaluation.accuracy:.1%}")
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.05), xlabel="share classified correctly", title=f"Accuracy by class, {evaluation.source}")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_confidence(evaluation: Evaluation) -> Figure:
    """How confident the model was where it was right and where it was wrong."""
    figure, ((axes,),) = _new_figure(figsize=(7.5, 3.2))
    bins = np.linspace(0, 1, 21)
    right, wrong = evaluation.confidence[evaluation.correct], evaluation.confidence[~evaluation.correct]
    axes.hist(
        [right, wrong],
        bins,
        stacked=True,
        color=[_BLUE, _ORANGE],
        label=[f"right ({len(right):,})", f"wrong ({len(wrong):,})"],
    )
    axes.set(
        xlabel="confidence of the prediction",
        ylabel="pictures",
        title=f"Confidence of right and wrong predictions, {evaluation.source}",
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(frameon=False, loc="upper left")
    return figure


def plot_reliability(evaluation: Evaluation, *, bins: int = 15) -> Figure:
    """Accuracy against confidence, in equal ranges of confidence, and how many pictures each range has.

    Where confidence means what it says, the points lie on the diagonal: of the pictures called with 80 %, 80 % are
    right. The bars are 95 % intervals of the accuracy (Wilson, 1927).
    """
    from scipy.stats import binomtest

    counts, confidence, accuracy = evaluation.calibration(bins)
    figure, ((axes,), (below,)) = _new_figure(2, 1, figsize=(5.2, 5.4), height_ratios=[3, 1], sharex=True)
    filled = np.flatnonzero(counts)
    bounds = np.array(
        [binomtest(round(accuracy[i] * counts[i]), int(counts[i])).proportion_ci(method="wilson") for i in filled]
    ).T
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="confidence as good as its word")
    spread = np.abs(bounds - accuracy[filled])
    axes.errorbar(confidence[filled], accuracy[filled], yerr=spread, fmt="o-", color=_BLUE, markersize=4, capsize=2)
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"expected calibration error {evaluation.calibration_error(bins):.3f}, {evaluation.source}")
    axes.legend(frameon=False, loc="upper left", fontsize=9)
    below.bar((np.arange(bins) + 0.5) / bins, counts, width=0.9 / bins, color=_GREY)
    below.set(xlabel="confidence", ylabel="pictures")
    for each in (axes.xaxis, axes.yaxis):
        each.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def plot_mistakes(images: np.ndarray, evaluation: Evaluation, *, count: int = 12) -> Figure | None:
    """The mistakes made with the highest confidence, with predicted and true class; None where there are none.

    Args:
        images: The evaluated pictures, uint8 or float in [0, 1], (N, H, W, 3).
        evaluation: Their evaluation.
        count: How many to show.
    """
    wrong = np.flatnonzero(~evaluation.correct)
    if len(wrong) == 0:
        return None
    worst = wrong[np.argsort(-evaluation.confidence[wrong], kind="stable")][:count]
    names = evaluation.class_names
    titles = [
        f"{names[evaluation.predicted[i]]} {_percent(evaluation.confidence[i])}\ntrue: {names[evaluation.labels[i]]}"
        for i in worst
    ]
    columns = min(6, len(worst))
    rows = -(-len(worst) // columns)
    figure, grid = _new_figure(rows, columns, figsize=(1.55 * columns, 1.9 * rows + 0.3))
    for axes in grid.flat:
        axes.axis("off")
    for axes, i, title in zip(grid.flat, worst, titles, strict=False):
        _show_picture(axes, images[i], title)
    figure.suptitle(f"Most confident mistakes, {evaluation.source}")
    return figure


def plot_model_view(picture: Picture, *, size: int = 32) -> Figure:
    """A picture beside what the model sees of it.

    Args:
        picture: See `decode_image`.
        size: Side of the model's input in pixels.

    Raises:
        ImageError: The picture cannot be used.
    """
    image = decode_image(picture)
    figure, ((left, right),) = _new_figure(1, 2, figsize=(6.4, 3.3))
    _show_picture(left, np.asarray(image), "the picture")
    _show_picture(right, fit_square(image, size), f"what the model sees: {size} x {size} pixels")
    return figure


def plot_prediction(
    prediction: Prediction, picture: Picture | None = None, *, true_label: str | None = None, top: int = 5
) -> Figure:
    """The picture, what the model sees of it, and its most probable classes as bars.

    Args:
        prediction: From `predict_image` or `classify_custom_image`.
        picture: The picture as it was before; without it only the model's view is shown.
        true_label: Where it is known.
        top: How many classes to show.

    Raises:
        ImageError: `picture` cannot be used.
    """
    panels = 2 if picture is None else 3
    figure, (row,) = _new_figure(1, panels, figsize=(3 * panels + 0.8, 3), width_ratios=[1] * (panels - 1) + [1.2])
    if picture is not None:
        _show_picture(row[0], np.asarray(decode_image(picture)), "the picture")
    height, width = prediction.image.shape[:2]
    _show_picture(row[-2], prediction.image, f"what the model sees: {width} x {height} pixels")
    labels, values = zip(*prediction.top(top), strict=True)
    bars = row[-1].barh(labels, values, color=[_BLUE, *[_GREY] * (len(labels) - 1)])
    row[-1].bar_label(bars, fmt="{:.1%}", padding=3, fontsize=9)
    row[-1].invert_yaxis()
    row[-1].set(
        xlim=(0, 1.25),
        xticks=[0, 0.5, 1],
        xlabel="probability",
        title=f"{prediction.label}" + (f" (true class: {true_label})" if true_label else ""),
    )
    row[-1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure
