import dataclasses
import json
import math

import pytest

from imgclassify import Manifest, ModelFileError, Recipe, compare_runs, list_runs
from imgclassify.runs.manifest import DataRecord, manifest_path, read_manifest, write_manifest
from imgclassify.runs.names import find_model

pytestmark = pytest.mark.usefixtures("nothing_shipped")


# --- what a manifest is ----------------------------------------------------------------------------


def test_a_file_without_a_manifest_has_one_of_defaults(tmp_path):
    manifest = read_manifest(tmp_path / "model.keras")
    assert manifest == Manifest()
    assert (manifest.status, manifest.class_names, manifest.temperatures, manifest.views) == ("unknown", (), (), 1)


def test_a_manifest_is_written_beside_its_model_and_comes_back(tiny_model, tmp_path):
    write_manifest(tmp_path / "model.h5", tiny_model.manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    assert manifest_path(tmp_path / "model.h5") == tmp_path / "model.json"
    assert read_manifest(tmp_path / "model.h5") == tiny_model.manifest


def test_a_manifest_as_json_has_its_values_and_the_format(tiny_model):
    record = json.loads(json.dumps(tiny_model.manifest.to_dict()))
    assert record["format"] == 2
    assert record["class_names"] == ["red", "green", "blue"]
    assert record["input_shape"] == [32, 32, 3]
    assert record["recipe"]["sizes"] == [1.0]
    assert record["dataset"]["name"] == "tiny"
    assert record["temperatures"] == list(tiny_model.manifest.temperatures)
    assert record.keys() == {each.name for each in dataclasses.fields(Manifest)}
    assert Manifest.from_dict(record) == tiny_model.manifest


def test_a_manifest_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Manifest().seed = 1


def test_unknown_keys_are_left_out():
    record = {"seed": 3, "note": "mine", "dataset": {"name": "toys", "colour": "red"}, "format": 99}
    assert Manifest.from_dict(record) == Manifest(seed=3, dataset=DataRecord("toys"))


def test_numbers_that_are_not_finite_are_null_in_the_file_and_nan_when_read(tmp_path):
    history = {"loss": [2.5, math.nan, math.inf], "accuracy": [0.1, 0.1, 0.1]}
    write_manifest(tmp_path / "m.keras", Manifest(history=history, metrics={"val_loss": math.nan}))
    record = json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail)  # strict JSON has no NaN
    assert record["history"]["loss"] == [2.5, None, None]
    assert record["metrics"] == {"val_loss": None}
    manifest = read_manifest(tmp_path / "m.keras")
    assert manifest.history["loss"] == pytest.approx([2.5, math.nan, math.nan], nan_ok=True)
    assert manifest.history["accuracy"] == [0.1, 0.1, 0.1]
    assert math.isnan(manifest.metrics["val_loss"])
    assert manifest.to_dict() == record


def test_the_settings_are_all_that_decides_a_training_except_the_data():
    manifest = Manifest(recipe=Recipe("mine", epochs=3), seed=1, share=0.5, precision="float32", status="complete")
    expected = dataclasses.asdict(Recipe("mine", epochs=3)) | {"seed": 1, "share": 0.5, "precision": "float32"}
    assert manifest.settings == expected
    assert Manifest().settings == {"seed": None, "share": 1.0, "precision": None}


def test_the_recipe_says_how_many_views_are_averaged():
    assert Manifest(recipe=Recipe("mine", views=6)).views == 6
    assert Manifest(recipe=Recipe("mine")).views == 1


@pytest.mark.parametrize(("folder", "location"), [("", "digits"), ("/home/me/pets", "/home/me/pets")])
def test_data_is_loaded_again_by_its_name_or_from_its_folder(folder, location):
    assert DataRecord("digits", "8 x 8 digits", folder=folder).location() == location


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"test_accuracy": 0.691, "val_accuracy": 0.7}, "Right on 69.1% of the test pictures of toys."),
        ({"val_accuracy": 0.7}, "Right on 70.0% of the validation pictures of toys; not measured on test pictures."),
        ({}, "Its accuracy is not recorded."),
    ],
)
def test_the_recorded_accuracy_is_described(metrics, sentence):
    assert Manifest(metrics=metrics, dataset=DataRecord("toys", "toys")).describe_accuracy() == sentence


