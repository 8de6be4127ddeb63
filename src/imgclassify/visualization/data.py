"""Figures of data: pictures, classes, pixel values, augmentation."""

import itertools
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
    images, titles: Sequence[str] | None = None, *, columns: int = 10, title: str = "", side: float = 1.05
) -> Figure:
    """A grid of pictures.

    Args:
        images: uint8, or float in [0, 1], (N, H, W, 3), N at least 1; or a list of pictures (H, W, 3) of any sizes, in
            which None leaves a place empty.
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
    for axes, image, text in zip(grid.flat, images, titles or [""] * len(images), strict=False):
        if image is not None:
            show_picture(axes, image, text)
    figure.suptitle(title)
    return figure


def plot_class_samples(data: Dataset, *, count: int = 8, seed: int = 0) -> Figure:
    """`count` random training pictures of each class, one row per class."""
    random, images = np.random.default_rng(seed), []
    for number in range(len(data.class_names)):
        members = np.flatnonzero(data.y_train == number)
        chosen = random.choice(members, min(count, len(members)), replace=False)
        images += [*data.x_train[chosen], *[None] * (count - len(chosen))]
    figure = plot_samples(images, columns=count, title=f"Training pictures, {data.source}")
    for name, axes in zip(data.class_names, figure.axes[::count], strict=True):
        axes.text(-0.15, 0.5, name, transform=axes.transAxes, ha="right", va="center")
    return figure


def plot_augmentations(data: Dataset, *, pictures: int = 1, variants: int = 8, seed: int = 0) -> Figure:
    """`pictures` random training pictures and `variants` of each, one row for each augmentation and picture."""
    chosen = np.random.default_rng(seed).choice(len(data.x_train), pictures, replace=False)
    images: list[np.ndarray] = []
    titles: list[str] = []
    for kind, row in itertools.product(AUGMENTATIONS[1:], chosen):  # all but "none"
        image = data.x_train[row]
        copies = augment(np.repeat(image[np.newaxis], variants, axis=0), kind, seed=seed + 1).numpy()
        images += [image, *copies]
        titles += ["original", kind, *[""] * (variants - 1)]
    return plot_samples(images, titles, columns=variants + 1)


def plot_class_counts(data: Dataset) -> Figure:
    """How many training and test pictures each class has."""
    figure, ((axes,),) = new_figure(figsize=(7.5, 0.32 * len(data.class_names) + 1))
    parts = (("training", data.y_train), ("test", data.y_test))
    counts = {name: np.bincount(labels, minlength=len(data.class_names)) for name, labels in parts}
    _draw_counts(axes, data.class_names, counts, f"Pictures per class, {data.source}")
    return figure


def _draw_counts(axes, class_names: Sequence[str], counts: dict[str, np.ndarray], title: str) -> None:
    """Bars of the number of pictures of each class, in one colour for each part of the data."""
    ends = np.zeros(len(class_names), int)
    for (part, lengths), color in zip(counts.items(), (BLUE, ORANGE, GREY), strict=False):
        bars = axes.barh(class_names, lengths, left=ends, color=color, label=part)
        axes.bar_label(bars, labels=[f"{count:,}" for count in lengths], label_type="center", fontsize=8)
        ends += lengths
    axes.invert_yaxis()
    axes.set(xlabel="pictures", title=title)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def plot_data_check(report: DataReport, *, count: int = 8) -> Figure:
    """Pictures of each class and part, and below them up to `count` pairs of duplicates, the most suspicious first."""
    pairs = report.pairs[:count]
    heights = [0.22 * len(report.counts) + 1.2, *[1.5, 1.5] * bool(pairs)]
    figure, grid = new_figure(len(heights), len(pairs) or 1, figsize=(9, sum(heights)), height_ratios=heights)
    for axes in grid[0]:
        axes.remove()
    axes = figure.add_subplot(grid[0, 0].get_gridspec()[0, :])
    parts = next(iter(report.counts.values()))
    counts = {part: np.array([each[part] for each in report.counts.values()]) for part in parts}
    _draw_counts(axes, list(report.counts), counts, report.name)
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
    of_classes = (data.x_train[data.y_train == number] for number in range(len(data.class_names)))
    means = [scale_pixels(pictures).mean(axis=0) for pictures in of_classes]
    return plot_samples(means, data.class_names, title=f"Mean picture of each class, {data.source}")


def plot_pairs(pairs: Sequence[tuple[np.ndarray, np.ndarray, str]], *, title: str = "") -> Figure:
    """Pairs of pictures, one above the other: (upper picture, lower picture, title)."""
    upper, lower, titles = zip(*pairs, strict=True)
    return plot_samples(upper + lower, titles + ("",) * len(pairs), columns=len(pairs), title=title, side=1.35)
