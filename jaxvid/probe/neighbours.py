"""What lies near a video among others: k-nearest neighbours and retrieval, by cosines of means."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxvid.reports import metrics

TEMPERATURE = 0.07
"""Of the votes of neighbours (Wu et al., 2018)."""
_AT_ONCE = 1024


def normalized(means: np.ndarray) -> np.ndarray:
    """Means [N, C] at length 1; those that are zero stay so."""
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def _cosines(queries: np.ndarray, gallery: np.ndarray) -> Iterator[np.ndarray]:
    """Cosines [n, M] of queries [N, C] to a gallery [M, C], some queries at a time."""
    queries, gallery = normalized(queries), normalized(gallery).T
    for start in range(0, len(queries), _AT_ONCE):
        yield queries[start : start + _AT_ONCE] @ gallery


def votes(
    queries: np.ndarray,
    gallery: np.ndarray,
    labels: np.ndarray,
    classes: int,
    counts: Sequence[int],
) -> np.ndarray:
    """Scores [len(counts), N, classes] of queries [N, C] by their nearest in a gallery [M, C].

    Each of so many neighbours, whose `labels` are [M], votes for its class by the exponential of
    its cosine over `TEMPERATURE`.
    """
    counts = [min(count, len(gallery)) for count in counts]
    found = []
    for cosines in _cosines(queries, gallery):
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : max(counts)]
        nearest = np.take_along_axis(cosines, order, 1)
        # The nearest one's vote is 1.
        weights = np.exp((nearest - nearest[:, :1]) / TEMPERATURE)
        each = np.zeros((len(counts), len(cosines), classes), np.float32)
        rows = np.arange(len(cosines))[:, None]
        for place, count in enumerate(counts):
            np.add.at(each[place], (rows, labels[order[:, :count]]), weights[:, :count])
        found.append(each)
    return np.concatenate(found, axis=1)


def retrieval(
    queries: np.ndarray,
    labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    counts: Sequence[int],
) -> tuple[np.ndarray, np.ndarray]:
    """How well queries [N, C] find what has their label in a gallery [M, C].

    Returns:
      Whether one of the `counts` nearest has it, bool [len(counts), N]; and the average precision
      [N] of the whole gallery in its order, NaN for labels that it has not.
    """
    hits, precisions = [], []
    start = 0
    for cosines in _cosines(queries, gallery):
        same = gallery_labels == labels[start : start + len(cosines), None]
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : max(counts)]
        near = np.take_along_axis(same, order, 1)
        hits.append([near[:, :count].any(1) for count in counts])
        precisions.append(metrics.average_precisions(cosines.T, same.T.astype(int)))
        start += len(cosines)
    return np.concatenate(hits, axis=1), np.concatenate(precisions)
