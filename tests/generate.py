"""Writes what follows from the families' files: costs, traces, and the pages of the zoo.

    python -m tests.generate

What stands in `jaxvid/models/costs.csv` and `tests/training/traces.json` stays: a line that is
there holds the program to it. The pages, `jaxvid.zoo.page.DOCUMENTS`, are written anew.
"""

import argparse
import json
import pathlib
from collections.abc import Sequence

from jaxvid.base.exits import exit_on_error
from jaxvid.base.text import say
from jaxvid.zoo import page
from tests import counting
from tests.training import traces

ROOT = pathlib.Path(__file__).parent.parent


def costs() -> None:
    """Counts the views of rows that were not counted yet."""
    for variant in counting.write_missing():
        say(f"counted {variant}: {counting.FILE}")


def first_losses() -> None:
    """Traces the tiny networks that have no trace yet, where the file is this machine's."""
    written = json.loads(traces.FILE.read_text("utf-8"))
    names = sorted(set(traces.subjects()) - set(written["losses"]))
    if names and written["made_with"] != traces.machine():
        say(traces.left_out(names))
    elif names:
        traces.write({**written["losses"], **traces.traces(names)})
        say(f"traced {', '.join(names)}: {traces.FILE}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.generate",
        description="Writes costs and traces of new families, and the pages of the zoo anew.",
    )
    parser.parse_args(argv)
    costs()
    first_losses()
    page.main([f"--out={ROOT / 'docs'}"])


if __name__ == "__main__":
    with exit_on_error():
        main()
