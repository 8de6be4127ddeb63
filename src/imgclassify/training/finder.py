"""The learning-rate finder: trains a fresh network for a moment with rising learning rates, and suggests one."""

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d

from imgclassify import backend
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import in_proportion
from imgclassify.data.loading import as_dataset
from imgclassify.models.backbones import BACKBONES
from imgclassify.progress import Progress
from imgclassify.recipes import Recipe, get_recipe
from imgclassify.settings import short_mode
from imgclassify.training.loop import DivergedError, Loop
from imgclassify.training.plans import new_network, split_rows
from imgclassify.training.transfer import prepare_job
from imgclassify.training.watch import Watch

_LOWEST = {"muon": 1e-4}  # learning rate of the first step, for an optimizer whose rates are high; else 1e-6
_SMOOTHING = 0.03  # standard deviation of the Gaussian, as a share of all steps
_DIVERGED = 4  # the search ends when the smoothed loss is this many times its minimum
_BEGUN = 0.05  # share of its depth that the loss has fallen where the valley begins
_FEWEST, _SHORT_STEPS = 10, 20  # steps; the second in short mode


@dataclass(frozen=True, eq=False)
class LearningRates:
    """How the loss of a fresh network changed while its learning rate rose from step to step."""

    rates: np.ndarray  # learning rate of each step, float64 (S,)
    losses: np.ndarray  # mean loss of each step's batch, before the step, float64 (S,), in nats
    smoothed: np.ndarray  # the losses, smoothed by a Gaussian, float64 (S,)
    # The suggested rate: the middle, on a logarithmic scale, between where the smoothed loss begins to fall and where
    # it is lowest.
    valley: float
    steepest: float  # the rate between these two at which the smoothed loss falls fastest
    clear: bool  # whether it falls by more than the losses scatter around it; if not, the suggestions mean little

    def __str__(self) -> str:
        doubt = "" if self.clear else " But the loss hardly falls: try more steps."
        return f"Learning rate {self.valley:.1e} (valley) or {self.steepest:.1e} (steepest fall of the loss).{doubt}"


def find_learning_rate(
    recipe: str | Recipe = "photos",
    data=None,
    *,
    seed: int = 0,
    steps: int = 100,
    lowest: float | None = None,
    highest: float = 10.0,
    precision: str = "auto",
    stop: threading.Event | None = None,
    progress: Progress | None = None,
    **settings,
) -> LearningRates:
    """Find a learning rate: train a fresh network with a rate that rises exponentially, until the loss explodes.

    The learning-rate range test of Smith ("Cyclical Learning Rates for Training Neural Networks", 2017), as in fastai's
    `lr_find`. The network starts as `build_model` returns it, and is thrown away; nothing is saved. It sees each
    picture about twice, in the recipe's first size; with `Recipe.frozen`, the pictures are not varied.

    Args:
        recipe: As for `train_model`; its learning rate and schedule do not matter.
        data: As for `train_model`.
        seed: As for `train_model`.
        steps: Number of steps, at least 10; at most 20 in short mode.
        lowest: Learning rate of the first step, above 0; default: 1e-4 for "muon", else 1e-6.
        highest: Learning rate of the last step, unless the smoothed loss is four times its minimum before.
        precision: As for `train_model`.
        stop: If it is set from another thread, `StopTraining` is raised after the current step.
        progress: As for `train_model`.
        **settings: As for `train_model`.

    Returns:
        A `LearningRates`; `plot_learning_rates` shows it.

    Raises:
        DatasetError: As for `train_model`.
        ValueError: The recipe has no learning rate, a setting is out of range, or the loss explodes within five steps.
    """
    recipe = get_recipe(recipe, **settings)
    steps = min(steps, _SHORT_STEPS) if short_mode() else steps
    lowest = _LOWEST.get(recipe.optimizer, 1e-6) if lowest is None else lowest
    if recipe.optimizer == "logistic":
        raise ValueError(f"The recipe {recipe.name} fits a logistic regression, which has no learning rate.")
    if steps < _FEWEST or not 0 < lowest < highest < math.inf:
        expected = f"Expected at least {_FEWEST} steps, and learning rates that rise from above 0."
        raise ValueError(f"{expected} Received: steps={steps}, lowest={lowest}, highest={highest}")
    first_size, precision = recipe.sizes[:1], backend.choose_precision(precision)
    recipe = replace(recipe, epochs=steps, variants=1, hard_fraction=1.0, schedule="constant", sizes=first_size)
    data = as_dataset(data, size=recipe.size)
    rows, val_rows = split_rows(data, recipe, 1.0, seed)
    if len(rows) > (count := steps * recipe.batch_size // 2):
        rows = rows[in_proportion(data.y_train[rows], count, seed)]
    backend.set_seed(seed)
    network = new_network(recipe, data, rows)
    pictures = Classifier.of(network).fitting(data.x_train)
    held_out = pictures[val_rows[:1]], data.y_train[val_rows[:1]]  # not used
    with progress or Progress() as progress:
        report = Watch(recipe.epochs, progress, stop=stop).on_preparation
        job = prepare_job(network, recipe, (pictures, data.y_train, rows), held_out, seed=seed, report=report)
        last = network.layers[-1]
        if recipe.architecture in BACKBONES:  # it was fitted, so that the loss has little left to fall
            last.set_weights([np.zeros(weight.shape) for weight in last.get_weights()])
        loop, watch = _RisingLoop(job.network, recipe, job.training, precision), Watch(1, progress, stop=stop)
        rates, losses = np.geomspace(lowest, highest, steps), []
        for _, loss in zip(rates, loop.losses(rates), strict=False):
            losses.append(loss)
            watch.on_preparation(len(losses) / steps, "trying learning rates")
            smoothed = gaussian_filter1d(losses, _SMOOTHING * steps, mode="nearest")
            if smoothed[-1] > _DIVERGED * smoothed.min():
                break
    if len(losses) < _FEWEST // 2:
        raise ValueError(f"The loss explodes at once: try more steps, or a lower rate than lowest={lowest:g}.")
    return _measured(rates[: len(losses)], np.array(losses), smoothed)


class _RisingLoop(Loop):
    """A training loop whose learning rate rises from step to step."""

    def losses(self, rates: np.ndarray) -> Iterator[float]:
        """The loss of each step with these learning rates; ends early when it is no longer finite."""
        rising = iter(rates[1:])
        self._optimizer.learning_rate = rates[0]
        with contextlib.suppress(DivergedError):
            for epoch in range(len(rates)):
                before = 0.0
                for _ in self.run_epoch(epoch):
                    yield self._sums[0] - before
                    before = self._sums[0]
                    self._optimizer.learning_rate = next(rising, rates[-1])

    def _some_steps(self, chunk, sums, step, end, height, width):
        """One step only."""
        return super()._some_steps(chunk, sums, step, step + 1, height, width)


def _measured(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray) -> LearningRates:
    bottom = int(np.argmin(smoothed))
    depth = smoothed[: bottom + 1].max() - smoothed[bottom]
    begins = int(np.flatnonzero(smoothed[: bottom + 1] >= smoothed[bottom] + (1 - _BEGUN) * depth)[-1])
    steepest = begins + int(np.argmin(np.gradient(smoothed)[begins : bottom + 1]))
    clear = bool(depth > 2 * np.std((losses - smoothed)[: bottom + 1]))
    return LearningRates(rates, losses, smoothed, float(rates[(begins + bottom) // 2]), float(rates[steepest]), clear)
