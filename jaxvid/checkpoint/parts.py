"""Arrays that several processes write to an object store: each its own part, in a file of its own.

Orbax lets processes meet in one folder, which has to be on a disk. In a store each of them writes
what lies on its own devices, every piece of an array once: `process-<number>.bin` holds the bytes
of its pieces one after the other, and `process-<number>.json` says by the array's name where each
piece begins there, and where in the array it lies. Any number of processes puts the pieces together
again, on any devices, and reads those that it needs.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvid.base import jsons, stores, whole
from jaxvid.checkpoint import peers

_REQUEST = 16 << 20  # The most bytes of one request,
_AT_ONCE = 16  # and so many are made together.

Region = tuple[tuple[int, int], ...]
"""Start and stop of each axis."""


def write(path: Path, named: dict[str, Any]) -> None:
    """Writes arrays by name to the new folder `path`; all processes call it and end together."""
    part = f"process-{jax.process_index()}"
    pieces: dict[str, list[tuple[int, Region]]] = defaultdict(list)
    with whole.file(path / f"{part}.bin") as file:
        for name, array in named.items():
            for region, piece in _own(array):
                pieces[name].append((file.tell(), region))
                file.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
    whole.text(path / f"{part}.json", jsons.dump(pieces))
    peers.wait_for_all("parts")


def read(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Reads the arrays named in `like` from the folder `path`, each as its value there says.

    Raises what damage makes Python raise.
    """
    found: dict[str, list[tuple[Region, Path, int]]] = defaultdict(list)
    for card in sorted(path.glob("process-*.json")):
        for name, pieces in jsons.read(card).items():
            for start, spans in pieces:
                region = tuple((int(a), int(b)) for a, b in spans)
                found[name].append((region, card.with_suffix(".bin"), int(start)))
    return {name: _assembled(leaf, found[name]) for name, leaf in like.items()}


def _own(array: jax.Array | np.ndarray) -> Iterator[tuple[Region, np.ndarray]]:
    """The pieces of an array that this process writes: each is written by one of all."""
    if isinstance(array, np.ndarray) or array.is_fully_addressable:  # All processes have it.
        if peers.is_first():
            yield _region(..., array.shape), np.asarray(array)
        return
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            yield _region(shard.index, array.shape), np.asarray(shard.data)


def _assembled(leaf: Any, pieces: list[tuple[Region, Path, int]]) -> Any:
    """An array as `leaf` says, of those of its pieces that this process needs."""

    @functools.cache  # Several devices may each need a part of one.
    def read_piece(file: Path, start: int, shape: tuple[int, ...]) -> np.ndarray:
        return _piece(file, start, shape, leaf.dtype)

    @functools.cache
    def cut(region: Region) -> np.ndarray:
        out = np.empty(_shape(region), leaf.dtype)
        filled = 0
        for place, file, start in pieces:
            both = _overlap(region, place)
            if both is not None:
                piece = read_piece(file, start, _shape(place))
                out[_within(both, region)] = piece[_within(both, place)]
                filled += math.prod(_shape(both))
        if filled != out.size:
            raise ValueError("pieces are missing")
        return out

    if isinstance(leaf, np.ndarray):
        return cut(_region(..., leaf.shape))
    return jax.make_array_from_callback(
        leaf.shape, leaf.sharding, lambda index: cut(_region(index, leaf.shape))
    )


def _piece(file: Path, start: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A piece of which the bytes begin at `start` of a file."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    out = np.empty(size, np.uint8)
    place = 0
    for data in _read(file, start, start + size):
        out[place : place + len(data)] = np.frombuffer(data, np.uint8)
        place += len(data)
    if place != size:
        raise ValueError(f"{file.name} is too short")
    return out.view(dtype).reshape(shape)


def _read(file: Path, start: int, stop: int) -> Iterable[bytes]:
    """The bytes from `start` to `stop` of a file, in order."""
    spans = [(at, min(at + _REQUEST, stop)) for at in range(start, stop, _REQUEST)]
    if isinstance(file, stores.StorePath):
        for first in range(0, len(spans), _AT_ONCE):
            yield from stores.read_ranges(file, spans[first : first + _AT_ONCE])
        return
    with file.open("rb") as opened:
        opened.seek(start)
        for at, end in spans:
            yield opened.read(end - at)


def _region(index: Any, shape: tuple[int, ...]) -> Region:
    slices = (slice(None),) * len(shape) if index is ... else index
    spans = (one.indices(size) for one, size in zip(slices, shape, strict=True))
    return tuple((start, stop) for start, stop, _ in spans)


def _shape(region: Region) -> tuple[int, ...]:
    return tuple(stop - start for start, stop in region)


def _overlap(one: Region, other: Region) -> Region | None:
    both = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return both if all(start < stop for start, stop in both) else None


def _within(inner: Region, outer: Region) -> tuple[slice, ...]:
    """The slices that cut `inner` out of what lies at `outer`."""
    spans = zip(inner, outer, strict=True)
    return tuple(slice(start - base, stop - base) for (start, stop), (base, _) in spans)
