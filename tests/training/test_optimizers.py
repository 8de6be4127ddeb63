from dataclasses import replace

import numpy as np
import pytest

from imgclassify import backend
from imgclassify.recipes import Recipe
from imgclassify.training.optimizers import build_optimizer

ADAM = Recipe("adam")
MUON = Recipe("muon", architecture="airbench", optimizer="muon", learning_rate=0.05)


def steps(optimizer, before: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """A variable's value after the optimizer's steps."""
    tf, variable = backend.tensorflow(), backend.keras().Variable(before)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([gradient * optimizer.scale_loss(tf.constant(1.0))], [variable])
    return np.asarray(variable)


@pytest.mark.parametrize("scale_loss", [False, True])
def test_the_quick_adam_takes_the_steps_of_keras_adam(scale_loss):
    before, *gradients = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    ours = steps(build_optimizer(ADAM, 5, scale_loss=scale_loss), before, gradients)
    expected = steps(backend.keras().optimizers.Adam(1e-3), before, gradients)
    assert np.abs(expected - before).min() > 1e-4
    assert ours == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scale_loss", [False, True])
def test_a_step_of_muon_goes_against_the_gradient_along_all_its_directions_alike(scale_loss):
    rng = np.random.default_rng(0)
    before, gradient = (rng.normal(size=(3, 3, 4, 8)).astype(np.float32) for _ in range(2))
    after = steps(build_optimizer(MUON, 1, scale_loss=scale_loss), before, [gradient])
    step = after - before * (8**0.5 / np.linalg.norm(before))
    left, _, right = np.linalg.svd(gradient.reshape(36, 8), full_matrices=False)
    directions = -left.T @ step.reshape(36, 8) @ right.T / 0.05
    assert np.diag(directions).min() > 0.4  # three Newton-Schulz iterations come near one
    assert np.diag(directions).max() < 1.3
    assert directions - np.diag(np.diag(directions)) == pytest.approx(0, abs=0.05)


def test_muon_takes_adams_steps_at_a_small_rate_for_all_but_convolutions():
    before, *gradients = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    expected = steps(backend.keras().optimizers.Adam(0.03 * MUON.learning_rate), before, gradients)
    assert steps(build_optimizer(MUON, 3), before, gradients) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("recipe", [ADAM, MUON], ids=["adam", "muon"])
def test_a_linear_schedule_falls_in_equal_steps_to_zero(recipe):
    optimizer = build_optimizer(replace(recipe, schedule="linear"), 4)
    variable = backend.keras().Variable(np.ones((2, 2), np.float32))
    optimizer.build([variable])
    rates = []
    for _ in range(5):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([np.ones((2, 2), np.float32)], [variable])
    assert rates == pytest.approx(np.array([1, 0.75, 0.5, 0.25, 0]) * recipe.learning_rate)


def test_a_constant_schedule_keeps_its_rate():
    optimizer = build_optimizer(ADAM, 1)
    steps(optimizer, np.ones((2, 2), np.float32), [np.ones((2, 2), np.float32)] * 3)
    assert float(optimizer.learning_rate) == pytest.approx(1e-3)
