"""Data sets: split, subset, made of arrays and identified by their content."""

import dataclasses
import math

import numpy as np
import pytest
from cifar_files import arrays_of, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclassify.data.dataset import (
    DatasetError,
    class_numbers,
    dataset_from_arrays,
    fingerprint,
    in_proportion,
    named_parts,
    near_duplicates,
)
from imgclassify.data.loading import load_dataset
from imgclassify.data.splits import stratified_split

# --- splits and subsets ----------------------------------------------------------------------------


def test_the_validation_split_is_stratified_disjoint_and_complete():
    digits = load_dataset("digits")
    training, validation = digits.validation_split(0.2, seed=3)
    assert training.dtype == validation.dtype == np.int64
    np.testing.assert_array_equal(np.sort(np.concatenate([training, validation])), np.arange(len(digits.y_train)))
    assert len(validation) == pytest.approx(0.2 * len(digits.y_train), abs=1)
    counts, expected = np.bincount(digits.y_train[validation]), 0.2 * np.bincount(digits.y_train)
    assert np.abs(counts - expected).max() <= 1
    assert (np.diff(training) > 0).all()
    assert (np.diff(validation) > 0).all()


def test_the_validation_split_repeats_with_its_seed():
    digits = load_dataset("digits")
    for first, second in zip(digits.validation_split(seed=1), digits.validation_split(seed=1), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(digits.validation_split(seed=1)[1], digits.validation_split(seed=2)[1])


TOO_SMALL = {
    "a single picture": ([0, 0, 0, 0, 1], 0.2, "Class 1 has a single picture, .* 5 pictures of 2 classes"),
    "one picture in all": ([0], 0.2, "Class 0 has a single picture, .* 1 pictures of 1 classes"),
    "fewer left than classes": ([0, 0, 1, 1], 0.6, "4 pictures of 2 classes are too few .* 40% to 60%"),
    "all of it": ([0, 0, 1, 1], 1.0, "0% to 100% with every class in both parts"),
}


@pytest.mark.parametrize(("y", "fraction", "words"), TOO_SMALL.values(), ids=TOO_SMALL)
def test_a_split_that_is_too_small_is_one_sentence(y, fraction, words):
    x = np.zeros((len(y), 4, 4, 3), np.uint8)
    with pytest.raises(DatasetError, match=words) as raised:
        dataset_from_arrays((x, np.array(y)), (x, np.array(y))).validation_split(fraction)
    assert "\n" not in str(raised.value)
    assert "test_size" not in str(raised.value)  # the words of the library below


@pytest.mark.parametrize("counts", [(2, 2), (2, 100), (2, 3, 200, 4)])
def test_rare_classes_are_in_both_parts_of_a_split(counts):
    y = np.repeat(np.arange(len(counts)), counts)
    for fraction in (0.02, 0.2, 0.5, 0.9):
        if len(y) - np.ceil(fraction * len(y)) >= len(counts):
            for part in stratified_split(y, fraction, seed=0):
                assert set(y[part]) == set(y)


LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(labels=LABELS, fraction=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_a_split_is_disjoint_and_complete_with_every_class_in_both_parts(labels, fraction, seed):
    y = np.array(labels)
    classes, counts = np.unique(y, return_counts=True)
    size = max(math.ceil(fraction * len(y)), len(classes))
    if counts.min() < 2 or len(y) - size < len(classes):
        with pytest.raises(DatasetError, match=r"single picture|too few"):
            stratified_split(y, fraction, seed)
        return
    first, second = stratified_split(y, fraction, seed)
    assert sorted([*first, *second]) == list(range(len(y)))
    assert len(second) == size
    assert set(y[first]) == set(y[second]) == set(classes)
    assert (np.diff(first) > 0).all()
    assert (np.diff(second) > 0).all()
    for part, same in zip((first, second), stratified_split(y, fraction, seed), strict=True):
        np.testing.assert_array_equal(part, same)


@pytest.mark.parametrize(("train", "test"), [(100, 30), (7, 29), (1430, 359), (3, 1)])
def test_a_subset_has_the_size_asked_for_with_classes_in_proportion(train, test):
    digits = load_dataset("digits")
    subset = digits.subset(train, test)
    for part, count in (("train", train), ("test", test)):
        x, y = getattr(subset, f"x_{part}"), getattr(subset, f"y_{part}")
        assert len(x) == len(y) == count
        share = np.bincount(getattr(digits, f"y_{part}")) * count / len(getattr(digits, f"y_{part}"))
        assert np.abs(np.bincount(y, minlength=10) - share).max() <= 1
    assert subset.fingerprint == digits.fingerprint
    assert subset.class_names == digits.class_names


def test_a_subset_keeps_pictures_and_labels_together():
    y = np.tile(np.arange(10), 20)
    x = np.broadcast_to((y * 20).astype(np.uint8)[:, None, None, None], (200, 4, 4, 3))
    subset = dataset_from_arrays((x, y), (x, y)).subset(50, 20)
    np.testing.assert_array_equal(subset.x_train[:, 0, 0, 0], subset.y_train * 20)
    np.testing.assert_array_equal(subset.x_test[:, 0, 0, 0], subset.y_test * 20)


def test_a_subset_larger_than_the_data_is_the_data():
    digits = load_dataset("digits")
    assert_same(digits.subset(10_000, 10_000), digits)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(labels=LABELS, share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_rows_in_proportion_have_the_right_number_and_are_as_near_to_their_shares_as_possible(labels, share, seed):
    y, count = np.array(labels), round(share * len(labels))
    rows = in_proportion(y, count, seed)
    assert len(rows) == len(set(rows)) == count
    assert (np.diff(rows) > 0).all()
    expected = np.bincount(y) * count / len(y)
    assert np.abs(np.bincount(y[rows], minlength=len(expected)) - expected).max() <= 1


def test_a_smaller_share_is_part_of_a_larger_one():
    y = np.arange(100) % 7
    assert set(in_proportion(y, 20, seed=1)) < set(in_proportion(y, 60, seed=1))
    assert set(in_proportion(y, 20, seed=1)) != set(in_proportion(y, 20, seed=2))


# --- arrays ----------------------------------------------------------------------------------------


def test_a_dataset_from_arrays_takes_class_numbers_and_bytes():
    x, y = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3), np.array([[0], [2]], np.uint8)
    built = dataset_from_arrays((x, y), (x, y[::-1]))
    np.testing.assert_array_equal(built.x_train, x)
    assert built.y_test.tolist() == [2, 0]
    assert built.y_train.dtype == np.int64
    assert built.class_names == ("0", "1", "2")


X, Y = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1])
BAD_ARRAYS = {
    "grey": (
        (X[..., :1], Y),
        r"must be pictures \(N, H, W, 3\) with N labels. Received: shapes \(2, 4, 4, 1\) and \(2,\)",
    ),
    "flat": ((X.reshape(2, -1), Y), r"Received: shapes \(2, 48\)"),
    "label missing": ((X, Y[:1]), r"and \(1,\)"),
    "a single label": ((X, np.int64(1)), r"shapes \(2, 4, 4, 3\) and \(\)"),
    "empty": ((X[:0], Y[:0]), r"Received: shapes \(0, 4, 4, 3\)"),
    "0 to 255 floats": (
        (X + 255.0, Y),
        r"must be uint8 or lie in \[0, 1\]. Received: float64 from 255.0 to 255.0",
    ),
    "nan": ((X + np.nan, Y), r"Received: float64 from nan to nan"),
    "labels of 3 dimensions": ((X, np.zeros((2, 2, 2))), "Labels must be"),
    "negative label": ((X, Y - 1), r"Labels must be .*-1"),
    "fraction": ((X, Y + 0.5), r"Labels must be .*0.5"),
}


