"""Accuracies over a whole test set, from per-video scores."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxvid.rows import UNKNOWN


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Accuracies in [0, 1] over `count` videos.

    `mean_class` averages each class's own accuracy over the classes that occur; `top1_error` is
    the standard error of `top1`; `mean_ap` is the mean average precision over classes;
    `confusion` [classes, classes] counts videos by (label, answer), so that its diagonal holds
    what `top1` counts.
    """

    count: int
    top1: float
    top5: float
    mean_class: float
    top1_error: float
    mean_ap: float
    confusion: np.ndarray

    @property
    def main(self) -> float:
        """What the best checkpoint has most of."""
        return self.top1

    @property
    def logged(self) -> dict[str, float]:
        """What a log of training shows."""
        return {"top1": self.top1, "top5": self.top5}

    @property
    def figures(self) -> dict[str, float]:
        """All figures by the names that files have for them."""
        return {
            "videos": self.count,
            "top1": self.top1,
            "top1_standard_error": self.top1_error,
            "top5": self.top5,
            "mean_class": self.mean_class,
            "mean_average_precision": self.mean_ap,
        }

    def __str__(self) -> str:
        return (
            f"{self.count} videos, top-1 {100 * self.top1:.2f} ± {100 * self.top1_error:.2f} %, "
            f"top-5 {100 * self.top5:.2f} %, mean class {100 * self.mean_class:.2f} %"
        )


@dataclasses.dataclass(frozen=True)
class MultiLabel:
    """Figures in [0, 1] over `count` videos that may have several labels each, or none.

    `mean_ap` is the mean of `average_precisions` [classes], of which those of classes in no video
    are NaN, and `video_ap` the mean over videos of the average precision of each video's classes,
    which tables of MMiT print; `hit1` is the share of videos whose best answer is one of their
    labels. Where classes have categories, `categories` are the means of these, and `mean_ap` is
    theirs, as tables of HVU print it.
    """

    count: int
    mean_ap: float
    video_ap: float
    hit1: float
    average_precisions: np.ndarray
    categories: Mapping[str, float]

    @property
    def main(self) -> float:
        """What the best checkpoint has most of."""
        return self.mean_ap

    @property
    def logged(self) -> dict[str, float]:
        """What a log of training shows."""
        each = {f"mean_ap_{name}": value for name, value in self.categories.items()}
        return {"mean_ap": self.mean_ap, **each, "hit1": self.hit1}

    @property
    def figures(self) -> dict[str, float]:
        """All figures by the names that files have for them."""
        return {
            "videos": self.count,
            "mean_average_precision": self.mean_ap,
            "mean_average_precision_over_videos": self.video_ap,
            **{f"mean_average_precision_{name}": x for name, x in self.categories.items()},
            "hit1": self.hit1,
        }

    def __str__(self) -> str:
        each = ", ".join(f"{name} {100 * x:.2f} %" for name, x in self.categories.items())
        return (
            f"{self.count} videos, mAP {100 * self.mean_ap:.2f} %"
            + (f" ({each})" if each else "")
            + f", over videos {100 * self.video_ap:.2f} %, hit@1 {100 * self.hit1:.2f} %"
        )


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """How well masked cubes of `count` videos were filled in.

    `loss` is the mean over videos of their mean squared errors, in units of each cube's own
    deviation: answering a cube's mean colour costs 1. `loss_error` is its standard error.
    """

    count: int
    loss: float
    loss_error: float

    @property
    def main(self) -> float:
        """What the best checkpoint has most of."""
        return -self.loss

    @property
    def logged(self) -> dict[str, float]:
        """What a log of training shows."""
        return {"loss": self.loss}

    @property
    def figures(self) -> dict[str, float]:
        """All figures by the names that files have for them."""
        return {"videos": self.count, "loss": self.loss, "loss_standard_error": self.loss_error}

    def __str__(self) -> str:
        return f"{self.count} videos, loss {self.loss:.4f} ± {self.loss_error:.4f}"


Result = Accuracy | MultiLabel | Reconstruction


