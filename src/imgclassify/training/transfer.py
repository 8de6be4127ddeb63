"""Transfer: keep what a backbone has learned up to one of its layers, and train the layers after it."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imgclassify import backend
from imgclassify.data.augmentation import Variations, draw_variations, vary
from imgclassify.data.batches import Batches
from imgclassify.data.dataset import Dataset, DatasetError
from imgclassify.data.images import scale_pixels
from imgclassify.data.resized import resized
from imgclassify.models.backbones import BACKBONES, FEATURES
from imgclassify.models.inference import batch_length, predict_probabilities
from imgclassify.recipes import Recipe
from imgclassify.settings import cache_dir

_INVERSE_REGULARISATION = 10.0  # scikit-learn's C; the best of 1 to 100 on validation, with 5 to 300 photos per class
_NEVER = -20.0  # logit of a class without pictures
_SMALL = 50_000_000  # bytes of activations that stay in memory


class Job(NamedTuple):
    """What a training loop trains, and on what.

    Attributes:
        network: The part of the classifier's network that is trained; it shares its layers.
        training: What it is trained on: `Batches`; for a logistic regression, features (N, D) and class numbers (N,).
        validation: What it is validated on: pictures or activations (N, ...), and class numbers (N,).
    """

    network: Any
    training: Any
    validation: tuple[np.ndarray, np.ndarray]


def prepare_job(
    network,
    recipe: Recipe,
    data: Dataset,
    rows: tuple[np.ndarray, np.ndarray],
    *,
    seed: int,
    report: Callable[[float], None] = lambda share: None,
) -> Job:
    """What is to be trained: the whole network or, with `Recipe.frozen`, the layers after the frozen ones.

    What the frozen layers compute (their activations) is computed once for each variant of each picture, and kept as
    float16 in a memory-mapped temporary file; the first variant is the picture as it is. The last layer of a backbone
    is first fitted by logistic regression, so that the layers before it do not unlearn what they know while it is still
    random (Kumar et al., "Fine-Tuning can Distort Pretrained Features", 2022).

    Args:
        network: From `build_model`; a backbone's last layer is modified.
        recipe: How to train it.
        data: Its training pictures are used, resized if necessary.
        rows: Row numbers of the pictures to train on, and to validate on.
        seed: For the variants and for the order of the pictures.
        report: Called with the share of the activations that are computed, 0 to 1; may raise an exception to stop.

    Raises:
        DatasetError: The disk has no room for the activations.
    """
    options: dict[str, Any] = {"batch_size": recipe.batch_size, "seed": seed}
    pictures, labels = pictures_for(network, data), data.y_train
    train_rows, val_rows = rows
    whole = Batches(pictures, labels, train_rows, augmentation=recipe.augmentation, **options)
    if recipe.architecture not in BACKBONES:
        return Job(network, whole, (pictures[val_rows], labels[val_rows]))
    keras, cut = backend.keras(), network.get_layer(recipe.frozen or FEATURES).output
    front, learned = keras.Model(network.inputs, cut), keras.Model(cut, network.output)
    variants = recipe.variants if recipe.frozen else 1
    total = variants * len(train_rows) + len(val_rows) * bool(recipe.frozen)
    activations = _Activations(front, pictures, lambda done: report(done / total))
    trained = activations.compute(train_rows, _draw_variants(recipe, variants, len(train_rows), seed))
    first = trained[0]
    if recipe.frozen not in ("", FEATURES):
        features = keras.Model(cut, network.get_layer(FEATURES).output)
        first = predict_probabilities(features, first)
    if not recipe.frozen:
        fit_last_layer(network, first, labels[train_rows])
        return Job(network, whole, (pictures[val_rows], labels[val_rows]))
    held = activations.compute(val_rows, [Variations()])[0], labels[val_rows]
    if recipe.optimizer == "logistic":
        return Job(learned, (first, labels[train_rows]), held)
    fit_last_layer(network, first, labels[train_rows])
    return Job(learned, Batches(trained, labels[train_rows], **options), held)


def pictures_for(network, data: Dataset):
    """The training pictures in the size that a network takes; resized when they are read, if necessary."""
    fitting = tuple(data.x_train.shape[1:]) == tuple(network.input_shape[1:])
    return data.x_train if fitting else resized(data.x_train, network.input_shape[1])


class LogisticLoop:
    """Fits a last layer by logistic regression, in place of `Loop`; its only epoch is the fit.

    Args:
        network: The last layer, as a network from features to probabilities.
        features: float, (N, D).
        labels: Class numbers, (N,).

    Attributes:
        network: As given.
        loss, accuracy: Of the fitted layer, on the features that it was fitted to.
    """

    def __init__(self, network, features: np.ndarray, labels: np.ndarray):
        self.network, self._features, self._labels = network, features, labels
        self.loss = self.accuracy = float("nan")

    def run_epoch(self, epoch: int) -> Iterator[float]:
        """Fit; yields when it is done."""
        features, labels = self._features, self._labels
        fit_last_layer(self.network, features, labels)
        probabilities = predict_probabilities(self.network, features)
        self.accuracy = float((probabilities.argmax(axis=1) == labels).mean())
        self.loss = float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-7)).mean())
        yield 1.0

    def work_done(self, epochs: float) -> float:
        """Share of the work that is done after this many epochs."""
        return min(1.0, epochs)


def fit_last_layer(network, features: np.ndarray, labels: np.ndarray) -> None:
    """Fit a network's last layer to features by logistic regression, each class with the same total weight.

    The features are centred and scaled by one number, which then becomes part of the layer.

    Args:
        network: Ends in a dense layer with softmax, which is modified.
        features: What that layer takes, (N, D).
        labels: Class numbers, (N,). A class without pictures gets almost no probability.
    """
    from sklearn.linear_model import LogisticRegression

    last, mean = network.layers[-1], features.mean(axis=0, dtype=np.float64)
    present = np.unique(labels)
    kernel, bias = np.zeros(last.kernel.shape), np.full(last.bias.shape, _NEVER)
    if len(present) == 1:
        bias[present] = 0
        last.set_weights([kernel, bias])
        return
    scale = 1 / max(1e-6, np.sqrt(np.square(features - mean).sum(axis=1).mean()))
    model = LogisticRegression(C=_INVERSE_REGULARISATION, class_weight="balanced", max_iter=200)
    model.fit(((features - mean) * scale).astype(np.float32), labels)
    slopes, offsets = model.coef_.T * scale, model.intercept_
    if len(present) == 2:  # scikit-learn gives the difference of their logits
        slopes, offsets = np.hstack([-slopes / 2, slopes / 2]), np.hstack([-offsets / 2, offsets / 2])
    kernel[:, present], bias[present] = slopes, offsets - mean @ slopes
    last.set_weights([kernel, bias])


def _draw_variants(recipe: Recipe, variants: int, count: int, seed: int) -> list[Variations]:
    """Variations of all pictures for each variant; none for the first."""
    size, draws = (recipe.size, recipe.size), [np.random.default_rng([seed, 7, each]) for each in range(1, variants)]
    return [Variations(), *(draw_variations(recipe.augmentation, count, size, random) for random in draws)]


@contextlib.contextmanager
def _on_disk(folder: Path, gigabytes: float) -> Iterator[None]:
    """Say in one sentence that the disk has no room."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot take the {gigabytes:.1f} GB of activations ({error.strerror}): make room, set "
            "IMGCLASSIFY_CACHE_DIR to a folder on another disk, or choose fewer variants."
        ) from error


