"""Transfer: frozen layers computed once, the last layer fitted, the others trained, one whole network at the end."""

import errno
import tempfile
import threading
from dataclasses import replace

import numpy as np
import pytest

from imgclassify import backend, build_model, evaluate_model, load_model
from imgclassify.data.augmentation import Variations
from imgclassify.data.dataset import DatasetError
from imgclassify.data.folders import save_as_folder
from imgclassify.data.images import Resized
from imgclassify.data.loading import load_dataset
from imgclassify.evaluation import unknown
from imgclassify.models.backbones import BACKBONE, FEATURES
from imgclassify.recipes import Recipe, get_recipe
from imgclassify.settings import cache_dir
from imgclassify.training import transfer
from imgclassify.training.loop import Loop
from imgclassify.training.publish import train_or_load_model
from imgclassify.training.train import train_model
from imgclassify.training.transfer import fit_last_layer, prepare_job

pytestmark = pytest.mark.usefixtures("nothing_shipped")

PHOTOS = get_recipe("photos", size=96, epochs=2, variants=3, batch_size=8, learning_rate=1e-4)
HEAD = get_recipe("head", size=96)
FINETUNE = get_recipe("finetune", size=96, epochs=1, batch_size=16, learning_rate=1e-5)


@pytest.fixture
def network():
    return build_model(BACKBONE, input_shape=(96, 96, 3), num_classes=3)


@pytest.fixture
def rows(tiny):
    return tiny.validation_split(0.2)


@pytest.fixture
def parts(tiny, rows):
    """Training and validation pictures as `prepare_job` takes them."""
    pictures, (train_rows, val_rows) = Resized(tiny.x_train, 96), rows
    return (pictures, tiny.y_train, train_rows), (pictures[val_rows], tiny.y_train[val_rows])


def weights_of(network) -> dict[str, np.ndarray]:
    return {variable.path: np.array(variable) for variable in network.variables}


# --- the last layer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_last_layer_answers_as_the_logistic_regression_does(classes):
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(classes)
    labels = np.arange(60) % classes
    features = (random.normal(size=(classes, 8))[labels] * 3 + random.normal(size=(60, 8)) + 5).astype(np.float32)
    layers = backend.keras().layers
    network = backend.keras().Sequential([layers.Input((8,)), layers.Dense(classes, activation="softmax")])
    fit_last_layer(network, features, labels)
    mean = features.mean(axis=0)
    scale = np.sqrt(((features - mean) ** 2).sum(axis=1).mean())
    plain = LogisticRegression(C=10, class_weight="balanced", max_iter=200).fit((features - mean) / scale, labels)
    np.testing.assert_allclose(network(features), plain.predict_proba((features - mean) / scale), atol=1e-3)


def test_a_class_with_few_pictures_counts_as_much_as_one_with_many():
    layers = backend.keras().layers
    network = backend.keras().Sequential([layers.Input((1,)), layers.Dense(2, activation="softmax")])
    features = np.float32([[-1.0]] * 90 + [[1.0]] * 10 + [[0.0]] * 20)
    labels = np.array([0] * 90 + [1] * 10 + [0] * 18 + [1] * 2)  # in the middle in proportion to the classes' sizes
    fit_last_layer(network, features, labels)
    assert abs(float(network(np.float32([[0.0]]))[0, 0]) - 0.5) < 0.05


@pytest.mark.parametrize("present", [[0, 2], [1]])
def test_classes_without_pictures_are_almost_never_named(present):
    layers = backend.keras().layers
    network = backend.keras().Sequential([layers.Input((4,)), layers.Dense(3, activation="softmax")])
    labels = np.resize(present, 20)
    features = np.eye(4, dtype=np.float32)[labels] + np.random.default_rng(0).normal(0, 0.1, (20, 4)).astype(np.float32)
    fit_last_layer(network, features, labels)
    answers = network(features).numpy()
    np.testing.assert_array_equal(answers.argmax(axis=1), labels)
    assert np.delete(answers, present, axis=1).max() < 1e-3


# --- what is prepared ----------------------------------------------------------------------------------


