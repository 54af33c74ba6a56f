"""Devices of one or several processes, and how arrays lie over them.

There is one mesh. The batch is split over it; parameters and optimizer state are on every device or
split over it too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvid.base.errors import JaxvidError

BATCH_AXIS = "data"
SMALL = 1024
"""Arrays of fewer elements are not worth splitting: sending the parts takes longer than they do."""


def make_mesh(devices: list[jax.Device] | None = None) -> jax.sharding.Mesh:
    """A one-dimensional mesh over `devices` (default: all of all processes)."""
    devices = jax.devices() if devices is None else devices
    # Auto, because with jax's default (Explicit) linen's dropout does not trace.
    return jax.make_mesh((len(devices),), (BATCH_AXIS,), (AxisType.Auto,), devices=devices)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split_batch(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis divided over the devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXIS))


def place_state(state: Any, mesh: jax.sharding.Mesh, how: str) -> Any:
    """Where each array of a training state lies, as a tree of shardings.

    With `how="replicated"` every device holds all. With `"fsdp"` (fully sharded data parallel, or
    ZeRO: Rajbhandari et al., 2020) an array is split along its largest dimension that divides over
    the devices; only small ones, and those of which none divides, are on every device.

    Raises:
      JaxvidError: `how` is neither.
    """
    if how not in ("replicated", "fsdp"):
        raise JaxvidError(f"config.train.sharding={how!r} is unknown: take replicated or fsdp")
    count = mesh.devices.size

    def place(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size and size % count == 0]
        if how == "replicated" or leaf.size < SMALL or not axes:
            return replicated(mesh)
        # Of equals the last: in a kernel those are its channels.
        split = max(axes, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*[None] * split, BATCH_AXIS))

    return jax.tree.map(place, state)


def largest(mesh: jax.sharding.Mesh) -> Callable[[int], jax.Array] | None:
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


def check_batch(name: str, size: int, mesh: jax.sharding.Mesh) -> None:
    """Refuses a global batch that does not divide over the devices.

    Raises:
      JaxvidError: naming the config field `name` and the nearest sizes that do divide.
    """
    count = mesh.devices.size
    if size < 1 or size % count:
        below = size // count * count
        nearest = f"{below} or {below + count}" if below > 0 else str(count)
        raise JaxvidError(
            f"config.{name}={size} is the global batch and must divide over {count} devices: "
            f"take {nearest}"
        )


def put_batch(batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """Puts this process's part [local, ...] of every array onto its devices as a global array."""
    sharding = split_batch(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }
