"""The command: a table of rows, or all that is known of one.

python -m jaxvid.zoo list 'tsm*'
python -m jaxvid.zoo show tsm_r50_1x1x8_k400
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say
from jaxvid.rows import Row
from jaxvid.zoo.classes import dataset, plain
from jaxvid.zoo.costs import cost
from jaxvid.zoo.index import family_name, get_row, list_models, pretrains
from jaxvid.zoo.summaries import percent, summary
from jaxvid.zoo.usage import commands

# Columns of the list: what heads them, and what each says of a `summary`.
_COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "name": lambda row: row["name"],
    "dataset": lambda row: row["dataset"],
    "frames": lambda row: row["frames"],
    "test": lambda row: row["test"],
    "GFLOPs x views": lambda row: f"{row['gflops']:.1f} x {row['views']}",
    "params": lambda row: f"{row['params']:.1f}M",
    "top-1": lambda row: percent(row["top1"]),
    "top-5": lambda row: percent(row["top5"]),
    "mAP": lambda row: percent(row["map"]),
    "weights": lambda row: row["weights"],
}

_FALLING = ("top1", "top5", "map")
_SORTS = ("name", "dataset", "family", *_FALLING, "gflops", "total_gflops", "params")


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """A line a row under a header; a column of which nothing is known is left out."""
    cells = [tuple(_COLUMNS), *(tuple(say(row) for say in _COLUMNS.values()) for row in rows)]
    columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    )


def _selected(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The summaries that pass the filters of `list`, sorted; what lacks the figure comes last."""
    titles = sorted({family_name(get_row(name).variant) for name in list_models()}, key=str.lower)
    by_plain_name = {plain(title): title for title in titles}
    if args.family and plain(args.family) not in by_plain_name:
        raise JaxvidError(f"Unknown family {args.family!r}; there are {', '.join(titles)}.")
    wanted = {
        "dataset": args.dataset and dataset(args.dataset),
        "family": args.family and by_plain_name[plain(args.family)],
        "modality": args.modality,
    }
    rows = [
        row
        for row in map(summary, list_models(args.pattern))
        if all(value in (None, row[key]) for key, value in wanted.items())
        and (row["weights"] != "none" or not args.weights)
        and row["gflops"] <= args.max_gflops
        and row["params"] <= args.max_params
    ]
    rows.sort(key=lambda row: row[args.sort] or 0, reverse=args.sort in _FALLING)
    return sorted(rows, key=lambda row: row[args.sort] is None)


def _fields(value: Any, indent: str = "") -> list[str]:
    """One line per field of a dataclass; nested ones are indented under their name."""
    lines = []
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            lines += [f"{indent}{field.name}:", *_fields(item, indent + "  ")]
        elif item not in (None, "", (), {}):
            lines.append(f"{indent}{field.name}: {item}")
    return lines


def _cost_line(row: Row) -> str:
    taken = cost(row.name)
    total = f", {taken.total_macs / 1e9:.1f} in {row.num_views} views" if row.num_views > 1 else ""
    return (
        f"takes: {taken.params / 1e6:.2f}M parameters, "
        f"{taken.macs / 1e9:.2f} GFLOPs (multiply-accumulates) a view{total}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.zoo", description="What models there are, and how each was tested."
    )
    parsers = parser.add_subparsers(dest="command", required=True)
    listing = parsers.add_parser(
        "list",
        help="a table of the rows whose name matches",
        epilog="GFLOPs are 10**9 multiply-accumulates of one view, as the tables count them, but "
        "measured. weights: a file to download, a page to fetch one from by hand, those of the "
        "members that the row is made of, or none.",
    )
    add = listing.add_argument
    add("pattern", nargs="?", default="*", help="as in a shell, e.g. 'tsm*'")
    add("--dataset", help="only rows of it; short names such as k400 and ssv2 do")
    add("--family", help="only rows of it, e.g. tsm or MViTv2")
    add("--modality", choices=("rgb", "flow", "two-stream"), help="only rows of it")
    add("--weights", action="store_true", help="only rows of which a checkpoint is published")
    add("--max-gflops", type=float, default=math.inf, metavar="N", help="at most N a view")
    add("--max-params", type=float, default=math.inf, metavar="N", help="at most N million")
    add("--sort", choices=_SORTS, default="name", help="accuracies fall, all else rises")
    add("--json", action="store_true", help="one object a line in place of a table")
    show = parsers.add_parser("show", help="all that is known of a row, and the commands for it")
    show.add_argument("name", help="a name of the list, a table's own name, or a variant")
    args = parser.parse_args(argv)
    if args.command == "list":
        rows = _selected(args)
        if not rows:
            raise JaxvidError(
                f"No row matches {args.pattern!r} and all filters; without them all are listed."
            )
        say(*(map(json.dumps, rows) if args.json else _table(rows).split("\n")))
    else:
        row = get_row(args.name)
        taken = [] if pretrains(row.variant) else [_cost_line(row)]
        say(*_fields(row), *taken, "", *commands(row.name))