@pytest.mark.parametrize(("train", "words"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_of_another_form_are_an_error(train, words):
    with pytest.raises(DatasetError, match=words):
        dataset_from_arrays(train, (X, Y))


def test_class_numbers_come_from_numbers_columns_and_one_hot_rows():
    for y in ([2, 0, 1], [[2], [0], [1]], np.eye(3)[[2, 0, 1]]):
        numbers = class_numbers(y)
        assert numbers.tolist() == [2, 0, 1]
        assert numbers.dtype == np.int64


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    numbers=st.lists(st.integers(0, 120), min_size=1, max_size=30),
    kind=st.sampled_from(["i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8"]),
    column=st.booleans(),
)
def test_class_numbers_keep_their_values_in_every_type(numbers, kind, column):
    y = np.array(numbers, kind)
    result = class_numbers(y[:, None] if column else y)
    assert result.tolist() == numbers
    assert result.dtype == np.int64
    if max(numbers) > 0:
        one_hot = np.eye(max(numbers) + 1, dtype=kind)[numbers]
        assert class_numbers(one_hot).tolist() == numbers


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    numbers=st.lists(
        st.one_of(
            st.integers(-5, 100),
            st.floats(),
            st.integers(-(2**63), 2**64 - 1),
            st.booleans(),
            st.sampled_from(["cat", None, 1j]),
        ),
        max_size=6,
    )
)
def test_whatever_labels_are_given_they_are_class_numbers_or_refused(numbers):
    y = np.array(numbers, object if {None, "cat"} & set(numbers) else None)
    try:
        result = class_numbers(y)
    except DatasetError as error:
        refused = str(error)
    else:
        assert result.dtype == np.int64
        assert result.tolist() == y.tolist()
        assert all(number >= 0 for number in result)
        return
    assert refused.startswith("Labels must be class numbers: whole numbers from 0. Received: ")


