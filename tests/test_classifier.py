import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgclassify import (
    Classifier,
    ImageError,
    Manifest,
    ModelFileError,
    Recipe,
    backend,
    classify_custom_image,
    evaluate_model,
    load_model,
    predict_image,
    save_model,
)
from imgclassify.prediction import Prediction
from imgclassify.runs.manifest import DataRecord
from imgclassify.settings import artifacts_dir

SHIPPED = Path(__file__).resolve().parents[1] / "artifacts"
SHIPPED_MODELS = [SHIPPED / name for name in ("cifar10_best.keras", "cifar10_model.h5")]  # others may be beside them


class ReadsThePixels:
    """A network whose probabilities are the colours of a picture's only pixel."""

    input_shape = (None, 1, 1, 3)
    output_shape = (None, 3)
    name = "pixels"

    def __call__(self, x, training=None):
        return x[:, 0, 0, :]


def plain(outputs: int = 3):
    """A plain Keras model with few weights."""
    keras = backend.keras()
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((32, 32, 3)), layers.GlobalAveragePooling2D(), layers.Dense(outputs, activation="softmax")],
        name="plain",
    )


def png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


# --- a prediction ----------------------------------------------------------------------------------


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
    prediction = predict_image(ReadsThePixels(), np.array([[[0.2, 0.1, 0.7]]]), class_names=["red", "green", "blue"])
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


def test_methods_and_functions_answer_the_same(tiny, tiny_model):
    picture = np.repeat(tiny.x_test[0], 2, axis=0)
    assert tiny_model.answer(tiny.x_test[0]).probabilities == predict_image(tiny_model, tiny.x_test[0]).probabilities
    assert tiny_model.predict(picture).probabilities == classify_custom_image(tiny_model, picture).probabilities
    assert np.array_equal(tiny_model.prepare(picture), tiny_model.predict(picture).image)


@pytest.mark.parametrize("shape", [(32, 32), (1, 32, 32, 3), (28, 28, 3), (32, 32, 4)])
def test_pictures_of_other_shapes_are_refused_with_the_remedy(tiny_model, shape):
    said = r"shape \(32, 32, 3\).* classify_custom_image\(\)\. Received: shape "
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


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 48, 3), (None, None, 3)])
def test_a_model_that_takes_no_square_rgb_pictures_is_refused(shape):
    network = ReadsThePixels()
    network.input_shape = (None, *shape)
    with pytest.raises(ValueError, match=r"must take square RGB pictures\. It takes " + re.escape(str(shape))):
        classify_custom_image(network, np.zeros((28, 28), np.uint8))


# --- class names -----------------------------------------------------------------------------------


def test_class_names_come_from_the_call_else_from_the_manifest(tiny_model):
    assert Classifier.of(tiny_model).class_names == ("red", "green", "blue")
    assert Classifier.of(tiny_model, ["a", "b", "c"]).class_names == ("a", "b", "c")
    assert tiny_model.class_names == ("red", "green", "blue")


@pytest.mark.parametrize("names", [np.array(["a", "b", "c"]), np.arange(3), range(3), "abc"], ids=str)
def test_class_names_may_be_an_array_or_any_sequence(tiny, tiny_model, names):
    expected = tuple(map(str, names))
    for model in (tiny_model, plain()):
        assert Classifier.of(model, names).class_names == expected
        assert predict_image(model, tiny.x_test[0], class_names=names).probabilities.keys() == set(expected)
        assert evaluate_model(model, tiny.x_test, tiny.y_test, class_names=names).class_names == expected
    assert {type(name) for name in Classifier.of(tiny_model, names).class_names} == {str}


@pytest.mark.parametrize("outputs", [3, 10])
def test_a_plain_models_classes_are_numbers(outputs):
    assert Classifier.of(plain(outputs)).class_names == tuple(map(str, range(outputs)))
    black = np.zeros((32, 32, 3), np.uint8)
    assert predict_image(plain(outputs), black).probabilities.keys() == set(map(str, range(outputs)))


@pytest.mark.parametrize("names", [["a", "b"], list("abcd")])
def test_a_wrong_number_of_class_names_is_refused(tiny_model, names):
    for model in (tiny_model, ReadsThePixels()):
        with pytest.raises(ValueError, match=f"3 outputs.* Received: {len(names)}"):
            Classifier.of(model, names)


def test_a_manifest_with_another_number_of_class_names_is_refused():
    with pytest.raises(ValueError, match=r"3 outputs.* Received: 2"):
        Classifier.of(Classifier(plain(), Manifest(class_names=("a", "b"))))


# --- a classifier ------------------------------------------------------------------------------------


