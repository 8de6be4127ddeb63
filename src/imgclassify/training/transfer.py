"""Transfer: keep what a backbone has learned up to one of its layers, and train the layers after it."""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from imgclassify import backend
from imgclassify.data.augmentation import Variations, draw_variations, vary
from imgclassify.data.batches import Batches
from imgclassify.data.dataset import DatasetError
from imgclassify.data.images import scale_pixels
from imgclassify.data.splits import folds
from imgclassify.evaluation.metrics import Evaluation
from imgclassify.evaluation.unknown import SAMPLE, detector_from
from imgclassify.models.backbones import BACKBONES, FEATURES
from imgclassify.models.familiarity import Detector
from imgclassify.models.inference import batch_length, predict_probabilities
from imgclassify.recipes import Recipe
from imgclassify.settings import cache_dir
from imgclassify.training.features import compute_features, fit_last_layer
from imgclassify.training.workers import ALONE, Workers

_SMALL = 50_000_000  # bytes of activations that stay in memory


class Job(NamedTuple):
    """What a training loop trains, and on what."""

    network: Any  # the part of the classifier's network that is trained; it shares its layers
    training: Any  # `Batches`; for a logistic regression, features (N, D) and class numbers (N,)
    validation: tuple[np.ndarray, np.ndarray]  # pictures or activations (N, ...), and class numbers (N,)


