"""Batches: what the training loop draws from, in memory or in a memory-mapped file."""

from typing import Any, NamedTuple

import numpy as np

from imgclassify.data.augmentation import Variations, draw_variations

_CHUNK_BYTES = 8_000_000  # handed over at a time: enough to keep the compiled loop busy, and little to copy


class Chunk(NamedTuple):
    """Pictures for several steps, in order; their number N is a multiple of the batch size."""

    pictures: np.ndarray  # uint8 pictures or float16 activations (N, H, W, C)
    labels: np.ndarray  # class numbers, int32 (N,)
    positions: np.ndarray  # among the training pictures, int32 (N,), from 0
    variations: Variations  # how to vary each of them


class Batches:
    """Labelled training pictures in batches, with a new order and new variations in each epoch.

    Order and variations depend only on (seed, epoch, position). So any epoch can be drawn again, from any step,
    regardless of what was drawn before. Pictures are read from where they are, in memory or in a memory-mapped file,
    a few megabytes at a time; none of them is copied beforehand.

    Args:
        pictures: uint8 (M, H, W, C), or what a network's frozen part makes of them, float16: an array, or a
            `numpy.memmap` larger than memory. Or (V, M, H, W, C), with V variants of each: an epoch has one of them,
            the next epoch the next.
        labels: Class numbers, (M,).
        rows: Which pictures are for training, (N,); default: all M.
        batch_size: Pictures per step; fewer if there are fewer pictures.
        augmentation: See `draw_variations`.
        seed: For order and variations.
    """

    def __init__(
        self,
        pictures: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray | None = None,
        *,
        batch_size: int,
        augmentation: str = "none",
        seed: int = 0,
    ):
        self._pictures, self._labels = pictures, np.asarray(labels, np.int32)
        self._rows = np.arange(len(labels)) if rows is None else np.asarray(rows)
        self._augmentation, self._seed = augmentation, seed
        self.batch_size = min(batch_size, len(self._rows))
        self.picture_shape: tuple[int, int, int] = tuple(pictures.shape[-3:])  # height, width, channels
        self._drawn: tuple[int, Variations] = (-1, Variations())  # of the epoch drawn last

    def __len__(self) -> int:
        """Number of different pictures to train on."""
        return len(self._rows)

    def sample(self, count: int) -> np.ndarray:
        """At most so many of the pictures (or their activations) at random, as they are, (N, H, W, C)."""
        rows = self._rows[np.sort(self._random(0, 4).permutation(len(self))[:count])]
        return self._pictures[0][rows] if len(self._pictures.shape) == 5 else self._pictures[rows]

    def order(self, epoch: int, among: np.ndarray | None = None) -> np.ndarray:
        """Positions in this epoch's order, int32; the last batch is filled up from the beginning of the order.

        With `among`, only these positions are drawn.
        """
        order = self._random(epoch, 0).permutation(len(self)).astype(np.int32)
        if among is not None:
            order = order[np.isin(order, among)]
        return np.resize(order, -(-len(order) // self.batch_size) * self.batch_size)

    def chunk(self, epoch: int, order: np.ndarray, step: int, part: slice = slice(None)) -> Chunk:
        """Pictures of this epoch's order, from `step` onwards: a few megabytes of whole batches, at least one batch.

        With `part`, only this part of each batch.
        """
        bytes_per_picture = int(np.prod(self.picture_shape)) * self._pictures.dtype.itemsize
        steps = max(1, _CHUNK_BYTES // (self.batch_size * bytes_per_picture))
        positions = order[step * self.batch_size : (step + steps) * self.batch_size]
        positions = positions.reshape(-1, self.batch_size)[:, part].ravel()
        rows = self._rows[positions]
        which: Any = rows
        if len(self._pictures.shape) == 5:
            first = self._random(0, 3).integers(len(self._pictures), size=len(self))
            which = ((first[positions] + epoch) % len(self._pictures), rows)
        return Chunk(self._pictures[which], self._labels[rows], positions, self._variations(epoch).at(positions))

    def _variations(self, epoch: int) -> Variations:
        if self._drawn[0] != epoch:
            # "Alternating flip" (Jordan, 2024): a picture is mirrored in every second epoch, not by chance.
            mirrored = (self._random(0, 1).random(len(self)) < 0.5) ^ bool(epoch % 2)
            size, random = self.picture_shape[:2], self._random(epoch, 2)
            self._drawn = epoch, draw_variations(self._augmentation, len(self), size, random, mirrored=mirrored)
        return self._drawn[1]

    def _random(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, epoch, purpose])
