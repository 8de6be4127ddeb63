"""Kept features: each photo computed once, whatever happens to the file they are in; and cross-validation."""

import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from imgclassify import backend, build_model
from imgclassify.data.dataset import DatasetError, named_parts
from imgclassify.data.folders import save_as_folder
from imgclassify.data.loading import load_dataset
from imgclassify.models.backbones import BACKBONE, FEATURES
from imgclassify.recipes import get_recipe
from imgclassify.settings import cache_dir
from imgclassify.training import features as module
from imgclassify.training.features import compute_features, cross_validate
from imgclassify.training.transfer import prepare_job

HEAD = get_recipe("head", size=96)


def small_network(seed: int = 0):
    """A network with features: a few numbers per picture, quickly computed."""
    keras = backend.keras()
    backend.set_seed(seed)
    layers = [
        keras.layers.Input((96, 96, 3)),
        keras.layers.Conv2D(8, 3, 4),
        keras.layers.GlobalAveragePooling2D(name=FEATURES),
    ]
    return keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax")])


@pytest.fixture(scope="module")
def network():
    return small_network()


@pytest.fixture
def photos(tiny, tmp_path, quiet):
    """60 photos of 96 pixels, unread."""
    return load_dataset(save_as_folder(tiny, tmp_path / "photos"), size=96, progress=quiet).x_train


@pytest.fixture
def computed(monkeypatch):
    """How many pictures were computed, in each call."""
    counts, real = [], module.predict_probabilities
    monkeypatch.setattr(
        module, "predict_probabilities", lambda front, x, **more: counts.append(len(x)) or real(front, x, **more)
    )
    return counts


def rows(count: int) -> np.ndarray:
    return np.arange(count)


def store():
    return cache_dir() / "features.sqlite"


def test_features_are_what_the_network_computes_at_its_layer(network, photos):
    front = backend.keras().Model(network.inputs[0], network.get_layer(FEATURES).output)
    expected = front(np.asarray(photos)[[5, 3]] / np.float32(255)).numpy()
    found = compute_features(network, photos, np.array([5, 3]))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_each_photo_is_computed_once_and_new_photos_only(network, photos, computed):
    first = compute_features(network, photos, rows(50))
    again = compute_features(network, photos, rows(60))
    assert computed == [50, 10]
    np.testing.assert_array_equal(again[:50], first)
    compute_features(network, photos, rows(60)[::-1])
    assert computed == [50, 10]


def test_the_same_photo_in_another_folder_is_not_computed_again(network, photos, computed, tmp_path, quiet, tiny):
    compute_features(network, photos, rows(60))
    other = load_dataset(save_as_folder(tiny, tmp_path / "elsewhere"), size=96, progress=quiet).x_train
    compute_features(network, other, rows(60))
    assert computed == [60]


def test_other_weights_and_other_sizes_have_features_of_their_own(network, photos, computed, tmp_path, quiet):
    first = compute_features(network, photos, rows(60))
    other = compute_features(small_network(seed=1), photos, rows(60))
    assert computed == [60, 60]
    assert np.abs(first - other).max() > 0.01


def test_training_the_network_later_does_not_spoil_what_is_kept(photos, computed):
    network = small_network()
    first = compute_features(network, photos, rows(30))
    network.layers[0].set_weights([np.zeros_like(weight) for weight in network.layers[0].get_weights()])
    assert not compute_features(network, photos, rows(60)).any()
    np.testing.assert_array_equal(compute_features(small_network(), photos, rows(60))[:30], first)


def test_arrays_are_computed_and_not_kept(network, tiny, computed):
    pictures = np.zeros((4, 96, 96, 3), np.uint8)
    for _ in range(2):
        assert compute_features(network, pictures, rows(4)).shape == (4, 8)
    assert computed == [4, 4]
    assert not store().exists()


def test_a_damaged_record_is_computed_anew(network, photos, computed):
    right = compute_features(network, photos, rows(60))
    with sqlite3.connect(store()) as database:
        key, value = database.execute("SELECT key, value FROM features LIMIT 1").fetchone()
        database.execute("UPDATE features SET value = ? WHERE key = ?", (value[:-1] + bytes([value[-1] ^ 1]), key))
        other = database.execute("SELECT key FROM features LIMIT 1 OFFSET 1").fetchone()[0]
        database.execute("UPDATE features SET value = ? WHERE key = ?", (b"short", other))
    database.close()
    np.testing.assert_array_equal(compute_features(network, photos, rows(60)), right)
    compute_features(network, photos, rows(60))
    assert computed == [60, 2]


@pytest.mark.parametrize("damage", ["words", "cut", "torn"])
def test_a_damaged_file_is_replaced(network, photos, computed, damage):
    right = compute_features(network, photos, rows(60))
    content = store().read_bytes()
    torn = content[:40_000] + bytes(30_000) + content[70_000:]
    store().write_bytes({"words": b"words" * 9999, "cut": content[:50_000], "torn": torn}[damage])
    for _ in range(3):  # it may take one call to notice, and one to write anew
        np.testing.assert_array_equal(compute_features(network, photos, rows(60)), right)
    before = list(computed)
    compute_features(network, photos, rows(60))
    assert computed == before