# --- older versions -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("growing", "sizes"),
    [
        (False, (1.0,)),
        (True, (5 / 8, 6 / 8, 7 / 8, 1.0)),
        (0, (1.0,)),
        (2, (5 / 8, 1.0)),
        (3, (5 / 8, 6 / 8, 1.0)),
        (4, (5 / 8, 6 / 8, 7 / 8, 1.0)),
    ],
)
def test_growing_pictures_of_older_versions_are_read_as_sizes(growing, sizes):
    record = {"recipe": {"name": "best", "architecture": "airbench", "growing": growing}}
    assert Manifest.from_dict(record).recipe == Recipe("best", architecture="airbench", sizes=sizes)


@pytest.mark.parametrize(("tta", "views"), [(False, 1), (True, 2), (0, 1), (1, 2), (2, 6)])
def test_levels_of_test_time_augmentation_of_older_versions_are_read_as_views(tta, views):
    manifest = Manifest.from_dict({"recipe": {"name": "baseline", "tta": tta}})
    assert manifest.recipe == Recipe("baseline", views=views)
    assert manifest.views == views


@pytest.mark.parametrize(
    ("old", "temperatures"),
    [
        ({"temperature": 2.0, "mixture": [0.5, 1.5]}, (1.0, 3.0)),
        ({"temperature": 2}, (2.0,)),
        ({"mixture": [0.5, 1.5]}, ()),
        ({"temperature": 2.0, "mixture": [0.5], "temperatures": [0.9]}, (0.9,)),
        ({}, ()),
    ],
)
def test_temperature_and_mixture_of_older_versions_are_read_as_temperatures(old, temperatures):
    assert Manifest.from_dict(old).temperatures == temperatures


def test_averaged_weights_of_older_versions_are_left_out():
    assert Manifest.from_dict({"recipe": {"name": "fast", "averaging": 0.2}}).recipe == Recipe("fast")


def test_a_record_without_a_recipe_or_data_has_none():
    manifest = Manifest.from_dict({"recipe": None, "status": "complete"})
    assert (manifest.recipe, manifest.dataset) == (None, DataRecord())
    assert Manifest.from_dict({"recipe": {}}).recipe is None


def test_reading_an_old_manifest_does_not_modify_what_was_read():
    record = {"recipe": {"name": "best", "tta": True, "growing": False}, "temperature": 2.0, "mixture": [1.0]}
    before = json.dumps(record)
    Manifest.from_dict(record)
    assert json.dumps(record) == before


# --- damaged manifests --------------------------------------------------------------------------------

# Values of the wrong kind for each key, and the word of the message that names it.
WRONG = [
    *[("run", value) for value in (None, 3, ["a"])],
    *[("status", value) for value in (None, 3, "done", ["complete"])],
    *[("created", value) for value in (20260101, None)],
    *[("recipe", value) for value in ("baseline", [], True, {"epochs": 3}, {"name": 3}, {"name": "../up"})],
    *[("recipe", {"name": "mine", "epochs": value}) for value in ("many", 0, 2.5, True, None)],
    *[("recipe", {"name": "mine", key: value}) for key, value in (("zoom", 2), ("architecture", ["a"]))],
    *[("recipe", {"name": "mine", key: value}) for key, value in (("learning_rate", None), ("augmentation", 3))],
    *[("recipe", {"name": "mine", "sizes": value}) for value in (None, 1.0, [], ["full"], [[1]], [0.1])],
    *[("recipe", {"name": "mine", "views": value}) for value in (3, [1], "two")],
    *[("growing", value) for value in (5, "4", [4], {}, None)],
    *[("tta", value) for value in (3, "1", [1], {}, None)],
    *[("seed", value) for value in ("one", 1.5, True, [1])],
    *[("share", value) for value in ("half", None, [0.5], math.nan, math.inf, 10**400)],
    *[("precision", value) for value in (32, ["float32"])],
    *[("dataset", value) for value in (None, "cifar10", [], {"name": None}, {"source": ["a"]})],
    *[("dataset", {"training_pictures": value}) for value in ("many", 1.5, True)],
    *[("dataset", value) for value in ({"fingerprint": 3}, {"folder": None})],
    *[("class_names", value) for value in (None, "cat", {}, [1, 2], [None])],
    *[("input_shape", value) for value in (32, ["32"], [None, 32, 3], [True])],
    *[("crop", value) for value in (0, 1.5, -1, "whole", None, True, math.nan)],
    *[("temperatures", value) for value in (1.0, ["warm"], [None], [math.nan], [10**400])],
    *[("outside_temperatures", value) for value in ("half", [None], {})],
    *[("temperature", value) for value in ("warm", None, [1.0], math.nan)],
    *[("metrics", value) for value in (None, [], {"val_accuracy": "high"}, {"val_accuracy": [0.5]})],
    *[("metrics", {"val_accuracy": value}) for value in (True, {"x": 1}, 10**400, math.inf, math.nan)],
    *[("metrics", {"val_interval": value}) for value in (["low", "high"], [[[]]])],
    *[("history", value) for value in (None, [1.0], {"loss": 3}, {"loss": None}, {"loss": "12"}, {"loss": {"1": 1}})],
    *[("history", {"loss": [value]}) for value in ("low", True, [1], {}, 10**400, math.nan)],
    *[("wall_time_s", value) for value in ("long", None, math.inf, 10**400)],
    *[("versions", value) for value in (None, [], {"keras": {"major": 3}})],
    *[("machine", value) for value in (None, "mine", {"gpus": [[1]]})],
    *[("commit", value) for value in (3, ["a"])],
    *[("exports", value) for value in (None, [], {"onnx": 3}, {"onnx": {"sha256": "a"}})],
    *[("sha256", value) for value in (3, ["a"])],
]
WHOLE = {
    "nothing": b"",
    "half an object": b'{"status": "complete"',
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"3",
    "a text": b'"complete"',
    "binary": bytes(range(256)),
    "zeros": bytes(1000),
    "utf-16": "{}".encode("utf-16"),
    "a picture": b"\x89PNG\r\n\x1a\n",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"metrics":' * 100_000 + b"1" + b"}" * 100_000,
    "a huge number": b'{"seed": ' + b"9" * 5000 + b"}",
    "an infinite number": b'{"wall_time_s": 1e999}',
    "deep history": b'{"history": {"loss": ' + b"[" * 900 + b"]" * 900 + b"}}",
    "deep machine": b'{"machine": {"gpus": ' + b"[" * 900 + b"]" * 900 + b"}}",
}
RECORD = {"status": "complete", "dataset": {"name": "cifar10"}, "metrics": {"val_accuracy": 0.99}}


