"""Robustness: how well a model does on pictures that are noisy, blurred, badly lit, compressed or moved."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from imgclassify import display
from imgclassify.classifier import Classifier
from imgclassify.data.images import scale_pixels, to_bytes
from imgclassify.evaluation.metrics import Evaluation, evaluate_model

STRENGTHS = (1, 2, 3)
_DIRECTIONS = 8  # of motion; each has as many of the pictures
_ZOOMS = 8  # pictures whose mean is a zoom blur
_TOGETHER = 32  # pictures that are blurred at a time, which limits the memory

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]  # of float32 (N, H, W, 3) in [0, 1]


def _noise(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    return x + chance.normal(0, (0.04, 0.08, 0.1)[level], x.shape)


def _shot(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    photons = (500, 100, 50)[level]
    return chance.poisson(x * photons) / photons


def _impulse(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    struck = chance.random(x.shape) < (0.01, 0.03, 0.07)[level]
    return np.where(struck, chance.integers(0, 2, x.shape), x)


def _defocus(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    radius = _pixels(x, (0.7, 1.0, 1.6)[level])
    return _convolve(x, _kernel(radius, lambda down, right: np.hypot(down, right) <= radius))


def _glass(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    reach = max(1, round(_pixels(x, 1)))
    moved = chance.integers(-reach, reach + 1, (2, *x.shape[:3])) * (chance.random(x.shape[:3]) < (0.3, 0.6, 1)[level])
    rows, columns = np.mgrid[: x.shape[1], : x.shape[2]]
    down, right = (np.clip(a + b, 0, len(a) - 1) for a, b in zip((rows, columns), moved, strict=True))
    near = x[np.arange(len(x))[:, np.newaxis, np.newaxis], down, right]  # each pixel is taken from somewhere near
    return _smooth(near, _pixels(x, (0.2, 0.3, 0.4)[level]))


def _motion(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    half, moved = _pixels(x, (1.5, 2.5, 3.5)[level]) / 2, np.empty_like(x)
    for number, angle in enumerate(np.pi * chance.permutation(_DIRECTIONS)[: len(x)] / _DIRECTIONS):
        sine, cosine = np.sin(angle), np.cos(angle)

        def line(down, right, sine=sine, cosine=cosine):
            return (abs(down * sine + right * cosine) <= half) & (abs(down * cosine - right * sine) <= 0.5)

        moved[number::_DIRECTIONS] = _convolve(x[number::_DIRECTIONS], _kernel(half + 1, line))
    return moved


def _zoom(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    largest = (1.06, 1.15, 1.26)[level]
    total = np.zeros_like(x)
    for scale in np.linspace(1, largest, _ZOOMS):
        total += _enlarged(x, scale)
    return total / _ZOOMS


def _snow(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    flakes = np.maximum(chance.normal(0, 1, x.shape[:3]) - (2.2, 1.9, 1.6)[level], 0)[..., np.newaxis]
    falling = _motion(np.repeat(flakes, 3, axis=-1), 1, chance) * 4
    pale = np.maximum(x, x.mean(axis=-1, keepdims=True) * 0.5 + 0.4)
    share = (0.15, 0.3, 0.45)[level]
    return x * (1 - share) + pale * share + falling


def _frost(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    ridges = 1 - 2 * abs(_clouds(x, chance) - 0.5)  # branches of ice
    ice = np.maximum(ridges - 0.6, 0) * np.array([2.2, 2.3, 2.5])
    keep, add = ((1, 0.2), (0.9, 0.4), (0.8, 0.6))[level]
    return x * keep + ice * add


def _fog(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    thickness = (0.2, 0.75, 1.5)[level]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + thickness * _clouds(x, chance)) * brightest / (brightest + thickness)


def _brightness(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    value = np.maximum(x.max(axis=-1, keepdims=True), 1e-3)  # of hue, saturation and value
    return x * np.minimum(value + (0.05, 0.15, 0.3)[level], 1) / value


def _contrast(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    mean = x.mean(axis=(1, 2), keepdims=True)
    return mean + (x - mean) * (0.75, 0.4, 0.15)[level]


def _elastic(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    shifts = _smooth(chance.uniform(-1, 1, (*x.shape[:3], 2)), _pixels(x, 2))
    shifts *= _pixels(x, (0.5, 0.9, 1.4)[level]) / shifts.std()
    places = np.mgrid[: x.shape[1], : x.shape[2]] + np.moveaxis(shifts, -1, 1)
    warped = [
        [map_coordinates(channel, place, order=1, mode="reflect") for channel in np.moveaxis(image, -1, 0)]
        for image, place in zip(x, places, strict=True)
    ]
    return np.moveaxis(np.array(warped), 1, -1)


def _pixelate(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    height, width = (round(side * (0.95, 0.85, 0.65)[level]) for side in x.shape[1:3])
    size, large = (width, height), (x.shape[2], x.shape[1])
    box, nearest = Image.Resampling.BOX, Image.Resampling.NEAREST
    return _each(x, lambda image: image.resize(size, box).resize(large, nearest))


def _jpeg(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    return _each(x, lambda image: compressed(image, (80, 58, 40)[level]))


def _rotation(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    angles = (5, 10, 20)[level] * chance.choice((-1, 1), len(x))
    border = x.shape[1] // 4
    wide = np.pad(x, [(0, 0), (border, border), (border, border), (0, 0)], "symmetric")
    numbers = iter(angles)
    turned = _each(wide, lambda image: image.rotate(next(numbers), Image.Resampling.BILINEAR))
    return turned[:, border:-border, border:-border]


def _shift(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import shift

    by = round(_pixels(x, (1, 2, 4)[level]))
    moved = [shift(each, (*by * chance.choice((-1, 1), 2), 0), order=0, mode="reflect") for each in x]
    return np.stack(moved)


def _crop(x: np.ndarray, level: int, chance: np.random.Generator) -> np.ndarray:
    return _enlarged(x, (1.07, 1.15, 1.3)[level])


CORRUPTIONS: dict[str, Corruption] = {
    "Gaussian noise": _noise,
    "shot noise": _shot,
    "impulse noise": _impulse,
    "defocus blur": _defocus,
    "glass blur": _glass,
    "motion blur": _motion,
    "zoom blur": _zoom,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic": _elastic,
    "pixelation": _pixelate,
    "JPEG": _jpeg,
}
MOVES: dict[str, Corruption] = {"rotation": _rotation, "shift": _shift, "crop": _crop}


def corrupt(x: np.ndarray, name: str, strength: int, *, seed: int = 0) -> np.ndarray:
    """Pictures with one corruption, or moved; uint8 like the given ones.

    The corruptions are our own, after Hendrycks and Dietterich ("Benchmarking Neural Network Robustness to Common
    Corruptions and Perturbations", 2019); the strengths are near their first, third and fifth for CIFAR-10. Lengths
    grow with the picture. The moves are a rotation by 5, 10 or 20 degrees, a shift by 3, 6 or 12 % of the side, and the
    central 94, 87 or 77 % of the side; what leaves the picture is reflected.

    Args:
        x: uint8, or float in [0, 1], (N, H, W, 3).
        name: One of `CORRUPTIONS` or `MOVES`.
        strength: 1, 2 or 3.
        seed: For what is left to chance.

    Raises:
        ValueError: The name or strength is unknown.
    """
    known = CORRUPTIONS | MOVES
    if name not in known or strength not in STRENGTHS:
        accepted = f"use one of {', '.join(known)}, with a strength of 1, 2 or 3"
        raise ValueError(f"Unknown corruption: {accepted}. Received: {name!r}, strength {strength!r}")
    chance = np.random.default_rng(seed)
    return to_bytes(np.clip(known[name](scale_pixels(to_bytes(np.asarray(x))), strength - 1, chance), 0, 1))


@dataclass(frozen=True, eq=False)
class Robustness:
    """How a model does on the same pictures as they are, and changed."""

    clean: Evaluation
    changed: dict[str, tuple[Evaluation, ...]]  # one for each strength, by the names of corruptions and moves

    def mean_accuracy(self, strengths: Sequence[int] = STRENGTHS) -> float:
        """Mean accuracy over the fifteen corruptions at these strengths, 0 to 1; moves do not count."""
        return self._mean("accuracy", strengths)

    def mean_calibration_error(self, strengths: Sequence[int] = STRENGTHS) -> float:
        """Mean expected calibration error over the fifteen corruptions at these strengths, 0 to 1."""
        return self._mean("calibration_error", strengths)

    def _mean(self, value: str, strengths: Sequence[int]) -> float:
        return float(np.mean([getattr(self.changed[name][at - 1], value) for name in CORRUPTIONS for at in strengths]))

    def _rows(self) -> list[tuple[str, ...]]:
        clean = (f"{self.clean.accuracy:.1%}", f"{self.clean.calibration_error:.3f}")
        rows: list[tuple[str, ...]] = [("as they are", *clean[:1], "", "", *clean[1:], "", "")]
        for name, measured in self.changed.items():
            accuracies = [f"{each.accuracy:.1%}" for each in measured]
            rows.append((name, *accuracies, *(f"{each.calibration_error:.3f}" for each in measured)))
        return rows

    def _repr_html_(self) -> str:
        head = ("", *(f"accuracy {each}" for each in STRENGTHS), *(f"calibration error {each}" for each in STRENGTHS))
        return display.fragment(display.table(head, self._rows()))

    def __str__(self) -> str:
        return "\n".join("  ".join(f"{cell:>14}" for cell in row) for row in self._rows())

    __repr__ = __str__


def measure_robustness(model, x: np.ndarray, y, *, source: str = "", seed: int = 0) -> Robustness:
    """Measure a model on pictures as they are, and under each corruption and move at each strength.

    Args:
        model: A `Classifier`, or a Keras model from pictures to probabilities.
        x: Pictures, uint8 or float in [0, 1], (N, H, W, 3). They are changed in their own size, before the model's.
        y: Their labels; see `evaluate_model`.
        source: Name of the data, for titles.
        seed: For what is left to chance.
    """
    classifier = Classifier.of(model)

    def measure(pictures: np.ndarray) -> Evaluation:
        return evaluate_model(classifier, pictures, y, source=source)

    changed = {
        name: tuple(measure(corrupt(x, name, strength, seed=seed)) for strength in STRENGTHS)
        for name in CORRUPTIONS | MOVES
    }
    return Robustness(measure(x), changed)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """A picture after JPEG of this quality, 1 to 95."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def _pixels(x: np.ndarray, length: float) -> float:
    """A length in pixels of a 32 x 32 picture, for pictures of any size."""
    return length * x.shape[1] / 32


def _each(x: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    return scale_pixels(np.stack([np.asarray(change(Image.fromarray(image))) for image in to_bytes(x)]))


def _smooth(x: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, sigma, axes=(1, 2), mode="reflect")


def _kernel(reach: float, inside: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """How much of each pixel within reach lies inside a shape, as shares of all."""
    fine, half = 9, int(np.ceil(reach))
    steps = (np.arange((2 * half + 1) * fine) + 0.5) / fine - half - 0.5
    shape = inside(*np.meshgrid(steps, steps, indexing="ij")).reshape(2 * half + 1, fine, -1, fine).mean(axis=(1, 3))
    return shape / shape.sum()


def _convolve(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    from scipy.signal import fftconvolve

    half = len(kernel) // 2
    wide = np.pad(x, [(0, 0), (half, half), (half, half), (0, 0)], "symmetric")
    parts = [wide[start : start + _TOGETHER] for start in range(0, len(x), _TOGETHER)]
    shape = kernel[np.newaxis, :, :, np.newaxis].astype(np.float32)
    return np.concatenate([fftconvolve(part, shape, mode="valid", axes=(1, 2)) for part in parts])


def _clouds(x: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """Random fields from 0 to 1, (N, H, W, 1), with detail of every size, as clouds have."""
    sides = [_pixels(x, length) for length in (8, 4, 2, 1)]
    fields = [_smooth(chance.normal(0, 1, x.shape[:3]), side / 2) for side in sides]
    clouds = sum(field / field.std() * side for field, side in zip(fields, sides, strict=True))
    low, high = (bound(clouds, axis=(1, 2), keepdims=True) for bound in (np.min, np.max))
    return ((clouds - low) / (high - low))[..., np.newaxis]


def _enlarged(x: np.ndarray, scale: float) -> np.ndarray:
    """The central part of pictures, in their own size."""
    height, width = x.shape[1:3]
    left, top = (side * (1 - 1 / scale) / 2 for side in (width, height))
    box = (left, top, width - left, height - top)
    return _each(x, lambda image: image.resize((width, height), Image.Resampling.BILINEAR, box=box))


def summary(measured: Mapping[str, Robustness]) -> str:
    """The models' means over the fifteen corruptions, as a table in text."""
    rows = [("", "as they are", *(f"strength {each}" for each in STRENGTHS), "calibration error")]
    for name, each in measured.items():
        means = [f"{each.mean_accuracy([strength]):.1%}" for strength in STRENGTHS]
        rows.append((name, f"{each.clean.accuracy:.1%}", *means, f"{each.mean_calibration_error():.3f}"))
    return "\n".join("  ".join(f"{cell:>17}" for cell in row) for row in rows)
