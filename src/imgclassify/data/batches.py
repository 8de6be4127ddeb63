"""Batches: what the training loop draws from, whatever the pictures are stored in."""

from typing import NamedTuple

import numpy as np

from imgclassify.data.augmentation import Variations, draw_variations

_CHUNK_BYTES = 8_000_000  # pictures handed over at a time: enough to keep the compiled loop busy, few to copy


class Chunk(NamedTuple):
    """Pictures for some steps, in their order.

    Attributes:
        pictures: uint8 (N, H, W, C), N a multiple of the batch size.
        labels: Class numbers, int32 (N,).
        positions: Which of the training pictures they are, int32 (N,), from 0.
        variations: How each is to be varied.
    """

    pictures: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    variations: Variations


class Batches:
    """Labelled training pictures in batches, each epoch in another order and with other variations.

    Order and variations are functions of (seed, epoch, position) alone: whatever was drawn before, an epoch can be
    drawn again, from any step. Pictures are read where they are, in memory or in a memory-mapped file, a few
    megabytes at a time; none of them is copied beforehand.

    Args:
        pictures: uint8 (M, H, W, C): an array, or a `numpy.memmap` larger than memory.
        labels: Class numbers, (M,).
        rows: Which pictures are for training, (N,); default: all.
        batch_size: Pictures per step; fewer if there are not as many.
        augmentation: See `draw_variations`.
        seed: For order and variations.

    Attributes:
        batch_size: Pictures per step.
        picture_shape: Height, width and channels.
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
        self._rows = np.arange(len(pictures)) if rows is None else np.asarray(rows)
        self._augmentation, self._seed = augmentation, seed
        self.batch_size = min(batch_size, len(self._rows))
        self.picture_shape: tuple[int, int, int] = tuple(pictures.shape[1:])
        self._drawn: tuple[int, Variations] = (-1, Variations())  # the last epoch's

    def __len__(self) -> int:
        """How many different pictures there are to train on."""
        return len(self._rows)

    def order(self, epoch: int, among: np.ndarray | None = None) -> np.ndarray:
        """Positions in the order of this epoch, int32, filled up to whole batches from its beginning.

        Args:
            epoch: From 0.
            among: Draw from these positions only; default: all.
        """
        order = self._random(epoch, 0).permutation(len(self)).astype(np.int32)
        if among is not None:
            chosen = np.zeros(len(self), bool)
            chosen[among] = True
            order = order[chosen[order]]
        return np.resize(order, -(-len(order) // self.batch_size) * self.batch_size)

    def chunk(self, epoch: int, order: np.ndarray, step: int) -> Chunk:
        """Pictures from `step` of this epoch's order on: some megabytes of them, in whole batches, at least one."""
        steps = max(1, _CHUNK_BYTES // (self.batch_size * int(np.prod(self.picture_shape))))
        positions = order[step * self.batch_size : (step + steps) * self.batch_size]
        rows = self._rows[positions]
        return Chunk(self._pictures[rows], self._labels[rows], positions, self._variations(epoch).at(positions))

    def _variations(self, epoch: int) -> Variations:
        if self._drawn[0] != epoch:
            # "Alternating flip" (Jordan, 2024): in turn as it is and mirrored, rather than by chance.
            mirrored = (self._random(0, 1).random(len(self)) < 0.5) ^ bool(epoch % 2)
            size, random = self.picture_shape[:2], self._random(epoch, 2)
            self._drawn = epoch, draw_variations(self._augmentation, len(self), size, random, mirrored=mirrored)
        return self._drawn[1]

    def _random(self, epoch: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, epoch, purpose])