def test_features_come_even_if_nothing_can_be_kept(network, photos, computed):
    store().parent.mkdir(parents=True, exist_ok=True)
    store().mkdir()
    for _ in range(2):
        assert np.isfinite(compute_features(network, photos, rows(60))).all()
    assert computed == [60, 60]


def test_a_file_that_another_process_holds_is_not_deleted(network, photos, monkeypatch, computed):
    right = compute_features(network, photos, rows(60))
    monkeypatch.setattr(module, "_PATIENCE", 0)
    holder = sqlite3.connect(store(), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    np.testing.assert_array_equal(compute_features(network, photos, rows(60)), right)
    holder.execute("COMMIT")
    holder.close()
    compute_features(network, photos, rows(60))
    assert computed == [60, 60]


def test_two_at_once_keep_everything(network, photos, computed):
    parts = rows(40), rows(60)[20:]
    threads = [threading.Thread(target=compute_features, args=(network, photos, part)) for part in parts]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    before = len(computed)
    compute_features(network, photos, rows(60))
    assert len(computed) == before


def test_progress_counts_up_to_all_and_can_stop_the_work(network, photos):
    counts = []
    compute_features(network, photos, rows(20))
    compute_features(network, photos, rows(60), report=counts.append)
    assert counts == sorted(counts)
    assert counts[-1] == 60

    def stop(done):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        compute_features(small_network(seed=2), photos, rows(60), report=stop)


def test_a_training_computes_only_photos_that_are_new(photos, tiny, computed):
    network = build_model(BACKBONE, input_shape=(96, 96, 3), num_classes=3)
    held, truth = photos.take(rows(60)[48:]), tiny.y_train[48:]
    for count, expected in ((40, [40, 12]), (48, [8])):
        computed.clear()
        job = prepare_job(network, HEAD, (photos, tiny.y_train, rows(count)), (held, truth), seed=0)
        assert computed == expected
        assert job.training[0].shape == (count, 1280)
        assert job.validation[0].shape == (12, 1280)


# --- cross-validation ----------------------------------------------------------------------------------


def test_a_fit_that_ends_early_does_not_warn(network, monkeypatch):
    monkeypatch.setattr(
        "sklearn.linear_model.LogisticRegression", lambda **options: LogisticRegression(**options | {"max_iter": 1})
    )
    chance, labels = np.random.default_rng(0), np.arange(30) % 3
    fresh = backend.keras().models.clone_model(network)
    module.fit_last_layer(fresh, chance.normal(size=(30, 8)), labels)  # a warning would be an error
    assert np.any(fresh.layers[-1].get_weights()[0])


def test_cross_validation_judges_every_picture_once(tiny, quiet):
    measured = cross_validate(tiny, recipe=HEAD, progress=quiet)
    np.testing.assert_array_equal(measured.labels, tiny.y_train)
    assert measured.class_names == tiny.class_names
    assert measured.accuracy > 0.9
    np.testing.assert_allclose(measured.probabilities.sum(axis=1), 1, atol=1e-5)


def test_near_duplicates_do_not_help_cross_validation(quiet):
    """Noise in pairs with random labels: who has seen one of a pair knows the other, who has not must guess."""
    random = np.random.default_rng(0)
    pictures = np.repeat(random.integers(0, 256, (40, 96, 96, 3), dtype=np.uint8), 2, axis=0)
    labels = np.repeat(random.permutation(np.arange(40) % 2), 2)
    about = {"name": "noise", "source": "noise", "class_names": ("a", "b")}
    data = named_parts([pictures, labels, pictures[:2], labels[:2]], **about)
    together = replace(data, groups=np.arange(80) // 2)
    assert cross_validate(data, recipe=HEAD, progress=quiet).accuracy > 0.7
    assert cross_validate(together, recipe=HEAD, progress=quiet).accuracy < 0.7


def test_the_only_picture_of_a_class_is_not_judged(tiny, quiet):
    kept = [*np.flatnonzero(tiny.y_train != 2)[:12], np.flatnonzero(tiny.y_train == 2)[0]]
    data = replace(tiny, x_train=tiny.x_train[kept], y_train=tiny.y_train[kept])
    assert len(cross_validate(data, recipe=HEAD, progress=quiet).labels) == 12


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"recipe": "baseline"}, ValueError, "has one of efficientnet-lite0"),
        ({"recipe": "nonsense"}, ValueError, "Unknown recipe"),
        ({"recipe": HEAD, "count": 1}, ValueError, "at least 2"),
    ],
)
def test_what_cannot_be_cross_validated_is_one_sentence(tiny, quiet, options, error, sentence):
    with pytest.raises(error, match=sentence):
        cross_validate(tiny, progress=quiet, **options)


def test_single_pictures_cannot_be_cross_validated(tiny, quiet):
    data = replace(tiny, x_train=tiny.x_train[:3], y_train=tiny.y_train[:3])
    with pytest.raises(DatasetError, match="a class of at least 2"):
        cross_validate(data, recipe=HEAD, progress=quiet)
