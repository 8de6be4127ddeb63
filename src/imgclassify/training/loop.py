"""The training loop: trains a network epoch by epoch, in compiled steps, alone or with other workers."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from imgclassify import backend
from imgclassify.data.augmentation import Variations, vary
from imgclassify.data.batches import Batches
from imgclassify.data.images import scale_pixels
from imgclassify.models.fast_layers import training_copy
from imgclassify.recipes import Recipe
from imgclassify.training.optimizers import build_optimizer
from imgclassify.training.workers import ALONE, Workers

_CHUNK_SECONDS = 0.3  # how long the compiled loop runs before it checks for Stop; the current step is finished


class DivergedError(ValueError):
    """A training whose loss is not finite; the message says when, and what to try."""


class Loop:
    """Trains a network epoch by epoch, with a compiled function that runs for a third of a second, at least one step.

    Keras' `fit` with a `train_step` like `_step` and many steps per execution took a tenth longer for the baseline in
    bfloat16 (two cores of an AMD EPYC), and the length of its executions is a number of steps, not a time.

    Args:
        model: From `build_model`; not modified.
        recipe: How to train it.
        batches: What to train it on; the loop knows nothing else about the data.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        workers: Who trains it together. Each computes the gradients of its part of every batch; with their sum, all
            take the same step, so that their networks stay equal. The loss is that of one process whose batches are
            split into as many towers.

    Raises:
        ValueError: The batches cannot be split among the workers.

    Attributes:
        network: The network that is trained, a copy of the model; see `training_copy`.
        epoch, step: Where the training is: the current epoch, and its next step.
        loss, accuracy: Means over the last epoch's batches, as they were trained on, which may be only hard pictures.
    """

    def __init__(self, model, recipe: Recipe, batches: Batches, precision: str, *, workers: Workers = ALONE):
        tf = backend.tensorflow()
        self._recipe, self._batches, self._classes = recipe, batches, model.output_shape[-1]
        self._workers, self._part = workers, workers.part(batches.batch_size)  # of each batch, this worker's
        if batches.batch_size % workers.count:
            of = f"Batches of {batches.batch_size} pictures"
            raise ValueError(f"{of} cannot be split evenly among {workers.count} workers: choose another batch size.")
        self._towers_each = workers.share(backend.towers(batches.batch_size // workers.count))
        self._towers = self._towers_each * workers.count
        self.network = training_copy(model, precision, towers=self._towers)
        self._steps = recipe.steps(len(batches))
        self._ends = np.cumsum([0, *self._steps])  # ends of the epochs, in steps since the beginning
        # For each picture, the probability of its class when it was last trained on.
        self._certainty = tf.Variable(tf.zeros(len(batches)), trainable=False)
        self._optimizer = build_optimizer(recipe, self._ends[-1], scale_loss=precision == "mixed_float16")
        self._optimizer.build(self.network.trainable_variables)
        self.epoch = self.step = 0
        self.loss = self.accuracy = float("nan")
        self._order = np.empty(0, np.int32)  # of this epoch's pictures
        self._sums = np.zeros(2)  # of the losses and hits in this epoch so far
        self._restored = False  # by `restore`, and not continued yet

    def run_epoch(self, epoch: int) -> Iterator[float]:
        """Train for one epoch; yields the share of it that is done, every third of a second or every step.

        After `restore`, the epoch continues from the step where it was.
        """
        if not self._restored:
            self._begin(epoch)
        self._restored = False
        tf, steps, start, chunk, end_of_chunk = backend.tensorflow(), self._steps[epoch], 0, None, 0
        while self.step < steps:
            if self.step >= end_of_chunk:
                start, drawn = self.step, self._draw(epoch, self._order, self.step)
                end_of_chunk = start + len(drawn["labels"])
                chunk = {key: tf.constant(part) for key, part in drawn.items()}
            size, end_of_size = self.size_at(epoch, self.step)
            end = min(end_of_chunk, end_of_size)
            numbers = [tf.constant(number, tf.int32) for number in (self.step - start, end - start, *size)]
            done, sums = self._advance(chunk, tf.constant(self._sums), *numbers)
            self.step, self._sums = start + int(done), sums.numpy()
            if not np.isfinite(self._sums[0]):
                raise DivergedError(
                    f"The training diverged: its loss is no longer finite at step {self.step} of epoch {epoch + 1}. "
                    f"Try a smaller learning rate than {self._recipe.learning_rate:g}."
                )
            yield self.step / steps
        self._align()
        self.loss = float(self._sums[0]) / steps
        self.accuracy = float(self._sums[1]) / (steps * self._batches.batch_size)

    def _align(self) -> None:
        """Take worker 0's values: other processors may have rounded otherwise."""
        if self._workers.count > 1:
            variables = [*self.network.variables, *self._optimizer.variables]
            values = self._workers.share([np.asarray(each) for each in variables])
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on, as numbers and arrays; see `restore`."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "order": self._order.copy(),
            "sums": self._sums.copy(),
            "certainty": self._certainty.numpy(),
            "network": [np.asarray(variable) for variable in self.network.variables],
            "optimizer": [np.asarray(variable) for variable in self._optimizer.variables],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state()` of a loop with the same arguments; `run_epoch(self.epoch)` then finishes its epoch.

        On the same machine, the training then ends with the same weights, bit for bit, as if it had never stopped.
        """
        self.epoch, self.step = state["epoch"], state["step"]
        self._order, self._sums = state["order"].copy(), state["sums"].copy()
        self._certainty.assign(state["certainty"])
        for variables, values in ((self.network.variables, "network"), (self._optimizer.variables, "optimizer")):
            for variable, value in zip(variables, state[values], strict=True):
                variable.assign(value)
        self._restored = len(self._order) > 0  # else no epoch had begun

    def size_at(self, epoch: int, step: int) -> tuple[tuple[int, int], int]:
        """Height and width of the pictures at this step, and the step of this epoch at which that size ends."""
        total, before, sizes = int(self._ends[-1]), int(self._ends[epoch]), self._recipe.sizes
        stage = len(sizes) * (before + step) // total
        end = -(-(stage + 1) * total // len(sizes)) - before
        height, width = (int(side * sizes[stage]) for side in self._batches.picture_shape[:2])
        return (height, width), min(self._steps[epoch], end)

    def work_done(self, epochs: float) -> float:
        """Share of the training's work after this many epochs, if the work of a step is the area of its pictures."""
        share = float(np.interp(epochs, np.arange(len(self._ends)), self._ends)) / self._ends[-1]
        areas = [size * size for size in self._recipe.sizes]
        return float(np.interp(share, np.linspace(0, 1, len(areas) + 1), np.cumsum([0, *areas])) / sum(areas))

    def _begin(self, epoch: int) -> None:
        """Start an epoch: on all pictures, or on those whose class the network was least sure of."""
        among = None
        if self._steps[epoch] < self._steps[0]:
            pictures = self._steps[epoch] * self._batches.batch_size
            among = np.argsort(np.nan_to_num(self._certainty.numpy()), kind="stable")[:pictures]
        self._order = self._batches.order(epoch, among)
        self.epoch, self.step, self._sums = epoch, 0, np.zeros(2)

    def _draw(self, epoch: int, order: np.ndarray, step: int) -> dict[str, np.ndarray]:
        """Arrays for some steps, (steps, pictures per step, ...), without variations that are not drawn.

        Positions are those of whole batches, everything else is for this worker's part of them.
        """
        drawn, length = self._batches.chunk(epoch, order, step, self._part), self._part.stop - self._part.start
        parts = {"pictures": drawn.pictures, "labels": drawn.labels} | drawn.variations._asdict()
        used = {name: part.reshape(-1, length, *part.shape[1:]) for name, part in parts.items() if part is not None}
        end = step + len(used["labels"])
        positions = order[step * self._batches.batch_size : end * self._batches.batch_size]
        return used | {"positions": positions.reshape(-1, self._batches.batch_size)}

    @functools.cached_property
    def _advance(self):
        """`_some_steps`, traced once for chunks of any length."""
        tf = backend.tensorflow()
        example = self._draw(0, self._batches.order(0), 0)
        signature = {key: tf.TensorSpec((None, *part.shape[1:]), part.dtype) for key, part in example.items()}
        numbers = [tf.TensorSpec((2,), tf.float64), *[tf.TensorSpec((), tf.int32)] * 4]
        with backend.tracing():
            return tf.function(self._some_steps, autograph=False).get_concrete_function(signature, *numbers)

    def _some_steps(self, chunk, sums, step, end, height, width):
        """Run a chunk's steps from `step` to `end`, as far as time allows; returns the next step and the new sums.

        Loss and hits are added to the sums step by step, so that they do not depend on how many steps run at a time.
        """
        tf = backend.tensorflow()
        started = tf.timestamp()

        def body(step, sums, _):
            batch = {key: values[step] for key, values in chunk.items()}
            loss, hits, late = self._step(batch, (height, width), started)
            return step + 1, sums + tf.cast(tf.stack([loss, hits]), tf.float64), late

        def on(now, _, late):
            return (now < end) & ~late

        return tf.while_loop(on, body, (step, sums, tf.constant(False)), parallel_iterations=1)[:2]

    def _step(self, batch: dict, size, started):
        """One step; the towers of the batch run in parallel.

        Returns the mean loss, the number of hits, and whether time is up for one of the workers.
        """
        tf, count = backend.tensorflow(), self._towers_each
        variations = Variations(*(batch.get(name) for name in Variations._fields))
        x = self._resized(scale_pixels(vary(batch["pictures"], variations)), size)
        with self._averaged(), self._as_if_alone():
            towers = zip(tf.split(x, count), tf.split(batch["labels"], count), strict=True)
            losses, hits, certainty, gradients = zip(*(self._tower(*tower) for tower in towers), strict=True)
        sums = [tf.add_n(each) for each in (losses, hits, *zip(*gradients, strict=True))]
        with tf.control_dependencies(sums):
            # The clock may have been put back.
            late = tf.cast(tf.abs(tf.timestamp() - started) >= _CHUNK_SECONDS, tf.float32)
        around = [[self._part.start, self._batches.batch_size - self._part.stop]]
        whole, late, loss, hits, *summed = self._workers.sum(
            [tf.pad(tf.concat(certainty, axis=0), around), late, *sums]
        )
        if self._recipe.hard_fraction < 1:
            self._certainty.scatter_update(tf.IndexedSlices(whole, batch["positions"]))
        means = [each / self._towers for each in summed]
        self._optimizer.apply(means, self.network.trainable_variables)
        return loss / self._towers, hits, late > 0

    @contextlib.contextmanager
    def _as_if_alone(self) -> Iterator[None]:
        """Draw what is random, as dropout is, as one process would for these of its towers."""
        layers = [layer for layer in self.network.layers if hasattr(layer, "seed_generator")]
        before = self._workers.index * self._towers_each
        for layer in layers * before:
            layer.seed_generator.next()
        yield
        for layer in layers * (self._towers - before - self._towers_each):
            layer.seed_generator.next()

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Move the averages of batch normalisation by the statistics of all workers, one after the other."""
        layers = [layer for layer in self.network.layers if hasattr(layer, "moving_mean") and layer.trainable]
        if self._workers.count == 1 or not layers:
            yield
            return
        tf = backend.tensorflow()
        averages = [(each, layer.momentum) for layer in layers for each in (layer.moving_mean, layer.moving_variance)]
        before = [tf.identity(each) for each, _ in averages]
        yield
        own, later = self._towers_each, self._towers_each * (self._workers.count - 1 - self._workers.index)
        moves = [
            (each - start * momentum**own) * momentum**later
            for (each, momentum), start in zip(averages, before, strict=True)
        ]
        sums = self._workers.sum(moves)
        for (each, momentum), start, move in zip(averages, before, sums, strict=True):
            each.assign(start * momentum**self._towers + move)

    def _resized(self, x, size):
        tf = backend.tensorflow()
        if set(self._recipe.sizes) == {1.0}:
            return x
        full = tf.reduce_all(size == x.shape[1:3])
        return tf.cond(full, lambda: x, lambda: tf.image.resize(x, size, antialias=True))

    def _tower(self, x, labels):
        """Loss, number of hits, certainty and gradients of one part of a batch."""
        tf, losses = backend.tensorflow(), backend.keras().losses
        with tf.GradientTape() as tape:
            probabilities = self.network(x, training=True)
            targets = tf.one_hot(labels, self._classes)
            smoothing = self._recipe.label_smoothing
            each = losses.categorical_crossentropy(targets, probabilities, label_smoothing=smoothing)
            loss = tf.reduce_mean(each)
            scaled = self._optimizer.scale_loss(loss)
        hits = tf.equal(tf.argmax(probabilities, axis=1, output_type=tf.int32), labels)
        certainty = tf.gather(probabilities, labels, batch_dims=1)
        variables = self.network.trainable_variables
        # `_convolve`'s gradients do not say how large they are.
        gradients = map(tf.ensure_shape, tape.gradient(scaled, variables), [each.shape for each in variables])
        return loss, tf.reduce_sum(tf.cast(hits, tf.float32)), certainty, gradients
