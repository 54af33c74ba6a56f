"""Times every lowering of `jaxvid.layers.conv` on the shapes that video networks are made of.

    python tests/layers/bench_conv.py [PATTERN ...] [--repeats=5] [--only=native,fold]
    python tests/layers/bench_conv.py [PATTERN ...] --topology=v5e:2x2

Prints milliseconds for the forward pass and for forward and backward (gradients of the kernel and,
except for stems, of the input), the best first. `TABLE` in jaxvid/layers/conv.py is chosen from it.
Timings of one shape are taken in turns, so that a busy machine spoils the ratios less.

With a topology of TPUs that are not here it prints thousands of cycles, which the compiler
estimates for 8 clips in bfloat16.
"""

import argparse
import fnmatch
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxvid.devices import topologies
from jaxvid.layers.backend import tracing_for
from jaxvid.layers.conv import LOWERINGS, Geometry, chosen, conv
from jaxvid.reports.programs import Program

# name -> x (T, H, W, C), outputs, kernel, stride, padding, groups
SHAPES = {
    "r50 stem 7x7 s2": ((8, 224, 224, 3), 64, (1, 7, 7), (1, 2, 2), (0, 3, 3), 1),
    "r50 3x3": ((8, 56, 56, 64), 64, (1, 3, 3), (1, 1, 1), (0, 1, 1), 1),
    "r50 3x3 s2": ((8, 56, 56, 128), 128, (1, 3, 3), (1, 2, 2), (0, 1, 1), 1),
    "r50 3x3 14": ((8, 14, 14, 256), 256, (1, 3, 3), (1, 1, 1), (0, 1, 1), 1),
    "r50 3x3 7": ((8, 7, 7, 512), 512, (1, 3, 3), (1, 1, 1), (0, 1, 1), 1),
    "r50 1x1": ((8, 56, 56, 256), 64, (1, 1, 1), (1, 1, 1), (0, 0, 0), 1),
    "r50 1x1 14": ((8, 14, 14, 1024), 256, (1, 1, 1), (1, 1, 1), (0, 0, 0), 1),
    "r50 1x1 s2": ((8, 56, 56, 256), 512, (1, 1, 1), (1, 2, 2), (0, 0, 0), 1),
    "slowonly 3x1x1 14": ((4, 14, 14, 1024), 256, (3, 1, 1), (1, 1, 1), (1, 0, 0), 1),
    "slowonly 3x1x1 7": ((4, 7, 7, 2048), 512, (3, 1, 1), (1, 1, 1), (1, 0, 0), 1),
    "r2plus1d 3x1x1": ((8, 28, 28, 230), 64, (3, 1, 1), (1, 1, 1), (1, 0, 0), 1),
    "r3d 3x3x3": ((8, 28, 28, 64), 64, (3, 3, 3), (1, 1, 1), (1, 1, 1), 1),
    "r3d 3x3x3 s2": ((8, 28, 28, 64), 128, (3, 3, 3), (2, 2, 2), (1, 1, 1), 1),
    "slowfast fast 1x3x3": ((32, 56, 56, 8), 8, (1, 3, 3), (1, 1, 1), (0, 1, 1), 1),
    "slowfast fast stem 5x7x7": ((32, 224, 224, 3), 8, (5, 7, 7), (1, 2, 2), (2, 3, 3), 1),
    "slowfast lateral 5x1x1 s8": ((32, 56, 56, 8), 16, (5, 1, 1), (8, 1, 1), (2, 0, 0), 1),
    "i3d stem 5x7x7": ((8, 224, 224, 3), 64, (5, 7, 7), (2, 2, 2), (2, 3, 3), 1),
    "mvit patches 3x7x7": ((16, 224, 224, 3), 96, (3, 7, 7), (2, 4, 4), (1, 3, 3), 1),
    "vit tubelets 2x16x16": ((8, 224, 224, 3), 384, (2, 16, 16), (2, 16, 16), (0, 0, 0), 1),
    "mvit q pool": ((8, 56, 56, 96), 96, (3, 3, 3), (1, 1, 1), (1, 1, 1), 96),
    "mvit q pool s2": ((8, 56, 56, 96), 96, (3, 3, 3), (1, 2, 2), (1, 1, 1), 96),
    "mvit kv pool s8": ((8, 56, 56, 96), 96, (3, 3, 3), (1, 8, 8), (1, 1, 1), 96),
    "mvit kv pool s4": ((8, 28, 28, 192), 192, (3, 3, 3), (1, 4, 4), (1, 1, 1), 192),
    "x3d 3x3x3": ((16, 28, 28, 108), 108, (3, 3, 3), (1, 1, 1), (1, 1, 1), 108),
    "x3d 3x3x3 s2": ((16, 28, 28, 108), 108, (3, 3, 3), (1, 2, 2), (1, 1, 1), 108),
    "x3d stem 5x1x1": ((16, 112, 112, 24), 24, (5, 1, 1), (1, 1, 1), (2, 0, 0), 24),
    "csn 3x3x3": ((8, 14, 14, 256), 256, (3, 3, 3), (1, 1, 1), (1, 1, 1), 256),
    "uniformer 5x5x5": ((8, 28, 28, 128), 128, (5, 5, 5), (1, 1, 1), (2, 2, 2), 128),
}


