"""Near-duplicates: photos of a burst, copies saved again, slightly cropped copies; found by comparing tiny pictures."""

import numpy as np

from imgclassify.data.photos import LOOK

# Chosen by looking at the training photos of "clothing" and at copies of them. Above the first lie all copies that are
# saved again or darkened, 0.96 of those cropped by 5 %, 0.46 of those cropped by 10 %, and 4 in a million other pairs.
_ALIKE = 0.98  # correlation above which two photos are near-duplicates
_CANDIDATES = 0.9  # the same for the unshifted pictures: only such pairs are looked at more closely
_SAME = 0.99  # for groups of more photos than this, which chains of merely similar photos have brought together
_LARGEST = 50
_BLOCK = 500  # pictures compared with all others at a time; limits the memory


def similar_pairs(looks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pictures that are near-duplicates.

    Tiny pictures are compared by the correlation of their pixels, the mean of each channel removed, so that brightness
    and contrast do not matter. For shifted and cropped copies, windows of one are compared with the whole of the other.
    Takes a few seconds for 50,000 pictures.

    Args:
        looks: uint8, (N, 16, 16, 3), as in `Photo.look`.

    Returns:
        Row numbers, int64 (P, 2), the first smaller than the second; and their correlation, float32 (P,).
    """
    looks, windows = looks.transpose(0, 3, 1, 2).astype(np.float32), _windows()
    whole = _normalised(windows[0][0] @ looks @ windows[0][1].T)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(whole), _BLOCK):
        alike = whole[start : start + _BLOCK] @ whole[start:].T
        first, second = np.divmod(np.flatnonzero(alike > _CANDIDATES), alike.shape[1])
        first, second = first[first < second], second[first < second]
        best = np.argsort(-alike[first, second], kind="stable")[: 5 * len(alike)]  # limits the work
        pairs.append(start + np.stack([first[best], second[best]], axis=1))
    found = np.concatenate(pairs)
    likeness = np.full(len(found), -1, np.float32)
    for rows, columns in windows:
        cut = _normalised(rows @ looks @ columns.T)
        for start in range(0, len(found), 5 * _BLOCK):
            some = slice(start, start + 5 * _BLOCK)
            for one, other in (found[some].T, found[some, ::-1].T):
                likeness[some] = np.maximum(likeness[some], np.einsum("pd,pd->p", cut[one], whole[other]))
    return found[likeness > _ALIKE], likeness[likeness > _ALIKE]


def group_rows(looks: np.ndarray, sha256: list[str]) -> np.ndarray:
    """A group number for each picture, int64 (N,); near-duplicates, and files of the same SHA-256, have the same."""
    pairs, likeness = similar_pairs(looks)
    first = np.unique(sha256, return_index=True, return_inverse=True)
    copies = np.stack([np.arange(len(looks)), first[1][first[2]]], axis=1)
    groups = _connected(np.concatenate([copies, pairs]), len(looks))
    in_large = np.bincount(groups)[groups[pairs[:, 0]]] > _LARGEST if len(pairs) else np.zeros(0, bool)
    return _connected(np.concatenate([copies, pairs[~in_large | (likeness > _SAME)]]), len(looks))


def _connected(pairs: np.ndarray, count: int) -> np.ndarray:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


def _normalised(pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, 3, H, W) as vectors of length 1, or 0 for pictures of one colour; a product is a correlation."""
    flat = (pictures - pictures.mean(axis=(2, 3), keepdims=True)).reshape(len(pictures), np.prod(pictures.shape[1:]))
    lengths = np.sqrt(np.einsum("nd,nd->n", flat, flat))[:, None]
    flat /= np.where(lengths > 1, lengths, np.inf)
    return flat


def _windows() -> list[tuple[np.ndarray, np.ndarray]]:
    """Matrices that cut a window and shrink it to half a look's side: the whole, then 95 % and 90 % at nine places."""

    def cut(start: float, length: float) -> np.ndarray:
        edges = start + np.linspace(0, length, LOOK // 2 + 1)[:, None]
        pixels = np.arange(LOOK)
        covered = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
        return (np.maximum(covered, 0) * (LOOK / 2 / length)).astype(np.float32)

    windows = []
    for length in (LOOK, 0.95 * LOOK, 0.9 * LOOK):
        cuts = [cut(start, length) for start in sorted({0, (LOOK - length) / 2, LOOK - length})]
        windows += [(rows, columns) for rows in cuts for columns in cuts]
    return windows