@pytest.mark.parametrize("y", [2**31, 2**63, 1e300, np.inf, np.nan, -1, 0.5])
def test_a_number_that_is_not_a_class_number_is_named(y):
    with pytest.raises(DatasetError, match="must be class numbers: whole numbers from 0") as raised:
        class_numbers(np.array([y, y]))
    assert str(raised.value).endswith(f"Received: {y}")


@pytest.mark.parametrize("shape", [(), (2, 2, 2), (2, 0)])
def test_labels_of_another_shape_are_an_error(shape):
    with pytest.raises(DatasetError, match=r"must be class numbers \(N,\) or one-hot \(N, classes\)") as raised:
        class_numbers(np.zeros(shape))
    assert str(raised.value).endswith(f"Received: shape {shape}")


def test_the_fingerprint_depends_on_pixels_labels_and_shapes():
    arrays = [
        np.zeros((2, 4, 4, 3), np.uint8),
        np.array([0, 1]),
        np.ones((2, 4, 4, 3), np.uint8),
        np.array([1, 0]),
    ]
    prints = {fingerprint(*arrays)}
    for i in range(4):
        changed = [array.copy() for array in arrays]
        changed[i].flat[0] += 1
        prints.add(fingerprint(*changed))
    prints.add(fingerprint(arrays[0].reshape(4, 2, 4, 3), *arrays[1:]))
    assert len(prints) == 6
    assert fingerprint(*arrays) in prints


# --- what is told of a data set ----------------------------------------------------------------------


def test_a_data_set_says_what_it_is(tiny):
    assert str(tiny) == repr(tiny) == "made-up colours: 60 training and 30 test pictures, 3 classes (red, green, blue)"


def test_a_data_set_tells_its_notice_and_the_first_files_left_out(tiny):
    skipped = tuple(f"{i}.png is empty." for i in range(5))
    lines = str(dataclasses.replace(tiny, skipped=skipped, notice="A notice.")).split("\n")
    assert lines[1:] == ["5 files were left out: 0.png is empty. 1.png is empty. 2.png is empty. ...", "A notice."]
    lines = str(dataclasses.replace(tiny, skipped=skipped[:3])).split("\n")
    assert lines[1:] == ["3 files were left out: 0.png is empty. 1.png is empty. 2.png is empty."]


def test_named_parts_put_arrays_where_they_belong(tiny):
    again = named_parts(arrays_of(tiny), name="again", source="s", class_names=("a", "b", "c"), folder="/f")
    assert_same(again, tiny)
    assert (again.name, again.source, again.class_names, again.folder) == ("again", "s", ("a", "b", "c"), "/f")


# --- near-duplicates ---------------------------------------------------------------------------------


def test_a_brighter_copy_of_a_training_picture_is_its_near_duplicate():
    rng = np.random.default_rng(0)
    train = rng.integers(0, 120, (20, 32, 32, 3), dtype=np.uint8)
    test = rng.integers(0, 120, (10, 32, 32, 3), dtype=np.uint8)
    test[7], test[2] = train[11] * 2, train[4] + 30
    data = dataset_from_arrays((train, np.arange(20) % 2), (test, np.arange(10) % 2))
    pairs = near_duplicates(data, count=3)
    assert len(pairs) == 3
    assert {pair[:2] for pair in pairs[:2]} == {(7, 11), (2, 4)}
    assert pairs[0][2] == pytest.approx(1, abs=1e-4)
    assert pairs[1][2] == pytest.approx(1, abs=1e-4)
    assert pairs[2][2] < 0.9
    assert near_duplicates(data, count=2) == pairs[:2]


def test_pictures_of_one_colour_have_no_near_duplicates(tiny):
    flat = np.full((4, 32, 32, 3), 90, np.uint8)
    data = dataset_from_arrays((flat, [0, 0, 1, 1]), (flat, [0, 0, 1, 1]))
    assert [pair[2] for pair in near_duplicates(data)] == [0, 0, 0, 0]
