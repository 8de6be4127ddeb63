import base64
import gc
import io
import logging
import re
import threading
import weakref

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from imgclassify import runtime
from imgclassify.images import ImageError
from imgclassify.persistence import load_model
from imgclassify.prediction import (
    Prediction,
    class_names_of,
    classify_custom_image,
    predict_image,
    predict_probabilities,
)


class Traced:
    """A model whose probabilities are the colours of a picture's only pixel; counts its tracings."""

    input_shape = (None, 1, 1, 3)
    output_shape = (None, 3)

    def __init__(self):
        self.traces = 0

    def __call__(self, x, training=None):
        self.traces += 1
        assert training is False
        return x[:, 0, 0, :]


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_prediction_unpacks_as_label_and_confidence(tiny, tiny_model):
    prediction = predict_image(tiny_model, tiny.x_test[1])
    label, confidence = prediction
    assert label == prediction.label == "green"
    assert confidence == prediction.confidence
    assert 1 / 3 < confidence <= 1


def test_probabilities_cover_every_class_sorted_and_sum_to_one(tiny, tiny_model):
    prediction = predict_image(tiny_model, tiny.x_test[2])
    assert set(prediction.probabilities) == {"red", "green", "blue"}
    values = list(prediction.probabilities.values())
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-5)
    assert prediction.top(2) == list(prediction.probabilities.items())[:2]
    assert prediction.top(1) == [(prediction.label, prediction.confidence)]


def test_each_probability_belongs_to_its_class():
    prediction = predict_image(Traced(), np.array([[[0.2, 0.1, 0.7]]]), class_names=["red", "green", "blue"])
    assert prediction.probabilities == pytest.approx({"blue": 0.7, "red": 0.2, "green": 0.1})
    assert str(prediction) == repr(prediction) == "blue 70.0%, red 20.0%, green 10.0%"


def test_uint8_and_scaled_float_pictures_give_the_same_prediction(tiny, tiny_model):
    exact = predict_image(tiny_model, tiny.x_test[0])
    for dtype in (np.float32, np.float64):
        scaled = predict_image(tiny_model, tiny.x_test[0].astype(dtype) / 255)
        assert scaled.probabilities == pytest.approx(exact.probabilities, abs=1e-6)
        assert np.array_equal(scaled.image, tiny.x_test[0])


def test_a_prediction_shows_what_the_model_was_given(tiny, tiny_model):
    assert np.array_equal(predict_image(tiny_model, tiny.x_test[0]).image, tiny.x_test[0])
    seen = classify_custom_image(tiny_model, np.zeros((50, 70, 3), np.uint8)).image
    assert seen.shape == (32, 32, 3)
    assert seen.dtype == np.uint8


@pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32, 3), (28, 28, 3), (32, 32, 4)])
def test_other_shapes_than_the_models_are_refused_with_the_way_out(tiny_model, shape):
    said = r"shape \(32, 32, 3\) is expected; .* classify_custom_image\(\)\. Received: shape "
    with pytest.raises(ImageError, match=said + re.escape(str(shape))):
        predict_image(tiny_model, np.zeros(shape, np.uint8))


@pytest.mark.parametrize(("value", "dtype"), [(255, float), (-0.1, float), (np.nan, float), (1, int), (1, bool)])
def test_other_types_and_ranges_are_refused_with_what_was_received(tiny_model, value, dtype):
    image = np.full((32, 32, 3), value, dtype)
    said = rf"must be uint8 or float in \[0, 1\]\. Received: {image.dtype} from {image.min()}"
    with pytest.raises(ImageError, match=said):
        predict_image(tiny_model, image)


def test_a_data_sets_picture_as_png_gives_the_same_probabilities_as_custom_image(tiny, tiny_model, tmp_path):
    for number in range(6):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(tiny.x_test[number]))
        custom = classify_custom_image(tiny_model, path)
        assert custom.probabilities == predict_image(tiny_model, tiny.x_test[number]).probabilities


@pytest.mark.real_data
def test_cifar10_pictures_as_png_give_the_same_probabilities_as_custom_images(cifar10, tmp_path):
    shipped = runtime._project_artifacts() / "cifar10_model.h5"
    if not shipped.exists():
        pytest.skip("no CIFAR-10 model is published yet, so real pictures are not compared through it")
    model = load_model(shipped)
    right = 0
    for number in range(20):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(cifar10.x_test[number]))
        custom = classify_custom_image(model, path)
        assert custom.probabilities == predict_image(model, cifar10.x_test[number]).probabilities
        right += custom.label == cifar10.class_names[cifar10.y_test[number]]
    assert right >= 8  # a model that had learned nothing would find two of twenty


