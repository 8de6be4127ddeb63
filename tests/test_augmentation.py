import numpy as np
import pytest

from imgclassify import runtime
from imgclassify.augmentation import AUGMENTATIONS, augment


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)


def copies(image: np.ndarray, count: int = 200) -> np.ndarray:
    return np.repeat(image[np.newaxis], count, axis=0)


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """The picture moved by whole pixels, the border reflected, computed another way."""
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    return padded[2 - down : 34 - down, 2 - right : 34 - right]


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


def test_flip_mirrors_the_pictures_it_is_told_to(pictures):
    told = np.arange(40) % 3 == 0
    result = augment(pictures, "flip", mirrored=told).numpy()
    assert np.array_equal(result, np.where(told[:, None, None, None], pictures[:, :, ::-1], pictures))


def test_shift_moves_by_up_to_two_pixels_each_way_with_the_border_reflected(pictures):
    image = pictures[0]
    known = {shifted(image, down, right).tobytes() for down in range(-2, 3) for right in range(-2, 3)}
    found = augment(copies(image, 400), "flip+shift", mirrored=np.zeros(400, bool), seed=3).numpy()
    assert {each.tobytes() for each in found} == known


def test_cutout_hides_one_square_of_twelve_pixels_anywhere(pictures):
    image = np.full((32, 32, 3), 200, np.uint8)
    found = augment(copies(image), "flip+shift+cutout", seed=4).numpy()
    places = set()
    for each in found:
        hidden = (each != 200).all(axis=-1)
        rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        assert hidden.sum() == 144
        assert (np.ptp(rows), np.ptp(columns)) == (11, 11)
        places.add((rows[0], columns[0]))
    assert {row for row, _ in places} == set(range(21))
    assert {column for _, column in places} == set(range(21))


def test_the_same_seed_gives_the_same_variants_and_another_others(pictures):
    one, same, other = (augment(pictures, "flip+shift+cutout", seed=seed).numpy() for seed in (5, 5, 6))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_variants_differ_from_call_to_call_inside_a_compiled_function(pictures):
    tf = runtime.tensorflow()
    compiled = tf.function(lambda x: augment(x, "flip+shift"), autograph=False)
    assert not np.array_equal(compiled(tf.constant(pictures)), compiled(tf.constant(pictures)))


def test_an_unknown_augmentation_is_refused_with_those_that_exist(pictures):
    with pytest.raises(ValueError, match=r"one of none, flip, flip\+shift, flip\+shift\+cutout\. Received: 'rotate'"):
        augment(pictures, "rotate")
