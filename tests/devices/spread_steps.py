"""Compiles training steps for chips and prints what is wrong with what they send each other.

For `test_spread.py`, in a process of its own: the number of devices cannot be changed later.

    python -m tests.devices.spread_steps cpu:8 data:2,fsdp:2,model:2 tsm_test videomae_test

Words such as `reduce_dtype=float32` change fields of `config.train`; `freeze=trunk` lets only the
head learn.
"""

import json
import math
import sys
import time
from collections import Counter

import jax
import numpy as np

from jaxvid import config, zoo
from jaxvid.devices import placement, topologies
from jaxvid.inference.scoring import scorer_for
from jaxvid.layers import spread
from jaxvid.reports.programs import Program, summed
from jaxvid.training import plan as plans
from tests import compiling, handed

# So that tiny networks are split as large ones are.
spread.SMALL = 16

# The most clips of a device. One token of each may be gathered as well as added up, where its
# channels are split: what a query found, and what follows from it.
CLIPS = 4


def make_plan(variant, topology, axes, freeze="", **changes):
    made = config.from_row(variant, runlocal=True)
    if freeze:
        made.optim.freeze = (freeze,)
    if topology.platform != "cpu":
        made.model.dtype = "bfloat16"
    size = 16 if made.data.repeats == 1 else 8 * made.data.repeats
    made.train.update({"mesh": axes, "batch_size": size, **changes})
    made.test.batch_size = 8
    if made.train.norm_group:
        made.train.norm_group = size // 8
    mesh = placement.make_mesh(topology.devices, axes)
    classes = [] if zoo.pretrains(variant) else [str(number) for number in range(5)]
    return plans.plan(handed.frozen(made), mesh, classes)


def sides(shape):
    """What is left of a shape whatever its layout: its sides, in order, but for those of 1."""
    return tuple(sorted(side for side in shape if side > 1))


def is_token(array):
    """Whether this is no more than one token of each clip."""
    *clips, channels = sides(array.shape) or (1,)
    return clips in ([], [2], [CLIPS]) and (clips or channels <= CLIPS * 16)


def faults(plan, program):
    """What a step must not do, in words."""
    params = [leaf for leaf in jax.tree.leaves(plan.state.params) if leaf.shape]
    whole = {sides(leaf.shape) for leaf in params}
    # Matrices that several layers share are brought apart.
    for leaf in params:
        whole |= {sides((*leaf.shape[:-1], n, leaf.shape[-1] // n)) for n in (2, 3)}
    sizes = {leaf.size for leaf in params if leaf.size > 1}
    tiled = plan.mesh.devices.flat[0].platform != "cpu"

    def is_parameter(array, times):
        if sides(array.shape) in whole or tiled and array.size in sizes:
            return True
        # Blocks that are computed in a loop lie one behind the other.
        return times > 1 and any(array.size % size == 0 for size in sizes)

    found = []
    for each in program.collectives():
        for array in each.results:
            if each.kind == "all-gather":
                if not is_token(array) and not is_parameter(array, each.times):
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


def added_up(program):
    """Bytes of what devices add up, by dtype."""
    found = Counter()
    for each in program.collectives():
        if each.kind in ("all-reduce", "reduce-scatter"):
            for array in each.results:
                found[array.dtype] += array.bytes
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


def main(name, axes, *words):
    topology = topologies.find(name)
    changes = dict(word.split("=") for word in words if "=" in word)
    for variant in (word for word in words if "=" not in word):
        begun = time.monotonic()
        plan = make_plan(variant, topology, axes, **changes)
        with compiling.quickly():
            program = Program(plan.step.lower(plan.state, plan.batch).compile().as_text())
            in_test = summed(tested(plan).collectives()) if axes == "data:8" else None
        answer = {
            "variant": variant,
            "faults": faults(plan, program),
            "collectives": summed(program.collectives()),
            "summed": added_up(program),
            "in_test": in_test,
            "norms": len(jax.tree.leaves(plan.state.batch_stats)) // 2,
            "seconds": round(time.monotonic() - begun, 1),
        }
        print(json.dumps(answer), flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main(*sys.argv[1:])
