import math
from dataclasses import asdict, replace

import pytest

from imgclassify.recipes import RECIPES, Recipe, get_recipe

AIRBENCH = Recipe("small", architecture="airbench", optimizer="muon", learning_rate=0.1)


def test_the_baseline_recipe_is_as_designed():
    assert asdict(get_recipe("baseline")) == {
        "name": "baseline",
        "architecture": "baseline",
        "size": 32,
        "frozen": "",
        "variants": 1,
        "epochs": 20,
        "patience": 0,
        "hard_fraction": 1.0,
        "batch_size": 64,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
        "augmentation": "none",
        "label_smoothing": 0.0,
        "sizes": (1.0,),
        "views": 1,
        "validation_fraction": 0.2,
    }


def test_every_recipe_is_found_by_its_name():
    assert all(get_recipe(name) == recipe for name, recipe in RECIPES.items())
    assert all(name == recipe.name for name, recipe in RECIPES.items())


def test_a_setting_replaces_the_recipes_and_none_leaves_it():
    assert get_recipe("baseline", epochs=5, batch_size=None) == Recipe("baseline", epochs=5, batch_size=64)


def test_a_recipe_of_ones_own_takes_settings_too_and_is_not_modified():
    assert get_recipe(AIRBENCH, epochs=3) == replace(AIRBENCH, epochs=3)
    assert AIRBENCH.epochs == 20


def test_an_unknown_recipe_is_refused_with_those_that_exist():
    with pytest.raises(
        ValueError, match=r"use one of \['baseline', 'best', .*, 'photos'\]\. Received: recipe='better'"
    ):
        get_recipe("better")


@pytest.mark.parametrize("name", ["epoch", "growing", "tta", "averaging"])
def test_an_unknown_setting_is_refused_with_those_that_exist(name):
    with pytest.raises(ValueError, match=f"setting {name}: .* name, architecture, size, frozen,"):
        get_recipe("baseline", **{name: 5})


@pytest.mark.parametrize(
    ("field", "value", "bound"),
    [
        ("epochs", 0, "at least 1"),
        ("hard_fraction", 0.0, "above 0 and at most 1"),
        ("hard_fraction", 1.5, "above 0 and at most 1"),
        ("batch_size", 0, "at least 1"),
        ("batch_size", -1, "at least 1"),
        ("learning_rate", 0.0, "above 0 and finite"),
        ("learning_rate", -1e-3, "above 0 and finite"),
        ("learning_rate", math.inf, "above 0 and finite"),
        ("learning_rate", math.nan, "above 0 and finite"),
        ("optimizer", "sgd", "one of adam, adamw, muon, logistic"),
        ("schedule", "step", "one of constant, linear, cosine"),
        ("optimizer", "logistic", 'adamw, unless frozen="features"'),
        ("weight_decay", -0.1, "at least 0 and below 1"),
        ("weight_decay", 1.0, "at least 0 and below 1"),
        ("size", 17, "from 18 to 1024 pixels"),
        ("frozen", "stage5", "empty, except for efficientnet-lite0, .*mobilenetv2"),
        ("patience", -1, "at least 0"),
        ("variants", 0, "from 1 to 100"),
        ("label_smoothing", -0.1, "at least 0 and below 1"),
        ("label_smoothing", 1.0, "at least 0 and below 1"),
        ("views", 0, "one of 1, 2, 6"),
        ("views", 3, "one of 1, 2, 6"),
        ("validation_fraction", 0.0, "between 0 and 1"),
        ("validation_fraction", 1.0, "between 0 and 1"),
    ],
)
def test_values_out_of_range_are_refused_with_the_range(field, value, bound):
    with pytest.raises(ValueError, match=rf"^{field} must be {bound}\. Received: {field}={value}$"):
        get_recipe("baseline", **{field: value})


@pytest.mark.parametrize(
    ("architecture", "frozen", "cuts"),
    [
        ("efficientnet-lite0", "stage1", "stage2, stage3, stage4, stage5, stage6, features"),
        ("mobilenetv2", "stage7", "stage2, stage3, stage4, stage5, stage6, features"),
        ("vgg16", "stage5", "stage2, stage3, stage4, features"),
        ("resnet50v2", "stage5", "stage2, stage3, stage4, features"),
    ],
)
def test_a_cut_that_a_backbone_does_not_have_is_refused_with_those_it_has(architecture, frozen, cuts):
    with pytest.raises(ValueError, match=f"^frozen must be one of {cuts} for {architecture}, or empty. Received: "):
        get_recipe("photos", architecture=architecture, frozen=frozen)
    assert get_recipe("photos", architecture=architecture, frozen="stage4").frozen == "stage4"


def test_all_layers_but_the_last_are_frozen_only_for_logistic_regression():
    with pytest.raises(ValueError, match="frozen must be empty or a stage, except for logistic"):
        get_recipe("photos", frozen="features")
    assert get_recipe("head").optimizer == "logistic"
    with pytest.raises(ValueError, match="epochs must be 1 for logistic regression"):
        get_recipe("head", epochs=5)


def test_an_unknown_augmentation_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"augmentation must be one of none, flip, .*Received: 'rotate'"):
        get_recipe("baseline", augmentation="rotate")


@pytest.mark.parametrize("sizes", [(), (0.5,), (0.75, 1.25), (0.0, 1.0), (math.nan,)])
def test_sizes_out_of_range_are_refused_with_the_range(sizes):
    with pytest.raises(ValueError, match=r"sizes must be shares above 0\.5 and at most 1\. Received: sizes=\("):
        replace(AIRBENCH, sizes=sizes)


def test_the_baseline_has_a_fixed_size_and_adam():
    with pytest.raises(ValueError, match=r"sizes must be \(1\.0,\) for the baseline network.*sizes=\(0\.75, 1\)"):
        get_recipe("baseline", sizes=(0.75, 1))
    with pytest.raises(ValueError, match=r"optimizer must be adam for the baseline network.*optimizer=muon"):
        get_recipe("baseline", optimizer="muon")
    assert get_recipe("baseline", sizes=(1, 1)).sizes == (1, 1)  # full size throughout, given twice


def test_sizes_in_a_list_become_a_tuple():
    recipe = replace(AIRBENCH, sizes=[0.75, 1])
    assert recipe.sizes == (0.75, 1)
    assert recipe == replace(AIRBENCH, sizes=(0.75, 1))
    assert hash(recipe) == hash(replace(AIRBENCH, sizes=(0.75, 1)))


@pytest.mark.parametrize("name", ["a/b", "", "two words"])
def test_a_recipes_name_must_be_fit_for_a_file_name(name):
    with pytest.raises(ValueError, match=rf"letters, digits, .* Received: name='{name}'"):
        Recipe(name)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"epochs": 3}, [4, 4, 4]),  # 60 pictures, the last batch filled up
        ({"epochs": 5, "hard_fraction": 0.5}, [4, 2, 2, 2, 2]),
        ({"epochs": 2, "hard_fraction": 0.001}, [4, 1]),
        ({"epochs": 2, "batch_size": 4096}, [1, 1]),
    ],
)
def test_steps_depend_on_the_number_of_pictures_in_each_epoch(settings, steps):
    assert Recipe("small", **{"batch_size": 16} | settings).steps(60) == steps
