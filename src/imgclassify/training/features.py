"""Features: what a backbone computes of each photo, kept on disk; classifiers fitted to them, and cross-validation."""

import contextlib
import hashlib
import itertools
import sqlite3
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from imgclassify import backend
from imgclassify.classifier import Classifier
from imgclassify.data.dataset import Dataset
from imgclassify.data.loading import as_dataset
from imgclassify.data.photos import Pictures, take_rows
from imgclassify.data.splits import folds
from imgclassify.evaluation.metrics import Evaluation
from imgclassify.models.backbones import BACKBONES, FEATURES
from imgclassify.models.inference import batch_length, predict_probabilities
from imgclassify.models.networks import build_model
from imgclassify.progress import Progress
from imgclassify.recipes import Recipe, get_recipe
from imgclassify.settings import cache_dir

# scikit-learn's C: with 5, 20, 80 and all photos per class, within half a point of the best of 1 to 100 on validation.
_INVERSE_REGULARISATION = 10.0
_GUIDED_REGULARISATION = 0.15  # with 45,000 thumbnails; chosen on photos, for which 1 and more is too sure of them
_NEVER = -20.0  # logit of a class without pictures
_AT_ONCE = 500  # photos whose features are kept together, so that an interrupted training loses little
_PATIENCE = 10  # seconds to wait for another process that is writing
_fronts: dict[str, Any] = {}  # the last used layers up to the features, by their digest; compiled only once


