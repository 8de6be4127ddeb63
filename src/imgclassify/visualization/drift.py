"""Figures of drift: a model's answers in use over time, beside those on validation pictures."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from imgclassify.display import BLUE, GREY, ORANGE
from imgclassify.evaluation.drift import Drift
from imgclassify.evaluation.metrics import wilson_interval
from imgclassify.visualization.style import new_figure, percent

_TENTHS = (0.1, 0.5, 0.9)
_CLASSES = 12  # at most; those whose shares have changed most


def plot_drift(drift: Drift) -> Figure:
    """Confidence, refusals and class shares in each window of a log; what has drifted is orange.

    Grey are the validation pictures. Points are medians of the confidence, with bars from the lowest tenth to the
    highest, and shares of refusals, with 95 % intervals (Wilson, 1927), which take pictures to be independent. The
    class shares are differences from the validation pictures, of the classes that have changed most.
    """
    windows, reference = drift.windows, drift.reference
    shares = np.array([_shares(each.answers) for each in windows]) - _shares(reference)
    shown = np.sort(np.argsort(-np.abs(shares).max(axis=0), kind="stable")[:_CLASSES])
    size = (max(6.5, 0.35 * len(windows) + 3), 4.2 + 0.24 * len(shown))
    figure, ((above,), (middle,), (below,)) = new_figure(
        3, 1, figsize=size, sharex=True, height_ratios=(2, 1.4, 0.24 * len(shown) + 0.3)
    )
    low, median, high = np.quantile(reference.confidence, _TENTHS)
    above.axhspan(low, high, color=GREY, alpha=0.25, linewidth=0)
    above.axhline(median, color=GREY, linestyle="--", linewidth=1)
    tenths = np.array([np.quantile(each.answers.confidence, _TENTHS) for each in windows])
    _points(above, tenths[:, [1, 0, 2]], ["confidence" in each.drifts for each in windows])
    above.set(ylabel="confidence", ylim=(max(0, min(low, tenths.min()) - 0.05), 1.02))
    above.set_title(f"Answers by {drift.model}, beside those on {len(reference):,} validation pictures")
    marks = {"validation": {"color": GREY, "linestyle": "--"}, "in use": {"color": BLUE, "marker": "o"}}
    marks["drift"] = {"color": ORANGE, "marker": "o"}
    for label, mark in marks.items():
        above.plot([], [], label=label, **{"linestyle": "", "markersize": 4, **mark})
    above.legend(frameon=False, loc="lower left", fontsize=9, ncols=3)

    middle.axhline(reference.refused, color=GREY, linestyle="--", linewidth=1)
    intervals = [wilson_interval(int((~each.answers.known).sum()), len(each.answers)) for each in windows]
    refused = [(each.answers.refused, *interval) for each, interval in zip(windows, intervals, strict=True)]
    _points(middle, np.array(refused), ["refusals" in each.drifts for each in windows])
    middle.set(ylabel="refusals", ylim=(0, max(0.2, 1.1 * np.max(refused))))
    percent(above.yaxis, middle.yaxis)

    reach = np.ceil(50 * max(0.1, np.abs(shares).max())) / 50  # so that the ticks are whole per cents
    image = below.imshow(shares[:, shown].T, cmap="PuOr_r", vmin=-reach, vmax=reach, aspect="auto")
    below.set_yticks(range(len(shown)), [reference.class_names[each] for each in shown])
    below.tick_params(length=0)
    below.spines[:].set_visible(False)
    ticks = np.linspace(-reach, reach, 5)
    bar = figure.colorbar(image, ax=below, label="change of share", pad=0.01, ticks=ticks)
    percent(bar.ax.yaxis)
    step = -(-len(windows) // 20)
    below.set_xticks(range(0, len(windows), step), [str(each) for each in windows[::step]], rotation=45, ha="right")
    for number in [number for number, each in enumerate(windows) if "class shares" in each.drifts]:
        below.plot([number - 0.5, number + 0.5], [-0.62, -0.62], color=ORANGE, linewidth=3, clip_on=False)
    return figure


def _shares(answers) -> np.ndarray:
    return answers.counts / max(1, answers.counts.sum())


def _points(axes: Axes, values: np.ndarray, drifts: list[bool]) -> None:
    """Points with bars, (windows, 3): value, low and high."""
    for number, ((value, low, high), drifted) in enumerate(zip(values, drifts, strict=True)):
        bars = [[max(0, value - low)], [max(0, high - value)]]
        axes.errorbar(number, value, yerr=bars, fmt="o", color=ORANGE if drifted else BLUE, markersize=4, capsize=2)
