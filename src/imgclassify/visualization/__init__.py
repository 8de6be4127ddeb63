"""Figures. Every function returns a Matplotlib figure and neither shows nor saves it."""

from imgclassify.visualization.data import (
    plot_augmentations,
    plot_channels,
    plot_class_counts,
    plot_class_samples,
    plot_data_check,
    plot_mean_images,
    plot_pairs,
    plot_samples,
)
from imgclassify.visualization.results import (
    plot_class_accuracy,
    plot_confidence,
    plot_confusion_matrix,
    plot_mistakes,
    plot_model_view,
    plot_prediction,
    plot_reliability,
)
from imgclassify.visualization.training import (
    plot_history,
    plot_learning_curve,
    plot_learning_rates,
    plot_runs,
    plot_spread,
)

__all__ = [
    "plot_augmentations", "plot_channels", "plot_class_accuracy", "plot_class_counts", "plot_class_samples",
    "plot_confidence", "plot_confusion_matrix", "plot_data_check", "plot_history", "plot_learning_curve",
    "plot_learning_rates", "plot_mean_images", "plot_mistakes", "plot_model_view", "plot_pairs", "plot_prediction",
    "plot_reliability", "plot_runs", "plot_samples", "plot_spread",
]  # fmt: skip