def test_all_ways_to_hand_over_a_picture_give_the_same_prediction(tiny, tiny_model, tmp_path):
    pixels = np.repeat(np.repeat(tiny.x_test[0], 3, axis=0), 3, axis=1)
    path = tmp_path / "photo.png"
    path.write_bytes(png(pixels))
    expected = classify_custom_image(tiny_model, path).probabilities
    in_memory = (png(pixels), io.BytesIO(png(pixels)), Image.fromarray(pixels), pixels, pixels / 255)
    for picture in (str(path), *in_memory):
        assert classify_custom_image(tiny_model, picture).probabilities == expected


def test_a_bad_custom_picture_is_named(tiny_model):
    with pytest.raises(ImageError, match=r"holiday\.jpg is not a picture of a known format"):
        classify_custom_image(tiny_model, b"certainly no picture", name="holiday.jpg")


def test_a_model_that_takes_no_square_rgb_pictures_is_refused():
    model = Traced()
    for shape in ((None, 28, 28, 1), (None, 32, 48, 3), (None, None, None, 3)):
        model.input_shape = shape
        with pytest.raises(ValueError, match=r"must take square RGB pictures\. It takes"):
            classify_custom_image(model, np.zeros((28, 28), np.uint8))


# --- class names -----------------------------------------------------------------------------------


def test_class_names_come_from_the_call_else_the_manifest_else_cifar10(tiny_model):
    assert class_names_of(tiny_model) == ("red", "green", "blue")
    assert class_names_of(tiny_model, ["a", "b", "c"]) == ("a", "b", "c")
    ten = Traced()
    ten.output_shape = (None, 10)
    assert class_names_of(ten)[0] == "airplane"


def test_a_wrong_number_of_class_names_is_refused(tiny_model):
    with pytest.raises(ValueError, match="has 3 outputs, but 2 class names are given: pass class_names="):
        class_names_of(tiny_model, ["a", "b"])
    with pytest.raises(ValueError, match="has 3 outputs, but 10 class names are known: pass class_names="):
        class_names_of(Traced())


# --- many pictures, one compilation ---------------------------------------------------------------------


def test_a_model_is_traced_once_for_any_number_of_pictures():
    model, random = Traced(), np.random.default_rng(0)
    for count in (1, 2, 7, 500, 501, 1203, 3):
        x = random.random((count, 1, 1, 3), np.float32)
        assert np.array_equal(predict_probabilities(model, x), x[:, 0, 0])
    predict_image(model, np.zeros((1, 1, 3), np.uint8), class_names="abc")
    assert model.traces == 1


def test_no_pictures_give_no_probabilities():
    assert predict_probabilities(Traced(), np.empty((0, 1, 1, 3), np.uint8)).shape == (0, 3)


def test_the_batch_size_changes_nothing(tiny, tiny_model):
    whole = predict_probabilities(tiny_model, tiny.x_test)
    assert predict_probabilities(tiny_model, tiny.x_test, batch_size=7) == pytest.approx(whole, abs=1e-6)
    assert whole.dtype == np.float32