def test_a_classifier_stays_as_it_is(tiny_model):
    assert Classifier.of(tiny_model) is tiny_model
    assert Classifier.of(tiny_model, ["red", "green", "blue"]) is tiny_model


def test_other_class_names_keep_network_file_and_record(tiny_model):
    other = Classifier.of(tiny_model, ["a", "b", "c"])
    assert (other.network, other.file) == (tiny_model.network, tiny_model.file)
    assert other.manifest == replace(tiny_model.manifest, class_names=("a", "b", "c"))


def test_a_plain_model_becomes_a_classifier_without_a_record():
    network = plain()
    classifier = Classifier.of(network)
    assert (classifier.network, classifier.file, classifier.name) == (network, None, "plain")
    assert classifier.manifest == Manifest(class_names=("0", "1", "2"), input_shape=(32, 32, 3))
    assert not hasattr(network, "manifest")


def test_changes_are_recorded_in_a_new_classifier(tiny_model):
    before = tiny_model.manifest
    other = tiny_model.recorded(seed=7, status="failed")
    assert (other.manifest.seed, other.manifest.status) == (7, "failed")
    assert tiny_model.manifest is before
    assert other.network is tiny_model.network


def test_the_manifest_decides_how_many_views_are_averaged(tiny, tiny_model):
    recipe = replace(tiny_model.manifest.recipe, views=2)
    mirrored, x = tiny_model.recorded(recipe=recipe), tiny.x_test[:3]
    two, one = (mirrored.probabilities(x, views=views) for views in (2, 1))
    assert np.array_equal(mirrored.probabilities(x), two)
    assert np.array_equal(tiny_model.probabilities(x), one)
    assert not np.array_equal(two, one)
    answer = mirrored.answer(x[0])
    assert list(answer.probabilities.values()) == sorted(mirrored.probabilities(x[:1])[0], reverse=True)
    same_views = mirrored.answer(x[0][:, ::-1])
    assert same_views.probabilities == pytest.approx(answer.probabilities, abs=1e-5)


def test_a_plain_model_has_one_view(tiny):
    network = plain()
    one = Classifier.of(network).probabilities(tiny.x_test, views=1)
    assert np.array_equal(Classifier.of(network).probabilities(tiny.x_test), one)


