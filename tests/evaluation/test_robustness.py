"""Corruptions: each does what its name says, more with each strength, the same way with each seed."""

import numpy as np
import pytest

from imgclassify import evaluate_model
from imgclassify.evaluation.robustness import (
    CORRUPTIONS,
    MOVES,
    STRENGTHS,
    corrupt,
    measure_robustness,
    summary,
)

ALL = [*CORRUPTIONS, *MOVES]
BY_CHANCE = {
    "Gaussian noise", "shot noise", "impulse noise", "glass blur", "motion blur", "snow", "frost", "fog", "elastic",
    "rotation", "shift",
}  # fmt: skip


def scenes(count: int = 12, side: int = 32) -> np.ndarray:
    """Smooth pictures with an edge: a bright disc before a ramp."""
    y, x = np.mgrid[:side, :side] / side
    chance = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        down, right = chance.uniform(0.35, 0.65, 2)
        disc = np.hypot(y - down, x - right) < 0.25
        colour, ground = chance.uniform(120, 230, 3), chance.uniform(20, 120, 3)
        pictures.append(np.where(disc[..., None], colour, ground * (0.5 + x[..., None])))
    return np.array(pictures).astype(np.uint8)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.sqrt(((one.astype(float) - other) ** 2).mean()))


@pytest.mark.parametrize("name", ALL)
def test_a_corruption_keeps_size_and_type_and_grows_with_its_strength(name):
    x = scenes()
    before = x.copy()
    changed = [corrupt(x, name, strength) for strength in STRENGTHS]
    for each in changed:
        assert (each.dtype, each.shape) == (np.uint8, x.shape)
    first, second, third = (distance(each, x) for each in changed)
    assert 0 < first < second < third
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(corrupt(x / np.float32(255), name, 2), changed[1])


@pytest.mark.parametrize("name", ALL)
def test_the_seed_decides_what_is_left_to_chance(name):
    x = scenes()
    np.testing.assert_array_equal(corrupt(x, name, 2, seed=3), corrupt(x, name, 2, seed=3))
    assert np.array_equal(corrupt(x, name, 2, seed=3), corrupt(x, name, 2, seed=4)) == (name not in BY_CHANCE)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [1, 3])
def test_few_pictures_of_any_size_are_corrupted(name, count):
    x = scenes(count, 90)[:, :80]
    assert corrupt(x, name, 3).shape == (count, 80, 90, 3)


def detail(x: np.ndarray) -> float:
    """Mean step from a pixel to the next."""
    return float(np.abs(np.diff(x.astype(float), axis=1)).mean())


def sharpest(x: np.ndarray) -> float:
    """Mean of the pictures' largest steps from a pixel to the next."""
    return float(np.abs(np.diff(x.astype(float), axis=1)).max(axis=(1, 2, 3)).mean())


def test_corruptions_do_what_their_names_say():
    x = scenes(40)
    for blur in ("defocus blur", "motion blur", "zoom blur"):
        assert sharpest(corrupt(x, blur, 3)) < 0.7 * sharpest(x)
        assert corrupt(x, blur, 3).mean() == pytest.approx(x.mean(), rel=0.1)
    for noise in ("Gaussian noise", "shot noise", "impulse noise"):
        assert detail(corrupt(x, noise, 2)) > 1.5 * detail(x)
        assert corrupt(x, noise, 2).mean() == pytest.approx(x.mean(), rel=0.05)
    assert corrupt(x, "brightness", 3).mean() > x.mean() + 30
    assert corrupt(x, "contrast", 3).std(axis=(1, 2)).mean() == pytest.approx(0.15 * x.std(axis=(1, 2)).mean(), rel=0.1)
    assert (corrupt(x, "snow", 3) == 255).mean() > (x == 255).mean() + 0.01
    struck = (corrupt(x, "impulse noise", 3) != x).mean()
    assert struck == pytest.approx(0.07, abs=0.01)
    coarse = corrupt(x, "pixelation", 3)
    assert (np.diff(coarse.astype(int), axis=2) == 0).all(axis=(1, 3)).mean() > 0.2  # columns like the one before


def test_moves_are_of_the_size_that_is_promised():
    x = np.zeros((1, 32, 32, 3), np.uint8)
    x[0, 12:20, 12:20] = 255
    moved = corrupt(x, "shift", 3)[0, ..., 0]
    rows, columns = np.nonzero(moved)
    assert (abs(rows.mean() - 15.5), abs(columns.mean() - 15.5)) == (4, 4)
    assert (corrupt(x, "crop", 3)[0, ..., 0] > 127).sum() == pytest.approx(64 * 1.3**2, rel=0.1)
    line = np.zeros((1, 64, 64, 3), np.uint8)
    line[0, 31:33, 8:56] = 255
    rows, columns = np.nonzero(corrupt(line, "rotation", 3)[0, ..., 0] > 127)
    slope = np.polyfit(columns, rows, 1)[0]
    assert abs(np.degrees(np.arctan(slope))) == pytest.approx(20, abs=1)


@pytest.mark.parametrize(("name", "strength"), [("rain", 1), ("fog", 0), ("fog", 4)])
def test_what_is_unknown_is_named(name, strength):
    with pytest.raises(ValueError, match=f"Unknown corruption: use one of .*JPEG.* Received: '{name}'"):
        corrupt(scenes(1), name, strength)


def test_a_model_is_measured_under_each_corruption_at_each_strength(tiny_model, tiny):
    measured = measure_robustness(tiny_model, tiny.x_test, tiny.y_test)
    assert list(measured.changed) == ALL
    assert measured.clean.accuracy == evaluate_model(tiny_model, tiny.x_test, tiny.y_test).accuracy
    fog = evaluate_model(tiny_model, corrupt(tiny.x_test, "fog", 3), tiny.y_test)
    assert measured.changed["fog"][2].accuracy == fog.accuracy
    accuracies = np.array([[each.accuracy for each in measured.changed[name]] for name in CORRUPTIONS])
    assert measured.mean_accuracy() == pytest.approx(accuracies.mean())
    assert measured.mean_accuracy([1, 2]) == pytest.approx(accuracies[:, :2].mean())
    errors = [measured.changed[name][0].calibration_error for name in CORRUPTIONS]
    assert measured.mean_calibration_error([1]) == pytest.approx(np.mean(errors))
    for text in (str(measured), measured._repr_html_()):
        for part in ("as they are", "Gaussian noise", "crop", f"{fog.accuracy:.1%}", f"{fog.calibration_error:.3f}"):
            assert part in text
    _, row = summary({"tiny": measured}).splitlines()
    assert row.split() == [
        "tiny",
        f"{measured.clean.accuracy:.1%}",
        *(f"{measured.mean_accuracy([each]):.1%}" for each in STRENGTHS),
        f"{measured.mean_calibration_error():.3f}",
    ]
