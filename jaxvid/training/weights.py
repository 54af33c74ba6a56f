"""How much each class weighs in the loss: `config.train.class_weights`."""

from collections.abc import Sequence

import numpy as np

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Config
from jaxvid.data import categories, datasets
from jaxvid.data.order import clips_of_classes, turns

BALANCED = "balanced"


def of_classes(config: Config, split: datasets.Split) -> tuple[float, ...]:
    """The weight of each class, as `losses.make_loss` takes them; none where nothing is weighed.

    Under `softmax` they are scaled so that the clips of training weigh 1 on average, and
    `balanced` gives all classes that occur the same sum. Under `sigmoid` the weights are those of
    clips that have a class against those that lack it, and `balanced` gives both the same sum.
    What `data.balance` makes of the clips counts, so that the two together do not balance twice.
    A class that does not occur weighs 1.

    Raises:
      JaxvidError: a text that is neither `balanced` nor weights of classes that there are.
    """
    said = config.train.class_weights
    if not said:
        return ()
    clips = clips_of_classes(split.source.labels, len(split.classes), config.data.balance)
    if config.train.loss == "sigmoid":
        if said != BALANCED:
            return tuple(read(said, split).tolist())
        absent = _annotated(split, config.data.balance) - clips
        sometimes = (clips > 0) & (absent > 1e-6)  # Shares of turns are rounded.
        ratios = np.divide(absent, clips, where=sometimes, out=np.ones(len(clips)))
        return tuple(ratios.tolist())
    there = clips > 0
    weights = np.divide(1, clips, where=there, out=np.ones(len(clips)))
    if said != BALANCED:
        weights = read(said, split)
    if not (weights[there] > 0).any():
        raise JaxvidError("config.train.class_weights leaves no clip a weight: give some class one")
    scaled = weights * (clips[there].sum() / (weights * clips)[there].sum())
    return tuple(np.where(there, scaled, 1).tolist())


def _annotated(split: datasets.Split, balance: float) -> np.ndarray:
    """How many clips of an epoch say of each class whether they have it: float64 `[classes]`."""
    often = turns(split.source.labels, balance)
    if not split.categories:
        return np.full(len(split.classes), often.sum())
    # Few sets of categories occur, so that there is no array of all videos and classes.
    counts: dict[tuple[str, ...], float] = {}
    for named, clips in zip(split.annotated, often.tolist(), strict=True):
        counts[tuple(named)] = counts.get(tuple(named), 0.0) + clips
    known = np.zeros(len(split.classes))
    for named, clips in counts.items():
        known += categories.known(split.categories, named) * clips
    return known


def read(said: str, split: datasets.Split) -> np.ndarray:
    """The weights that `NAME:NUMBER|NAME:NUMBER` gives to classes; the others weigh 1."""
    weights = np.ones(len(split.classes))
    known = {name: number for number, name in enumerate(split.classes)}
    for pair in said.split("|"):
        name, _, number = pair.rpartition(":")
        name = text.normal(name.strip())
        if name not in known:
            raise JaxvidError(
                f"config.train.class_weights: {text.quoted(pair)} names none of the {len(known)} "
                f"classes: write {BALANCED}, or NAME:NUMBER with bars between"
            )
        weights[known[name]] = _number(pair, number)
    return weights


def _number(pair: str, said: str) -> float:
    try:
        number = float(said)
    except ValueError:
        number = -1
    if not 0 <= number < np.inf:
        raise JaxvidError(
            f"config.train.class_weights: {text.quoted(pair)} must end in a number from 0"
        )
    return number


def describe(classes: Sequence[str], weights: Sequence[float]) -> str:
    """A line that names the lightest and the heaviest class."""
    low, high = int(np.argmin(weights)), int(np.argmax(weights))
    return (
        f"class weights from {weights[low]:.3g} ({text.shown(classes[low])}) to "
        f"{weights[high]:.3g} ({text.shown(classes[high])})"
    )
