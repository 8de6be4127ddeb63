import gc
import itertools
import pickle
import weakref
from dataclasses import replace

import numpy as np
import pytest

from imgclassify import backend
from imgclassify.data.batches import Batches, Chunk
from imgclassify.models import fast_layers
from imgclassify.models.inference import predict_probabilities
from imgclassify.models.networks import build_model
from imgclassify.recipes import Recipe
from imgclassify.training import loop as loop_module
from imgclassify.training.loop import Loop

BASELINE = Recipe("small-baseline", epochs=3, batch_size=16)
AIRBENCH = Recipe("small", architecture="airbench", epochs=4, batch_size=16, optimizer="muon", learning_rate=0.1)
ALL_PARTS = replace(  # 4, 2 and 2 steps: the sizes change in the middle of the first and of the second epoch
    AIRBENCH,
    epochs=3,
    schedule="linear",
    augmentation="flip+shift+cutout",
    label_smoothing=0.1,
    sizes=(5 / 8, 6 / 8, 1),
    hard_fraction=0.5,
)


class Witness(Batches):
    """Batches that record what was drawn; they hand out two steps at a time."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.drawn: list[tuple[int, int, Chunk]] = []  # epoch, step, chunk

    def chunk(self, epoch: int, order: np.ndarray, step: int, part: slice = slice(None)) -> Chunk:
        chunk = super().chunk(epoch, order[: (step + 2) * self.batch_size], step, part)
        self.drawn.append((epoch, step, chunk))
        return chunk


def batches_of(tiny, recipe: Recipe, kind: type[Batches] = Batches) -> Batches:
    return kind(tiny.x_train, tiny.y_train, batch_size=recipe.batch_size, augmentation=recipe.augmentation, seed=0)


def loop_on(tiny, recipe: Recipe, precision: str = "float32", *, batches: Batches | None = None, seed: int = 0) -> Loop:
    """A fresh loop; `seed` is that of the initial weights and of dropout."""
    backend.set_seed(seed)
    model = build_model(recipe.architecture, num_classes=3)
    return Loop(model, recipe, batches or batches_of(tiny, recipe), precision)


def finish(loop: Loop, recipe: Recipe) -> Loop:
    """Train from where the loop is to the end."""
    for epoch in range(loop.epoch, recipe.epochs):
        list(loop.run_epoch(epoch))
    return loop


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Whether arrays are equal bit by bit."""
    return len(one) == len(other) and all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


@pytest.fixture
def step_by_step(monkeypatch):
    """The compiled loop returns after every step."""
    monkeypatch.setattr(loop_module, "_CHUNK_SECONDS", 0.0)


# --- sizes and steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", [[20, 32], [20, 24, 32], [20, 24, 28, 32]])
def test_each_size_has_an_equal_number_of_steps(tiny, sides):
    loop = loop_on(tiny, replace(AIRBENCH, sizes=[side / 32 for side in sides], epochs=len(sides)))
    assert [loop.size_at(epoch, 0) for epoch in range(len(sides))] == [((side, side), 4) for side in sides]


def test_sizes_may_change_in_the_middle_of_an_epoch(tiny):
    loop = loop_on(tiny, replace(AIRBENCH, sizes=(5 / 8, 6 / 8, 7 / 8, 1), epochs=3))  # 12 steps, 3 of each size
    seen = []
    for epoch in range(3):
        step = 0
        while step < 4:
            size, end = loop.size_at(epoch, step)
            assert end > step
            seen += [size[0]] * (end - step)
            step = end
    assert seen == [20] * 3 + [24] * 3 + [28] * 3 + [32] * 3


def test_pictures_of_one_size_have_it_throughout(tiny):
    assert loop_on(tiny, AIRBENCH).size_at(3, 2) == ((32, 32), 4)


def test_sizes_depend_on_steps_if_epochs_differ_in_length(tiny):
    recipe = replace(AIRBENCH, sizes=(5 / 8, 6 / 8, 7 / 8, 1), hard_fraction=0.5, epochs=5)  # 4, 2, 2, 2 and 2 steps
    loop = loop_on(tiny, recipe)
    assert [loop.size_at(0, 0), loop.size_at(1, 0), loop.size_at(4, 1)] == [((20, 20), 3), ((24, 24), 2), ((32, 32), 2)]
    areas = np.array([25, 36, 49, 64])
    assert loop.work_done(1) == pytest.approx(np.interp(4 / 12, np.arange(5) / 4, [0, *np.cumsum(areas)]) / areas.sum())


def test_the_work_of_a_step_is_the_area_of_its_pictures(tiny):
    loop = loop_on(tiny, replace(AIRBENCH, sizes=(5 / 8, 6 / 8, 7 / 8, 1)))
    areas = np.array([25, 36, 49, 64])
    done = [loop.work_done(epochs) for epochs in (0, 1, 2, 3, 4)]
    assert done == pytest.approx([0, *np.cumsum(areas) / areas.sum()])
    assert loop_on(tiny, AIRBENCH).work_done(AIRBENCH.epochs / 2) == 0.5


@pytest.mark.usefixtures("step_by_step")
def test_long_epochs_yield_several_times(tiny):
    shares = list(loop_on(tiny, replace(BASELINE, batch_size=8)).run_epoch(0))
    assert shares == pytest.approx([i / 8 for i in range(1, 9)])


def test_short_epochs_yield_once(tiny):
    assert list(loop_on(tiny, BASELINE).run_epoch(0)) == [1.0]


def test_a_linear_schedule_ends_at_zero_with_the_last_step(tiny, step_by_step):
    recipe = replace(BASELINE, schedule="linear", hard_fraction=0.5)  # 4, 2 and 2 steps
    loop = loop_on(tiny, recipe)
    weights = [loop.network.get_weights()]
    for epoch in range(recipe.epochs):
        weights += [loop.network.get_weights() for _ in loop.run_epoch(epoch)]
    assert len(weights) == 9
    assert not any(same(before, after) for before, after in itertools.pairwise(weights))
    list(loop.run_epoch(0))  # one epoch too many, at a rate of zero
    assert same(loop.network.get_weights(), weights[-1])


# --- pictures ----------------------------------------------------------------------------------------


def test_an_epoch_shows_each_picture_once_and_fills_up_the_last_batch(tiny):
    witness = batches_of(tiny, BASELINE, Witness)  # 60 pictures, 4 steps of 16
    loop = loop_on(tiny, BASELINE, batches=witness)
    assert list(loop.run_epoch(0))[-1] == 1.0
    assert [(epoch, step) for epoch, step, _ in witness.drawn[-2:]] == [(0, 0), (0, 2)]
    seen = np.concatenate([chunk.positions for *_, chunk in witness.drawn[-2:]])
    assert sorted(seen[:60]) == list(range(60))
    assert np.array_equal(seen[60:], seen[:4])
    assert np.array_equal(seen, loop.state()["order"])


def test_every_epoch_has_another_order(tiny):
    loop = loop_on(tiny, BASELINE)
    orders = []
    for epoch in range(2):
        list(loop.run_epoch(epoch))
        orders.append(loop.state()["order"])
    assert not np.array_equal(*orders)


def test_a_batch_is_no_larger_than_the_data(tiny):
    loop = loop_on(tiny, replace(BASELINE, batch_size=4096))
    assert list(loop.run_epoch(0)) == [1.0]
    assert len(loop.state()["order"]) == len(tiny.x_train)


def test_flips_alternate_from_epoch_to_epoch_for_each_picture_that_is_trained_on(tiny):
    recipe = replace(BASELINE, augmentation="flip", hard_fraction=0.5)
    witness = batches_of(tiny, recipe, Witness)
    loop = loop_on(tiny, recipe, batches=witness)
    witness.drawn.clear()  # the loop has looked at the first pictures for their types
    finish(loop, recipe)
    mirrored = np.full((3, 60), -1)
    for epoch, _, chunk in witness.drawn:
        mirrored[epoch, chunk.positions] = chunk.variations.mirrored
    assert 10 < mirrored[0].sum() < 50
    for epoch, expected in ((1, 1 - mirrored[0]), (2, mirrored[0])):
        trained = mirrored[epoch] >= 0
        assert 28 <= trained.sum() <= 32
        assert np.array_equal(mirrored[epoch, trained], expected[trained])


