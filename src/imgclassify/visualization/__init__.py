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
from imgclassify.visualization.drift import plot_drift
from imgclassify.visualization.explanations import plot_explanations, plot_faithfulness, plot_nearest
from imgclassify.visualization.results import (
    plot_class_scores,
    plot_confidence,
    plot_confused,
    plot_confusion_matrix,
    plot_coverage,
    plot_mistakes,
    plot_model_view,
    plot_prediction,
    plot_reliability,
    plot_right_answers,
    plot_separation,
    plot_size_and_time,
    plot_won_and_lost,
)
from imgclassify.visualization.robustness import plot_corruptions, plot_qualities, plot_robustness
from imgclassify.visualization.training import (
    plot_history,
    plot_learning_curve,
    plot_learning_rates,
    plot_runs,
    plot_spread,
)

__all__ = [
    "plot_augmentations", "plot_channels", "plot_class_counts", "plot_class_samples", "plot_class_scores",
    "plot_confidence", "plot_confused", "plot_confusion_matrix", "plot_corruptions", "plot_coverage",
    "plot_data_check", "plot_drift", "plot_explanations", "plot_faithfulness", "plot_history", "plot_learning_curve",
    "plot_learning_rates", "plot_mean_images", "plot_mistakes", "plot_model_view", "plot_nearest", "plot_pairs",
    "plot_prediction", "plot_qualities", "plot_reliability", "plot_right_answers", "plot_robustness", "plot_runs",
    "plot_samples", "plot_separation", "plot_size_and_time", "plot_spread", "plot_won_and_lost",
]  # fmt: skip
