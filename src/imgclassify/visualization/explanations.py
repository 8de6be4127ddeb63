"""Figures of explanations: what in a picture speaks for a class, what it resembles, and whether the maps hold."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from imgclassify.evaluation.explain import Explanation
from imgclassify.evaluation.faithfulness import Faithfulness
from imgclassify.visualization.data import plot_samples
from imgclassify.visualization.style import new_figure, percent, show_picture

_NAMES: dict[str, str] = {"hirescam": "HiResCAM", "grad-cam": "Grad-CAM", "occlusion": "occlusion", "rise": "RISE"}


def plot_explanations(rows: Sequence[Sequence[Explanation]], *, title: str = "") -> Figure:
    """Rows of explanations; before those of each picture, what the model sees of it.

    Args:
        rows: Explanations, those of the same picture one after another.
        title: Of the whole figure.
    """
    lines = [list(_panels(explanations)) for explanations in rows]
    columns = max(map(len, lines))
    figure, panels = new_figure(len(rows), columns, figsize=(2.5 * columns, 2.9 * len(rows) + 0.3))
    for axes in panels.flat:
        axes.axis("off")
    for line, shown in zip(panels, lines, strict=True):
        for axes, (image, text) in zip(line, shown, strict=False):
            show_picture(axes, image, text)
    figure.suptitle(title)
    return figure


def _panels(explanations: Sequence[Explanation]) -> Iterator[tuple[np.ndarray, str]]:
    """Pictures with their titles."""
    before = None
    for each in explanations:
        if before is None or not np.array_equal(each.image, before):
            before, (height, width) = each.image, each.image.shape[:2]
            yield each.image, f"what the model sees:\n{width} x {height} pixels"
        how = ", ".join(filter(None, (_NAMES[each.method], each.layer)))
        found = "nothing found for" if each.empty else "for"
        rather = f" rather than {each.against}" if each.against else ""
        yield each.overlay, f"{how}\n{found} {each.label}{rather}"


def plot_nearest(image: np.ndarray, pictures: np.ndarray, found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """A picture and, in a row for each class, the training pictures that are nearest to it.

    Args:
        image: The picture, uint8 (H, W, 3).
        pictures: The training pictures, uint8 (N, H, W, 3).
        found: From `TrainingPictures.nearest`, by the names of the classes.
    """
    shown: list[np.ndarray | None] = []
    titles: list[str] = []
    columns = 1 + max(len(rows) for rows, _ in found.values())
    for label, (rows, similarities) in found.items():
        gap = columns - 1 - len(rows)
        shown += [None if shown else image, *pictures[rows], *[None] * gap]
        titles += ["" if titles else "the picture", *(f"{label}\n{each:.2f}" for each in similarities), *[""] * gap]
    return plot_samples(shown, titles, columns=columns, title="The nearest training pictures", side=1.55)


def plot_faithfulness(measured: Mapping[str, Faithfulness], *, title: str = "") -> Figure:
    """Mean probability of the class while the highest places of a map are deleted, and inserted, by kind of map."""
    figure, ((left, right),) = new_figure(1, 2, figsize=(9, 3.4), sharey=True)
    for name, each in measured.items():
        plain = {"linestyle": "--"} if name in ("random", "centre") else {}
        for axes, curves, area in (
            (left, each.deletion, each.deletion_area),
            (right, each.insertion, each.insertion_area),
        ):
            share = np.linspace(0, 1, len(curves))
            axes.plot(share, curves.mean(axis=1), label=f"{_NAMES.get(name, name)}: {area.mean():.3f}", **plain)
    left.set(xlabel="share deleted, highest first (lower is better)", ylabel="probability of the class", xlim=(0, 1))
    right.set(xlabel="share inserted, highest first (higher is better)", xlim=(0, 1))
    percent(left.xaxis, right.xaxis, left.yaxis)
    left.legend(frameon=False, fontsize=9, title="area under the curve", title_fontsize=9)
    right.legend(frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure
