"""Accuracies over a whole test set, from per-video scores."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Accuracies in [0, 1] over `count` videos.

    `mean_class` averages each class's own accuracy over the classes that occur; `top1_error` is
    the standard error of `top1`; `confusion` [classes, classes] counts videos by (label, answer).
    """

    count: int
    top1: float
    top5: float
    mean_class: float
    top1_error: float
    confusion: np.ndarray


def top_k_hits(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether each label [N] is among the k highest of scores [N, classes].

    Ties count against the label, so that a model that answers the same for everything earns
    nothing by it; and so do scores that are not numbers, which no comparison holds for.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    others_not_below = (~(scores < own)).sum(1) - 1
    return (others_not_below < k) & ~np.isnan(own[:, 0])


def accuracy(scores: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Accuracies of scores [N, classes] (any monotone scale) against integer labels [N]."""
    count, classes = scores.shape
    top1 = top_k_hits(scores, labels, 1)
    answers = scores.argmax(1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, answers), 1)
    per_class = np.bincount(labels, weights=top1, minlength=classes)
    sizes = np.bincount(labels, minlength=classes)
    share = float(top1.mean())
    return Accuracy(
        count=count,
        top1=share,
        top5=float(top_k_hits(scores, labels, 5).mean()),
        mean_class=float((per_class[sizes > 0] / sizes[sizes > 0]).mean()),
        top1_error=float(np.sqrt(share * (1 - share) / count)),
        confusion=confusion,
    )
