"""The command: features of a frozen encoder to disk, and what probes find in them.

python -m jaxvid.probe --config=configs/zoo_row.py:name=NAME,data_dir=DIR,init=DIR --workdir=...
"""

from typing import cast

from absl import app, flags

from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.config import command

PROBES = ("linear", "attentive", "knn", "retrieval", "clusters")
# What V-JEPA 2's evaluations train beside one another.
_RATES = ["5e-3", "3e-3", "1e-3", "3e-4", "1e-4"]
_DECAYS = ["0.01", "0.1", "0.4", "0.8"]

_CONFIG = command.config_flag()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for features and results; features found there are taken."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object in place of the table.")
_RANDOM = flags.DEFINE_bool("random", False, "Random weights in place of config.init.")
_FEATURES = flags.DEFINE_string(
    "features",
    "",
    "The intermediate that is looked at (default: the network's tokens, or its last stage).",
)
_VIEWS = flags.DEFINE_enum(
    "views", "one", ["one", "protocol"], "The central view of the published test, or all views."
)
_PROBES = flags.DEFINE_list("probes", list(PROBES), f"Some of {', '.join(PROBES)}.")
_CHOOSE = flags.DEFINE_string(
    "choose",
    "0.2",
    "Where the best probe is chosen: a share of the training videos, or a split; tables choose on "
    "the test split itself.",
)
_LR = flags.DEFINE_list("lr", _RATES, "Learning rates of the probes.")
_DECAY = flags.DEFINE_list("weight_decay", _DECAYS, "Weight decays, each with every rate.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Probes of each rate and decay.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Of the probes' training.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Of the probes' training.", lower_bound=1)
_DEPTH = flags.DEFINE_integer("depth", 4, "Blocks of an attentive probe.", lower_bound=1)
_NEIGHBOURS = flags.DEFINE_list(
    "neighbours", ["1", "5", "10", "20"], "Of k-nearest neighbours and of recall at k."
)


def main(argv: list[str]) -> None:
    """Reads the flags and probes."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    unknown = [name for name in _PROBES.value if name not in PROBES]
    if unknown or not _PROBES.value:
        raise JaxvidError(f"--probes={','.join(_PROBES.value)} must be some of {', '.join(PROBES)}")
    rates, decays = _numbers("lr", _LR.value), _numbers("weight_decay", _DECAY.value)
    neighbours = _numbers("neighbours", _NEIGHBOURS.value)
    if any(not count.is_integer() or count < 1 for count in neighbours):
        raise JaxvidError(f"--neighbours={','.join(_NEIGHBOURS.value)} must be 1 or more each")
    from jaxvid.devices import compiled  # JAX with it, which --help does without

    compiled.keep()
    from jaxvid.probe import fit, report
    from jaxvid.probe.study import Asked, study

    asked = Asked(
        features=_FEATURES.value,
        random=_RANDOM.value,
        views=_VIEWS.value,
        probes=tuple(name for name in PROBES if name in _PROBES.value),
        choose=_CHOOSE.value,
        rates=rates,
        decays=decays,
        seeds=_SEEDS.value,
        depth=_DEPTH.value,
        neighbours=tuple(sorted({int(count) for count in neighbours})),
        plan=fit.Plan(_EPOCHS.value, _BATCH.value, _CONFIG.value.seed),
    )
    found = study(_CONFIG.value, cast(str, _WORKDIR.value), asked)  # `run` requires it
    report.show(found, _JSON.value)


def _numbers(flag: str, given: list[str]) -> tuple[float, ...]:
    """The numbers of a flag, each once."""
    try:
        found = tuple(dict.fromkeys(float(text) for text in given))
    except ValueError:
        found = ()
    # Also refuses what is no number at all.
    if not found or not all(0 <= number < float("inf") for number in found):
        raise JaxvidError(f"--{flag}={','.join(given)} must be numbers from 0 with commas between")
    return found


def run() -> None:
    """The command's entry: wrong input ends it with one sentence and exit code 1."""
    with exit_on_error():
        command.run(main, "jaxvid.probe", ["config", "workdir"])
