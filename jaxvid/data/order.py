"""Whose turn it is: the order in which training takes videos, as they are or balanced over classes.

Turn number n is a function of (seed, n) alone. As they are, all videos follow one another in an
order of their own for each epoch. With `data.balance` that share of the turns, evenly among the
others, goes to classes instead (class-aware sampling: Shen et al., 2016): the classes that occur
follow one another, each round in another order, and each gives the next of its videos, all of them
in a new order before any comes again. A video of several classes comes in the turns of each.

Of several datasets each has its share of every epoch, of what is not balanced, and its own videos
follow one another in orders of their own, however long the epochs of the others are.

An epoch has as many turns as there are videos, whatever the balance.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

_EPOCH_KEYS = 2**63
"""Epochs draw from keys of their own, beside those of the clips' numbers."""
_ROUND_KEYS = 2**63 + 2**61
"""So do the rounds of classes,"""
_CLASS_KEYS = 2**63 + 2**62
"""and the orders of the videos within a class."""
_ORDERS = 2**40
"""More orders than any class needs."""


@functools.lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, videos: int) -> np.ndarray:
    """The order of the videos in an epoch: a permutation of 0 .. videos - 1."""
    return generator(seed, _EPOCH_KEYS + epoch).permutation(videos)


@functools.lru_cache(maxsize=4)
def mixed_order(seed: int, epoch: int, shares: tuple[tuple[int, float], ...]) -> np.ndarray:
    """The videos of an epoch of several datasets, as many as there are, by their shares.

    `shares` are the numbers of videos, which follow one another, and the shares of the turns.
    """
    total = sum(count for count, _ in shares)
    exact = np.array([share for _, share in shares]) * total
    each = np.floor(exact).astype(int)
    each[np.argsort(each - exact, kind="stable")[: total - each.sum()]] += 1
    found, start = [], 0
    for part, ((count, _), own) in enumerate(zip(shares, each.tolist(), strict=True), 1):
        rounds, places = np.divmod(np.arange(epoch * own, (epoch + 1) * own), count)
        for one in np.unique(rounds).tolist():
            key = _EPOCH_KEYS + part * _ORDERS + one
            found.append(start + generator(seed, key).permutation(count)[places[rounds == one]])
        start += count
    slots = generator(seed, _EPOCH_KEYS + epoch).permutation(total)
    return np.concatenate(found)[slots]


def generator(seed: int, number: int) -> np.random.Generator:
    """The random numbers of one clip: the same wherever and whenever it is made."""
    # A list would be rounded to float64 as soon as a number needs 64 bits.
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))


class Order:
    """The order of the videos, whose classes are `labels`; see the module for `balance`.

    `shares` are those of several datasets; see `mixed_order`.
    """

    def __init__(
        self,
        labels: Sequence[Sequence[int]],
        balance: float,
        seed: int,
        shares: tuple[tuple[int, float], ...] = (),
    ):
        self._videos, self._seed, self._share = len(labels), seed, _share(balance)
        self._shares = shares
        self._members = members(labels) if balance else {}
        self._numbers = tuple(self._members)
        # Threads are near one another, so that each class needs the order it is in and the next.
        self._shuffled = functools.lru_cache(2 * len(self._members) + 4)(self._shuffle)

    def __call__(self, number: int) -> int:
        """The video of a turn."""
        before = math.floor(number * self._share)
        if math.floor((number + 1) * self._share) > before:
            return self._of_class(before)
        epoch, place = divmod(number - before, self._videos)
        if self._shares:
            return int(mixed_order(self._seed, epoch, self._shares)[place])
        return int(epoch_order(self._seed, epoch, self._videos)[place])

    def _of_class(self, turn: int) -> int:
        """The video of a turn that goes to a class."""
        around, place = divmod(turn, len(self._numbers))
        number = self._numbers[self._shuffled(_ROUND_KEYS + around, len(self._numbers))[place]]
        videos = self._members[number]
        again, place = divmod(around, len(videos))
        return int(
            videos[self._shuffled(_CLASS_KEYS + number * _ORDERS + again, len(videos))[place]]
        )

    def _shuffle(self, key: int, count: int) -> np.ndarray:
        return generator(self._seed, key).permutation(count)


def members(labels: Sequence[Sequence[int]]) -> dict[int, np.ndarray]:
    """The numbers of the videos of each class that occurs, by rising class."""
    pairs = [(each, video) for video, classes in enumerate(labels) for each in classes]
    found: dict[int, list[int]] = {each: [] for each, _ in sorted(pairs)}
    for each, video in pairs:
        found[each].append(video)
    return {each: np.array(videos) for each, videos in found.items()}


def turns(labels: Sequence[Sequence[int]], balance: float) -> np.ndarray:
    """How often each video comes in an epoch, on average: float64 `[videos]`."""
    share, found = float(_share(balance)), members(labels)
    each = np.full(len(labels), 1 - share)
    for videos in found.values():
        each[videos] += share * len(labels) / len(found) / len(videos)
    return each


def clips_of_classes(labels: Sequence[Sequence[int]], classes: int, balance: float) -> np.ndarray:
    """How many turns of an epoch show each class, on average: float64 `[classes]`."""
    each, counts = turns(labels, balance), np.zeros(classes)
    for number, videos in members(labels).items():
        counts[number] = each[videos].sum()
    return counts


def _share(balance: float) -> Fraction:
    """A fraction, so that turns are shared out without rounding."""
    return Fraction(balance).limit_denominator(10**6)
