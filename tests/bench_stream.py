"""Processor time of one more frame of a stream: with a state, and as a window of the last frames.

    taskset -c 0 python tests/bench_stream.py

Both answer after each frame; the window is as long as the test's clip. Batch 1, float32, weights at
random, the best of several runs that take turns.
"""

import time

import jax
import numpy as np

from jaxvid import zoo
from jaxvid.base.text import say
from jaxvid.layers import streaming

NETWORKS = ("movinet_a0_stream", "tsm_r50_online", "tsm_mobilenetv2_online")
ROUNDS, STEPS = 5, 5


def measured(name: str) -> tuple[float, float]:
    """Seconds of the processor that a frame takes with a state, and in a window."""
    model = zoo.create_model(name)
    shape = zoo.starting_row(name).view
    clip = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), clip)
    step = jax.jit(lambda state, frame: streaming.step(model, variables, state, frame))
    whole = jax.jit(lambda clip: model.apply(variables, clip)[0])
    state = streaming.begin(model, variables, clip[:, :1])
    best = [float("inf")] * 2
    jax.block_until_ready((step(state, clip[:, :1]), whole(clip)))  # compiled
    for _ in range(ROUNDS):
        began = time.process_time()
        for number in range(STEPS):
            (logits, _), state = step(state, clip[:, number : number + 1])
        jax.block_until_ready((logits, state))
        between = time.process_time()
        jax.block_until_ready(whole(clip))
        best = np.minimum(best, [(between - began) / STEPS, time.process_time() - between])
    return best[0], best[1]


def main() -> None:
    for name in NETWORKS:
        frames, height, width, _ = zoo.starting_row(name).view
        carried, window = measured(name)
        say(
            f"{name}: {1000 * carried:.1f} ms a frame with a state, {1000 * window:.0f} ms as a "
            f"window of {frames} x {height} x {width}: 1/{window / carried:.1f}"
        )


if __name__ == "__main__":
    main()