def damaged(key: str, value: object) -> bytes:
    """A manifest in which this key has this value; keys of a recipe stand in one."""
    part = {"recipe": {"name": "mine", key: value}} if key in ("growing", "tta") else {key: value}
    return json.dumps(RECORD | part).encode()


CASES = [pytest.param(damaged(*case), case[0], id=f"{case[0]}-{case[1]!r:.30}") for case in WRONG] + [
    pytest.param(content, "model.json", id=name) for name, content in WHOLE.items()
]


@pytest.mark.parametrize(("content", "word"), CASES)
def test_a_damaged_manifest_is_one_sentence_and_breaks_nothing_else(record, published, content, word):
    broken = record("20260102-000000-broken", content=content) / "model.keras"
    record("20260101-000000-whole")
    with pytest.raises(ModelFileError) as caught:
        read_manifest(broken)
    sentence = str(caught.value)
    assert sentence.startswith(f"{manifest_path(broken)} is damaged: ")
    assert word in sentence
    assert "\n" not in sentence
    assert len(sentence) < len(str(broken)) + 200

    assert [run.name for run in list_runs()] == ["20260101-000000-whole"]
    comparison = compare_runs()
    assert [run.name for run in comparison.runs] == ["20260101-000000-whole"]
    assert comparison.problems == (sentence,)
    assert str(comparison).endswith(sentence)
    assert "20260101-000000-whole" in comparison._repr_html_()

    published("cifar10_broken.keras", content=content)
    whole = published("cifar10_model.h5", **RECORD)
    assert find_model("best") == whole


def test_there_are_many_kinds_of_damage_for_every_key():
    keys = {each.name for each in dataclasses.fields(Manifest)} - {"format"}
    assert keys <= {key for key, _ in WRONG}
    assert len(CASES) > 100


def test_a_folder_in_place_of_a_manifest_is_a_model_file_error(tmp_path):
    (tmp_path / "model.json").mkdir()
    with pytest.raises(ModelFileError, match=r"model\.json is damaged: "):
        read_manifest(tmp_path / "model.keras")


@pytest.mark.parametrize("record", [[], "text", 3, None])
def test_from_dict_refuses_what_is_not_an_object(record):
    with pytest.raises(ValueError, match=f"JSON object. Received: {type(record).__name__}"):
        Manifest.from_dict(record)


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_manifest(tmp_path / "m.keras", Manifest(seed=1))
    with pytest.raises(TypeError):
        write_manifest(tmp_path / "m.keras", Manifest(metrics={"val_accuracy": object()}))
    assert read_manifest(tmp_path / "m.keras") == Manifest(seed=1)
    assert [path.name for path in tmp_path.iterdir()] == ["m.json"]