def test_later_epochs_train_on_the_pictures_that_the_network_was_least_sure_of(tiny):
    loop = loop_on(tiny, replace(BASELINE, hard_fraction=0.5))
    list(loop.run_epoch(0))  # 60 pictures, 4 steps of 16
    certainty = loop.state()["certainty"]
    assert np.all((certainty > 0) & (certainty < 1))
    list(loop.run_epoch(1))
    state = loop.state()
    assert sorted(state["order"]) == sorted(np.argsort(certainty)[:32])  # half of the pictures, in 2 whole batches
    changed = state["certainty"] != certainty
    assert set(np.flatnonzero(changed)) <= set(state["order"])
    assert changed.sum() > 16


def test_certainty_is_the_probability_of_the_pictures_class(tiny):
    loop = loop_on(tiny, replace(BASELINE, learning_rate=1e-12, hard_fraction=0.5))
    loop.network.layers[-2].rate = 0.0  # dropout
    list(loop.run_epoch(0))
    probabilities = predict_probabilities(loop.network, tiny.x_train)
    expected = probabilities[np.arange(len(tiny.y_train)), tiny.y_train]
    assert loop.state()["certainty"] == pytest.approx(expected, abs=1e-4)


def test_loss_and_accuracy_are_means_over_the_epochs_batches(tiny):
    loop = loop_on(tiny, replace(BASELINE, learning_rate=1e-12, batch_size=20))
    assert np.isnan([loop.loss, loop.accuracy]).all()
    loop.network.layers[-2].rate = 0.0  # dropout
    list(loop.run_epoch(0))
    probabilities = predict_probabilities(loop.network, tiny.x_train)
    true = probabilities[np.arange(len(tiny.y_train)), tiny.y_train]
    assert loop.loss == pytest.approx(-np.log(true).mean(), rel=1e-4)
    assert loop.accuracy == pytest.approx((probabilities.argmax(axis=1) == tiny.y_train).mean())


# --- the compiled steps ------------------------------------------------------------------------------


def test_one_compiled_function_takes_sizes_hard_epochs_and_chunks(tiny):
    witness = batches_of(tiny, ALL_PARTS, Witness)
    finish(loop_on(tiny, ALL_PARTS, batches=witness), ALL_PARTS)
    assert [drawn[:2] for drawn in witness.drawn[-4:]] == [(0, 0), (0, 2), (1, 0), (2, 0)]


@pytest.mark.parametrize("recipe", [BASELINE, AIRBENCH], ids=["baseline", "airbench"])
def test_a_loop_is_freed_with_its_graph(recipe, tiny):
    """TensorFlow keeps what custom gradients were traced with: SiLU's, and those of our convolution."""
    loop = loop_on(tiny, recipe, "mixed_bfloat16")
    list(loop.run_epoch(0))
    graph = weakref.ref(loop._advance.graph)
    del loop
    gc.collect()
    assert graph() is None


def test_towers_give_the_same_gradients(tiny, monkeypatch):
    weights = []
    for towers in (1, 2):
        monkeypatch.setattr(backend, "towers", lambda batch_size, towers=towers: towers)
        loop = loop_on(tiny, BASELINE)
        loop.network.layers[-2].rate = 0.0  # dropout draws for each tower
        list(loop.run_epoch(0))
        weights.append(loop.network.get_weights())
    for one, other in zip(*weights, strict=True):
        assert one == pytest.approx(other, abs=2e-4)


