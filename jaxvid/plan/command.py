"""Whether a run fits chips by name, and what it is bound by there: compiled, without the chips.

python -m jaxvid.plan --config=configs/mvit_s.py --topology=v5e:16x16
python -m jaxvid.plan --config=configs/zoo_row.py:name=NAME --topology=h200:8 --clips=8 --json
"""

import json
import os
import sys
from typing import cast

from absl import app, flags

from jaxvid.base.exits import exit_on_error
from jaxvid.base.text import say
from jaxvid.config import command

_CONFIG = command.config_flag()
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "The chips: v5e:16x16, v5p:8x8x4, v6e:2x4, 2*v5e:16x16 (two slices), h200:8 or cpu:8.",
)
_CLIPS = flags.DEFINE_integer(
    "clips",
    0,
    "Clips of each device at a step, in place of the config's batch_size; its test takes one video "
    "a device then.",
    lower_bound=0,
)
_TEST = flags.DEFINE_bool("test", True, "Compile the test, too.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object in place of the report.")
_EFFORT = flags.DEFINE_enum(
    "effort",
    "low",
    ["low", "full"],
    "How hard the compiler tries: low tells the same of memory and of what devices send, in a "
    "fraction of the time.",
)


def main(argv: list[str]) -> None:
    """Reads the flags, compiles, prints."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    # Whatever is here, programs are compiled for what may not be.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # What libraries miss of a GPU that is not.
    import logging as messages

    import jax

    messages.getLogger("jax").setLevel(messages.ERROR)
    from jaxvid.config import fields
    from jaxvid.devices import placement, topologies
    from jaxvid.inference import streams
    from jaxvid.plan import report
    from jaxvid.plan.measure import measure

    topology = topologies.find(cast(str, _TOPOLOGY.value))  # `run` requires it
    if _EFFORT.value == "low":
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    config = _CONFIG.value
    if _CLIPS.value:
        shares = placement.shares(
            placement.make_mesh(topology.devices, fields.freeze(config).train.axes)
        )
        config.train.batch_size = _CLIPS.value * shares
        config.test.batch_size = shares
    frozen = fields.freeze(config)
    # Networks that are tested together are trained and tested one after the other.
    subjects = streams.members(frozen) if frozen.model.members else {"": frozen}
    if not _JSON.value:
        say(f"compiling for {len(topology.devices)} devices, which takes minutes", error=True)
    plans = {}
    for name, subject in subjects.items():
        plans[name] = found = measure(subject, topology, _TEST.value)
        if not _JSON.value:
            for line in [*[name] * bool(name), *report.as_lines(found)]:
                say(line)
    fits = all(found.fits for found in plans.values())
    if _JSON.value:
        answers = {name: report.as_json(found) for name, found in plans.items()}
        say(json.dumps(answers.get("") or {"fits": fits, "members": answers}))
    if not fits:
        sys.exit(1)


def run() -> None:
    """The command's entry: exit code 1 where it does not fit, or where the input is wrong."""
    with exit_on_error():
        command.run(main, "jaxvid.plan", ["config", "topology"])