# --- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_saved_classifier_comes_back_with_its_predictions_and_its_manifest(tiny, tiny_model, tmp_path, suffix):
    saved = tiny_model.save(tmp_path / "new" / f"model{suffix}")
    loaded = load_model(saved.file)
    assert np.array_equal(*(each.probabilities(tiny.x_test) for each in (tiny_model, loaded)))
    assert loaded.manifest == saved.manifest == replace(tiny_model.manifest, sha256=saved.manifest.sha256)
    assert loaded.file == saved.file == tmp_path / "new" / f"model{suffix}"
    assert loaded.network.dtype == "float32"


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_saved_file_alone_answers_the_same(tiny, tiny_model, tmp_path, suffix):
    path = save_model(tiny_model, tmp_path / f"model{suffix}")
    path.with_suffix(".json").unlink()
    plain_keras = backend.keras().models.load_model(path)
    answers = np.asarray(plain_keras(tiny.x_test / np.float32(255)))
    assert tiny_model.manifest.temperatures
    assert tiny_model.probabilities(tiny.x_test, views=1) == pytest.approx(answers, abs=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_loaded_network_can_be_evaluated_by_keras_itself(tiny, tiny_model, tmp_path, suffix):
    loaded = load_model(save_model(tiny_model, tmp_path / f"model{suffix}"))
    one_hot = np.eye(3)[tiny.y_test]
    loss, accuracy = loaded.network.evaluate(tiny.x_test.astype(np.float32) / 255, one_hot, verbose=0)
    ours = evaluate_model(loaded, tiny.x_test, tiny.y_test, views=1)
    assert (loss, accuracy) == pytest.approx((ours.loss, ours.accuracy), rel=1e-4)


def test_a_loaded_classifier_can_be_saved_again_and_read_by_plain_keras_without_a_warning(tiny_model, tmp_path):
    loaded = load_model(save_model(tiny_model, tmp_path / "first.h5"))
    again = load_model(save_model(loaded, tmp_path / "second.keras"))
    assert again.class_names == ("red", "green", "blue")
    backend.keras().models.load_model(tmp_path / "second.keras")  # warnings are errors in tests


def test_a_plain_model_is_saved_with_the_names_of_its_classes(tmp_path):
    path = save_model(plain(4), tmp_path / "theirs.keras")
    assert load_model(path).manifest.class_names == ("0", "1", "2", "3")


def test_a_file_saved_by_plain_keras_can_be_loaded(tmp_path):
    plain(10).save(tmp_path / "theirs.keras")
    classifier = load_model(tmp_path / "theirs.keras")
    assert classifier.manifest == Manifest(class_names=tuple("0123456789"), input_shape=(32, 32, 3))
    assert classifier.manifest.status == "unknown"


def test_a_manifest_with_other_classes_than_the_network_is_refused_on_loading(tmp_path):
    path = Classifier(plain(3), Manifest(class_names=("a", "b"))).save(tmp_path / "model.keras").file
    with pytest.raises(ValueError, match=r"3 outputs.* Received: 2"):
        load_model(path)


def test_saving_does_not_overwrite_unless_asked_to(tiny_model, tmp_path):
    path = save_model(tiny_model, tmp_path / "model.keras")
    with pytest.raises(ModelFileError, match=r"model\.keras exists already"):
        save_model(tiny_model, path)
    assert save_model(tiny_model, path, replace=True) == path


# --- names ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_shipped")
@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("artifacts/cifar10_model.h5", "cifar10_model.h5"),
        ("artifacts/digits_fast.keras", "digits_fast.keras"),
        ("artifacts/runs/20260101-000000-mine/model.keras", "20260101-000000-mine"),
        ("artifacts/model.keras", "model.keras"),
        ("elsewhere/mine.keras", None),
        ("elsewhere/model.keras", None),
        ("elsewhere/cifar10_model.h5", None),
        ("elsewhere/20260101-000000-mine/model.keras", None),
    ],
)
def test_a_classifier_is_loaded_by_the_name_it_calls_itself(tmp_path, monkeypatch, place, name):
    for other in ("cifar10_model.h5", "baseline_model.keras", "runs/20260101-000000-other/model.keras"):
        save_model(plain(2), artifacts_dir() / other)
    classifier = Classifier.of(plain(3)).recorded(run="20260101-000000-other")
    saved = classifier.save(tmp_path / place, replace=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert saved.name == (name or str(tmp_path / place))
    for each in (saved, load_model(saved.file)):
        assert load_model(each.name).file == saved.file


def test_a_shipped_model_is_loaded_by_its_name():
    classifier = load_model("best")
    assert classifier.name == "cifar10_best.keras"
    assert load_model(classifier.name).file == classifier.file == SHIPPED / "cifar10_best.keras"


@pytest.mark.usefixtures("nothing_shipped")
def test_a_model_shadowed_by_a_published_one_of_its_name_calls_itself_by_its_path(tmp_path):
    shipped = save_model(plain(3), tmp_path / "shipped" / "cifar10_model.h5")
    assert load_model("baseline").name == "cifar10_model.h5"
    save_model(plain(2), artifacts_dir() / "cifar10_model.h5")
    assert load_model(load_model(shipped).name).file == shipped


def test_in_memory_a_classifier_is_called_after_its_run_else_its_network():
    assert Classifier.of(plain()).name == "plain"
    assert Classifier.of(plain()).recorded(run="20260101-000000-mine").name == "20260101-000000-mine"


# --- in a notebook -----------------------------------------------------------------------------------


def test_a_prediction_is_shown_with_the_picture_and_bars_as_long_as_the_probabilities():
    image = np.zeros((32, 32, 3), np.uint8)
    page = Prediction("cat", 0.75, {"cat": 0.75, "dog": 0.25}, image)._repr_html_()
    assert re.findall(r'class="bar" style="width:([\d.]+)%"', page) == ["75.0", "25.0"]
    assert page.index(">cat<") < page.index("75.0%") < page.index(">dog<") < page.index("25.0%")
    content = base64.b64decode(re.search(r"data:image/png;base64,([\w+/=]+)", page)[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), image)


def test_a_prediction_is_shown_with_at_most_five_classes_and_escapes_their_names():
    names = ["<script>alert(1)</script>", *"bcdefgh"]
    page = Prediction(names[0], 0.3, dict.fromkeys(names, 0.1), np.zeros((32, 32, 3), np.uint8))._repr_html_()
    assert page.count('class="bar"') == 5
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.fixture
def malicious() -> Classifier:
    """A classifier all of whose names look like HTML."""
    manifest = Manifest(
        run="<img src=x>",
        class_names=("<b>", "a & b", '"c"'),
        recipe=Recipe("mine"),
        seed=3,
        wall_time_s=90.0,
        dataset=DataRecord("<i>", "<script>alert(1)</script>"),
        metrics={"val_accuracy": 0.7},
    )
    return Classifier(plain(), manifest)


def test_a_classifiers_card_escapes_names(malicious):
    page = malicious._repr_html_().partition("</style>")[2]
    for text in ("<img", "<b>,", "<script>", "<i>", "a & b"):
        assert text not in page
    for text in ("&lt;img src=x&gt;", "&lt;b&gt;, a &amp; b, &quot;c&quot;", "&lt;script&gt;alert(1)&lt;/script&gt;"):
        assert text in page


def test_a_classifiers_card_and_text_say_what_is_recorded(malicious):
    page, text = malicious._repr_html_(), str(malicious)
    for fact in ("70.0% of the validation pictures", "12 parameters", "32 x 32 pixels"):
        assert fact in page
        assert fact in text
    assert "mine, seed 3, 1.5 minutes" in page
    assert "trained by mine" in text
    assert repr(malicious) == text


def test_a_classifier_without_a_record_says_so():
    classifier = Classifier.of(plain())
    for said in (classifier._repr_html_(), str(classifier)):
        assert "Its accuracy is not recorded." in said
    assert "trained by an unrecorded recipe" in str(classifier)


# --- the shipped models --------------------------------------------------------------------------------


def name_of(path: Path) -> str:
    return path.name


def test_both_models_are_shipped():
    setup = (SHIPPED.parent / "setup.py").read_text(encoding="utf-8")
    for path in SHIPPED_MODELS:
        assert path.is_file()
        assert f'"{path.name}"' in setup


def check_file_alone(path: Path, pictures: np.ndarray) -> None:
    """The file, loaded by plain Keras, answers as the classifier does with one view and in the same batches."""
    network = backend.keras().models.load_model(path)
    answers = network.predict(pictures / np.float32(255), batch_size=256, verbose=0)
    assert np.abs(load_model(path).probabilities(pictures, views=1) - answers).max() < 1e-6


# cifar10_best.keras was written with an optimizer whose state is not stored.
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer:UserWarning")
@pytest.mark.parametrize("path", SHIPPED_MODELS, ids=name_of)
def test_a_shipped_file_alone_answers_random_pictures_as_its_classifier_does(path):
    check_file_alone(path, np.random.default_rng(0).integers(0, 256, (500, 32, 32, 3), dtype=np.uint8))


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer:UserWarning")
@pytest.mark.parametrize("path", SHIPPED_MODELS, ids=name_of)
def test_a_shipped_file_alone_answers_real_pictures_as_its_classifier_does(path, cifar10):
    check_file_alone(path, np.asarray(cifar10.x_test[:500]))


@pytest.mark.parametrize("name", ["cifar10_best.keras", "cifar10_guided.keras"])
def test_a_cup_of_coffee_is_none_of_the_classes_and_a_cat_is_a_cat(name):
    photos = Path(pytest.importorskip("skimage").__file__).parent / "data"
    model = load_model(SHIPPED / name)
    assert not model.predict(photos / "coffee.png").known
    cat = model.predict(photos / "chelsea.png")
    assert (cat.label, cat.known) == ("cat", True)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "count"), [("cifar10_best.keras", 1000), ("cifar10_model.h5", 1000), ("cifar10_guided.keras", 200)]
)
def test_nineteen_in_twenty_test_pictures_pass_a_shipped_detector(cifar10, name, count):
    classifier = load_model(SHIPPED / name)
    probabilities, familiarity = classifier.with_familiarity(cifar10.x_test[:count])
    assert (familiarity >= 0.05).mean() == pytest.approx(0.95, abs=0.03)
    assert (probabilities == classifier.probabilities(cifar10.x_test[:count])).all()


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "bound"), [("cifar10_model.h5", 0.015), ("cifar10_best.keras", 0.02)])
def test_a_shipped_model_is_as_accurate_and_calibrated_as_its_manifest_says(cifar10, name, bound):
    classifier = load_model(SHIPPED / name)
    if classifier.manifest.dataset.fingerprint != cifar10.fingerprint:
        pytest.skip(f"{name} was measured on other pictures than {cifar10.source}, so its accuracy is not compared")
    measured = evaluate_model(classifier, cifar10.x_test, cifar10.y_test)
    assert len(measured.labels) == classifier.manifest.metrics["test_pictures"] == 10_000
    assert measured.accuracy == classifier.manifest.metrics["test_accuracy"]
    assert measured.calibration_error == pytest.approx(classifier.manifest.metrics["test_calibration_error"], abs=1e-4)
    assert measured.calibration_error <= bound


@pytest.mark.real_data
def test_cifar10_pictures_as_png_give_the_same_probabilities_as_custom_images(cifar10, tmp_path):
    model = load_model(SHIPPED / "cifar10_model.h5")
    right = 0
    for number in range(20):
        path = tmp_path / f"{number}.png"
        path.write_bytes(png(cifar10.x_test[number]))
        custom = classify_custom_image(model, path)
        assert custom.probabilities == predict_image(model, cifar10.x_test[number]).probabilities
        right += custom.label == cifar10.class_names[cifar10.y_test[number]]
    assert right >= 8  # a model that had learned nothing would find two of twenty