def top_k_hits(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether each label [N] is among the k highest of scores [N, classes].

    Ties count against the label, so that a model that answers the same for everything earns
    nothing by it; and so do scores that are not numbers, which no comparison holds for.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    others_not_below = (~(scores < own)).sum(1) - 1
    return (others_not_below < k) & ~np.isnan(own[:, 0])


def answers(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class [N] answered for each video: the highest score, and at a tie not the label.

    So an answer is right exactly where `top_k_hits` counts it for k = 1.
    """
    best = scores.argmax(1)
    lucky = (best == labels) & ~top_k_hits(scores, labels, 1)
    others = scores[lucky]
    np.put_along_axis(others, labels[lucky, None], -np.inf, axis=1)
    best[lucky] = others.argmax(1)
    return best


def average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Average precision of one class: scores [N] against whether it is there [N].

    The area under the steps of precision over recall. Videos of the same score are retrieved
    together; those without a number last. NaN where the class is in no video. Those of which it is
    `UNKNOWN` are left out.
    """
    scores, targets = scores[targets != UNKNOWN], targets[targets != UNKNOWN]
    if not len(scores):
        return float("nan")
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(order) - 1)
    found = np.cumsum(targets[order] > 0)[ends]
    if not found[-1]:
        return float("nan")
    return float((np.diff(found, prepend=0) * found / (ends + 1)).sum() / found[-1])


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Every class's average precision [classes], NaN where the class is in no video.

    `scores` [N, classes] are of any monotone scale per class; `targets` [N, classes] are 1 where a
    video has the class, of which it may have several, or none.
    """
    return np.array([average_precision(s, t) for s, t in zip(scores.T, targets.T, strict=True)])


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean of the classes' average precisions; classes that are in no video are left out."""
    return _mean(average_precisions(scores, targets))


def reconstruction(losses: np.ndarray) -> Reconstruction:
    """What there is to say of the losses [N] of videos."""
    return Reconstruction(
        len(losses), float(losses.mean()), float(losses.std() / np.sqrt(len(losses)))
    )


def measure(
    scores: np.ndarray, labels: np.ndarray, categories: Sequence[str] = ()
) -> Accuracy | MultiLabel:
    """What there is to say of scores [N, classes] against labels [N] or targets [N, classes]."""
    return accuracy(scores, labels) if labels.ndim == 1 else multi_label(scores, labels, categories)


def multi_label(
    scores: np.ndarray, targets: np.ndarray, categories: Sequence[str] = ()
) -> MultiLabel:
    """Figures of scores [N, classes] against targets [N, classes], 1 where a video has a class.

    Targets are `UNKNOWN` where nobody said, and nothing is measured there; `categories` are those
    of the classes. Ties count against a video, as in `top_k_hits`: its best answers must all be
    labels.
    """
    each = average_precisions(scores, targets)
    names = np.array(categories)
    means = {name: _mean(each[names == name]) for name in dict.fromkeys(categories)}
    return MultiLabel(
        count=len(scores),
        mean_ap=_mean(np.array(list(means.values()))) if means else _mean(each),
        video_ap=_mean(average_precisions(scores.T, targets.T)),
        hit1=float(best_hits(scores, targets).mean()),
        average_precisions=each,
        categories=means,
    )


def best_answers(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The class [N] answered for each video, among those of which something is known."""
    return np.where(targets == UNKNOWN, -np.inf, scores).argmax(1)


def best_hits(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Whether the best answer to each video [N] is one of its classes: targets [N, classes] 1."""
    scores = np.where(targets == UNKNOWN, -np.inf, scores)
    return ((scores < scores.max(1, keepdims=True)) | (targets == 1)).all(1)


def _mean(each: np.ndarray) -> float:
    return float(np.nanmean(each)) if not np.isnan(each).all() else float("nan")


def accuracy(scores: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Accuracies of scores [N, classes] (any monotone scale) against integer labels [N]."""
    count, classes = scores.shape
    top1 = top_k_hits(scores, labels, 1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, answers(scores, labels)), 1)
    per_class = np.bincount(labels, weights=top1, minlength=classes)
    sizes = np.bincount(labels, minlength=classes)
    share = float(top1.mean())
    return Accuracy(
        count=count,
        top1=share,
        top5=float(top_k_hits(scores, labels, 5).mean()),
        mean_class=float((per_class[sizes > 0] / sizes[sizes > 0]).mean()),
        top1_error=float(np.sqrt(share * (1 - share) / count)),
        mean_ap=mean_average_precision(scores, labels[:, None] == np.arange(classes)),
        confusion=confusion,
    )