def test_frozen_layers_and_learned_layers_are_the_network(network, tiny, rows, parts):
    job = prepare_job(network, PHOTOS, *parts, seed=0)
    activations, labels = job.validation
    whole = network(Resized(tiny.x_train, 96)[rows[1]] / np.float32(255), training=False)
    learned = job.network(activations.astype(np.float32), training=False)
    np.testing.assert_allclose(learned, whole, atol=5e-3)  # the activations are float16
    np.testing.assert_array_equal(labels, tiny.y_train[rows[1]])
    assert activations.dtype == np.float16


def test_the_first_variant_is_the_picture_and_the_others_differ_by_seed(network, rows, parts):
    jobs = [prepare_job(network, PHOTOS, *parts, seed=seed) for seed in (0, 0, 1)]
    variants = [job.training._pictures for job in jobs]
    assert variants[0].shape == (3, len(rows[0]), 6, 6, 112)
    np.testing.assert_array_equal(variants[0], variants[1])
    np.testing.assert_array_equal(variants[0][0], variants[2][0])
    for other in (variants[0][0], variants[0][2], variants[2][1]):
        assert np.abs(np.float32(variants[0][1]) - other).mean() > 0.01


def test_the_last_layer_is_fitted_before_the_others_are_trained(network, parts):
    before = weights_of(network)
    job = prepare_job(network, PHOTOS, *parts, seed=0)
    changed = {path for path, value in weights_of(network).items() if not np.array_equal(value, before[path])}
    assert changed == {"classes/kernel", "classes/bias"}
    activations, labels = job.validation
    assert (np.argmax(job.network(activations.astype(np.float32)), axis=1) == labels).mean() > 0.9


def test_activations_beyond_a_limit_go_to_the_disk_and_are_the_same_there(network, monkeypatch, parts):
    in_memory = prepare_job(network, PHOTOS, *parts, seed=0).training._pictures
    monkeypatch.setattr(transfer, "_SMALL", 0)
    on_disk = prepare_job(network, PHOTOS, *parts, seed=0).training._pictures
    assert isinstance(on_disk, np.memmap)
    np.testing.assert_array_equal(on_disk, in_memory)
    assert list(cache_dir().iterdir()) == []  # it has no name, so no crash can leave it behind


def test_a_full_disk_is_one_sentence(network, monkeypatch, parts):
    class Full:
        def __init__(self, **options):
            self.file = real(**options)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    real = tempfile.TemporaryFile
    monkeypatch.setattr(transfer, "_SMALL", 0)
    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(DatasetError, match=r"cannot take .* activations \(No space left on device\): make room"):
        prepare_job(network, PHOTOS, *parts, seed=0)