def test_predicting_from_several_threads_traces_once():
    model = Traced()
    task = {"target": predict_probabilities, "args": (model, np.zeros((3, 1, 1, 3), np.uint8))}
    threads = [threading.Thread(**task) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.traces == 1


def test_tensorflow_does_not_complain_of_retracing_when_many_models_are_used(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(8):
            predict_probabilities(Traced(), np.zeros((2, 1, 1, 3), np.uint8))
    assert caplog.text == ""


def test_a_compiled_model_follows_its_weights():
    keras = runtime.keras()
    model = keras.Sequential(
        [
            keras.layers.Input((32, 32, 3)),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    x = np.full((1, 32, 32, 3), 255, np.uint8)
    predict_probabilities(model, x)
    model.layers[-1].set_weights([np.zeros((3, 3)), np.array([0, 0, 20])])
    assert predict_probabilities(model, x)[0] == pytest.approx([0, 0, 1], abs=1e-6)


def test_a_compiled_model_can_be_forgotten():
    model = Traced()
    predict_probabilities(model, np.zeros((1, 1, 1, 3), np.uint8))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


# --- in a notebook -----------------------------------------------------------------------------------


def test_the_html_has_the_picture_and_bars_as_long_as_the_probabilities():
    image = np.zeros((32, 32, 3), np.uint8)
    page = Prediction("cat", 0.75, {"cat": 0.75, "dog": 0.25}, image)._repr_html_()
    assert re.findall(r"height:14px;width:([\d.]+)%", page) == ["75.0", "25.0"]
    assert page.index("cat") < page.index("75.0%") < page.index("dog") < page.index("25.0%")
    content = base64.b64decode(re.search(r"data:image/png;base64,([\w+/=]+)", page)[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), image)


def test_the_html_shows_at_most_five_classes_and_escapes_their_names():
    names = ["<script>alert(1)</script>", *"bcdefgh"]
    page = Prediction(names[0], 0.3, dict.fromkeys(names, 0.1), np.zeros((32, 32, 3), np.uint8))._repr_html_()
    assert page.count("height:14px") == 5
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


# --- test-time augmentation --------------------------------------------------------------------------


def copy_of(model, **manifest):
    copy = runtime.keras().models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.manifest = {"class_names": model.manifest["class_names"]} | manifest
    return copy


def moved(pictures, by: int):
    """Down and to the right by so many pixels, or up and to the left; the border is reflected."""
    side = pictures.shape[1]
    seen = [abs(at) if at < side else 2 * (side - 1) - at for at in np.arange(side) - by]
    return pictures[:, seen][:, :, seen]


@pytest.mark.parametrize(("tta", "moves"), [(1, [0]), (2, [-1, 0, 1])])
def test_test_time_augmentation_averages_the_logits_of_views_and_their_mirror_images(tiny, tiny_model, tta, moves):
    model, x = copy_of(tiny_model), tiny.x_test[:5]
    views = [view[:, :, ::way] for view in (moved(x, by) for by in moves) for way in (1, -1)]
    logits = np.mean([np.log(predict_probabilities(model, view)) for view in views], axis=0)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert predict_probabilities(model, x, tta=tta) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert not np.allclose(predict_probabilities(model, x, tta=tta), predict_probabilities(model, x, tta=tta - 1))


def test_an_unknown_level_of_test_time_augmentation_is_refused(tiny, tiny_model):
    with pytest.raises(ValueError, match=r"tta must be 0, 1 or 2\. Received: tta=3"):
        predict_probabilities(tiny_model, tiny.x_test[:1], tta=3)


def test_a_manifest_decides_whether_there_is_test_time_augmentation(tiny, tiny_model):
    model, x = copy_of(tiny_model, recipe={"tta": True}), tiny.x_test[:3]  # as older manifests have it: level 1
    with_views, without = (predict_probabilities(model, x, tta=tta) for tta in (1, 0))
    assert np.array_equal(predict_probabilities(model, x), with_views)
    assert not np.array_equal(with_views, without)
    mean = predict_image(model, x[0])
    assert list(mean.probabilities.values()) == sorted(predict_probabilities(model, x[:1])[0], reverse=True)
    mirrored = predict_image(model, x[0][:, ::-1])  # has the same two views
    assert mirrored.probabilities == pytest.approx(mean.probabilities, abs=1e-5)


def test_many_pictures_keep_their_order_over_threads(tiny, tiny_model):
    x = np.concatenate([tiny.x_test] * 5)
    assert predict_probabilities(tiny_model, x, batch_size=8) == pytest.approx(
        np.concatenate([predict_probabilities(tiny_model, tiny.x_test)] * 5), abs=1e-6
    )


def test_a_prediction_can_be_stopped_between_batches(tiny, tiny_model):
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_probabilities(tiny_model, tiny.x_test, batch_size=5, on_batch=stop)
    assert len(calls) == 2


# --- calibration -------------------------------------------------------------------------------------


def test_probabilities_are_the_mean_over_the_temperatures_in_the_manifest(tiny, tiny_model):
    plain, mixed, x = copy_of(tiny_model), copy_of(tiny_model, mixture=[0.5, 2.0]), tiny.x_test
    logits = np.log(predict_probabilities(plain, x))
    expected = (softmax(logits / 0.5, axis=1) + softmax(logits / 2, axis=1)) / 2
    found = predict_probabilities(mixed, x, batch_size=7)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, rel=1e-4)
    assert not np.allclose(found, np.exp(logits), atol=1e-3)
    assert predict_image(mixed, x[0]).confidence == pytest.approx(expected[0].max(), rel=1e-4)
