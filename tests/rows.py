"""Every row of the tables, from its dataset's official files to a step of training and a test.

    python -m tests.rows [--only=PATTERN] [--again]

For each row that `tests/rows.json` does not hold yet, a miniature of its dataset in the official
layout is prepared as `python -m jaxvid.zoo show` says, and the tiny variant of its family takes one
step and is tested, as `runlocal` has it: a row of two streams with both of its members. The table
in `docs/rows.md` is written anew. It can be stopped and goes on.
"""

import argparse
import contextlib
import fnmatch
import io
import json
import math
import pathlib
import re
import shlex
import tempfile

import jax

from jaxvid import config as configs
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.data.prepare import command as prepare
from jaxvid.devices import compiled
from jaxvid.rows import Row, published_split
from jaxvid.training.loop import train
from tests.data.miniatures import MINIATURES
from tests.zoo.test_zoo import published

ROOT = pathlib.Path(__file__).parent.parent
KEPT = pathlib.Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "rows.md"
MARKS = ("<!-- the table: python -m tests.rows -->", "<!-- end of the table -->")
FLOW = "farneback"  # a tenth of the time of the published TV-L1
BATCH = 4


def preparation(row: Row) -> list[str]:
    """What stands behind `python -m jaxvid.data.prepare` for a row, without source and folder."""
    if zoo.pretrains(row.variant):
        return [row.dataset]
    (line, *_) = (line for line in zoo.commands(row.name) if "jaxvid.data.prepare" in line)
    words = shlex.split(line.partition("jaxvid.data.prepare")[2])
    return [
        word for word in words if not word.startswith(("--source", "--out", "--splits", "--flow"))
    ]


def prepared(row: Row, folder: pathlib.Path) -> pathlib.Path:
    """The folder of the records of a row's dataset, made of its miniature where it is missing."""
    words = preparation(row)
    source, out = folder / f"{words[0]}-source", folder / "-".join(words)
    if not source.exists():
        MINIATURES[words[0]](source)
    if not out.exists():
        prepare.main([*words, f"--source={source}", f"--out={out}", "--workers=1"])
    streams = [zoo.get_row(name) for name in zoo.streams(row.name)] or [row]
    if any(each.modality == "flow" for each in streams) and not [*out.glob("*.flow*")]:
        prepare.main([*words, f"--source={source}", f"--out={out}", f"--flow={FLOW}"])
    return out


def tried(row: Row, data: pathlib.Path, workdir: pathlib.Path) -> dict[str, object]:
    """One step of training on prepared data, and its test."""
    config = configs.from_row(row.name, dataset=row.dataset, data_dir=str(data), runlocal=True)
    config.data.test_split = published_split(row.dataset)
    if config.data.flow:
        config.data.flow = FLOW
    config.train.update({"epochs": 1.0, "batch_size": BATCH, "log_steps": 1})
    config.test.batch_size = BATCH
    result = train(fields.freeze(config), workdir)
    losses = []
    for file in sorted(workdir.rglob("metrics.jsonl")):
        lines = map(json.loads, file.read_text("utf-8").splitlines())
        losses += [line["loss"] for line in lines if "loss" in line]
    if not losses or not all(map(math.isfinite, losses)):
        raise JaxvidError(f"{row.name} has the losses {losses}")
    lists = {split: data / f"{split}.csv" for split in ("train", published_split(row.dataset))}
    counts = {split: len(path.read_text("utf-8").splitlines()) - 1 for split, path in lists.items()}
    return {
        "prepared": shlex.join(preparation(row)),
        "train": counts["train"],
        "test": counts[published_split(row.dataset)],
        "losses": losses[:2],
        "result": {k: v for k, v in vars(result).items() if isinstance(v, float)},
    }


def write(kept: dict[str, dict]) -> None:
    """Draws the table of the page anew."""
    head = ["row", "prepared by", "videos to train on", "to test", "loss of the step", "test"]
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head))]
    for row in published():
        if row.name in kept:
            lines.append(line(row.name, kept[row.name]))
    table = "\n".join([MARKS[0], "", f"{len(kept)} of {len(published())} rows:", "", *lines])
    page = PAGE.read_text("utf-8")
    begin, end = page.index(MARKS[0]), page.index(MARKS[1])
    PAGE.write_text(f"{page[:begin]}{table}\n\n{page[end:]}", "utf-8")


def line(name: str, found: dict) -> str:
    """A line of the table."""
    if "error" in found or "members" in found:
        said = found.get("error") or f"no network: the mean of {', '.join(found['members'])}"
        return f"| {name} | {said} |" + " |" * 4
    losses = ", ".join(f"{loss:.3f}" for loss in found["losses"])
    result = ", ".join(f"{what} {value:.3g}" for what, value in found["result"].items())
    cells = [name, f"`{found['prepared']}`", found["train"], found["test"], losses, result]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Tries what is missing, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="rows, as tsm*")
    parser.add_argument("--again", action="store_true", help="also those that were tried")
    args = parser.parse_args()
    compiled.keep()
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder, "data")
        data.mkdir()
        for row in published():
            known = row.name in kept and "error" not in kept[row.name]
            if not fnmatch.fnmatch(row.name, args.only) or known and not args.again:
                continue
            if len(row.members) > 1 and not zoo.streams(row.name):
                kept[row.name] = {"members": list(row.members)}
                continue
            workdir = pathlib.Path(folder, re.sub(r"\W", "_", row.name))
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    kept[row.name] = tried(row, prepared(row, data), workdir)
            except JaxvidError as error:
                kept[row.name] = {"error": str(error).splitlines()[0]}
            print(line(row.name, kept[row.name]), flush=True)
            KEPT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
            jax.clear_caches()
    write(kept)


if __name__ == "__main__":
    main()
