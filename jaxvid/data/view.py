"""Shows what training and tests are really fed, and what the dataset holds: pictures and a page.

python -m jaxvid.data.view --config=configs/tsm_r50.py:dataset=mine,data_dir=data/mine --out=look
"""

from typing import cast

from absl import app, flags

from jaxvid.base import paths
from jaxvid.base.exits import exit_on_error
from jaxvid.base.text import say
from jaxvid.config import command

_CONFIG = command.config_flag()
_OUT = flags.DEFINE_string("out", None, "Folder for index.html and the pictures.")
_CLIPS = flags.DEFINE_integer(
    "clips", 24, "Clips of training to show, and videos of the test.", lower_bound=1
)
_STEP = flags.DEFINE_integer("step", 0, "The training step whose batch comes first.", lower_bound=0)
_COPIES = flags.DEFINE_enum(
    "copies",
    "across",
    ["across", "all", "none"],
    "Look for near copies of videos across the splits, within each split as well, or not at all.",
)


def main(argv: list[str]) -> None:
    """Reads the flags, looks, says where the page is."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    from jaxvid.config import fields
    from jaxvid.data import viewing

    out = paths.writable(cast(str, _OUT.value), "--out")  # `run` requires it
    with paths.writing(out, "--out"):
        said = viewing.view(
            fields.freeze(_CONFIG.value),
            out,
            clips=_CLIPS.value,
            step=_STEP.value,
            copies=_COPIES.value,
        )
    for line in said:
        say(f"note: {line}")
    say(f"look at {out / 'index.html'}")


def run() -> None:
    """The command's entry: wrong input ends it with one sentence and exit code 1."""
    with exit_on_error():
        command.run(main, "jaxvid.data.view", ["config", "out"])


if __name__ == "__main__":
    run()