class _Activations:
    """What a network's first layers compute, batch by batch on all cores.

    Args:
        front: These layers, as a network.
        pictures: uint8 (N, size, size, 3).
        report: Called with the number of pictures that are done.
    """

    def __init__(self, front, pictures, report: Callable[[int], None]):
        self._front, self._pictures, self._report, self._done = front, pictures, report, 0

    def compute(self, rows: np.ndarray, variants: Sequence[Variations]) -> np.ndarray:
        """Activations of some pictures, float16 (V, N, ...), for each of V variants; in memory if they are small.

        Raises:
            DatasetError: They do not fit on the disk.
        """
        shape = (len(variants), len(rows), *self._front.output_shape[1:])
        if np.prod(shape, dtype=np.int64) * 2 <= _SMALL:
            return np.concatenate([part for each in variants for part in self._parts(rows, each)]).reshape(shape)
        folder, size = cache_dir(), np.prod(shape, dtype=np.float64) * 2 / 1e9
        with _on_disk(folder, size):
            folder.mkdir(parents=True, exist_ok=True)
            # It has no name, so that it vanishes with its last use. It is filled by `write`, because a store into a
            # mapped file would end the process if the disk were full.
            file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed below
        with file:
            for each in variants:
                for part in self._parts(rows, each):
                    with _on_disk(folder, size):
                        file.write(part.data)
            with _on_disk(folder, size):
                file.flush()
            return np.memmap(file, np.float16, "r", shape=shape)

    def _parts(self, rows: np.ndarray, variations: Variations) -> Iterator[np.ndarray]:
        """float16, a few pictures at a time."""
        tf, step = backend.tensorflow(), batch_length(self._pictures.shape[1:])
        names = [name for name, part in variations._asdict().items() if part is not None]

        @tf.function(autograph=False, reduce_retracing=True)
        def activate(pictures, drawn):
            varied = vary(pictures, Variations(**drawn)) if drawn else pictures
            return tf.cast(self._front(scale_pixels(varied), training=False), tf.float16)

        def compute(start: int) -> np.ndarray:
            here = slice(start, start + step)
            drawn = {name: tf.constant(getattr(variations, name)[here]) for name in names}
            return activate(tf.constant(self._pictures[rows[here]]), drawn).numpy()

        with ThreadPoolExecutor(min(backend.cores(), 8)) as pool:
            starts, waiting = iter(range(0, len(rows), step)), list[Future[np.ndarray]]()
            try:
                while True:
                    while len(waiting) < 2 * backend.cores() and (start := next(starts, None)) is not None:
                        waiting.append(pool.submit(compute, start))
                    if not waiting:
                        return
                    part = waiting.pop(0).result()
                    self._done += len(part)
                    self._report(self._done)
                    yield part
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
