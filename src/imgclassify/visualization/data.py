"""Figures of data: pictures, classes, pixel values, augmentation."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from imgclassify.data.augmentation import AUGMENTATIONS, augment
from imgclassify.data.check import DataReport
from imgclassify.data.dataset import Dataset
from imgclassify.data.images import decode_image, prepare_image, scale_pixels
from imgclassify.display import BLUE, GREY, ORANGE
from imgclassify.visualization.style import new_figure, percent, show_picture


def plot_samples(
    images: np.ndarray, titles: Sequence[str] | None = None, *, columns: int = 10, title: str = "", side: float = 1.05
) -> Figure:
    """A grid of pictures.

    Args:
        images: uint8, or float in [0, 1], (N, H, W, 3), N at least 1.
        titles: One per picture.
        columns: Pictures per row.
        title: Above the grid.
        side: Of each picture, in inches; titles come in addition.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = side if titles is None else 0.25 * (1 + titles[0].count("\n")) + side
    figure, grid = new_figure(rows, columns, figsize=(side * columns, height * rows + 0.3))
    for axes in grid.flat:
        axes.axis("off")
    for i, (axes, image) in enumerate(zip(grid.flat, images, strict=False)):
        show_picture(axes, image, "" if titles is None else titles[i])
    figure.suptitle(title)
    return figure


def plot_class_samples(data: Dataset, *, count: int = 8, seed: int = 0) -> Figure:
    """`count` random training pictures of each class, one row per class."""
    random = np.random.default_rng(seed)
    classes = len(data.class_names)
    figure, grid = new_figure(classes, count, figsize=(0.85 * count + 1.2, 0.82 * classes + 0.4))
    for number, (name, row) in enumerate(zip(data.class_names, grid, strict=True)):
        members = np.flatnonzero(data.y_train == number)
        chosen = random.choice(members, min(count, len(members)), replace=False)
        for axes in row:
            axes.axis("off")
        for axes, i in zip(row, chosen, strict=False):
            show_picture(axes, data.x_train[i])
        row[0].text(-0.15, 0.5, name, transform=row[0].transAxes, ha="right", va="center")
    figure.suptitle(f"Training pictures, {data.source}")
    return figure


def plot_augmentations(data: Dataset, *, pictures: int = 1, variants: int = 8, seed: int = 0) -> Figure:
    """`pictures` random training pictures and `variants` of each, one row for each augmentation and picture."""
    chosen = np.random.default_rng(seed).choice(len(data.x_train), pictures, replace=False)
    kinds = [kind for kind in AUGMENTATIONS if kind != "none"]
    figure, grid = new_figure(
        len(kinds) * pictures, variants + 1, figsize=(1.05 * (variants + 1) + 0.5, 1.1 * len(kinds) * pictures + 0.5)
    )
    for number, (kind, row) in enumerate((kind, row) for kind in kinds for row in chosen):
        image = data.x_train[row]
        copies = augment(np.repeat(image[np.newaxis], variants, axis=0), kind, seed=seed + 1).numpy()
        show_picture(grid[number, 0], image, "original")
        for axes, copy in zip(grid[number, 1:], copies, strict=True):
            show_picture(axes, copy)
        grid[number, 1].set_title(kind, fontsize=9, loc="left", color=BLUE)
    return figure


def plot_class_counts(data: Dataset) -> Figure:
    """How many training and test pictures each class has."""
    figure, ((axes,),) = new_figure(figsize=(7.5, 0.32 * len(data.class_names) + 1))
    places = np.arange(len(data.class_names))
    for offset, labels, color, label in ((-0.2, data.y_train, BLUE, "training"), (0.2, data.y_test, ORANGE, "test")):
        counts = np.bincount(labels, minlength=len(places))
        bars = axes.barh(places + offset, counts, 0.38, color=color, label=label)
        axes.bar_label(bars, labels=[f"{count:,}" for count in counts], padding=3, fontsize=8)
    axes.set_yticks(places, data.class_names)
    axes.invert_yaxis()
    axes.set(xlabel="pictures", title=f"Pictures per class, {data.source}")
    axes.margins(x=0.1)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def plot_data_check(report: DataReport, *, count: int = 8) -> Figure:
    """Pictures of each class and part, and below them up to `count` pairs of duplicates, the most suspicious first."""
    pairs = report.pairs[:count]
    height = 0.22 * len(report.counts) + 1.2
    figure, grid = new_figure(
        3 if pairs else 1,
        len(pairs) or 1,
        figsize=(9, height + 3.2 * bool(pairs)),
        height_ratios=[height, 1.5, 1.5][: 3 if pairs else 1],
    )
    for axes in grid[0]:
        axes.remove()
    axes = figure.add_subplot(grid[0, 0].get_gridspec()[0, :])
    ends = np.zeros(len(report.counts), int)
    for part, color in zip(next(iter(report.counts.values())), (BLUE, GREY, ORANGE), strict=False):
        lengths = np.array([counts[part] for counts in report.counts.values()])
        axes.barh(list(report.counts), lengths, left=ends, color=color, label=part)
        ends += lengths
    axes.invert_yaxis()
    axes.set(xlabel="pictures", title=report.name)
    axes.legend(frameon=False)
    for column, pair in zip(grid[1:].T, pairs, strict=False):
        for axes, path, text in zip(column, pair[:2], zip(pair.classes, pair.parts, strict=True), strict=True):
            show_picture(axes, prepare_image(decode_image(path), size=128), "\n".join(text))
    return figure


def plot_channels(data: Dataset) -> Figure:
    """Distribution of the red, green and blue values in about 5,000 training pictures, evenly spread."""
    figure, ((axes,),) = new_figure(figsize=(7.5, 3.2))
    pictures = data.x_train[:: max(1, len(data.x_train) // 5000)]
    values = scale_pixels(np.arange(256, dtype=np.uint8))
    for channel, (name, color) in enumerate((("red", "#c0392b"), ("green", "#27874e"), ("blue", "#2a5db0"))):
        shares = np.bincount(pictures[..., channel].ravel(), minlength=256) / pictures[..., channel].size
        mean = float(shares @ values)
        spread = float(shares @ (values - mean) ** 2) ** 0.5
        axes.plot(values, shares, color=color, label=f"{name}: mean {mean:.3f}, standard deviation {spread:.3f}")
    axes.set(xlabel="pixel value / 255", ylabel="share of pixels", title=f"Pixel values by channel, {data.source}")
    axes.set_ylim(0, np.quantile([line.get_ydata().max() for line in axes.lines], 0.5) * 1.1)
    percent(axes.yaxis, decimals=1)
    axes.legend(frameon=False, fontsize=9)
    return figure


def plot_mean_images(data: Dataset) -> Figure:
    """The mean training picture of each class."""
    means = np.stack(
        [scale_pixels(data.x_train[data.y_train == number]).mean(axis=0) for number in range(len(data.class_names))]
    )
    return plot_samples(
        means, data.class_names, columns=min(10, len(means)), title=f"Mean picture of each class, {data.source}"
    )


def plot_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray, str]], *, title: str = "") -> Figure:
    """Pairs of pictures, one above the other: (upper picture, lower picture, title)."""
    figure, grid = new_figure(2, len(pairs), figsize=(1.35 * len(pairs), 3.2))
    for column, (upper, lower, text) in enumerate(pairs):
        show_picture(grid[0, column], upper, text)
        show_picture(grid[1, column], lower)
    figure.suptitle(title)
    return figure
