"""Splits: rows of a data set in two or more parts, seeded, with every class and without near-duplicates across."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


class DatasetError(ValueError):
    """A data set is unavailable or unusable; the message says which part, why, and what would be accepted."""


def stratified_split(y: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of two parts with the classes in proportion, and every class in both; each sorted.

    The second holds `fraction` of all rows, and at least as many as there are classes.

    Raises:
        DatasetError: Some class has too few members for both parts.

    Example:
        >>> first, second = stratified_split(np.array([0, 0, 1, 1]), 0.5, seed=0)
        >>> len(first), len(second)
        (2, 2)
    """
    from sklearn.model_selection import train_test_split

    classes, counts = np.unique(y, return_counts=True)
    if counts.min() < 2:
        raise DatasetError(
            f"Class {classes[counts.argmin()]} has a single picture, but a split into two parts needs at least 2 "
            f"of each class. Received: {len(y)} pictures of {len(classes)} classes."
        )
    count = max(math.ceil(fraction * len(y)), len(classes))
    if len(y) - count < len(classes):
        raise DatasetError(
            f"{len(y)} pictures of {len(classes)} classes are too few for a split of {1 - fraction:.0%} to "
            f"{fraction:.0%} with every class in both parts: add pictures, or set aside a smaller part."
        )
    _, second = train_test_split(np.arange(len(y)), test_size=count, stratify=y, random_state=seed)
    in_second = np.isin(np.arange(len(y)), second)
    random = np.random.default_rng(seed)
    for part in (True, False):
        for label in np.setdiff1d(classes, y[in_second == part]):  # its share was rounded to zero: swap one in
            labels, counts = np.unique(y[in_second == part], return_counts=True)
            here = random.choice(np.flatnonzero((in_second == part) & (y == labels[counts.argmax()])))
            there = random.choice(np.flatnonzero(y == label))
            in_second[[here, there]] = in_second[[there, here]]
    return np.flatnonzero(~in_second), np.flatnonzero(in_second)


def in_proportion(y: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Sorted numbers of `count` random rows, the classes in proportion; there may be fewer rows than classes.

    Example:
        >>> y = np.array([0] * 6 + [1] * 2)
        >>> y[in_proportion(y, 4, seed=0)].tolist()
        [0, 0, 0, 1]
    """
    order = np.random.default_rng(seed).permutation(len(y))
    place = np.empty(len(y))  # relative place of each row in its class, from 0 to 1
    for label in np.unique(y):
        rows = order[y[order] == label]
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.sort(order[np.argsort(place[order], kind="stable")[:count]])


def grouped_split(
    y: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """As `stratified_split`, but rows of a group stay together; the third result is that of `spread`."""
    if groups is None or len(np.unique(groups)) == len(groups):
        return *stratified_split(y, fraction, seed), []
    part, divided = spread(y, groups, (1 - fraction, fraction), seed)
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1), divided


def spread(y: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: int) -> tuple[np.ndarray, list[int]]:
    """Assign rows to parts at random, classes in proportion, groups as a whole, every class to at least two parts.

    Args:
        y: Class numbers, (N,).
        groups: Group numbers, (N,): rows with the same number belong together.
        shares: Share of each part; they sum to 1.
        seed: The same seed gives the same parts.

    Returns:
        The part of each row, int64 (N,), from 0, or -1 for the only row of its class; and the classes of which a group
        had to be divided, because there is no other.

    Example:
        >>> part, _ = spread(np.zeros(10, int), np.arange(10) // 2, (0.8, 0.2), seed=0)
        >>> [int(np.sum(part == number)) for number in (0, 1)]
        [8, 2]
    """
    random = np.random.default_rng(seed)
    groups, divided = np.array(groups), []
    members: Any
    labels, counts = np.unique(y, return_counts=True)
    for label in labels[counts > 1]:
        rows = np.flatnonzero(y == label)
        if np.all(groups[rows] == groups[rows[0]]):
            divided.append(int(label))
            members = np.flatnonzero(groups == groups[rows[0]])
            groups[members] = groups.max() + 1 + np.arange(len(members))
    groups = np.unique(groups, return_inverse=True)[1]
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    part = np.full(len(y), -1)
    for label in labels[np.argsort(counts, kind="stable")]:  # rare classes choose first
        rows = np.flatnonzero(y == label)
        if len(rows) == 1:
            continue
        have = np.bincount(part[rows][part[rows] >= 0], minlength=len(shares))
        wanted = np.maximum(np.asarray(shares) * len(rows), 1) + 1e-6 * random.random(len(shares))
        units, sizes = np.unique(groups[rows[part[rows] < 0]], return_counts=True)
        order = random.permutation(len(units))
        for place, unit in enumerate(order[np.argsort(-sizes[order], kind="stable")]):  # large groups first
            room = wanted - have
            if len(units) - place <= np.sum(have == 0):  # just enough groups for the parts without this class
                room[have > 0] = -np.inf
            part[members[units[unit]]] = chosen = room.argmax()
            have[chosen] += sizes[unit]
        if np.sum(have > 0) == 1:  # its groups hold other classes too, which have chosen before
            divided.append(int(label))
            part[random.choice(rows)] = (have.argmax() + 1) % len(shares)
    part[np.isin(y, labels[counts == 1])] = -1  # a near-duplicate of another class may have taken it along
    return part, divided


def folds(
    y: np.ndarray, groups: np.ndarray | None = None, count: int = 5, seed: int = 0
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to train on and rows to validate on, for cross-validation: each row is in one validation part.

    The only picture of a class is in no validation part, so that every class is in every training part.

    Args:
        y: Class numbers, (N,).
        groups: Group numbers, (N,), of rows that stay together, such as `Dataset.groups`; default: none do.
        count: How many folds, at least 2; fewer are returned if there are fewer rows.
        seed: The same seed gives the same folds.

    Returns:
        For each fold, two sorted int64 arrays.

    Raises:
        ValueError: `count` is below 2.
        DatasetError: There are fewer than two pictures of each class.

    Example:
        >>> [len(validation) for _, validation in folds(np.array([0, 0, 0, 1, 1]), count=3)]
        [2, 2, 1]
    """
    if count < 2:
        raise ValueError(f"count must be at least 2. Received: count={count}")
    part, _ = spread(y, np.arange(len(y)) if groups is None else groups, [1 / count] * count, seed)
    if part.max(initial=-1) < 0:
        raise DatasetError("Cross-validation needs a class of at least 2 pictures.")
    return [(np.flatnonzero(part != number), np.flatnonzero(part == number)) for number in np.unique(part[part >= 0])]