def test_a_step_in_bfloat16_knows_the_size_of_its_batch(tiny, monkeypatch):
    sizes, convolve = set(), fast_layers._convolve
    monkeypatch.setattr(fast_layers, "_convolve", lambda x, *others: (sizes.add(x.shape[0]), convolve(x, *others))[1])
    next(loop_on(tiny, ALL_PARTS, "mixed_bfloat16").run_epoch(0))
    assert sizes == {16 // backend.towers(16)}


def test_the_model_is_not_modified(tiny):
    model = build_model(num_classes=3)
    before = model.get_weights()
    loop = Loop(model, BASELINE, Batches(tiny.x_train, tiny.y_train, batch_size=16), "float32")
    list(loop.run_epoch(0))
    assert same(model.get_weights(), before)
    assert not same(loop.network.get_weights(), before)


# --- repeating, stopping and going on ----------------------------------------------------------------

BOTH = pytest.mark.parametrize("recipe", [BASELINE, ALL_PARTS], ids=["baseline", "airbench"])
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])


@pytest.fixture(scope="module")
def uninterrupted(tiny):
    """The loop at the end of a training that was never stopped, by recipe and precision."""
    finished = {}

    def train(recipe: Recipe, precision: str) -> Loop:
        if (recipe, precision) not in finished:
            finished[recipe, precision] = finish(loop_on(tiny, recipe, precision), recipe)
        return finished[recipe, precision]

    return train


@BOTH
@PRECISIONS
@pytest.mark.usefixtures("step_by_step")
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(tiny, uninterrupted, recipe, precision):
    expected = uninterrupted(recipe, precision)
    stopped = loop_on(tiny, recipe, precision)
    list(stopped.run_epoch(0))
    next(epoch := stopped.run_epoch(1))
    state = pickle.loads(pickle.dumps(stopped.state()))  # as if it had gone through a file
    assert (state["epoch"], state["step"]) == (1, 1)
    assert state["step"] < len(state["order"]) // recipe.batch_size  # in the middle of the epoch
    list(epoch)

    fresh = loop_on(tiny, recipe, precision, seed=1)  # other weights and another dropout, if they were not restored
    fresh.restore(state)
    assert (fresh.epoch, fresh.step) == (1, 1)
    finish(fresh, recipe)
    assert same(fresh.network.get_weights(), expected.network.get_weights())
    for part in ("network", "optimizer"):
        assert same(fresh.state()[part], expected.state()[part])
    assert np.array_equal(fresh.state()["certainty"], expected.state()["certainty"])
    assert fresh.loss == expected.loss
    assert fresh.accuracy == pytest.approx(expected.accuracy)


@BOTH
@PRECISIONS
def test_the_same_recipe_and_seed_repeat_bit_by_bit(tiny, uninterrupted, recipe, precision):
    batches = batches_of(tiny, recipe, Witness)  # also in smaller chunks
    again = finish(loop_on(tiny, recipe, precision, batches=batches), recipe)
    assert same(again.network.get_weights(), uninterrupted(recipe, precision).network.get_weights())


def test_another_seed_gives_other_weights(tiny, uninterrupted):
    other = finish(loop_on(tiny, BASELINE, seed=1), BASELINE)
    assert not same(other.network.get_weights(), uninterrupted(BASELINE, "float32").network.get_weights())


@pytest.mark.usefixtures("step_by_step")
def test_a_state_stays_as_it_was_when_the_loop_goes_on(tiny):
    recipe = replace(BASELINE, hard_fraction=0.5)
    loop = loop_on(tiny, recipe)
    next(epoch := loop.run_epoch(0))
    state = loop.state()
    kept = pickle.dumps(state)
    list(epoch)
    assert pickle.dumps(state) == kept
    other = loop_on(tiny, recipe)
    other.restore(state)
    list(other.run_epoch(0))
    assert pickle.dumps(state) == kept


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_training_can_continue_from_a_state_between_epochs(tiny, uninterrupted, epochs):
    stopped = loop_on(tiny, BASELINE)
    for epoch in range(epochs):
        list(stopped.run_epoch(epoch))
    fresh = loop_on(tiny, BASELINE, seed=1)
    fresh.restore(stopped.state())
    for epoch in range(fresh.epoch, BASELINE.epochs):
        assert len(list(zip(range(10), fresh.run_epoch(epoch), strict=False))) < 10  # it ends
    assert same(fresh.network.get_weights(), uninterrupted(BASELINE, "float32").network.get_weights())
    assert fresh.loss == uninterrupted(BASELINE, "float32").loss
