"""Devices of one or several processes, and how arrays lie over them.

There is one mesh, of the axes that `layers.spread` speaks of: the batch is split over `data` and
`fsdp`, parameters and optimizer state over `fsdp` and `model`.
"""

import collections
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxvid.base.errors import JaxvidError
from jaxvid.layers import spread


def make_mesh(devices: Sequence[jax.Device] | None = None, axes: str = "") -> Mesh:
    """A mesh over `devices` (default: all of all processes), by default all along `data`.

    `axes` is what `config.train.mesh` says of it, such as `data:-1,fsdp:8,model:2`. Of several
    slices of TPUs, between which the network of the data centre is, each holds whole rows of `fsdp`
    and `model`, so that what they exchange stays within it.

    Raises:
      JaxvidError: the axes do not multiply to the devices, or do not lie within the slices.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(axes, len(devices))
    # Auto, because with jax's default (Explicit) linen's dropout does not trace.
    types = (AxisType.Auto,) * len(spread.AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if shape[0] % slices:
        raise JaxvidError(
            f"config.train.mesh={axes!r} makes data:{shape[0]}, but there are {slices} slices: let "
            f"data be a multiple of {slices}, so that parameters come together within a slice"
        )
    if slices == 1:
        mesh = jax.make_mesh(shape, spread.AXES, types, devices=devices)
    else:
        within, between = (shape[0] // slices, *shape[1:]), (slices, 1, 1)
        grid = mesh_utils.create_hybrid_device_mesh(within, between, devices)
        mesh = Mesh(grid, spread.AXES, axis_types=types)
    _check_rows(mesh, axes)
    return mesh


def _check_rows(mesh: Mesh, axes: str) -> None:
    """Refuses a mesh whose `model` reaches over processes, each of which reads clips of its own."""
    rows = mesh.devices.reshape(-1, mesh.devices.shape[-1])
    if any(len({device.process_index for device in row}) > 1 for row in rows):
        count = sum(
            device.process_index == mesh.devices.flat[0].process_index
            for device in mesh.devices.flat
        )
        raise JaxvidError(
            f"config.train.mesh={axes!r} splits heads over several processes, but each reads clips "
            f"of its own: let model divide the {count} devices of one"
        )


def mesh_shape(axes: str, count: int) -> tuple[int, int, int]:
    """How many of `count` devices stand along `data`, `fsdp` and `model`; see `make_mesh`."""
    if not axes:
        return count, 1, 1
    way_out = "give axes such as data:-1,fsdp:8,model:2, one of them -1 for what is left"
    sizes: dict[str, int] = {}
    for word in axes.split(","):
        name, _, size = word.strip().partition(":")
        if name not in spread.AXES or name in sizes or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise JaxvidError(f"config.train.mesh={axes!r}: {word.strip()!r} is no axis: {way_out}")
        sizes[name] = int(size)
    left = [name for name, size in sizes.items() if size < 0]
    given = math.prod(size for size in sizes.values() if size > 0)
    if len(left) > 1:
        raise JaxvidError(f"config.train.mesh={axes!r} leaves {' and '.join(left)} open: {way_out}")
    if count % given or not left and given != count:
        times = "a multiple of " if left else ""
        raise JaxvidError(
            f"config.train.mesh={axes!r} is for {times}{given} devices, but there are {count}: "
            f"{way_out}"
        )
    sizes |= dict.fromkeys(left, count // given)
    data, fsdp, model = (sizes.get(axis, 1) for axis in spread.AXES)
    return data, fsdp, model


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: Mesh) -> NamedSharding:
    """The first axis divided over the devices, but for those that share its heads and channels."""
    return NamedSharding(mesh, PartitionSpec(spread.BATCH))


def shares(mesh: Mesh) -> int:
    """How many parts the batch is split in."""
    return spread.size_of(mesh, spread.BATCH)


def place_state(state: Any, mesh: Mesh) -> Any:
    """Where each array of a training state lies, as a tree of shardings; see `spread.kept_spec`."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, spread.kept_spec(leaf.shape, mesh)), state)


def largest(mesh: Mesh) -> Callable[[int], jax.Array] | None:
    """What begins to look for the largest of a number that each process has; None for just one.

    The answer is an array that nothing waits for until it is read.
    """
    if jax.process_count() == 1:
        return None
    reduce = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def begin(number: int) -> jax.Array:
        own = np.full(len(mesh.local_devices), number, np.int32)
        return reduce(jax.make_array_from_process_local_data(split_batch(mesh), own))

    return begin


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """Refuses a global batch that does not divide over the devices.

    Raises:
      JaxvidError: naming the config field `name` and the nearest sizes that do divide.
    """
    count = shares(mesh)
    if size < 1 or size % count:
        below = size // count * count
        nearest = f"{below} or {below + count}" if below > 0 else str(count)
        raise JaxvidError(
            f"config.{name}={size} is the global batch and must divide over {count} devices: "
            f"take {nearest}"
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Any]:
    """Puts this process's part [local, ...] of every array onto its devices as a global array."""
    sharding = split_batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


class Placed(NamedTuple):
    """A batch: this process's part of it, and the global arrays on the devices."""

    own: Mapping[str, np.ndarray]
    there: dict[str, Any]


class Ahead:
    """This process's batches with their global arrays, put onto the devices before they are due.

    Whoever takes one hands it to the devices and calls `draw`, which fetches and places the next
    while they compute. So at most `most` batches wait on the devices. An error of a batch is raised
    where that batch is asked for, and is none before.
    """

    def __init__(
        self, batches: Iterable[Mapping[str, np.ndarray]], mesh: jax.sharding.Mesh, most: int = 1
    ):
        self._batches, self._mesh, self._most = iter(batches), mesh, most
        self._waiting: collections.deque[Placed | Exception] = collections.deque()

    def __iter__(self) -> "Ahead":
        return self

    def __next__(self) -> "Placed":
        if not self._waiting:
            self._draw()
        taken = self._waiting.popleft()
        if isinstance(taken, Exception):
            self._waiting.append(taken)  # As an iterator's end, it stays.
            raise taken
        return taken

    def draw(self) -> None:
        """Fetches and places batches until as many wait as may, or there are no more."""
        while len(self._waiting) < self._most and not self._ended():
            self._draw()

    def _draw(self) -> None:
        try:
            batch = next(self._batches)
            self._waiting.append(Placed(batch, put_batch(batch, self._mesh)))
        except Exception as error:  # StopIteration too.
            self._waiting.append(error)

    def _ended(self) -> bool:
        return bool(self._waiting) and isinstance(self._waiting[-1], Exception)