def prepare_job(
    network,
    recipe: Recipe,
    training: tuple[np.ndarray, np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    *,
    seed: int,
    report: Callable[..., None] = lambda share, together=False: None,
    workers: Workers = ALONE,
) -> Job:
    """What is to be trained: the whole network or, with `Recipe.frozen`, the layers after the frozen ones.

    What the frozen layers compute (their activations) is computed once for each variant of each picture, and kept as
    float16 in a memory-mapped temporary file; the first variant is the picture as it is. Features, which need no
    variants, are kept for later trainings too; see `compute_features`. The last layer of a backbone is first fitted by
    logistic regression, so that the layers before it do not unlearn what they know while it is still random (Kumar et
    al., "Fine-Tuning can Distort Pretrained Features", 2022).

    Args:
        network: From `build_model`; a backbone's last layer is modified.
        recipe: How to train it.
        training: Pictures (M, H, W, 3) in the network's size, their class numbers (M,), and the rows to train on (N,).
        validation: Pictures to validate on, in the same size, and their class numbers.
        seed: For the variants and for the order of the pictures.
        report: Called with the share of the activations that are computed, 0 to 1, and whether all workers report it
            `together`; may raise an exception to stop.
        workers: Who trains together: each computes a part of the activations, and gets all of them.

    Raises:
        DatasetError: The disk has no room for the activations.
    """
    options: dict[str, Any] = {"batch_size": recipe.batch_size, "seed": seed}
    whole = Job(network, Batches(*training, augmentation=recipe.augmentation, **options), validation)
    if recipe.architecture not in BACKBONES:
        return whole
    (pictures, labels, rows), (held, truth) = training, validation
    keras, cut = backend.keras(), network.get_layer(recipe.frozen or FEATURES).output
    if recipe.frozen in ("", FEATURES):
        total = len(rows) + len(held) * bool(recipe.frozen)
        features = compute_features(network, pictures, rows, report=lambda done: report(done / total))
        if not recipe.frozen:
            fit_last_layer(network, features, labels[rows])
            return whole
        every = np.arange(len(held))
        seen = compute_features(network, held, every, report=lambda done: report((len(rows) + done) / total))
        return Job(keras.Model(cut, network.output), (features, labels[rows]), (seen, truth))
    variants = _draw_variants(recipe, recipe.variants, len(rows), seed)
    total = len(variants) * len(rows) + len(held)
    together = functools.partial(report, together=True)
    activations = _Activations(keras.Model(network.inputs, cut), lambda done: together(done / total), workers)
    trained, labels = activations.compute(pictures, rows, variants), labels[rows]
    features = predict_probabilities(keras.Model(cut, network.get_layer(FEATURES).output), trained[0])
    fit_last_layer(network, features, labels)
    seen = activations.compute(held, np.arange(len(held)), [Variations()])[0]
    return Job(keras.Model(cut, network.output), Batches(trained, labels, **options), (seen, truth))


def fit_detector(network, recipe: Recipe, job: Job, *, groups: np.ndarray | None, rows: np.ndarray) -> Detector | None:
    """What tells other things from the classes, from a sample of a job's pictures; None if there are too few.

    Args:
        network: The whole trained network.
        recipe: How it was trained.
        job: What was trained, and on what.
        groups: As in `Dataset.groups`.
        rows: Rows of the pictures that were trained on, (N,).
    """
    random, parts, (held, _) = np.random.default_rng(0), [], job.validation
    known = held[np.sort(random.permutation(len(held))[:SAMPLE])]
    if isinstance(job.training, Batches):
        training = job.training.sample(SAMPLE)
    else:  # features, of which only the last layer has learned: held out by turns, they are known pictures too
        training, labels = job.training
        if len(training) > SAMPLE:
            training = training[np.sort(random.permutation(len(training))[:SAMPLE])]
        else:
            with contextlib.suppress(DatasetError):  # a single photo of each class
                parts = folds(labels, None if groups is None else groups[rows])
    begin = recipe.frozen if recipe.architecture in BACKBONES else ""
    return detector_from(network, recipe.architecture, training, known, begin=begin, folds=parts)


class LogisticLoop:
    """Fits a last layer by logistic regression, in place of `Loop`; its only epoch is the fit.

    `network` is that layer, as a network from features (N, D) to probabilities. `loss` and `accuracy` are those on the
    features that it was fitted to.
    """

    def __init__(self, network, features: np.ndarray, labels: np.ndarray):
        self.network, self._features, self._labels = network, features, labels
        self.loss = self.accuracy = float("nan")

    def run_epoch(self, epoch: int) -> Iterator[float]:
        """Fit; yields when it is done."""
        fit_last_layer(self.network, self._features, self._labels)
        measured = Evaluation(predict_probabilities(self.network, self._features), self._labels)
        self.loss, self.accuracy = measured.loss, measured.accuracy
        yield 1.0

    def work_done(self, epochs: float) -> float:
        """Share of the work that is done after this many epochs."""
        return min(1.0, epochs)


def _draw_variants(recipe: Recipe, variants: int, count: int, seed: int) -> list[Variations]:
    """Variations of all pictures for each variant; none for the first."""
    size, draws = (recipe.size, recipe.size), [np.random.default_rng([seed, 7, each]) for each in range(1, variants)]
    return [Variations(), *(draw_variations(recipe.augmentation, count, size, random) for random in draws)]


class _Activations:
    """What a network's first layers compute, batch by batch on all cores; `report` hears how many pictures are done."""

    def __init__(self, front, report: Callable[[int], None], workers: Workers):
        self._front, self._report, self._done, self._workers = front, report, 0, workers
        self._activate = backend.tensorflow().function(self._vary_and_see, autograph=False, reduce_retracing=True)

    def compute(self, pictures, rows: np.ndarray, variants: Sequence[Variations]) -> np.ndarray:
        """Activations of some rows of pictures, float16 (V, N, ...), for V variants; in memory if they are small."""
        parts = (part for each in variants for part in self._parts(pictures, rows, each))
        shape = (len(variants), len(rows), *self._front.output_shape[1:])
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(np.float16).itemsize
        if size <= _SMALL:
            return np.concatenate(list(parts)).reshape(shape)
        folder = cache_dir()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # The file has no name, so that it vanishes with its last use. It is filled by `write`, because a store into
            # a mapped file would end the process if the disk were full.
            with tempfile.TemporaryFile(dir=folder) as file:
                for part in parts:
                    file.write(part.data)
                file.flush()
                return np.memmap(file, np.float16, "r", shape=shape)
        except OSError as error:
            raise DatasetError(
                f"{folder} cannot take the {size / 1e9:.1f} GB of activations ({error.strerror}): make room, set "
                "IMGCLASSIFY_CACHE_DIR to a folder on another disk, or choose fewer variants."
            ) from error

    def _parts(self, pictures, rows: np.ndarray, variations: Variations) -> Iterator[np.ndarray]:
        """float16, a few pictures at a time, in turns by all workers."""
        tf, step = backend.tensorflow(), batch_length(pictures.shape[1:])

        def compute(start: int) -> np.ndarray:
            here = slice(start + step * self._workers.index, start + step * (self._workers.index + 1))
            if not len(rows[here]):
                return np.empty((0, *self._front.output_shape[1:]), np.float16)
            drawn = {name: tf.constant(part[here]) for name, part in variations._asdict().items() if part is not None}
            return self._activate(tf.constant(pictures[rows[here]]), drawn).numpy()

        for part in map(
            self._workers.gather, backend.in_parallel(compute, range(0, len(rows), step * self._workers.count))
        ):
            self._done += len(part)
            self._report(self._done)
            yield part

    def _vary_and_see(self, pictures, drawn: dict):
        varied = vary(pictures, Variations(**drawn))
        return backend.tensorflow().saturate_cast(self._front(scale_pixels(varied), training=False), "float16")
