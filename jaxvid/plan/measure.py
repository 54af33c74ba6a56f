"""Compiles the step and the test of a config for chips by name, and reads off what they take."""

import dataclasses
import math
import re
import time
from collections import Counter
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxvid import zoo
from jaxvid.config.parts import Config
from jaxvid.data import pipeline
from jaxvid.devices import placement
from jaxvid.devices.topologies import Topology
from jaxvid.inference import scoring
from jaxvid.layers.backend import noting
from jaxvid.reports import programs
from jaxvid.training import plan as plans
from jaxvid.training.program import operations

# Without a GPU to try them on, XLA finds no tiles for some of its own kernels: cuBLAS has all.
_UNTRIED: dict[str, str | bool] = {"xla_gpu_enable_triton_gemm": False}
Picked = dict[str, dict[str, int]]
"""How often each way to compute something was picked: {what: {way: count}}."""


@dataclasses.dataclass(frozen=True)
class Taken:
    """What one program takes of one device.

    Attributes:
      fits: whether it was compiled, and needs no more than the device's memory.
      error: why it was not compiled.
      argument_bytes: memory of what it is given.
      temporary_bytes: memory of all that it keeps meanwhile: activations, and what is whole for a
        while of what is kept in parts.
      needed_bytes: memory of both, and of results that take no argument's memory over.
      bytes: what it reads from the device's memory and writes to it.
      cycles: the compiler's estimate of the clock cycles of a device, without what devices send
        each other and kernels written by hand; 0 where it makes none.
      collectives: what devices send each other, {kind: {count, bytes}}.
      seconds: how long tracing and compiling took.
    """

    fits: bool
    error: str
    argument_bytes: int
    temporary_bytes: int
    needed_bytes: int
    bytes: float
    cycles: int
    collectives: dict[str, dict[str, int]]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run takes on a topology; sizes and operations are those of one device.

    Attributes:
      plan: the run.
      topology: the devices.
      clips: those that a device is given at a step.
      params_bytes, optimizer_bytes, copy_bytes: memory of parameters with BatchNorm's statistics,
        of the optimizer's state, and of the averaged copy.
      flops: operations of convolutions and matrix products in a step.
      step: what the step takes.
      test: what the test takes; None if it was not asked for.
      picked: the ways in which the step computes what can be computed in several.
    """

    plan: plans.Plan
    topology: Topology
    clips: int
    params_bytes: int
    optimizer_bytes: int
    copy_bytes: int
    flops: float
    step: Taken
    test: Taken | None
    picked: Picked

    @property
    def fits(self) -> bool:
        """Whether step and test do."""
        return self.step.fits and (self.test is None or self.test.fits)


def measure(config: Config, topology: Topology, with_test: bool = True) -> Report:
    """Compiles the step of `config` for `topology`, and its test.

    Raises:
      JaxvidError: the config asks for what cannot be, or its batch does not divide.
    """
    mesh = placement.make_mesh(topology.devices, config.train.axes)
    count = 0 if zoo.pretrains(config.model.name) else _classes(config)
    plan = plans.plan(config, mesh, [str(number) for number in range(count)])
    step, picked = _take(plan.step, (plan.state, plan.batch), topology)
    test = _take_test(plan, topology) if with_test and config.train.loss != "pixels" else None
    state = plan.state
    return Report(
        plan=plan,
        topology=topology,
        clips=config.train.batch_size // placement.shares(mesh),
        params_bytes=held((state.params, state.batch_stats)),
        optimizer_bytes=held(state.opt_state),
        copy_bytes=held(state.ema),
        flops=operations(plan).flops / mesh.size,
        step=step,
        test=test,
        picked=picked,
    )


def _classes(config: Config) -> int:
    """As many classes as the config says, or as the row was published for."""
    return config.model.num_classes or zoo.create_model(config.model.name).num_classes


def held(tree: Any) -> int:
    """Bytes of a tree of shapes with shardings on each device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += leaf.dtype.itemsize * math.prod(shape)
    return total


def _take_test(plan: plans.Plan, topology: Topology) -> Taken:
    """What the test of one batch takes."""
    config, mesh = plan.config, plan.mesh
    score = scoring.scorer_for(plan.model, config, mesh)
    protocol = config.test.protocol
    shape = pipeline.views_shape(protocol)
    batch = config.test.batch_size
    sharding = placement.split_batch(mesh)
    arguments = [
        plan.state.tested(config.test.weights),
        jax.ShapeDtypeStruct((batch, *shape), jnp.uint8, sharding=sharding),
    ]
    if pipeline.untrimmed(protocol):
        arguments.append(jax.ShapeDtypeStruct((batch, shape[0]), jnp.float32, sharding=sharding))
    return _take(score, tuple(arguments), topology)[0]


def _take(function: Any, arguments: tuple[Any, ...], topology: Topology) -> tuple[Taken, Picked]:
    """Compiles a function of abstract arguments and reads off what it takes."""
    begun = time.monotonic()
    with noting() as notes:
        lowered = cast(jax.stages.Wrapped, function).lower(*arguments)
    picked = _grouped(notes)
    try:
        compiled = lowered.compile(_UNTRIED if topology.platform == "cuda" else None)
    except jax.errors.JaxRuntimeError as error:
        said = str(error)
        if "RESOURCE_EXHAUSTED" not in said:
            raise
        return _refused(said, arguments, time.monotonic() - begun), picked
    seconds = time.monotonic() - begun
    memory: Any = compiled.memory_analysis()
    needed = programs.needed_bytes(compiled)
    program = programs.Program(compiled.as_text() or "")
    return (
        Taken(
            fits=topology.memory is None or needed <= topology.memory,
            error="",
            argument_bytes=memory.argument_size_in_bytes,
            temporary_bytes=memory.temp_size_in_bytes,
            needed_bytes=needed,
            bytes=program.traffic(programs.counted_bytes(compiled)),
            cycles=program.cycles(),
            collectives=programs.summed(program.collectives()),
            seconds=seconds,
        ),
        picked,
    )


def _refused(said: str, arguments: Any, seconds: float) -> Taken:
    """What a program takes that was refused because it does not fit."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    found = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", said)
    needed = int(float(found[1]) * units[found[2]]) if found else 0
    given = held(arguments)
    return Taken(
        fits=False,
        error=said.splitlines()[0],
        argument_bytes=given,
        temporary_bytes=max(needed - given, 0),
        needed_bytes=needed,
        bytes=float("nan"),
        cycles=0,
        collectives={},
        seconds=seconds,
    )


def _grouped(notes: Counter[tuple[str, str]]) -> Picked:
    picked: Picked = {}
    for (what, way), count in sorted(notes.items()):
        picked.setdefault(what, {})[way] = count
    return picked
