"""Few photos: how accuracy grows with the number of photos per class."""

from collections.abc import Sequence

import numpy as np

from imgclassify.data.dataset import Dataset, DatasetError
from imgclassify.evaluation.metrics import Evaluation
from imgclassify.models.inference import predict_probabilities
from imgclassify.progress import Progress
from imgclassify.recipes import get_recipe
from imgclassify.training.features import features_and_last_layer, fit_last_layer


def accuracy_by_photos(
    data: Dataset,
    counts: Sequence[int] = (5, 10, 20),
    *,
    draws: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[int, list[float]]:
    """Validation accuracies, 0 to 1, of the recipe "head" trained on few photos of each class; one per number and draw.

    The features of all photos are computed once; each draw then takes a moment.

    Args:
        data: Photos; its test part is not used.
        counts: Numbers of photos per class to train on; of a class that has fewer, all are taken.
        draws: How many random choices of photos to try for each number.
        seed: For the split and for the choices.
        progress: Where to show the progress.

    Raises:
        DatasetError: A number is below 1, or the data is too small to be split.
    """
    if min(counts) < 1:
        raise DatasetError(f"Numbers of photos per class must be at least 1. Received: {min(counts)}")
    recipe, labels = get_recipe("head"), data.y_train
    train_rows, val_rows = data.validation_split(recipe.validation_fraction, seed)
    features, last = features_and_last_layer(data, recipe, progress)
    accuracies: dict[int, list[float]] = {count: [] for count in counts}
    for count, found in accuracies.items():
        for draw in range(draws):
            random = np.random.default_rng([seed, count, draw])
            members = (train_rows[labels[train_rows] == label] for label in range(len(data.class_names)))
            chosen = np.concatenate([random.permutation(each)[:count] for each in members])
            fit_last_layer(last, features[chosen], labels[chosen])
            found.append(Evaluation(predict_probabilities(last, features[val_rows]), labels[val_rows]).accuracy)
    return accuracies
