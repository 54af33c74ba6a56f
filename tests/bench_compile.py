"""How long the deep transformers take to compile, with their blocks in loops and one by one.

python tests/bench_compile.py [NAME ...]

For each network: the processor time of tracing and compiling its forward pass and its training step
(gradients of all parameters), each with `scan_blocks` and without, in one process, and whether a
narrow network of the same depth gives the same logits and gradients both ways. Nothing of full size
is computed: shapes are enough to compile. Clips are small, as sizes hardly change the time.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid import zoo
from jaxvid.objectives import losses

CLASSES = 5
# Clips that enter the full network, and fields that make it narrow but leave its depth.
NETWORKS = {
    "videomae_vit_l": ((4, 64, 64), {"dim": 16, "heads": 2}),
    "uniformerv2_l14_8f": ((2, 56, 56), {"dim": 16, "heads": 2}),
    "swin_l": ((4, 64, 64), {"dim": 8, "heads": (1, 2, 4, 8)}),
}


def make_steps(model, video):
    """The forward pass and the gradients, of variables and a video."""

    def forward(variables, video):
        return model.apply(variables, video)[0]

    def train(variables, video):
        def loss_of(params):
            rngs = {"dropout": jax.random.key(0)}
            logits = model.apply({"params": params}, video, train=True, rngs=rngs)[0]
            return losses.softmax_cross_entropy(logits, jnp.zeros(len(video), jnp.int32))

        return jax.value_and_grad(loss_of)(variables["params"])

    return {"forward": jax.jit(forward), "training step": jax.jit(train)}


def seconds_to_compile(step, *arguments):
    start = time.process_time()
    step.lower(*arguments).compile()
    return time.process_time() - start


def largest_difference(name, narrow, video):
    """Between the two ways, as a share of each array's largest value."""
    models = [
        zoo.create_model(name, CLASSES, dropout=0.0, drop_path=0.0, scan_blocks=scan, **narrow)
        for scan in (False, True)
    ]
    shapes = jax.eval_shape(models[0].init, jax.random.key(0), video)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: rng.normal(0, 0.2, a.shape).astype(a.dtype), shapes)
    video = jnp.asarray(rng.normal(size=video.shape), jnp.float32)
    quickly = {"xla_backend_optimization_level": 0}
    one, other = (
        [
            step.lower(variables, video).compile(quickly)(variables, video)
            for step in make_steps(model, video).values()
        ]
        for model in models
    )
    shares = jax.tree.map(lambda a, b: np.abs(a - b).max() / np.abs(a).max(), one, other)
    return np.max(jax.tree.leaves(shares))  # One that is no number is not passed over.


def main(names):
    for name in names or NETWORKS:
        size, narrow = NETWORKS[name]
        video = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        taken = {}
        for scan in (False, True):
            model = zoo.create_model(name, CLASSES, scan_blocks=scan)
            variables = jax.eval_shape(model.init, jax.random.key(0), video)
            for what, step in make_steps(model, video).items():
                taken[what, scan] = seconds_to_compile(step, variables, video)
        for what in ("forward", "training step"):
            plain, looped = taken[what, False], taken[what, True]
            print(f"{name} {what}: {plain:.1f} s, in loops {looped:.1f} s: {looped / plain:.2f}")
        print(
            f"{name} largest difference: {largest_difference(name, narrow, video):.1e}", flush=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
