"""Chips by the names that JAX gives their devices, and what their makers say that each can do."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one chip can do at best, as its maker's public page says.

    `flops` are bfloat16 operations per second, of dense matrices and with sums in float32;
    `bandwidth` is bytes per second between the chip and its memory, and `memory` that memory's size
    in bytes. `device_kinds` are the names by which JAX calls its devices, of which the chip has
    `devices`: each of these has that part of all three figures.
    """

    name: str
    device_kinds: tuple[str, ...]
    flops: float
    bandwidth: float
    memory: int
    devices: int = 1


CHIPS = (
    # https://cloud.google.com/tpu/docs, a page for each version.
    Chip("v4", ("TPU v4",), 275e12, 1228e9, 32 * GIB),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 819e9, 16 * GIB),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 2765e9, 95 * GIB),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 1640e9, 32 * GIB),
    # JAX sees each of its two cores as a device.
    Chip("tpu7x", ("TPU7x",), 2307e12, 7380e9, 192 * GIB, devices=2),
    # https://www.nvidia.com/en-us/data-center, a data sheet for each; "with sparsity" halved. What
    # the sheets call GB of memory are the decimal ones that JAX sees somewhat less of.
    Chip("a100", ("NVIDIA A100-SXM4-80GB",), 312e12, 2039e9, 80 * 10**9),
    Chip("h100", ("NVIDIA H100 80GB HBM3",), 989e12, 3350e9, 80 * 10**9),
    Chip("h200", ("NVIDIA H200",), 989e12, 4800e9, 141 * 10**9),
)


def by_kind(device_kind: str) -> Chip | None:
    """The chip whose devices JAX calls so, or None where the table has none."""
    return next((chip for chip in CHIPS if device_kind in chip.device_kinds), None)


def by_name(name: str) -> Chip | None:
    """The chip of this name of the table, such as `v5e`, or None where the table has none."""
    return next((chip for chip in CHIPS if chip.name == name), None)
