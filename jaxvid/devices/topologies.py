"""Chips by name, which need not be here: what a program can be compiled for.

JAX compiles for TPUs wherever `libtpu` is installed, and for NVIDIA's GPUs wherever its CUDA plugin
is, on a CPU. What is compiled so cannot be run.
"""

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from jaxvid.base.errors import JaxvidError, listed
from jaxvid.devices.chips import CHIPS, Chip, by_name

NAMES = "v5e:16x16, v5p:8x8x4, v6e:2x4, 2*v5e:16x16 (two slices), h200:8, h100:2x8 or cpu:8"

# What libtpu would ask the machine for that it believes to be on.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_ACCELERATORS = {"v4": "v4-8", "v5e": "v5litepod-8", "v5p": "v5p-8", "v6e": "v6e-8"}
# Of a GPU, by the first number of its compute capability.
_FEATURES = {8: "NONE", 9: "ACCELERATED_FEATURES"}


class Topology(NamedTuple):
    """Devices that programs can be compiled for.

    Attributes:
      name: as it was asked for.
      devices: what stands for them in a mesh.
      platform: `cpu`, `cuda` or `tpu`.
      chip: what one of them can do; None for CPUs.
      per_chip: how many devices one chip is to JAX.
    """

    name: str
    devices: Sequence[Any]
    platform: str
    chip: Chip | None
    per_chip: int = 1

    @property
    def memory(self) -> int | None:
        """The bytes of memory of one device, where the chip is known."""
        return self.chip.memory // self.per_chip if self.chip else None

    @property
    def flops(self) -> float | None:
        """What one device computes at best: operations a second in bfloat16."""
        return self.chip.flops / self.per_chip if self.chip else None

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second between one device and its memory."""
        return self.chip.bandwidth / self.per_chip if self.chip else None


def find(name: str) -> Topology:
    """The devices of a topology; see `NAMES`. To be called before JAX knows its own devices.

    Raises:
      JaxvidError: there is no such chip or topology, or what compiles for it is not installed.
    """
    found = re.fullmatch(r"(?:([1-9]\d*)\*)?([a-z]\w*):(\d+(?:x\d+)*)", name)
    if not found:
        raise JaxvidError(f"--topology={name!r} is none: give a chip and how many, such as {NAMES}")
    # Installed, libtpu looks for chips also where none are asked for.
    os.environ.update(_TPU_ENVIRONMENT)
    slices, chip_name, shape = int(found[1] or 1), found[2], found[3]
    if chip_name == "cpu":
        return _cpus(name, math.prod(map(int, shape.split("x"))))
    chip = by_name(chip_name)
    if chip is None:
        known = listed([*(each.name for each in CHIPS), "cpu"])
        raise JaxvidError(f"--topology={name!r}: no chip is called {chip_name}: take {known}")
    if chip_name.startswith(("v", "tpu")):
        return _tpus(name, chip, shape, slices)
    return _gpus(name, chip, math.prod(map(int, shape.split("x"))) * slices)


def _cpus(name: str, count: int) -> Topology:
    """Simulated devices of this machine's CPU."""
    with contextlib.suppress(RuntimeError):  # JAX may know its devices already.
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise JaxvidError(
            f"--topology={name!r}: JAX has {len(devices)} CPU devices in this process already: "
            "start the command anew"
        )
    return Topology(name, devices[:count], "cpu", None)


def _tpus(name: str, chip: Chip, shape: str, slices: int) -> Topology:
    if importlib.util.find_spec("libtpu") is None:
        raise JaxvidError(
            f"--topology={name!r} is compiled by libtpu, which is not installed: "
            "pip install 'jaxvid[tpu]', on any x86 machine with Linux"
        )
    from jax.experimental import topologies

    if chip.name in _ACCELERATORS:
        os.environ["TPU_ACCELERATOR_TYPE"] = _ACCELERATORS[chip.name]
    more = {"num_slices": slices} if slices > 1 else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{chip.name}:{shape}", **more
        )
    except Exception as error:  # JAX's own errors have no common ancestor here.
        said = str(error).splitlines()[0]
        raise JaxvidError(
            f"--topology={name!r}: {chip.name} has no such topology ({said})"
        ) from error
    devices: Sequence[Any] = found.devices
    places = {(getattr(device, "slice_index", 0), *device.coords) for device in devices}
    return Topology(name, devices, "tpu", chip, len(devices) // len(places))


def _gpus(name: str, chip: Chip, count: int) -> Topology:
    plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin")
    if not any(importlib.util.find_spec(plugin) for plugin in plugins):
        raise JaxvidError(
            f"--topology={name!r} is compiled by JAX's CUDA plugin, which is not installed: "
            "pip install 'jaxvid[cuda]'"
        )
    from jax.experimental import topologies

    # The driver and the libraries of a GPU are not asked for where there is none.
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    try:
        found = topologies.get_topology_desc(
            "", platform="cuda", target_config=_gpu(chip), topology=f"1x1x{count}"
        )
    except Exception as error:
        said = str(error).splitlines()[0]
        raise JaxvidError(f"--topology={name!r} cannot be made here ({said})") from error
    return Topology(name, found.devices, "cuda", chip)


def _gpu(chip: Chip) -> str:
    """A GPU as XLA wants it described, in the text form of its protocol buffer."""
    major, cores, shared = (8, 108, 166912) if chip.name == "a100" else (9, 132, 232448)
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared + 1024}
  shared_memory_per_block_optin: {shared}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {64 if major == 8 else 128}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {int(chip.bandwidth)}
  device_memory_size: {chip.memory}
  l2_cache_size: {(40 if major == 8 else 50) * 2**20}
  clock_rate_ghz: {1.41 if major == 8 else 1.98}
  cuda_compute_capability {{ major: {major} feature_extension: {_FEATURES[major]} }}
  device_vendor: "NVIDIA Corporation"
  platform_version: "Compute Capability {major}.0"
  name: "{chip.device_kinds[0]}"
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.device_kinds[0]}"
"""
