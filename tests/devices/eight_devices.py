"""Trains a tiny network on 1 and 8 simulated devices, split or not, and prints what it measured.

For `test_sharding.py`, in a process of its own: the number of devices cannot be changed later.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
      python tests/devices/eight_devices.py ROW FOLDER

`ROW/N` takes BatchNorm's statistics of N clips each, which are on N devices.
"""

import json
import pathlib
import sys

import jax
import numpy as np

from jaxvid import checkpoint, config, zoo
from jaxvid.devices import placement
from jaxvid.training import plan as plans
from tests import handed

STEPS = 4
PLACES = {
    "one": (1, ""),
    "all": (8, ""),
    "split": (8, "fsdp:-1"),
    "mixed": (8, "data:2,fsdp:2,model:2"),
}
MOVES = [
    ("one", "split"),
    ("split", "one"),
    ("split", "mixed"),
    ("mixed", "all"),
    ("all", "split"),
    ("mixed", "one"),
]
CLIP = (2, 32, 32, 3)
ROW, _, GROUP = sys.argv[1].partition("/")
CONFIG = config.from_row(ROW, runlocal=True)
CONFIG.train.norm_group = int(GROUP or 0)
CONFIG.optim.warmup_epochs = 0.0
CONFIG.train.update({"batch_size": 8, "epochs": float(STEPS)})
CONFIG.test.batch_size = 8
CONFIG.data.crop = CLIP[1]
CONFIG.data.sampling.update(
    {"num_clips": CLIP[0]}
    if CONFIG.data.sampling.clip_len == 1
    else {"clip_len": CLIP[0], "num_clips": 1}
)
CLASSES = [] if zoo.pretrains(ROW) else [str(number) for number in range(8)]


def batch(number):
    rng = np.random.default_rng(number)
    video = rng.integers(0, 256, (8, *CLIP), np.uint8)
    return {"video": video, "label": rng.permutation(8).astype(np.int32)}


class Place:
    """A state and the step that changes it, on some devices and spread in some way."""

    def __init__(self, devices, axes):
        self.mesh = placement.make_mesh(jax.devices()[:devices], axes)
        CONFIG.train.mesh = axes
        plan = plans.plan(handed.frozen(CONFIG), self.mesh, CLASSES)
        self.init, self.step, self.like = plan.init, plan.step, plan.state

    def go_on(self, state, numbers):
        losses = []
        for number in numbers:
            state, measured = self.step(state, placement.put_batch(batch(number), self.mesh))
            losses.append(float(measured["loss"]))
        return state, losses

    def held(self, state):
        """Bytes of the state on the first device."""
        first = self.mesh.devices.flat[0]
        shards = (s for leaf in jax.tree.leaves(state) for s in leaf.addressable_shards)
        return sum(shard.data.nbytes for shard in shards if shard.device == first)


def main(folder):
    places = {name: Place(*how) for name, how in PLACES.items()}
    answer = {"held": {}, "losses": {}, "resumed": {}, "specs": {}}
    for name, place in places.items():
        state, losses = place.go_on(place.init(), range(STEPS // 2))
        with checkpoint.Checkpoints(folder / name) as run:
            run.save(STEPS // 2, state, {})
            # The save goes on while the step takes the state's memory over.
            state, more = place.go_on(state, range(STEPS // 2, STEPS))
        answer["losses"][name] = losses + more
        answer["held"][name] = place.held(state)
        specs = {str(leaf.sharding.spec) for leaf in jax.tree.leaves(state)}
        answer["specs"][name] = sorted(specs)
    for before, after in MOVES:
        place = places[after]
        state = checkpoint.Checkpoints(folder / before).restore(STEPS // 2, place.like)
        _, losses = place.go_on(state, range(STEPS // 2, STEPS))
        answer["resumed"][f"{before} then {after}"] = losses
    print(json.dumps(answer))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[2]))
