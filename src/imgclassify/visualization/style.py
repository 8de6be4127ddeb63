"""Style: how our figures look, and how to make an empty one."""

import threading

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

_STYLE: dict = {
    "figure.dpi": 100,
    "figure.facecolor": "white",  # a white card in a dark theme
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
}
_styling = threading.Lock()  # pyplot's settings are global, and panels draw in threads


def new_figure(
    rows: int = 1, columns: int = 1, *, figure: Figure | None = None, **options
) -> tuple[Figure, np.ndarray]:
    """A new figure in our style, or the given empty one, with its axes as an array (rows, columns)."""
    with _styling, plt.rc_context(_STYLE):
        if figure is not None:
            figure.set_facecolor(_STYLE["figure.facecolor"])
            return figure, figure.subplots(rows, columns, squeeze=False)
        return plt.subplots(rows, columns, squeeze=False, **options)


def percent(*axes: Axis, decimals: int = 0) -> None:
    """Label axes from 0 to 1 in per cent."""
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1, decimals=decimals))


def show_picture(axes, image: np.ndarray, title: str = "") -> None:
    """Show a picture in its own panel, without interpolation."""
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.axis("off")