def test_progress_runs_from_zero_to_one_and_can_stop_the_work(network, parts):
    shares = []
    prepare_job(network, PHOTOS, *parts, seed=0, report=lambda share, together: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1

    def stop(share, together):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        prepare_job(network, PHOTOS, *parts, seed=0, report=stop)


def test_variants_of_a_picture_are_drawn_as_the_recipe_says():
    drawn = transfer._draw_variants(PHOTOS, 3, 10, seed=0)
    assert drawn[0] == Variations()
    assert [each.box.shape for each in drawn[1:]] == [(10, 4)] * 2


# --- whole trainings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [PHOTOS, HEAD, FINETUNE], ids=lambda recipe: recipe.name)
def test_a_training_ends_with_one_complete_network(recipe, tiny, quiet):
    classifier, history = train_model(recipe, tiny, precision="float32", progress=quiet)
    assert classifier.manifest.status == "complete"
    assert classifier.input_shape == (96, 96, 3)
    assert history["val_accuracy"][-1] > 0.9
    assert classifier.manifest.metrics["val_accuracy"] > 0.9
    assert evaluate_model(classifier, tiny.x_test, tiny.y_test).accuracy > 0.9  # resized as the training pictures were
    assert load_model("latest").manifest == classifier.manifest
    plain = backend.keras().models.load_model(classifier.file)
    x = Resized(tiny.x_test, 96)[:5]
    np.testing.assert_allclose(plain(x / np.float32(255)), classifier.probabilities(x), atol=1e-5)


def test_frozen_layers_keep_imagenets_weights_and_the_others_learn(tiny, quiet, network):
    classifier, _ = train_model(PHOTOS, tiny, precision="float32", progress=quiet)
    learned = weights_of(classifier.network)
    for path, value in weights_of(network).items():
        if path in learned:  # the last layer has another name once it is calibrated
            frozen = path.startswith("conv_stem") or (path.startswith("blocks") and int(path[6:].split("_")[0]) <= 10)
            assert np.array_equal(value, learned[path]) == frozen, path


def test_the_same_seed_gives_the_same_network(tiny, quiet):
    one, same = (train_model(PHOTOS, tiny, seed=4, precision="float32", progress=quiet)[0] for _ in range(2))
    for weight, again in zip(one.network.get_weights(), same.network.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, again)


def test_a_stop_while_activations_are_computed_keeps_a_run_that_says_so(tiny, quiet):
    stop = threading.Event()
    stop.set()
    classifier, history = train_model(PHOTOS, tiny, stop=stop, progress=quiet)
    assert classifier.manifest.status == "interrupted"
    assert history["loss"] == []


def test_a_loop_on_activations_goes_on_where_it_was(network, parts):
    def loop():
        backend.set_seed(0)  # for dropout
        job = prepare_job(build_model(BACKBONE, input_shape=(96, 96, 3), num_classes=3), PHOTOS, *parts, seed=0)
        return Loop(job.network, PHOTOS, job.training, "float32")

    whole = loop()
    for epoch in range(2):
        list(whole.run_epoch(epoch))
    first = loop()
    list(first.run_epoch(0))
    state, second = first.state(), loop()
    second.restore(state)
    for epoch in range(2):  # what is left of the first epoch is nothing
        list(second.run_epoch(epoch))
    for weight, again in zip(whole.network.get_weights(), second.network.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, again)


def test_photos_of_a_folder_are_published_and_found_again(tiny, tmp_path, quiet):
    folder = save_as_folder(tiny, tmp_path / "shapes")
    first, _ = train_or_load_model(HEAD, folder, progress=quiet)
    assert first.file.name == "shapes_head.keras"
    assert first.manifest.metrics["test_accuracy"] > 0.9
    again, _ = train_or_load_model(HEAD, folder)
    assert again.manifest == first.manifest


def test_pictures_of_another_size_are_measured_on_the_test_data_too(tiny, quiet):
    classifier, _ = train_or_load_model(HEAD, tiny, progress=quiet)
    assert classifier.manifest.metrics["test_accuracy"] > 0.9


def test_photos_that_were_loaded_small_are_not_trained_on_enlarged(tiny, tmp_path, quiet):
    data = load_dataset(save_as_folder(tiny, tmp_path / "photos"), size=48, progress=quiet)
    with pytest.raises(
        DatasetError, match=r"loaded at 48 pixels, but photos takes 96: load them by load_dataset\(folder"
    ):
        train_model(PHOTOS, data, progress=quiet)


def test_the_features_are_named_in_the_saved_network(tiny, quiet):
    classifier, _ = train_model(HEAD, tiny, progress=quiet)
    assert classifier.network.get_layer(FEATURES).output.shape[1:] == (1280,)


# --- what is none of the classes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "architecture", "layers", "known"),
    [(HEAD, BACKBONE, 1, 60), (PHOTOS, BACKBONE, 1, 12), (Recipe("baseline", epochs=1), "baseline", 4, 12)],
    ids=["head", "photos", "baseline"],
)
def test_a_training_ends_with_a_detector_if_there_are_enough_known_pictures(
    recipe, architecture, layers, known, tiny, quiet, monkeypatch
):
    model, _ = train_model(replace(recipe, validation_fraction=0.2), tiny, progress=quiet)
    # `head` learned only its last layer: by turns, its 48 training pictures are known ones too.
    assert (model.detector is not None) == (known >= 40)
    monkeypatch.setattr(unknown, "_FEWEST", 10)
    model, _ = train_model(replace(recipe, validation_fraction=0.2), tiny, progress=quiet)
    again = load_model(model.name)
    assert len(again.detector.layers) == layers
    assert len(again.detector.known[0]) == known
    assert len(again.detector.references[0]) == 48
    noise = np.random.default_rng(1).integers(0, 256, (20, *again.input_shape), np.uint8)
    _, familiarity = again.with_familiarity(noise)
    _, of_known = again.with_familiarity(tiny.x_test)
    assert familiarity.mean() < of_known.mean() / 2