def functions(name, lowering, clips=1):
    """Forward, and forward and backward, with the shapes of their arguments x, w and dy."""
    size, outputs, kernel, stride, padding, groups = SHAPES[name]

    def forward(x, w):
        return conv(x, w, stride=stride, padding=padding, groups=groups, lowering=lowering)

    def both(x, w, dy):
        if size[-1] == 3:
            y, pullback = jax.vjp(lambda w: forward(x, w), w)
        else:
            y, pullback = jax.vjp(forward, x, w)
        return y, pullback(dy)

    x = jax.ShapeDtypeStruct((clips, *size), np.float32)
    w = jax.ShapeDtypeStruct((*kernel, size[-1] // groups, outputs), np.float32)
    return forward, both, (x, w, jax.eval_shape(forward, x, w))


def programs(name, lowering):
    """Compiled forward, and forward and backward, with their arguments."""
    forward, both, shapes = functions(name, lowering)
    rng = np.random.default_rng(0)
    args = [jax.device_put(rng.normal(size=s.shape).astype(np.float32)) for s in shapes]
    return jax.jit(forward).lower(*args[:2]).compile(), jax.jit(both).lower(*args).compile(), args


def candidates(name, only):
    """The lowerings of a shape, and its geometry."""
    size, outputs, kernel, stride, padding, groups = SHAPES[name]
    geometry = Geometry(kernel, stride, padding, groups, size[-1], outputs)
    able = [each for each, entry in LOWERINGS.items() if entry.handles(geometry)]
    return [each for each in able if not only or each in only], geometry


def estimate(name, only, topology):
    """Thousands of cycles that the compiler expects: {lowering: (forward, both)}."""
    names, geometry = candidates(name, only)
    placed = SingleDeviceSharding(topology.devices[0])
    found = {}
    with tracing_for("tpu"):
        for lowering in names:
            forward, both, shapes = functions(name, lowering, clips=8)
            args = [jax.ShapeDtypeStruct(s.shape, jnp.bfloat16, sharding=placed) for s in shapes]
            found[lowering] = tuple(
                Program(jax.jit(call).lower(*given).compile().as_text()).cycles() / 1e3
                for call, given in ((forward, args[:2]), (both, args))
            )
        return chosen(geometry), found


def measure(name, only, repeats):
    """Milliseconds of each lowering, the least of several turns: {lowering: (forward, both)}."""
    names, geometry = candidates(name, only)
    built = {lowering: programs(name, lowering) for lowering in names}
    best = {lowering: [float("inf"), float("inf")] for lowering in built}
    for _ in range(repeats):
        for lowering, (forward, both, args) in built.items():
            for i, run in enumerate(
                (lambda f=forward, a=args: f(*a[:2]), lambda f=both, a=args: f(*a))
            ):
                if best[lowering][i] > 1000 and best[lowering][i] != float("inf"):
                    continue
                start = time.perf_counter()
                jax.block_until_ready(run())
                best[lowering][i] = min(best[lowering][i], 1000 * (time.perf_counter() - start))
    return chosen(geometry), best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", default=["*"], help="which shapes, e.g. 'mvit*'")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated lowerings")
    parser.add_argument("--topology", default="", help="TPUs that are not here, such as v5e:2x2")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else None
    topology = topologies.find(args.topology) if args.topology else None
    unit = f"kilocycles on {args.topology}" if topology else f"ms on {jax.devices()[0]}"
    print(f"{'shape':<26} {'lowering':<9} {'forward':>9} {'+backward':>10}  {unit}")
    for name in SHAPES:
        if any(fnmatch.fnmatch(name, pattern) for pattern in args.patterns):
            if topology:
                choice, best = estimate(name, only, topology)
            else:
                choice, best = measure(name, only, args.repeats)
            for lowering, (forward, both) in sorted(best.items(), key=lambda item: item[1]):
                mark = "*" if lowering == choice else " "
                print(f"{name:<26} {lowering:<8}{mark} {forward:9.2f} {both:10.2f}", flush=True)


if __name__ == "__main__":
    main()
