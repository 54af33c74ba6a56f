"""Clusters of features without their labels, and how these agree with them."""

import numpy as np

_ROUNDS = 100


def k_means(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Puts points [N, C] into `count` clusters [N] by Lloyd's rounds from k-means++'s beginning.

    A cluster that loses all of its points begins anew at the point that is farthest from its own.
    """
    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(points)))]
    far = _squares(points, points[chosen]).min(1)
    while len(chosen) < count:
        chance = far / far.sum() if far.sum() else None
        chosen.append(int(rng.choice(len(points), p=chance)))
        far = np.minimum(far, _squares(points, points[chosen[-1:]])[:, 0])
    centres = points[chosen]
    found = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        squares = _squares(points, centres)
        before, found = found, squares.argmin(1)
        if (before == found).all():
            break
        farthest = iter(np.argsort(-squares.min(1), kind="stable"))
        for number in range(count):
            own = points[found == number]
            centres[number] = own.mean(0) if len(own) else points[next(farthest)]
    return found


def _squares(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squares of distances [N, K], in float64."""
    points, centres = points.astype(np.float64), centres.astype(np.float64)
    found = (points**2).sum(1)[:, None] - 2 * points @ centres.T + (centres**2).sum(1)
    return np.maximum(found, 0)


def _table(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How many are in each cluster of `one` [N] and each of `other` [N]."""
    _, rows = np.unique(one, return_inverse=True)
    _, columns = np.unique(other, return_inverse=True)
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)
    return table


def adjusted_rand(one: np.ndarray, other: np.ndarray) -> float:
    """The adjusted Rand index of two partitions [N] (Hubert and Arabie, 1985): 0 by chance."""

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    table = _table(one, other)
    rows, columns = pairs(table.sum(1)), pairs(table.sum(0))
    expected = rows * columns / max(pairs(table.sum()), 1)
    most = (rows + columns) / 2
    return 1.0 if most == expected else (pairs(table) - expected) / (most - expected)


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of two partitions [N] over the mean of their entropies, in 0..1."""

    def entropy(shares: np.ndarray) -> float:
        shares = shares[shares > 0]
        return float(-(shares * np.log(shares)).sum())

    joint = _table(one, other) / len(one)
    rows, columns = entropy(joint.sum(1)), entropy(joint.sum(0))
    # Two partitions of one cluster each agree.
    return 2 * (rows + columns - entropy(joint)) / (rows + columns) if rows + columns else 1.0
