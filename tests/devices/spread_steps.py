"""Compiles training steps for 8 simulated devices and prints what is wrong with what they send.

For `test_spread.py`, in a process of its own: the number of devices cannot be changed later.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
      python -m tests.devices.spread_steps data:2,fsdp:2,model:2 tsm_test videomae_test
"""

import json
import math
import sys
import time

import jax
import numpy as np

from jaxvid import config, zoo
from jaxvid.devices import placement
from jaxvid.inference.scoring import scorer_for
from jaxvid.layers import spread
from jaxvid.reports.programs import Program, summed
from jaxvid.training import plan as plans
from tests import compiling, handed

# So that tiny networks are split as large ones are.
spread.SMALL = 16

# One token of the clips of a device: as well gathered as added up, where its channels are split.
TOKEN = 4 * 16


def make_plan(variant, axes, **changes):
    made = config.from_row(variant, runlocal=True)
    size = 16 if made.data.repeats == 1 else 8 * made.data.repeats
    made.train.update({"mesh": axes, "batch_size": size, **changes})
    made.test.batch_size = 8
    if made.train.norm_group:
        made.train.norm_group = size // 8
    mesh = placement.make_mesh(axes=axes)
    classes = [] if zoo.pretrains(variant) else [str(number) for number in range(5)]
    return plans.plan(handed.frozen(made), mesh, classes)


def sides(shape):
    """What is left of a shape whatever its layout: its sides, in order, but for those of 1."""
    return tuple(sorted(side for side in shape if side > 1))


def faults(plan, program):
    """What a step must not do, in words."""
    params = [leaf for leaf in jax.tree.leaves(plan.state.params) if leaf.shape]
    whole = {sides(leaf.shape) for leaf in params}
    # Matrices that several layers share are brought apart.
    for leaf in params:
        whole |= {sides((*leaf.shape[:-1], n, leaf.shape[-1] // n)) for n in (2, 3)}
    sizes = {leaf.size for leaf in params}
    found = []
    for each in program.collectives():
        for array in each.results:
            if each.kind == "all-gather" and array.size > TOKEN:
                # Blocks that are computed in a loop lie one behind the other.
                stacked = any(array.size % size == 0 for size in sizes if size > 1)
                if sides(array.shape) not in whole and not (each.times > 1 and stacked):
                    found.append(f"gathers {array.shape}, no parameter: {each.origin}")
            elif each.kind == "all-to-all":
                found.append(f"all-to-all of {array.shape}: {each.origin}")
    if any("callback" in name for name in program.custom_calls()):
        found.append("calls the host back")
    if {"f64", "c128"} & program.dtypes():
        found.append("computes in float64")
    leaves = len([leaf for leaf in jax.tree.leaves(plan.state) if math.prod(leaf.shape)])
    if program.aliases() < leaves:
        found.append(f"takes the memory of {program.aliases()} of {leaves} arrays over")
    return found


def tested(plan):
    """The program of a test, but for what of the state comes together before."""
    config, mesh = plan.config, plan.mesh
    views = jax.ShapeDtypeStruct(
        (8, 1, *plan.batch["video"].shape[1:]), np.uint8, sharding=placement.split_batch(mesh)
    )
    if config.train.loss == "pixels":
        return Program("")
    score = scorer_for(plan.model, config, mesh)
    return Program(score.lower(plan.state.variables, views).compile().as_text())


def main(axes, *variants):
    for variant in variants:
        begun = time.monotonic()
        plan = make_plan(variant, axes)
        with compiling.quickly():
            program = Program(plan.step.lower(plan.state, plan.batch).compile().as_text())
            in_test = summed(tested(plan).collectives()) if axes == "data:8" else None
        answer = {
            "variant": variant,
            "faults": faults(plan, program),
            "collectives": summed(program.collectives()),
            "in_test": in_test,
            "norms": len(jax.tree.leaves(plan.state.batch_stats)) // 2,
            "seconds": round(time.monotonic() - begun, 1),
        }
        print(json.dumps(answer), flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main(*sys.argv[1:])
