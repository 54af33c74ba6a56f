"""What a clip of training costs a processor, and where that goes: from a file to the device."""

import dataclasses
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Data
from jaxvid.data import bounds, pipeline
from jaxvid.data.batches import Part
from jaxvid.data.clips import Clips
from jaxvid.data.cpu_tf import tf
from jaxvid.data.datasets import Source, Split

_SIZE = 8
"""Clips of a batch, more or less, and as many are taken apart."""
_WARM = 3
"""Batches that are made before those that are timed, and so ahead of them as of the one after."""
_BATCHES = 4
_WIDTH = 40
"""Signs of the longest bar."""


def measure(split: Split, data: Data, loss: str, seed: int) -> dict[str, float]:
    """The processor's seconds of a clip by what they are spent on, in the order of its way.

    The last but one is what the pipeline of one thread takes beyond the parts before.

    Raises:
      JaxvidError: a video cannot be read or decoded.
    """
    size = data.repeats * max(_SIZE // data.repeats, 1)
    spent = _parts(split, data, size, loss, seed)
    batches = pipeline.train_batches(
        split,
        dataclasses.replace(data, workers=1),
        batch_size=size,
        loss=loss,
        seed=seed,
        process=0,
        processes=1,
    )
    made = placed = 0.0
    for number in range(_WARM + _BATCHES):
        seconds, batch = _timed(next, batches)
        if number >= _WARM:
            made += seconds
            placed += _timed(_place, batch["video"])[0]
    batches.close()
    clips = _BATCHES * size
    spent["batch, threads"] = max(made / clips - sum(spent.values()), 0.0)
    spent["to the device"] = placed / clips
    return spent


def _parts(split: Split, data: Data, size: int, loss: str, seed: int) -> dict[str, float]:
    """The seconds of each part that makes a clip, the mean of `size`."""
    source = _Timed(split.source)
    timed = dataclasses.replace(split, source=source)
    clips = Clips(timed, data, Part(size, 0, 1, "train"), loss, seed)
    specs = dict(clips.specs)
    stages = {
        name: tf.function(stage, input_signature=[specs], autograph=False)
        for name, stage in clips.stages.items()
    }
    spent: dict[str, float] = {}
    for position in (0, *range(size)):
        again = bool(spent)  # The first time of the first, which compiles, does not count.
        for name, seconds in _of_clip(clips, source, stages, position):
            spent[name] = spent.get(name, 0.0) + seconds / size * again
    # Each stage does what those before it do, too.
    before = 0.0
    for name in stages:
        spent[name], before = max(spent[name] - before, 0.0), spent[name]
    return spent


def _of_clip(
    clips: Clips, source: "_Timed", stages: dict[str, Any], position: int
) -> Iterator[tuple[str, float]]:
    """The seconds of each part of one clip; those of a stage are from the first of them on."""
    video = clips.pick(position, 0)
    planned, loaded = _timed(clips.load, position, video)
    yield "plan", planned - source.seconds
    if clips.source.encoded:
        height, width = int(source.height[video]), int(source.width[video])
        checks, _ = _timed(_check, source.images, height, width)
        yield "read", max(source.seconds - checks, 0.0)
        yield "checks", checks
    else:
        yield "read, decode", source.seconds
    given = {name: tf.constant(loaded[name]) for name in clips.specs}
    for name, stage in stages.items():
        try:
            seconds, _ = _timed(stage, given)
        except tf.errors.OpError:
            raise JaxvidError(f"{source.name(video)} cannot be decoded: leave it out") from None
        yield name, seconds


class _Timed:
    """A source that notes how long its frames took, and what they were."""

    def __init__(self, source: Source):
        self._source, self.seconds = source, 0.0
        self.images: Any = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def frames(self, number: int, indices: np.ndarray) -> list[bytes] | np.ndarray:
        self.seconds, self.images = _timed(self._source.frames, number, indices)
        return self.images


def _check(images: Sequence[bytes], height: int, width: int) -> None:
    """What `Records.frames` does beside reading."""
    for image in images:
        zlib.crc32(image)
        bounds.picture_problem(image, height, width)


def _place(video: np.ndarray) -> None:
    jax.block_until_ready(jax.device_put(video))


def _timed(action: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    begun = time.process_time()
    result = action(*arguments)
    return time.process_time() - begun, result


def lines(spent: dict[str, float]) -> list[str]:
    """The shares as a table with bars."""
    total, longest = sum(spent.values()), max(spent.values())
    return [
        f"  {name:<15} {1000 * seconds:7.2f} ms {seconds / total:4.0%} "
        f"{'#' * round(_WIDTH * seconds / longest)}".rstrip()
        for name, seconds in spent.items()
    ]
