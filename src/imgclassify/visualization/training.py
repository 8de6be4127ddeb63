"""Figures of trainings: curves over epochs, seeds and numbers of pictures."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from imgclassify.display import BLUE, GREY, ORANGE
from imgclassify.runs.records import Run, group_by_data
from imgclassify.training.finder import LearningRates
from imgclassify.visualization.style import new_figure, percent


def _label_epochs(left: Axes, right: Axes, labels: tuple[str, str]) -> None:
    """Label a pair of panels of accuracy and loss over the epochs."""
    for axes, label in zip((left, right), labels, strict=True):
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="y", alpha=0.3)
    percent(left.yaxis)


def plot_history(history, *, title: str = "", figure: Figure | None = None) -> Figure:
    """Accuracy and loss over the epochs, for training and validation data; the best epoch is marked.

    The training curves are measured on the pictures as they were trained on: augmented, and only the hard ones if the
    recipe's `hard_fraction` is below 1.

    Args:
        history: A dict of lists with "loss", "accuracy", "val_loss", "val_accuracy", or a Keras `History`.
        title: Above both panels, for instance the data's source.
        figure: An empty figure to draw in; default: a new pyplot figure.

    Returns:
        The figure, with two panels.

    Raises:
        ValueError: `history` has no epoch, or lacks these lists.

    Example:
        >>> history = {"loss": [2.0, 1.5], "accuracy": [0.3, 0.5], "val_loss": [1.9, 1.6], "val_accuracy": [0.4, 0.5]}
        >>> [axes.get_ylabel() for axes in plot_history(history, figure=Figure()).axes]
        ['accuracy', 'loss (cross-entropy, nats)']
    """
    values: Mapping[str, Sequence[float]] = getattr(history, "history", history)
    if not values.get("loss") or not values.get("accuracy"):
        raise ValueError(f'A history must have at least one epoch of "loss" and "accuracy". Received: {sorted(values)}')
    figure, ((left, right),) = new_figure(1, 2, figure=figure, figsize=(10, 3.8))
    for axes, key in ((left, "accuracy"), (right, "loss")):
        epochs = np.arange(1, len(values[key]) + 1)
        markers = "o" if len(epochs) < 3 else None
        axes.plot(epochs, values[key], color=GREY, marker=markers, label="training (measured on the way)")
        if values.get(f"val_{key}"):
            axes.plot(epochs, values[f"val_{key}"], color=BLUE, marker=markers, label="validation")
    if values.get("val_accuracy"):
        best = int(np.argmax(values["val_accuracy"]))
        label = f"best validation accuracy: {values['val_accuracy'][best]:.1%}, epoch {best + 1}"
        for axes, key in ((left, "val_accuracy"), (right, "val_loss")):
            axes.plot(best + 1, values[key][best], "o", color=ORANGE, zorder=3, label=label)
    _label_epochs(left, right, ("accuracy", "loss (cross-entropy, nats)"))
    left.legend(frameon=False, loc="lower right", fontsize=9)
    figure.suptitle(title)
    return figure


def plot_runs(runs: Sequence[Run], *, figure: Figure | None = None) -> Figure:
    """Validation accuracy and loss of runs over their epochs, one colour per run, one row of panels per data set.

    Args:
        runs: From `list_runs` or `compare_runs(...).runs`.
        figure: An empty figure to draw in, with the height of one row; default: a new pyplot figure.

    Raises:
        ValueError: No run has a finished epoch.
    """
    groups = group_by_data(run for run in runs if run.manifest.history.get("val_accuracy"))
    if not groups:
        raise ValueError("None of these runs has finished an epoch.")
    if figure is not None:
        figure.set_figheight(figure.get_figheight() * len(groups))
    figure, grid = new_figure(len(groups), 2, figure=figure, figsize=(10, 3.8 * len(groups)))
    for (source, group), (left, right) in zip(groups.items(), grid, strict=True):
        for run in group:
            epochs = np.arange(1, run.epochs + 1)
            for axes, key in ((left, "val_accuracy"), (right, "val_loss")):
                axes.plot(epochs, run.manifest.history[key], marker="o", markersize=3, label=run.name)
        _label_epochs(left, right, ("validation accuracy", "validation loss (cross-entropy, nats)"))
        left.set_title(source, loc="left")
        left.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def plot_spread(accuracies: Mapping[str, Sequence[float]], *, title: str = "", xlabel: str = "accuracy") -> Figure:
    """Accuracies of variants that were each trained several times: a dot per training, a bar at the mean.

    Args:
        accuracies: For each variant's label, top to bottom, its accuracies, 0 to 1.
        title: Above the panel.
        xlabel: What was measured.
    """
    figure, ((axes,),) = new_figure(figsize=(7.5, 0.42 * len(accuracies) + 1.3))
    for place, values in enumerate(accuracies.values()):
        axes.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.7)
        axes.plot([np.mean(values)], [place], "|", color=ORANGE, markersize=16, markeredgewidth=2.5)
    axes.set(xlabel=xlabel, yticks=range(len(accuracies)), yticklabels=list(accuracies), title=title)
    axes.invert_yaxis()
    axes.margins(y=0.15)
    axes.grid(axis="x", alpha=0.3)
    percent(axes.xaxis, decimals=1)
    return figure


def plot_learning_curve(
    accuracies: Mapping[int, Sequence[float]], *, title: str = "", xlabel: str = "training pictures"
) -> Figure:
    """Accuracy against the number of training pictures, on a logarithmic scale: a dot per training, a line at the mean.

    Args:
        accuracies: For each number of training pictures, the accuracies reached, 0 to 1.
        title: Above the panel.
        xlabel: What the numbers count.
    """
    figure, ((axes,),) = new_figure(figsize=(6, 3.8))
    sizes = sorted(accuracies)
    for size in sizes:
        axes.plot([size] * len(accuracies[size]), accuracies[size], "o", color=BLUE, alpha=0.7)
    axes.plot(sizes, [np.mean(accuracies[size]) for size in sizes], color=ORANGE)
    axes.set_xscale("log")
    axes.set(xticks=sizes, xlabel=xlabel, ylabel="validation accuracy", title=title)
    axes.set_xticklabels([f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    percent(axes.yaxis, decimals=1)
    return figure


def plot_learning_rates(found: LearningRates, *, title: str = "", figure: Figure | None = None) -> Figure:
    """Loss against the learning rate of each step, on a logarithmic scale; the suggested rates are marked.

    Args:
        found: From `find_learning_rate`.
        title: Above the panel, for instance the recipe.
        figure: An empty figure to draw in; default: a new pyplot figure.
    """
    figure, ((axes,),) = new_figure(figure=figure, figsize=(7, 3.8))
    axes.plot(found.rates, found.losses, color=GREY, alpha=0.5, linewidth=1, label="each step")
    axes.plot(found.rates, found.smoothed, color=BLUE, label="smoothed")
    for name, rate, marker in (("valley", found.valley, "o"), ("steepest", found.steepest, "D")):
        loss = np.interp(rate, found.rates, found.smoothed)
        axes.plot(rate, loss, marker, color=ORANGE, zorder=3, label=f"{name}: {rate:.1e}")
    low, start = found.smoothed.min(), found.smoothed[0]
    depth = start - low
    axes.set_ylim(low - 0.3 * depth - 0.1, start + 0.8 * depth + 0.2)  # leaves out where the loss explodes
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (cross-entropy, nats)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
    return figure
