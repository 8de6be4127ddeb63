"""Figures of robustness: what corruptions look like, and what they cost."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from imgclassify.classifier import Classifier
from imgclassify.data.images import Picture, decode_image
from imgclassify.display import BLUE, GREY
from imgclassify.evaluation.robustness import CORRUPTIONS, MOVES, STRENGTHS, Robustness, compressed, corrupt
from imgclassify.visualization.data import plot_samples
from imgclassify.visualization.style import new_figure, show_picture

_QUALITIES = (90, 50, 25, 10, 5)
_SIZES = (400, 200, 100, 50, 25)  # pixels of the longer side


def plot_corruptions(image: np.ndarray, *, strength: int = 2) -> Figure:
    """A picture, uint8 (H, W, 3), and what each corruption and move of this strength makes of it."""
    names = [*CORRUPTIONS, *MOVES]
    shown = [corrupt(image[np.newaxis], name, strength)[0] for name in names]
    return plot_samples([image, *shown], ["as it is", *names], columns=7, side=1.45)


def plot_robustness(measured: Mapping[str, Robustness], *, value: str = "accuracy") -> Figure:
    """Accuracy, or another value of an `Evaluation` such as "calibration_error", under each corruption and move.

    Args:
        measured: By the names of their models; each has three columns, for the strengths.
        value: Name of the value.
    """
    names = ["as they are", *CORRUPTIONS, *MOVES]
    size = (2.1 * len(measured) + 2.2, 0.27 * len(names) + 1)
    figure, (panels,) = new_figure(1, len(measured), figsize=size, sharey=True)
    tables = []
    for each in measured.values():
        rows = [(each.clean,) * len(STRENGTHS), *(each.changed[name] for name in names[1:])]
        tables.append(np.array([[getattr(cell, value) for cell in row] for row in rows]))
    high = 1 if value == "accuracy" else max(table.max() for table in tables)
    for axes, model, table in zip(panels, measured, tables, strict=True):
        axes.imshow(table, cmap="Blues", vmin=0, vmax=high, aspect="auto")
        for (row, column), cell in np.ndenumerate(table):
            text = f"{cell:.0%}" if value == "accuracy" else f"{cell:.2f}"
            color = "white" if cell > 0.6 * high else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
        axes.set(title=model, xlabel="strength")
        axes.set_xticks(range(len(STRENGTHS)), STRENGTHS)
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.suptitle(value.replace("_", " "))
    return figure


def plot_qualities(model, picture: Picture) -> Figure:
    """One picture as JPEG of five qualities and in five sizes, and how probable its class stays.

    Args:
        model: A `Classifier`, or a Keras model from square RGB pictures to probabilities.
        picture: See `decode_image`.

    Raises:
        ImageError: The picture cannot be used.
    """
    classifier, image = Classifier.of(model), decode_image(picture)
    label, largest = classifier.predict(image).label, max(image.size)
    small = [image.resize([max(1, round(side * size / largest)) for side in image.size]) for size in _SIZES]
    rows = (
        ("JPEG", _QUALITIES, [compressed(image, quality) for quality in _QUALITIES]),
        ("longer side", [f"{size} pixels" for size in _SIZES], small),
    )
    figure, panels = new_figure(4, len(_SIZES), figsize=(2.1 * len(_SIZES), 4.6), height_ratios=(3, 1, 3, 1))
    for number, (kind, names, pictures) in enumerate(rows):
        for above, below, name, each in zip(panels[2 * number], panels[2 * number + 1], names, pictures, strict=True):
            prediction = classifier.predict(each)
            show_picture(above, np.asarray(each), f"{kind} {name}")
            bars = {label: prediction.probabilities[label], prediction.label: prediction.confidence}
            colors = [BLUE, GREY][: len(bars)]  # the class of the whole picture, and another one if it is now ahead
            drawn = below.barh(list(bars), list(bars.values()), height=0.6, color=colors)
            below.bar_label(drawn, fmt="{:.0%}", padding=3, fontsize=8)
            below.set(xlim=(0, 1.3), ylim=(len(bars) - 0.4, -0.6), xticks=[])
            below.tick_params(length=0, labelsize=8)
            below.spines["bottom"].set_visible(False)
    return figure
