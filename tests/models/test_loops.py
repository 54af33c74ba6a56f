"""Blocks in a loop: every family with the field `scan_blocks` computes the same without."""

import dataclasses
import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import zoo
from jaxvid.layers.conv import use_lowering
from jaxvid.objectives import losses
from jaxvid.training import parts

# Depths at which blocks repeat, and the number of loops that they make.
LOOPS = {
    "dualformer_test": ({"depths": (1, 1, 5)}, 1),
    "hiera_test": ({"stages": (3, 1, 1, 1)}, 1),
    "internvideo2_test": ({}, 1),
    "mvit_test": ({"depth": 3, "downscale": (2,)}, 1),
    "swin_test": ({"depths": (1, 4)}, 1),
    "timesformer_test": ({}, 1),
    "uniformer_test": ({"depths": (2, 0, 2, 0)}, 1),
    "uniformerv2_test": ({"depth": 3, "global_at": (1,)}, 1),
    "videomae_test": ({}, 1),
    "videoprism_test": ({}, 1),
    "vjepa2_1_test": ({}, 1),
    "vjepa2_test": ({}, 1),
}
VIDEO = np.random.default_rng(0).normal(size=(2, 4, 32, 32, 3))


def build(name, **overrides):
    model = zoo.create_model(name, 5, **(LOOPS[name][0] | overrides))
    return model.clone(dropout=0.0) if hasattr(model, "dropout") else model


@functools.cache
def variables(name):
    shapes = jax.eval_shape(build(name).init, jax.random.key(0), VIDEO)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: rng.uniform(0.1, 0.4, a.shape), shapes)


def test_every_family_that_has_the_field_is_tested_here():
    tiny = [name for name in zoo.variants() if name.endswith("_test")]
    fields = {name: dataclasses.fields(zoo.create_model(name)) for name in tiny}
    having = {name for name in tiny if "scan_blocks" in {field.name for field in fields[name]}}
    assert having - {"timesformer_joint_test", "timesformer_space_test"} == LOOPS.keys()


@pytest.mark.parametrize("name", LOOPS)
def test_logits_gradients_and_parameters_are_those_without_the_loop(name):
    def compute(variables, scan_blocks, remat):
        model = build(name, scan_blocks=scan_blocks, drop_path=0.0)

        def loss_of(params):
            (logits, out), updated = model.apply(
                {**variables, "params": params}, VIDEO, train=True, mutable=["batch_stats"]
            )
            return losses.softmax_cross_entropy(logits, jnp.array([1, 3])), (out, updated)

        with parts.recomputing(parts.blocks(paths) if remat else set()):
            return jax.value_and_grad(loss_of, has_aux=True)(variables["params"])

    paths = list(flax.traverse_util.flatten_dict(variables(name)["params"], sep="/"))
    plain, looped = (
        functools.partial(compute, scan_blocks=scan, remat=scan) for scan in (False, True)
    )
    with use_lowering("native"), jax.enable_x64(True):
        wanted = jax.jit(plain)(variables(name))
        traced = jax.jit(looped).trace(variables(name))
        given = traced.lower().compile()(variables(name))
    # One forwards and one backwards, in which recomputation finds the blocks by their path.
    loops = [str(e) for e in traced.jaxpr.eqns if e.primitive.name == "scan"]
    assert len(loops) == 2 * LOOPS[name][1]
    assert sum("remat" in loop for loop in loops) == LOOPS[name][1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-12),
        given,
        wanted,
    )
