"""Splits of photos: near-duplicates are found and kept together, every class has its place, seeds repeat."""

import numpy as np
import pytest
from PIL import Image

from imgclassify.data.dataset import DatasetError
from imgclassify.data.duplicates import group_rows, similar_pairs
from imgclassify.data.loading import load_dataset
from imgclassify.data.splits import folds, spread


def photo(seed: int) -> Image.Image:
    """A picture with structure at all scales, unlike any other."""
    random = np.random.default_rng(seed)
    layers = [random.normal(0, 100 / side**0.7, (side, side, 3)) for side in (2, 4, 8, 16, 32)]
    large = sum(np.asarray(layer.repeat(320 // len(layer), 0).repeat(320 // len(layer), 1)) for layer in layers)
    return Image.fromarray(np.clip(128 + large, 0, 255).astype(np.uint8))


def look(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX))


CHANGES = {
    "smaller": lambda image: image.resize((100, 100)),
    "darker": lambda image: image.point(lambda value: value * 0.8),
    "cropped": lambda image: image.crop((16, 4, 308, 296)),
    "a burst's next": lambda image: image.crop((10, 6, 320, 316)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_near_duplicates(change):
    originals = [photo(seed) for seed in range(20)]
    looks = np.stack([look(each) for each in originals] + [look(CHANGES[change](each)) for each in originals])
    pairs, likeness = similar_pairs(looks)
    assert sorted(pairs.tolist()) == [[row, row + 20] for row in range(20)]
    assert likeness.min() > 0.98


def test_different_photos_and_plain_colours_are_no_near_duplicates():
    plain = [np.full((16, 16, 3), value, np.uint8) for value in (0, 200, 255)]
    pairs, _ = similar_pairs(np.stack([*plain, *(look(photo(seed)) for seed in range(100))]))
    assert len(pairs) == 0
    assert len(similar_pairs(np.empty((0, 16, 16, 3), np.uint8))[0]) == 0


def test_near_duplicates_and_equal_files_form_groups():
    looks = np.stack(
        [look(photo(0)), look(photo(1)), look(CHANGES["cropped"](photo(0))), look(photo(3)), look(photo(4))]
    )
    groups = group_rows(looks, ["a", "b", "c", "b", "e"])
    assert groups[0] == groups[2]
    assert groups[1] == groups[3]
    assert len(set(groups.tolist())) == 3


def test_a_chain_of_similar_photos_is_no_group():
    random, chain = np.random.default_rng(0), [np.random.default_rng(1).normal(0, 30, (8, 8, 3))]
    for _ in range(80):
        chain.append(0.987 * chain[-1] + 0.16 * random.normal(0, 30, (8, 8, 3)))
    looks = np.clip(np.stack(chain) + 128, 0, 255).astype(np.uint8).repeat(2, 1).repeat(2, 2)
    short, long = (group_rows(some, [str(row) for row in range(len(some))]) for some in (looks[:30], looks))
    assert np.bincount(short).max() > 10
    assert np.bincount(long).max() < 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_groups_stay_whole_and_every_class_is_in_both_parts(seed, fraction):
    random = np.random.default_rng(seed)
    y = np.sort(random.integers(0, 5, 200))
    y[:2] = 7  # a class of two
    groups = np.where(random.random(200) < 0.3, y * 1000 + random.integers(0, 5, 200), 10_000 + np.arange(200))
    part, divided = spread(y, groups, (1 - fraction, fraction), seed)
    assert divided == ([7] if groups[0] == groups[1] else [])
    for group in np.unique(groups[2:]):
        assert len(set(part[groups == group])) == 1
    for label in np.unique(y):
        count, aside = np.sum(y == label), np.sum((y == label) & (part == 1))
        assert 1 <= aside < count
        assert abs(aside - fraction * count) <= 1 or label == 7
    np.testing.assert_array_equal(part, spread(y, groups, (1 - fraction, fraction), seed)[0])
    assert not np.array_equal(part, spread(y, groups, (1 - fraction, fraction), seed + 100)[0])


def test_a_class_of_near_duplicates_only_is_divided_and_named():
    part, divided = spread(np.array([0] * 10 + [1] * 10), np.array([0] * 10 + list(range(1, 11))), (0.8, 0.2), 0)
    assert divided == [0]
    assert np.bincount(part[:10]).tolist() == np.bincount(part[10:]).tolist() == [8, 2]


def test_groups_of_several_classes_leave_each_class_a_place_in_both_parts():
    y, groups = np.array([0, 0, 0, 1, 1, 1, 2, 2]), np.array([0, 1, 2, 0, 1, 2, 0, 1])
    for seed in range(20):
        part, _ = spread(y, groups, (0.7, 0.3), seed)
        assert all(set(part[y == label]) == {0, 1} for label in range(3))


@pytest.mark.parametrize("seed", range(3))
def test_folds_validate_each_picture_once_and_train_on_every_class(seed):
    y = np.array([0] * 2 + [1] * 3 + [2] * 7 + [3])
    groups = np.array([0, 0, 1, 2, 3, 4, 4, 4, 5, 6, 7, 8, 9])
    parts = folds(y, groups, 5, seed)
    assert sorted(np.concatenate([validation for _, validation in parts])) == list(range(12))  # not the only one of 3
    for train, validation in parts:
        assert set(y[train]) == {0, 1, 2, 3}
        assert sorted([*train, *validation]) == list(range(13))
        assert not set(groups[train]) & set(groups[validation]) - {0}


def test_folds_of_impossible_data_are_refused():
    with pytest.raises(ValueError, match=r"count must be at least 2\. Received: count=1"):
        folds(np.zeros(5, int), count=1)
    with pytest.raises(DatasetError, match="a class of at least 2 pictures"):
        folds(np.arange(3))


def write_bursts(folder, classes=("cat", "dog"), scenes=6, shots=3):
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for scene in range(scenes):
            for shot in range(shots):
                moved = photo(100 * number + scene).crop((4 * shot, 0, 300 + 4 * shot, 300))
                moved.save(folder / name / f"{scene}-{shot}.jpg")
    return folder


def scenes_of(data, x) -> set[str]:
    return {f"{path.split('/')[-2]} {path.split('/')[-1][0]}" for path in (photo.path for photo in x.photos)}


def test_bursts_stay_together_in_the_test_and_in_the_validation_part(tmp_path):
    data = load_dataset(write_bursts(tmp_path / "pets"), size=96)
    train, validation = data.validation_split(0.2, seed=1)
    parts = [scenes_of(data, x) for x in (data.x_train.take(train), data.x_train.take(validation), data.x_test)]
    assert sum(map(len, parts)) == 12
    assert set.union(*parts) == {f"{name} {scene}" for name in ("cat", "dog") for scene in range(6)}
    assert set(data.y_test) == set(data.y_train[validation]) == {0, 1}
    assert data.describe_split(0.2, 1).endswith("classes in proportion. 30 near-duplicates are kept together.")


def test_one_burst_per_class_is_divided_and_said(tmp_path):
    data = load_dataset(write_bursts(tmp_path / "pets", scenes=1, shots=6), size=96)
    assert "share near-duplicates of cat, dog, because" in data.notice
    assert set(data.y_test) == {0, 1}
    assert "except those of cat, dog" in data.describe_split()


def test_a_folders_own_validation_part_is_used_for_validation(tmp_path):
    for part, seeds in (("train", range(8)), ("val", range(20, 23)), ("test", range(40, 42))):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for seed in seeds:
                photo(seed + 100 * number).save(tmp_path / "pets" / part / name / f"{seed}.png")
    data = load_dataset(tmp_path / "pets", size=96)
    train, validation = data.validation_split(0.5, seed=3)
    assert (len(train), len(validation), len(data.x_test)) == (16, 6, 4)
    assert {path.split("/")[-3] for path in (photo.path for photo in data.x_train.take(validation).photos)} == {"val"}
    assert data.describe_split() == "16 pictures are for training, 6 for validation (the folder's own part)."
    few = data.subset(11, 2)
    assert (len(few.val_rows), len(few.validation_split()[0])) == (3, 8)
    assert {photo.path.split("/")[-3] for photo in few.x_train.take(few.val_rows).photos} == {"val"}


def test_a_class_with_one_training_picture_is_named(tmp_path):
    for part in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            photo(number).save(tmp_path / "pets" / part / name / "0.png")
    with pytest.raises(DatasetError, match="cat has fewer than 2 training pictures"):
        load_dataset(tmp_path / "pets").validation_split()


def test_arrays_are_split_as_ever_and_described():
    digits = load_dataset("digits")
    assert digits.groups is None
    assert digits.describe_split() == "1,149 pictures are for training, 288 for validation, classes in proportion."
    assert digits.validation_split()[1][:5].tolist() == [5, 6, 13, 15, 35]


def test_the_only_picture_of_a_class_stays_in_training_even_if_it_resembles_another():
    for train, _ in folds(np.array([0, 0, 0, 0, 1]), np.array([0, 1, 2, 3, 3]), 2):
        assert 4 in train
