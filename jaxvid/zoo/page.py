"""The zoo as documents: `docs/zoo.md`, and `docs/zoo.html` to sort, filter and look at.

    python -m jaxvid.zoo.page --out=docs

Both say what the rows say, and nothing else: make them again whenever a row changed. The page is
one file that asks for nothing from the network; `page.html` beside this module is its frame.
"""

import argparse
import html
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxvid import zoo
from jaxvid.base import locks, paths, whole
from jaxvid.base.exits import exit_on_error
from jaxvid.base.text import say
from jaxvid.rows import CLASS_COUNTS

_FRAME = pathlib.Path(__file__).with_suffix(".html")
TITLES = {
    "kinetics400": "Kinetics-400",
    "kinetics600": "Kinetics-600",
    "kinetics700": "Kinetics-700",
    "kinetics710": "Kinetics-710",
    "sthv1": "Something-Something V1",
    "sthv2": "Something-Something V2",
    "activitynet": "ActivityNet",
    "ucf101": "UCF101",
    "hmdb51": "HMDB51",
    "diving48": "Diving48",
    "mit": "Moments in Time",
    "mmit": "Multi-Moments in Time",
    "hvu_action": "HVU, actions",
    "hvu_attribute": "HVU, attributes",
    "hvu_concept": "HVU, concepts",
    "hvu_event": "HVU, events",
    "hvu_object": "HVU, objects",
    "hvu_scene": "HVU, scenes",
}
_ABOUT = (
    "Accuracies are those of the published tables, in percent; of networks for several labels a "
    "video it is mAP. GFLOPs are 10⁹ multiply-accumulates of one view, as the tables mean them, "
    "but counted on the networks, and times the views of a test. Parameters are counted, too."
)


def summaries() -> list[dict[str, Any]]:
    """What the documents say of each row, by dataset and then from the best down."""
    order = list(TITLES)
    rows = [zoo.summary(name) for name in zoo.list_models()]
    return sorted(rows, key=lambda row: (order.index(row["dataset"]), -(_accuracy(row) or 0)))


def _accuracy(row: dict[str, Any]) -> float | None:
    return row["map"] if row["top1"] is None else row["top1"]


def markdown() -> str:
    """The content of `zoo.md`: a table a dataset."""
    rows = summaries()
    parts = [
        "# The zoo",
        f"All {len(rows)} rows of the published results tables, by dataset. "
        "[zoo.html](zoo.html) sorts and filters them, and draws accuracy against cost; "
        "`python -m jaxvid.zoo list` lists and `python -m jaxvid.zoo show NAME` says all that is "
        "known of one, with the commands that convert, test and fine-tune it. Made by "
        "`python -m jaxvid.zoo.page --out=docs`.",
        _ABOUT,
        "Weights are a `file` that the converter fetches, on a `page` to be fetched from by hand, "
        "those of the `members` that a row tests together or otherwise, or not published.",
    ]
    for dataset, title in TITLES.items():
        of_dataset = [row for row in rows if row["dataset"] == dataset]
        parts.append(f"## {title}\n\n{CLASS_COUNTS[dataset]} classes.\n\n{_table(of_dataset)}")
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    heads = ["model", "family", "frames", "test", "GFLOPs x views", "params"]
    heads += ["top-1", "top-5", "weights", "note"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in rows:
        cells = [
            f"`{row['name']}`",
            row["family"],
            row["frames"],
            row["test"],
            f"{row['gflops']} x {row['views']}",
            f"{row['params']}M",
            zoo.percent(row["top1"]) if row["map"] is None else f"{zoo.percent(row['map'])} mAP",
            zoo.percent(row["top5"]),
            f"[{row['weights']}]({row['source']})" if row["source"] else row["weights"],
            row["note"].replace("|", "\\|"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page() -> str:
    """The content of `zoo.html`: the frame with the rows, their commands and titles in it."""
    rows = [{**row, "commands": "\n".join(zoo.commands(row["name"]))} for row in summaries()]
    data = json.dumps({"titles": TITLES, "rows": rows}, ensure_ascii=False, separators=(",", ":"))
    # Inside a script only `</` could end it.
    frame = _FRAME.read_text("utf-8").replace("__ABOUT__", html.escape(_ABOUT))
    return frame.replace("__DATA__", data.replace("</", "<\\/"))


def main(argv: Sequence[str] | None = None) -> None:
    """Writes both documents; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.zoo.page", description="Writes zoo.md and zoo.html, from the rows."
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="such as docs")
    folder = paths.writable(parser.parse_args(argv).out, "--out")
    with locks.hold(folder, "--out"):
        for name, content in (("zoo.md", markdown()), ("zoo.html", page())):
            with paths.writing(folder, "--out"):
                whole.text(folder / name, content)
            say(f"wrote {folder / name}")


if __name__ == "__main__":
    with exit_on_error():
        main()
