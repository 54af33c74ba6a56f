"""The compiled step of a run, and what share of its chips it uses."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax

from jaxvid.devices import chips, costs
from jaxvid.devices.compiled import ahead
from jaxvid.devices.processes import log
from jaxvid.layers.backend import PLAIN, tracing_for
from jaxvid.reports.programs import counted_bytes
from jaxvid.training.plan import Plan


class Program(NamedTuple):
    """A compiled step.

    Attributes:
      run: (state, batch) -> (state, measurements); takes the memory of the state over.
      flops: operations of convolutions and matrix products, on all devices together.
      traffic: bytes that a device reads from its memory and writes to it, as the compiler counts;
        not a number where it does not know, as it takes a loop for one round.
    """

    run: Callable[..., Any]
    flops: float
    traffic: float

    def used(self, steps_per_second: float, mesh: jax.sharding.Mesh) -> dict[str, float]:
        """The shares of what the chips can do at best, of those that `chips` knows.

        `mfu` (model FLOPs utilization) is that of operations in bfloat16, `memory_share` that of
        the bandwidth of their memory.
        """
        chip = chips.by_kind(mesh.devices.flat[0].device_kind)
        if chip is None:
            return {}
        mfu = self.flops / mesh.devices.size * chip.devices / chip.flops * steps_per_second
        share = self.traffic * chip.devices / chip.bandwidth * steps_per_second
        found = {"mfu": mfu, "memory_share": share}
        return {name: value for name, value in found.items() if not math.isnan(value)}


def begin(plan: Plan) -> Callable[[], Program]:
    """Counts what the step of a plan takes and begins to compile it; returns what waits for that.

    A thread compiles it, where there is one process: several may have to agree meanwhile, and so
    compile one program after the other.
    """
    begun = time.monotonic()
    traced = cast(jax.stages.Wrapped, plan.step).trace(plan.state, plan.batch)
    counted = operations(plan, costs.count(traced.jaxpr))
    lowered = traced.lower()
    finish = lowered.compile if jax.process_count() > 1 else ahead(lowered).result
    traced_in = time.monotonic() - begun

    def finished() -> Program:
        waiting = time.monotonic()
        executable = finish()
        seconds = traced_in + time.monotonic() - waiting  # what the run waited for
        log(f"compiled the step in {seconds:.1f} s: {counted.flops / 1e9:.4g} GFLOP")
        traffic = None if counted.loops else counted_bytes(executable)
        return Program(executable, counted.flops, math.nan if traffic is None else traffic)

    return finished


def compiled(plan: Plan) -> Program:
    """Compiles the step of a plan, and counts what it takes."""
    return begin(plan)()


def operations(plan: Plan, counted: costs.Counted | None = None) -> costs.Counted:
    """What a step of a plan computes, on all devices together.

    `counted` is what was found in its program, where there is one: kernels hide what they do, so
    that it is counted in one without any.
    """
    if counted is not None and not counted.kernels:
        return counted
    step = cast(Any, plan.step).__wrapped__
    with tracing_for(PLAIN):
        return costs.count(jax.make_jaxpr(step)(plan.state, plan.batch))