def compute_features(
    network, pictures, rows: np.ndarray, *, report: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """What a backbone computes of pictures at its layer `FEATURES`.

    Features of photos are kept in the cache folder, by the photo's content and preparation and the layers' weights:
    each photo is computed once. All are in one SQLite file, with a checksum for each photo. Whatever is damaged, or
    cannot be read or written, is computed again.

    Args:
        network: From `build_model`, a backbone; not modified.
        pictures: uint8 (M, H, W, 3), in the network's size; those that are `Pictures` have their features kept.
        rows: Row numbers of those to compute, (N,).
        report: Called with the number of pictures that are done; may raise an exception to stop.

    Returns:
        float16, (N, D).
    """
    digest, front = _front(network)
    found, kept = np.empty((len(rows), front.output_shape[-1]), np.float16), np.zeros(len(rows), bool)
    keys: list[bytes] = []
    if isinstance(pictures, Pictures):
        about = f"{digest} {pictures._cache._folder.name} "  # the size and the version of the preparation
        keys = [hashlib.sha256((about + pictures.photos[row].sha256).encode()).digest() for row in rows]
        kept = _in_store(lambda store: _read(store, keys, found), kept)
    missing, step = np.flatnonzero(~kept), batch_length(front.input_shape[1:])
    counter = itertools.count(len(rows) - len(missing) + step, step)
    for start in range(0, len(missing), _AT_ONCE):
        here = missing[start : start + _AT_ONCE]
        some = predict_probabilities(
            front, take_rows(pictures, rows[here]), on_batch_end=lambda: report(min(next(counter), len(rows)))
        )
        found[here] = some.clip(-65504, 65504)  # what float16 can hold
        if keys:
            records = [(keys[row], _sealed(keys[row], found[row].tobytes())) for row in here]
            _in_store(lambda store: store.executemany("REPLACE INTO features VALUES (?, ?)", records))  # noqa: B023
    report(len(rows))
    return found


def backbone_recipe(recipe: str | Recipe) -> Recipe:
    """A recipe by name; raises `ValueError` if its network has no features."""
    if (recipe := get_recipe(recipe)).architecture not in BACKBONES:
        raise ValueError(f"A recipe for features has one of {', '.join(BACKBONES)}. Received: {recipe.architecture}")
    return recipe


def fit_last_layer(network, features: np.ndarray, labels: np.ndarray) -> None:
    """Fit a network's last layer to features by logistic regression, each class with the same total weight.

    The features are centred and scaled by one number, which then becomes part of the layer.

    Args:
        network: Ends in a dense layer with softmax, which is modified.
        features: What that layer takes, (N, D). If it takes more, as in `build_guided`, the weights of what comes after
            them stay as they are.
        labels: Class numbers, (N,). A class without pictures gets almost no probability.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    last, mean = network.layers[-1], features.mean(axis=0, dtype=np.float64)
    present = np.unique(labels)
    (kernel, bias), guided = last.get_weights(), last.kernel.shape[0] > len(mean)
    kernel[: len(mean)], bias[:] = 0, _NEVER
    if len(present) == 1:
        bias[present] = 0
        last.set_weights([kernel, bias])
        return
    scale = 1 / max(1e-6, np.sqrt(np.square(features - mean).sum(axis=1).mean()))
    strength = _GUIDED_REGULARISATION if guided else _INVERSE_REGULARISATION
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=200)
    # Its products are small: on a busy machine, several threads would wait for each other.
    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # that it ends early is meant, with many pictures
        model.fit(((features - mean) * scale).astype(np.float32), labels)
    slopes, offsets = model.coef_.T * scale, model.intercept_
    if len(present) == 2:  # scikit-learn gives the difference of their logits
        slopes, offsets = np.hstack([-slopes / 2, slopes / 2]), np.hstack([-offsets / 2, offsets / 2])
    kernel[: len(mean), present], bias[present] = slopes, offsets - mean @ slopes
    last.set_weights([kernel, bias])


def cross_validate(
    data, *, recipe: str | Recipe = "head", count: int = 5, seed: int = 0, progress: Progress | None = None
) -> Evaluation:
    """Judge each photo by a last layer that was fitted without it and without its near-duplicates.

    The features are computed once, and kept for photos. A fit takes a moment, and no photo is lost for training.

    Args:
        data: As for `train_model`; its test part is not used.
        recipe: Its backbone and size; the last layer is fitted by logistic regression in any case.
        count: How many folds, at least 2; see `folds`.
        seed: For the folds.
        progress: Where to show the progress.

    Returns:
        An `Evaluation` of the training pictures in their order, not calibrated; without the only picture of a class.

    Raises:
        DatasetError: The data is unavailable, or there are fewer than two pictures of each class.
        ValueError: The recipe is unknown or has no backbone, or `count` is below 2.
    """
    recipe = backbone_recipe(recipe)
    data = as_dataset(data, size=recipe.size)
    labels, parts = data.y_train, folds(data.y_train, data.groups, count, seed)
    features, last = features_and_last_layer(data, recipe, progress)
    probabilities = np.full((len(labels), len(data.class_names)), np.nan, np.float32)
    for train, validation in parts:
        fit_last_layer(last, features[train], labels[train])
        probabilities[validation] = predict_probabilities(last, features[validation])
    judged = np.flatnonzero(np.isfinite(probabilities[:, 0]))
    return Evaluation(probabilities[judged], labels[judged], data.class_names, data.source, judged)


def features_and_last_layer(data: Dataset, recipe: Recipe, progress: Progress | None = None) -> tuple[np.ndarray, Any]:
    """Features of all training pictures, see `compute_features`, and a fresh last layer as a network."""
    shape, count = (recipe.size, recipe.size, 3), len(data.y_train)
    network = build_model(recipe.architecture, input_shape=shape, num_classes=len(data.class_names))
    with progress or Progress() as progress:
        features = compute_features(
            network,
            Classifier.of(network).fitting(data.x_train),
            np.arange(count),
            report=lambda done: progress.update(f"computing features  {done / count:4.0%}"),
        )
    return features, backend.keras().Model(network.get_layer(FEATURES).output, network.output)


def _front(network) -> tuple[str, Any]:
    """A network's layers up to its features as a network of its own, with a digest of what they compute."""
    keras, digest = backend.keras(), hashlib.sha256()
    front = keras.Model(network.inputs, network.get_layer(FEATURES).output)
    for layer in front.layers:
        config = {name: value for name, value in layer.get_config().items() if name != "name"}
        digest.update(f"{type(layer).__name__} {config}".encode())
        for weight in layer.get_weights():
            digest.update(weight.tobytes())
    if (copy := _fronts.get(name := digest.hexdigest())) is None:
        copy = keras.models.clone_model(front)  # what is trained later must not change it
        copy.set_weights(front.get_weights())
        _fronts.clear()
        _fronts[name] = copy
    return name, copy  # another thread may have cleared the rest


def _in_store(work: Callable[[sqlite3.Connection], Any], otherwise: Any = None) -> Any:
    """The work's result in one transaction of the database of features; `otherwise` if it cannot be used."""
    path = cache_dir() / "features.sqlite"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=_PATIENCE)) as store, store:
            store.execute("PRAGMA page_size = 32768")  # a dozen records; matters only for a new file
            store.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB)")
            return work(store)
    except (OSError, sqlite3.OperationalError):  # no room, or another process has it; keeping only saves time
        return otherwise
    except sqlite3.DatabaseError:  # damaged
        with contextlib.suppress(OSError):
            path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        return otherwise


def _read(store: sqlite3.Connection, keys: list[bytes], found: np.ndarray) -> np.ndarray:
    """Fill in what is kept; returns which rows that are."""
    kept = np.zeros(len(keys), bool)
    for row, key in enumerate(keys):
        value = store.execute("SELECT value FROM features WHERE key = ?", (key,)).fetchone()
        if value and value[0] == _sealed(key, content := value[0][4:]) and len(content) == found[row].nbytes:
            found[row], kept[row] = np.frombuffer(content, np.float16), True
    return kept


def _sealed(key: bytes, content: bytes) -> bytes:
    """A record: the checksum of the key and the content, then the content."""
    return zlib.crc32(key + content).to_bytes(4, "little") + content
