"""How arrays lie over devices: one mesh, the batch split over it, parameters on every device."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxvid.errors import JaxvidError

BATCH_AXIS = "data"


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
