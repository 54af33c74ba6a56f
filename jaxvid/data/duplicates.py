"""Videos that are nearly the same, such as copies of one in another size or encoding.

A video's hash has a part for what is seen and one for what moves. Each of some frames, spread over
its length, is shrunk to 32 x 32 grey pixels, and the signs of its lowest frequencies (a discrete
cosine transform) against their median are 63 bits: a perceptual hash. The same is done to what
differs in each from the mean of all, so that clips of the same still scene are told apart by what
happens in it. Copies differ in a few bits of a frame, others in half of them: in re-encoded and
rescaled copies of the clips this was tried on it was at most 5, in all pairs of others at least 9.
"""

import concurrent.futures
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.data.cores import usable_cores
from jaxvid.data.cpu_tf import tf
from jaxvid.data.datasets import Source

FRAMES = 6
"""Frames of each video that are looked at."""
MOST = 7.0
"""Bits of a frame, on average, in which copies may differ."""
_SIDE, _LOW = 32, 8
_STILL = 1.5  # Grey levels that frames differ by from their mean: below, what moves is noise.
_FIRST = 20  # Bits in which the middle frame may differ for the rest to be compared.
_BLOCK = 1 << 24  # Pairs that are compared at a time.
_WAVES = np.cos(
    np.pi * np.outer(np.arange(_LOW), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE)
)  # [low frequency, pixel]


class Hashes(NamedTuple):
    """Of each video: bits of what is seen and of what moves, uint64 `[N, FRAMES]`.

    `motion` is by how many grey levels its frames differ from their mean, NaN where it cannot be
    read.
    """

    seen: np.ndarray
    moves: np.ndarray
    motion: np.ndarray


class Pair(NamedTuple):
    """Two videos by their numbers, and how many bits of a frame differ on average."""

    one: int
    other: int
    bits: float


def hashes(source: Source, what: str) -> tuple[Hashes, dict[int, str]]:
    """The hashes of all videos, and by number why some have none, which are like no other."""
    progress = Progress(len(source), f"comparing the videos of {what}", "videos")
    grey = np.full((len(source), FRAMES, _SIDE, _SIDE), np.nan, np.float32)
    bad: dict[int, str] = {}
    with concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        for number, found in enumerate(pool.map(lambda n: _try(source, n), range(len(source)))):
            if isinstance(found, str):
                bad[number] = found
            else:
                grey[number] = found
            progress.update()
    progress.close()
    return hash_of(grey), bad


def hash_of(grey: np.ndarray) -> Hashes:
    """The hashes of videos float32 `[N, FRAMES, 32, 32]`, grey."""
    moving = grey - grey.mean(1, keepdims=True)
    motion = np.sqrt((moving**2).mean((1, 2, 3)))
    return Hashes(_bits(grey), _bits(moving), motion)


def _try(source: Source, number: int) -> np.ndarray | str:
    try:
        return thumbnails(source, number)
    except JaxvidError as error:
        return str(error)
    except tf.errors.OpError as error:
        return f"{source.name(number)} cannot be decoded ({error.message.splitlines()[0]})"


def places(source: Source, number: int) -> np.ndarray:
    """The frames of a video that are compared, int64 `[FRAMES]`."""
    return (2 * np.arange(FRAMES) + 1) * int(source.num_frames[number]) // (2 * FRAMES)


def thumbnails(source: Source, number: int) -> np.ndarray:
    """Frames spread over a video, grey and small: float32 `[FRAMES, 32, 32]`."""
    needed, again = np.unique(places(source, number), return_inverse=True)
    images = source.frames(number, needed)
    if source.encoded:
        short = min(int(source.height[number]), int(source.width[number]))
        # A JPEG gives an eighth of its size for a fraction of the work.
        ratio = next((each for each in (8, 4, 2) if short // each >= _SIDE), 1)
        images = [tf.io.decode_jpeg(image, channels=3, ratio=ratio) for image in images]
    shrunk = [tf.image.resize(image, (_SIDE, _SIDE), method="area") for image in images]
    return (np.stack(shrunk) @ np.array([0.299, 0.587, 0.114], np.float32))[again]


def _bits(grey: np.ndarray) -> np.ndarray:
    """The perceptual hash of each picture `[..., 32, 32]`: uint64 `[...]`."""
    waves = np.einsum("ia,...ab,jb->...ij", _WAVES, grey, _WAVES, optimize=True)
    low = waves.reshape(*waves.shape[:-2], _LOW * _LOW)[..., 1:]  # The first is the brightness.
    ahead = low > np.median(low, -1, keepdims=True)
    return (ahead.astype(np.uint64) << np.arange(_LOW * _LOW - 1, dtype=np.uint64)).sum(-1)


def pairs(one: Hashes, other: Hashes | None = None) -> list[Pair]:
    """All pairs of near copies, the nearest first: between two sets, or within one."""
    within = other is None
    other = one if other is None else other
    found = []
    progress = Progress(len(one.motion), "looking for near copies", "videos")
    for begin, rows in _blocks(len(one.motion), len(other.motion)):
        middle = FRAMES // 2
        far = np.bitwise_count(one.seen[rows, None, middle] ^ other.seen[None, :, middle])
        first, second = np.nonzero(far <= _FIRST)
        first += begin
        if within:
            first, second = first[first < second], second[first < second]
        found += _confirmed(one, other, first, second)
        progress.update(len(far))
    progress.close()
    return sorted(found, key=lambda pair: (pair.bits, pair.one, pair.other))


def _blocks(count: int, others: int) -> Iterator[tuple[int, slice]]:
    size = max(1, _BLOCK // max(others, 1))
    for begin in range(0, count, size):
        yield begin, slice(begin, min(begin + size, count))


def _confirmed(one: Hashes, other: Hashes, first: np.ndarray, second: np.ndarray) -> list[Pair]:
    """Those of the pairs that are near in all frames, and in what moves."""
    seen, moves = (
        np.bitwise_count(a[first] ^ b[second]).mean(1)
        for a, b in ((one.seen, other.seen), (one.moves, other.moves))
    )
    least, most = np.sort([one.motion[first], other.motion[second]], axis=0)
    bits = np.where(least < _STILL, seen, np.maximum(seen, moves))
    # One that moves is no copy of one that does not; and what cannot be read is like no other.
    near = (bits <= MOST) & ((least >= _STILL) | (most < 2 * _STILL)) & ~np.isnan(most)
    columns = (first[near].tolist(), second[near].tolist(), bits[near].tolist())
    return [Pair(*each) for each in zip(*columns, strict=True)]
