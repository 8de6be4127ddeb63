"""Augmentation: drawing variations, and applying them to pictures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclassify import backend
from imgclassify.data.augmentation import (
    AUGMENTATIONS,
    Variations,
    augment,
    check_augmentation,
    draw_variations,
    vary,
)

ALL = "flip+shift+cutout"


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


def copies(image: np.ndarray, count: int = 200) -> np.ndarray:
    return np.repeat(image[np.newaxis], count, axis=0)


def draw(augmentation: str, count: int, size=(32, 32), seed=0, **options) -> Variations:
    return draw_variations(augmentation, count, size, np.random.default_rng(seed), **options)


def varied(image: np.ndarray, mirrored: bool, shift, corner) -> np.ndarray:
    """One picture moved, mirrored and cut out, computed another way: by padding and slicing."""
    height, width = image.shape[:2]
    down, right = shift
    far = max(abs(down), abs(right))
    padded = np.pad(image, ((far, far), (far, far), (0, 0)), mode="reflect")
    view = padded[far + down : far + down + height, far + right : far + right + width]
    result = (view[:, ::-1] if mirrored else view).copy()
    top, left = corner
    result[top : top + height * 3 // 8, left : left + width * 3 // 8] = 127
    return result


# --- drawing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("augmentation", "drawn"),
    [
        ("none", []),
        ("flip", ["mirrored"]),
        ("flip+shift", ["mirrored", "shift"]),
        (ALL, ["mirrored", "shift", "corner"]),
        ("flip+crop", ["mirrored", "box"]),
    ],
)
def test_only_what_the_augmentation_names_is_drawn(augmentation, drawn):
    variations = draw(augmentation, 10)
    assert [name for name, part in variations._asdict().items() if part is not None] == drawn


def test_each_picture_gets_numbers_of_its_own_in_types_that_tensors_take():
    variations = draw(ALL, 10)._replace(box=draw("flip+crop", 10).box)
    assert [(part.shape, part.dtype) for part in variations] == [
        ((10,), np.bool_),
        ((10, 2), np.int32),
        ((10, 2), np.int32),
        ((10, 4), np.float32),
    ]


def test_about_half_of_the_pictures_are_mirrored():
    assert 400 < draw("flip", 1000).mirrored.sum() < 600


def test_which_pictures_are_mirrored_can_be_decided_by_the_caller():
    told = np.arange(40) % 3 == 0
    assert np.array_equal(draw(ALL, 40, mirrored=told).mirrored, told)


@pytest.mark.parametrize(
    ("size", "reach", "square"),
    [((32, 32), (2, 2), (12, 12)), ((64, 96), (4, 6), (24, 36)), ((8, 16), (1, 1), (3, 6))],
)
def test_shifts_and_squares_are_in_proportion_to_the_size_of_the_pictures(size, reach, square):
    variations = draw(ALL, 5000, size)
    for axis in (0, 1):
        assert set(variations.shift[:, axis]) == set(range(-reach[axis], reach[axis] + 1))
        assert set(variations.corner[:, axis]) == set(range(size[axis] - square[axis] + 1))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS[1:])
def test_the_same_numbers_are_drawn_from_the_same_generator(augmentation):
    one, same, other = (draw(augmentation, 40, seed=seed) for seed in (5, 5, 6))
    for part, again in zip(one, same, strict=True):
        assert np.array_equal(part, again)
    assert not all(np.array_equal(part, another) for part, another in zip(one, other, strict=True))


def test_variations_of_some_pictures_are_those_of_their_rows():
    variations, rows = draw(ALL, 10)._replace(box=draw("flip+crop", 10).box), np.array([7, 0, 7])
    for part, chosen in zip(variations, variations.at(rows), strict=True):
        assert np.array_equal(chosen, part[rows])
    assert draw("none", 10).at(rows) == Variations()


@pytest.mark.parametrize("function", [check_augmentation, lambda name: draw(name, 4)])
def test_an_unknown_augmentation_is_refused_with_those_that_exist(function):
    with pytest.raises(ValueError, match=r"one of none, flip, .*, flip\+crop\. Received: 'rotate'"):
        function("rotate")


# --- applying ----------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    count=st.integers(1, 5),
    height=st.integers(3, 40),
    width=st.integers(3, 40),
    seed=st.integers(0, 1000),
)
def test_pictures_are_varied_as_drawn(count, height, width, seed):
    pictures = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    variations = draw(ALL, count, (height, width), seed)
    expected = [varied(*each) for each in zip(pictures, *variations[:3], strict=True)]
    assert np.array_equal(vary(pictures, variations), expected)


@pytest.mark.parametrize("part", ["mirrored", "shift", "corner"])
def test_each_part_of_the_variations_works_alone(pictures, part):
    variations = draw(ALL, 40)
    nothing = {"mirrored": np.zeros(40, bool), "shift": np.zeros((40, 2), int), "corner": np.full((40, 2), 32)}
    alone = nothing | {part: getattr(variations, part)}
    expected = [varied(*each) for each in zip(pictures, *alone.values(), strict=True)]
    assert np.array_equal(vary(pictures, Variations(**{part: alone[part]})), expected)


def test_no_variations_leave_the_pictures_as_they_are(pictures):
    assert np.array_equal(vary(pictures, Variations()), pictures)


def test_a_random_crop_is_a_quarter_to_all_of_the_picture_and_lies_inside_it():
    box = draw("flip+crop", 5000).box
    height, width = (box[:, 2:] - box[:, :2]).T
    assert box.min() >= 0
    assert box.max() <= 1
    assert 0.24 < (height * width).min() < 0.27
    assert (height * width).max() > 0.95
    assert 0.74 < (width / height).min() < 0.8
    assert 1.25 < (width / height).max() < 1.34
    assert abs(box[:, :2].mean() - (1 - box[:, 2:]).mean()) < 0.01  # as far to one side as to the other


def test_a_crop_shows_its_part_of_the_picture_enlarged():
    ramp = np.broadcast_to(np.arange(0, 240, 8, dtype=np.uint8)[:, None, None], (30, 30, 3))  # brighter downwards
    lower = vary(ramp[None], Variations(box=np.array([[0.5, 0, 1, 1]], np.float32))).numpy()[0]
    assert lower.shape == (30, 30, 3)
    np.testing.assert_allclose(lower[:, 0, 0], np.linspace(116, 232, 30), atol=1)


def test_the_whole_picture_as_a_crop_is_the_picture(pictures):
    whole = Variations(box=np.tile(np.float32([0, 0, 1, 1]), (40, 1)))
    assert np.array_equal(vary(pictures, whole), pictures)


def test_pictures_are_varied_alike_inside_a_compiled_function(pictures):
    tf = backend.tensorflow()
    variations = draw(ALL, 40)._replace(box=draw("flip+crop", 40).box)
    compiled = tf.function(lambda x, *parts: vary(x, Variations(*parts)), autograph=False)
    result = compiled(tf.constant(pictures), *map(tf.constant, variations))
    assert np.array_equal(result, vary(pictures, variations))


# --- both at once ------------------------------------------------------------------------------------


def test_none_changes_nothing(pictures):
    assert np.array_equal(augment(pictures, "none"), pictures)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_shape_and_type_stay(pictures, augmentation):
    result = augment(pictures, augmentation).numpy()
    assert result.shape == pictures.shape
    assert result.dtype == np.uint8


def test_flip_mirrors_about_half_of_the_pictures_and_leaves_the_others(pictures):
    result = augment(copies(pictures[0]), "flip", seed=1).numpy()
    mirrored = [np.array_equal(each, pictures[0][:, ::-1]) for each in result]
    same = [np.array_equal(each, pictures[0]) for each in result]
    assert sum(mirrored) + sum(same) == 200
    assert 60 < sum(mirrored) < 140


def test_shift_moves_by_up_to_two_pixels_each_way_with_the_border_reflected(pictures):
    image, nowhere = pictures[0], (32, 32)
    moves = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    known = {varied(image, mirrored, move, nowhere).tobytes() for move in moves for mirrored in (False, True)}
    found = augment(copies(image, 800), "flip+shift", seed=3).numpy()
    assert len(known) == 50
    assert {each.tobytes() for each in found} == known


def test_cutout_hides_one_square_of_twelve_pixels_anywhere():
    image = np.full((32, 32, 3), 200, np.uint8)
    found = augment(copies(image), ALL, seed=4).numpy()
    places = set()
    for each in found:
        hidden = (each != 200).all(axis=-1)
        rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        assert hidden.sum() == 144
        assert (np.ptp(rows), np.ptp(columns)) == (11, 11)
        places.add((rows[0], columns[0]))
    assert {row for row, _ in places} == set(range(21))
    assert {column for _, column in places} == set(range(21))


def test_the_same_seed_gives_the_same_variants_and_another_gives_others(pictures):
    one, same, other = (augment(pictures, ALL, seed=seed).numpy() for seed in (5, 5, 6))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_augment_refuses_an_unknown_augmentation(pictures):
    with pytest.raises(ValueError, match="Received: 'rotate'"):
        augment(pictures, "rotate")
