"""Batches: order and variations are functions of seed, epoch and position, whatever was drawn before."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgclassify.data.batches import Batches, Chunk

ALL = "flip+shift+cutout"


def numbered(count: int, side: int = 4) -> np.ndarray:
    """Pictures that each show their own number."""
    pictures = np.zeros((count, side, side, 3), np.uint8)
    pictures[..., 0], pictures[..., 1] = (part[:, None, None] for part in divmod(np.arange(count), 256))
    return pictures


def number_of(pictures: np.ndarray) -> np.ndarray:
    return pictures[:, 0, 0, :2].astype(int) @ (256, 1)


def made(count: int = 50, batch_size: int = 8, augmentation: str = ALL, seed: int = 3, **options) -> Batches:
    return Batches(
        numbered(count), np.arange(count) % 7, batch_size=batch_size, augmentation=augmentation, seed=seed, **options
    )


def whole(batches: Batches, epoch: int, order: np.ndarray | None = None) -> Chunk:
    """A whole epoch in one, put together from its chunks."""
    order = batches.order(epoch) if order is None else order
    step, chunks = 0, []
    while step * batches.batch_size < len(order):
        chunks.append(batches.chunk(epoch, order, step))
        assert len(chunks[-1].positions) % batches.batch_size == 0
        step += len(chunks[-1].positions) // batches.batch_size
    return joined(chunks)


def joined(chunks: list[Chunk]) -> Chunk:
    variations = type(chunks[0].variations)(
        *(
            None if parts[0] is None else np.concatenate(parts)
            for parts in zip(*(each.variations for each in chunks), strict=True)
        )
    )
    return Chunk(*(np.concatenate(parts) for parts in list(zip(*chunks, strict=True))[:3]), variations)


def assert_equal(one: Chunk, other: Chunk):
    for part, same in zip((*one[:3], *one.variations), (*other[:3], *other.variations), strict=True):
        np.testing.assert_array_equal(part, same)


# --- what an epoch is ----------------------------------------------------------------------------------


def test_an_epoch_has_every_picture_once_with_its_own_label():
    batches = made(48)
    epoch = whole(batches, 0)
    assert sorted(epoch.positions) == list(range(48))
    np.testing.assert_array_equal(number_of(epoch.pictures), epoch.positions)
    np.testing.assert_array_equal(epoch.labels, epoch.positions % 7)
    assert len(batches) == 48
    assert batches.picture_shape == (4, 4, 3)


def test_pictures_stay_bytes_and_numbers_are_what_tensors_take():
    chunk = made().chunk(0, made().order(0), 0)
    assert chunk.pictures.dtype == np.uint8
    assert chunk.labels.dtype == chunk.positions.dtype == np.int32


def test_only_the_rows_for_training_are_drawn():
    rows = np.array([3, 10, 11, 40, 41])
    batches = made(50, batch_size=5, rows=rows)
    epoch = whole(batches, 0)
    assert len(batches) == 5
    assert sorted(epoch.positions) == [0, 1, 2, 3, 4]  # of the training pictures
    np.testing.assert_array_equal(number_of(epoch.pictures), rows[epoch.positions])
    np.testing.assert_array_equal(epoch.labels, rows[epoch.positions] % 7)


def test_a_batch_is_never_larger_than_the_data():
    batches = made(5, batch_size=64)
    assert batches.batch_size == 5
    assert len(batches.order(0)) == 5


def test_the_last_batch_is_filled_up_from_the_beginning():
    order = made(50, batch_size=8).order(0)
    assert len(order) == 56
    assert sorted(order[:50]) == list(range(50))
    np.testing.assert_array_equal(order[50:], order[:6])


def test_few_pictures_among_many_are_repeated_until_a_batch_is_full():
    order = made(50, batch_size=8).order(0, among=np.array([7, 20, 33]))
    assert len(order) == 8
    assert sorted(order[:3]) == [7, 20, 33]
    np.testing.assert_array_equal(order, np.resize(order[:3], 8))


def test_among_keeps_the_order_of_the_epoch():
    batches, among = made(48), np.arange(0, 48, 3)
    everything, some = batches.order(5), batches.order(5, among)
    np.testing.assert_array_equal(some, everything[np.isin(everything, among)])
    np.testing.assert_array_equal(batches.order(5, np.arange(48)), everything)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data(), count=st.integers(1, 60), batch_size=st.integers(1, 70), epoch=st.integers(0, 9))
def test_an_order_is_whole_batches_with_each_picture_equally_often(data, count, batch_size, epoch):
    batches = made(count, batch_size)
    among = data.draw(st.none() | st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    order = batches.order(epoch, None if among is None else np.array(among))
    wanted = sorted(range(count) if among is None else among)
    positions, times = np.unique(order, return_counts=True)
    assert positions.tolist() == wanted
    assert len(order) % batches.batch_size == 0
    assert 0 <= len(order) - len(wanted) < batches.batch_size  # no batch too many
    assert np.ptp(times) <= 1
    assert order.dtype == np.int32


# --- functions of seed, epoch and position ---------------------------------------------------------------


@pytest.mark.parametrize("augmentation", ["none", ALL])
def test_an_epoch_is_the_same_whatever_was_drawn_before(augmentation):
    fresh = made(augmentation=augmentation)
    expected = whole(fresh, 4)
    used = made(augmentation=augmentation)
    for epoch in (0, 1, 7, 3):
        whole(used, epoch, used.order(epoch, np.arange(epoch, 50)))
    assert_equal(whole(used, 4), expected)
    assert_equal(whole(used, 4), expected)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    calls=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=12),
    count=st.integers(1, 50),
    seed=st.integers(0, 2**40),
)
def test_any_chunk_is_the_same_whatever_was_drawn_before(calls, count, seed):
    used = made(count, seed=seed)
    for epoch, step in calls:
        fresh = made(count, seed=seed)
        step = step % (len(fresh.order(epoch)) // fresh.batch_size)
        assert_equal(used.chunk(epoch, used.order(epoch), step), fresh.chunk(epoch, fresh.order(epoch), step))


def test_orders_and_variations_differ_from_epoch_to_epoch_and_from_seed_to_seed():
    first = whole(made(seed=3), 0)
    for other in (whole(made(seed=3), 1), whole(made(seed=4), 0), whole(made(seed=2**33 + 3), 0)):
        assert not np.array_equal(other.positions, first.positions)
        order, other_order = np.argsort(first.positions[:50]), np.argsort(other.positions[:50])
        for part, another in zip(first.variations[:3], other.variations[:3], strict=True):
            assert not np.array_equal(part[order], another[other_order])


def test_variations_are_the_same_for_a_picture_wherever_in_the_order_it_is():
    batches, backwards = made(48), np.arange(48, dtype=np.int32)[::-1]
    among = np.arange(0, 48, 5)
    expected = whole(batches, 2)
    of_position = {position: row for row, position in enumerate(expected.positions)}
    for order in (backwards, batches.order(2, among)):
        drawn = whole(batches, 2, order)
        rows = [of_position[position] for position in drawn.positions]
        for part, same in zip(drawn.variations[:3], expected.variations[:3], strict=True):
            np.testing.assert_array_equal(part, same[rows])


def test_flips_alternate_from_epoch_to_epoch():
    batches, order = made(48, augmentation="flip"), np.arange(48)
    first = batches.chunk(0, order, 0).variations.mirrored
    assert 10 < first.sum() < 38
    for epoch in range(1, 6):
        mirrored = batches.chunk(epoch, order, 0).variations.mirrored
        np.testing.assert_array_equal(mirrored, first ^ bool(epoch % 2))


def test_without_augmentation_there_are_no_variations():
    variations = whole(made(augmentation="none"), 0).variations
    assert all(part is None for part in variations)


def test_variations_fit_the_size_of_the_pictures():
    batches = Batches(np.zeros((500, 16, 64, 3), np.uint8), np.zeros(500), batch_size=500, augmentation=ALL)
    shift, corner = batches.chunk(0, batches.order(0), 0).variations[1:3]
    assert np.abs(shift).max(axis=0).tolist() == [1, 4]
    assert corner.max(axis=0).tolist() == [10, 40]


# --- chunks ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large() -> Batches:
    """Pictures of more bytes than are handed over at a time."""
    return Batches(numbered(2000, side=64), np.arange(2000) % 7, batch_size=96, augmentation=ALL, seed=1)


def test_a_chunk_is_a_few_megabytes_of_whole_batches(large):
    order = large.order(0)
    chunk = large.chunk(0, order, 0)
    assert 4_000_000 < chunk.pictures.nbytes <= 8_000_000
    assert len(chunk.positions) % 96 == 0
    assert len(chunk.positions) < len(order)
    for part in (*chunk[:3], *chunk.variations[:3]):
        assert len(part) == len(chunk.positions)


@pytest.mark.parametrize("step", [1, 6, 7, 19, 20])
def test_a_chunk_from_any_step_is_the_same_slice_of_the_whole(large, step):
    expected, order = whole(large, 3), large.order(3)
    chunk = large.chunk(3, order, step)
    part = slice(step * 96, step * 96 + len(chunk.positions))
    assert len(chunk.positions) > 0
    assert_equal(chunk, Chunk(*(each[part] for each in expected[:3]), expected.variations.at(part)))


def test_a_chunk_holds_at_least_one_batch_however_large_its_pictures_are():
    pictures = np.broadcast_to(np.uint8(9), (6, 1500, 1500, 3))
    batches = Batches(pictures, np.zeros(6), batch_size=2)
    assert batches.chunk(0, batches.order(0), 1).pictures.shape == (2, 1500, 1500, 3)


def test_a_chunk_past_the_end_is_empty():
    batches = made(48)
    assert len(batches.chunk(0, batches.order(0), 6).positions) == 0


# --- where the pictures are --------------------------------------------------------------------------------


def test_no_picture_is_copied_before_it_is_drawn():
    pictures = np.broadcast_to(np.uint8(9), (100_000, 32, 32, 3))  # 307 MB, if they were copied
    labels, rows = np.zeros(100_000, np.int64), np.arange(0, 100_000, 2)
    tracemalloc.start()
    try:
        batches = Batches(pictures, labels, rows, batch_size=100, augmentation=ALL)
        order = batches.order(0)
        _, at_first = tracemalloc.get_traced_memory()
        batches.chunk(0, order, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert at_first < 5_000_000  # row numbers and labels
    assert peak < 25_000_000  # a chunk, and the variations of the epoch


@pytest.mark.parametrize("kind", ["memmap", "read-only memmap", "read-only array"])
def test_pictures_may_be_in_a_file_and_read_only(tmp_path, kind):
    pictures, labels = numbered(50), np.arange(50) % 7
    if "memmap" in kind:
        np.save(tmp_path / "pictures.npy", pictures)
        pictures = np.load(tmp_path / "pictures.npy", mmap_mode="r" if "read-only" in kind else "r+")
        assert isinstance(pictures, np.memmap)
    else:
        pictures.flags.writeable = labels.flags.writeable = False
    batches = Batches(pictures, labels, np.arange(0, 50, 2), batch_size=8, augmentation=ALL, seed=3)
    in_memory = Batches(numbered(50), labels, np.arange(0, 50, 2), batch_size=8, augmentation=ALL, seed=3)
    epoch = whole(batches, 1)
    assert_equal(epoch, whole(in_memory, 1))
    chunk = batches.chunk(1, batches.order(1), 0)
    assert not isinstance(chunk.pictures, np.memmap)
    chunk.pictures[:] = 0  # the reader's own copy, in memory
    np.testing.assert_array_equal(pictures, numbered(50))


def test_each_epoch_takes_the_next_variant_of_a_picture():
    variants = np.stack([numbered(20) + np.uint8([0, 0, each]) for each in range(3)])
    batches = Batches(variants, np.arange(20), batch_size=5, seed=1)
    seen = np.zeros((6, 20), int)
    for epoch in range(6):
        chunk = whole(batches, epoch)
        np.testing.assert_array_equal(number_of(chunk.pictures), chunk.positions)
        seen[epoch, chunk.positions] = chunk.pictures[:, 0, 0, 2]
    assert len(set(seen[0])) == 3  # pictures begin with different ones
    np.testing.assert_array_equal(np.sort(seen[:3], axis=0), np.repeat([[0], [1], [2]], 20, axis=1))
    np.testing.assert_array_equal(seen[:3], seen[3:])


def test_a_chunk_of_activations_has_as_many_megabytes_as_one_of_pictures():
    activations = np.zeros((1, 400, 14, 14, 112), np.float16)
    batches = Batches(activations, np.zeros(400), batch_size=32)
    chunk = batches.chunk(0, batches.order(0), 0)
    assert batches.picture_shape == (14, 14, 112)
    assert chunk.pictures.nbytes <= 8_000_000 < chunk.pictures.nbytes + 32 * activations[0, 0].nbytes


class Counted:
    """Pictures that record which rows were read, like a store that a user might write."""

    def __init__(self, pictures: np.ndarray):
        self.pictures, self.shape, self.dtype, self.rows = pictures, pictures.shape, pictures.dtype, []

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows):
        self.rows.append(rows)
        return self.pictures[rows]


def test_a_chunk_reads_its_own_pictures_only():
    store = Counted(numbered(50))
    batches = Batches(store, np.zeros(50), np.arange(25, 50), batch_size=5)
    order = batches.order(0)
    assert store.rows == []
    chunk = batches.chunk(0, order, 3)
    (rows,) = store.rows
    np.testing.assert_array_equal(rows, 25 + chunk.positions)


def test_an_unknown_augmentation_is_an_error():
    batches = made(augmentation="rotate")
    with pytest.raises(ValueError, match=r"augmentation must be one of none, flip, .* Received: 'rotate'"):
        batches.chunk(0, batches.order(0), 0)
