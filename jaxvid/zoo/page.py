"""The zoo as documents: `families.md`, `zoo.md`, and `zoo.html` to sort, filter and look at.

    python -m jaxvid.zoo.page --out=docs

They say what the rows say, and nothing else: make them again whenever a row changed. The last is
one file that asks for nothing from the network; `page.html` beside this module is its frame.
"""

import argparse
import html
import json
import pathlib
from collections.abc import Callable, Sequence
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
    "jester": "Jester",
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


def titles() -> dict[str, str]:
    """What the datasets of rows are called, in the order of the documents."""
    of_rows = {zoo.get_row(name).dataset for name in zoo.list_models()}
    return {dataset: title for dataset, title in TITLES.items() if dataset in of_rows}


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
        f"All {len(rows)} rows, by dataset. "
        "[zoo.html](zoo.html) sorts and filters them, and draws accuracy against cost; "
        "`python -m jaxvid.zoo list` lists and `python -m jaxvid.zoo show NAME` says all that is "
        "known of one, with the commands that convert, test and fine-tune it. Made by "
        "`python -m jaxvid.zoo.page --out=docs`.",
        _ABOUT,
        "Weights are a `file` that the converter fetches, on a `page` to be fetched from by hand, "
        "those of the `members` that a row tests together or otherwise, or not published.",
    ]
    for dataset, title in titles().items():
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


def families() -> str:
    """The content of `families.md`: a line a family, with the variants that have rows."""
    variants: dict[str, list[str]] = {}
    datasets: dict[str, set[str]] = {}
    rows = [zoo.get_row(name) for name in zoo.list_models()]
    with_rows = {row.variant for row in rows}
    for variant in zoo.variants():
        if variant in with_rows:
            variants.setdefault(zoo.family_name(variant), []).append(variant)
    for row in rows:
        datasets.setdefault(zoo.family_name(row.variant), set()).add(row.dataset)
    lines = ["| family | variants | rows |", "| --- | --- | --- |"]
    for name in sorted(variants, key=str.lower):
        # Without what follows a comma: HVU's parts are one dataset here.
        on = [title.partition(",")[0] for key, title in TITLES.items() if key in datasets[name]]
        cells = [name, ", ".join(f"`{variant}`" for variant in variants[name])]
        lines.append("| " + " | ".join([*cells, ", ".join(dict.fromkeys(on))]) + " |")
    parts = [
        "# The families",
        "A *family* is one file of `jaxvid/models/`, with the paper that it implements in its "
        "first line; a *variant* is one architecture of it, and a row of the tables is a variant "
        "with a dataset, a test and a recipe. [All rows](zoo.md) have their accuracies and costs: "
        "accuracies are the printed ones, parameters and GFLOPs were counted on the networks, and "
        "where a table and its original config disagree, the row's note says so.",
        "\n".join(lines),
        "`python -m jaxvid.zoo list 'tsm*'` lists the rows of a family, and any of these names "
        "does where a row's is asked for: it means the variant's first row. Each family has a tiny "
        "variant for tests, such as `tsm_test`, too; `videomae_pretrain_vit_b` and its like "
        "[pretrain](pretrain.md). This page is made by `python -m jaxvid.zoo.page --out=docs`.",
    ]
    return "\n\n".join(parts) + "\n"


def page() -> str:
    """The content of `zoo.html`: the frame with the rows, their commands and titles in it."""
    rows = [{**row, "commands": "\n".join(zoo.commands(row["name"]))} for row in summaries()]
    data = json.dumps({"titles": titles(), "rows": rows}, ensure_ascii=False, separators=(",", ":"))
    # Inside a script only `</` could end it.
    frame = _FRAME.read_text("utf-8").replace("__ABOUT__", html.escape(_ABOUT))
    return frame.replace("__DATA__", data.replace("</", "<\\/"))


DOCUMENTS: dict[str, Callable[[], str]] = {
    "families.md": families,
    "zoo.md": markdown,
    "zoo.html": page,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Writes all of `DOCUMENTS`; see `--help`."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.zoo.page",
        description="Writes families.md, zoo.md and zoo.html, from the rows.",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="such as docs")
    folder = paths.writable(parser.parse_args(argv).out, "--out")
    with locks.hold(folder, "--out"):
        for name, content in DOCUMENTS.items():
            with paths.writing(folder, "--out"):
                whole.text(folder / name, content())
            say(f"wrote {folder / name}")


if __name__ == "__main__":
    with exit_on_error():
        main()
