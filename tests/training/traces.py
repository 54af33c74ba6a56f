"""The losses of a few steps of every family's tiny network, which no rearrangement may move.

    python -m tests.training.traces

writes them anew into `traces.json` beside this file, or those of the networks that are named: only
where a change means to change them, with the reason in its message. All that the file holds is of
one kind of machine, so on another single networks cannot join it. Floats are written in
hexadecimal, so that nothing of them is rounded. Nearly all the time is compiling, so two programs a
network are compiled, the first state and the step, and with few optimizations.
"""

import argparse
import json
import os
import pathlib
import platform
from collections.abc import Sequence

import jax
import numpy as np

from jaxvid import config as configs
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.base.text import say
from jaxvid.devices import placement
from jaxvid.training import plan as plans
from tests import compiling, handed

FILE = pathlib.Path(__file__).with_suffix(".json")
STEPS, BATCH, CLASSES = 3, 4, 5
# Pixels and frames that enter the tiny networks; what the stem of a few halves needs more.
SIDE, FRAMES = 32, 8
SIDES = {"c3d": 112, "hiera": 64}
LENGTHS = {"i3d": 16, "c3d": 16}
# Less of the deepest: a block of each kind that they have.
SMALLER = {
    "dualformer_test": {"widths": (8, 16), "depths": (2, 2)},
    "mvit_test": {"depth": 2, "downscale": (1,)},
    "tanet_test": {"blocks": (1, 1)},
}


def subjects() -> list[str]:
    """A tiny variant of each family, and those that pretrain."""
    tiny = [name for name in zoo.variants() if name.endswith("_test")]
    families = {zoo.family(name).__name__: name for name in reversed(tiny)}
    return sorted([*families.values(), "hiera_pretrain_test", "videomae_pretrain_test"])


def trace(name: str) -> list[float]:
    """Losses of the first steps of `name` by its own recipe, at a rate that moves them."""
    config = configs.from_row(name, classes=CLASSES)
    family = name.split("_")[0]
    frames = LENGTHS.get(family, FRAMES)
    if config.data.sampling.clip_len > 1:
        config.data.sampling.clip_len = frames
    else:
        config.data.sampling.num_clips = frames
    config.data.crop = SIDES.get(family, SIDE)
    config.data.repeats = 1
    config.train.update({"batch_size": BATCH, "norm_group": 0, "freeze_norm": ""})
    config.test.batch_size = BATCH
    config.optim.lr = 0.01 if config.optim.name == "sgd" else 1e-3
    config.optim.update({"schedule": "constant", "warmup_epochs": 0.0})
    config.model.overrides.update(SMALLER.get(name, {}))
    mesh = placement.make_mesh(jax.devices()[:1])
    plan = plans.plan(handed.frozen(config), mesh, [str(number) for number in range(CLASSES)])
    state = plan.init()
    rng = np.random.default_rng(1)
    losses = []
    for _ in range(STEPS):
        batch = {
            "video": rng.integers(0, 256, plan.batch["video"].shape, np.uint8),
            "label": rng.integers(0, CLASSES, BATCH),
        }
        state, measured = plan.step(state, batch)
        losses.append(float(measured["loss"]))
    return losses


def machine() -> dict[str, str]:
    """What decides how floats are rounded here, besides the program."""
    flags, sizes = "", ""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text("utf-8").splitlines()
        words = {word for line in lines if line.startswith("flags") for word in line.split()}
        flags = " ".join(sorted(word for word in words if word.startswith(("avx", "fma", "amx"))))
        # Products of matrices are cut into blocks that fit the caches.
        caches = sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
        sizes = " ".join(path.read_text("utf-8").strip() for path in caches)
    return {
        "jax": jax.__version__,
        "machine": platform.machine(),
        "vectors": flags,
        "caches": sizes,
        "cores": str(os.cpu_count()),
    }


def left_out(names: Sequence[str]) -> str:
    """Why these networks get no losses where the file is of another kind of machine."""
    return (
        f"{', '.join(names)}: no losses are written, as those of {FILE} are of another kind of "
        "machine; they can be left out, as no test asks for them before the family stands in the "
        "published tables"
    )


def write(losses: dict[str, list[str]]) -> None:
    """Writes these losses, with what made them."""
    traced = {"made_with": machine(), "losses": dict(sorted(losses.items()))}
    FILE.write_text(json.dumps(traced, indent=1) + "\n", "utf-8")


def traces(names: Sequence[str]) -> dict[str, list[str]]:
    """The losses of these tiny networks, as they are written."""
    with compiling.quickly():
        return {name: [loss.hex() for loss in trace(name)] for name in names}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.training.traces",
        description=f"Writes losses of first steps into {FILE.name} anew.",
    )
    parser.add_argument("names", nargs="*", help="of tiny variants; others stay (default: all)")
    names = parser.parse_args(argv).names
    for name in names:
        if name not in subjects():
            raise JaxvidError(f"{name}: losses are of one of these: {', '.join(subjects())}")
    kept = json.loads(FILE.read_text("utf-8")) if names else {"losses": {}}
    if names and kept["made_with"] != machine():
        if known := [name for name in names if name in kept["losses"]]:
            raise JaxvidError(
                f"{', '.join(known)}: {FILE} has losses of another kind of machine: write these "
                "anew on such a machine, or all of them here, by naming none"
            )
        say(left_out(names))
        return
    write({**kept["losses"], **traces(names or subjects())})
    say(f"traced {', '.join(names or subjects())}: {FILE}")


if __name__ == "__main__":
    with exit_on_error():
        main()
