"""The index of models: every row of every family by name, and `python -m jaxvid.zoo`.

A *row* is one line of a published results table: a variant with a dataset, a test protocol and a
training recipe. A *variant* is an architecture. Every variant of the tables has rows; a variant
made here for tests, such as `tsm_test`, has none: `create_model` takes it, `get_row` refuses it,
and `starting_row` lends it its family's first protocol for a config to override.
"""

import argparse
import csv
import dataclasses
import difflib
import fnmatch
import functools
import importlib
import json
import math
import pathlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

from flax import linen as nn

from jaxvid import models
from jaxvid.errors import JaxvidError, exit_on_error
from jaxvid.rows import CLASS_COUNTS, RECORD_SIDE, SHORT_NAMES, Row
from jaxvid.text import read_names, say

_LABELS = pathlib.Path(__file__).parent / "labels"
_COSTS = pathlib.Path(models.__path__[0]) / "costs.csv"


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a row's network takes; the tables call multiply-accumulates FLOPs.

    `params` are its parameters, `macs` the multiply-accumulates of the convolutions and matrix
    products of one view, and `total_macs` those of all views of a video in its test.
    """

    params: int
    macs: int
    total_macs: int


@functools.cache
def _families() -> tuple[ModuleType, ...]:
    """The modules of `jaxvid.models`, imported on the first question asked."""
    names = sorted(module.name for module in pkgutil.iter_modules(models.__path__))
    return tuple(importlib.import_module(f"{models.__name__}.{name}") for name in names)


@functools.cache
def _variants() -> dict[str, ModuleType]:
    return {variant: module for module in _families() for variant in module.VARIANTS}


@functools.cache
def _pretraining() -> dict[str, tuple[ModuleType, Row]]:
    """The networks that pretrain, which no results table has: variant, and row of that name."""
    modules = [module for module in _families() if hasattr(module, "PRETRAINING_ROWS")]
    return {row.variant: (module, row) for module in modules for row in module.PRETRAINING_ROWS}


@functools.cache
def _rows() -> dict[str, Row]:
    return {row.name: row for module in _families() for row in module.ROWS}


@functools.cache
def _aliases() -> dict[str, str]:
    """The tables' own names and the variants' names, each with the name of its first row."""
    aliases: dict[str, str] = {}
    for row in _rows().values():
        aliases.setdefault(row.upstream, row.name)
    for row in _rows().values():
        aliases.setdefault(row.variant, row.name)
    aliases.pop("", None)
    return aliases


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, dict.fromkeys(known), n=4, cutoff=0.5)
    return f"the nearest are {', '.join(close)}" if close else "nothing known is near it"


def variants() -> list[str]:
    """Names of all architectures, those made for tests included, that classify."""
    return sorted(_variants())


def pretrains(variant: str) -> bool:
    """Whether `variant` has no classes but fills in masked cubes, for another to start from."""
    return variant in _pretraining()


def family(variant: str) -> ModuleType:
    """The module of `jaxvid.models` that holds `variant`.

    Raises:
      JaxvidError: no family has such a variant.
    """
    if pretrains(variant):
        return _pretraining()[variant][0]
    if variant not in _variants():
        raise JaxvidError(f"Unknown variant {variant!r}: {_nearest(variant, variants())}.")
    return _variants()[variant]


def names(variant: str) -> list[tuple[str, str | None, str]]:
    """The rules that name PyTorch's keys of `variant`: its family's `NAMES`.

    A family whose variants give one key different layouts keeps a dict of rules by variant.

    Raises:
      JaxvidError: no family has such a variant.
    """
    rules = family(variant).NAMES
    return rules[variant] if isinstance(rules, dict) else rules


def list_models(pattern: str = "*") -> list[str]:
    """Names of the rows that match the shell-style `pattern`, sorted."""
    return sorted(fnmatch.filter(_rows(), pattern))


def get_row(name: str) -> Row:
    """The row called `name`: our name, the table's own name, or a variant (its first row).

    A network that pretrains has a row called as itself, which `list_models` does not know.

    Raises:
      JaxvidError: no row has that name; the message gives the nearest ones.
    """
    if pretrains(name):
        return _pretraining()[name][1]
    row = _rows().get(_aliases().get(name, name))
    if row is not None:
        return row
    if name in _variants():
        raise JaxvidError(
            f"{name!r} is a variant without a published row, so it has no test protocol: "
            "name a row, or let a config say the protocol."
        )
    known = [*_rows(), *_aliases(), *_variants(), *_pretraining()]
    raise JaxvidError(
        f"Unknown model {name!r}: {_nearest(name, known)}; `python -m jaxvid.zoo list` shows all."
    )


def starting_row(name: str) -> Row:
    """A row to start a config from: `get_row(name)`, also for a variant that has no row.

    Such a variant borrows sampling, test, recipe and normalisation under its own name, and without
    dataset, published figures or source; a config overrides what differs. It borrows from the first
    row of the variant whose name its own lengthens (`tsm_mobileone_s4_deploy`), or of its family.

    Raises:
      JaxvidError: neither a row nor a variant has that name.
    """
    if name not in _variants() or name in _aliases():
        return get_row(name)
    module = family(name)
    shorter = (row for row in module.ROWS if name.startswith(f"{row.variant}_"))
    first = next(shorter, module.ROWS[0])
    return Row(
        name=name,
        variant=name,
        dataset="",
        num_classes=module.VARIANTS[name].get("num_classes", first.num_classes),
        train=first.train,
        test=first.test,
        recipe=first.recipe,
        train_crop=first.train_crop,
        train_short_side=first.train_short_side,
        modality=first.modality,
        mean=first.mean,
        std=first.std,
        channel_order=first.channel_order,
        note=f"no published row; protocol borrowed from {first.name}",
    )


def create_model(
    name: str, num_classes: int | None = None, dtype: Any = None, **overrides: Any
) -> nn.Module:
    """The Flax module of a row or variant; its weights come from elsewhere.

    Args:
      name: anything `get_row` takes, or a bare variant such as `tsm_test`.
      num_classes: width of the classifier, where there is one; the row's own number if None.
      dtype: compute dtype; None follows inputs and parameters.
      **overrides: fields of the family's `Model` that differ from the row's.

    Raises:
      JaxvidError: the name or a field is unknown; the message gives the nearest.
    """
    row = starting_row(name)
    module = family(row.variant)
    if pretrains(row.variant):
        network, settings = module.PretrainingModel, module.PRETRAINING_VARIANTS[row.variant]
    else:
        network, settings = module.Model, module.VARIANTS[row.variant]
    fields = [f.name for f in dataclasses.fields(network) if f.name not in ("parent", "name")]
    for field in overrides:
        if field not in fields:
            raise JaxvidError(
                f"{name!r} has no field {field!r}: {_nearest(field, fields)}; "
                f"the fields are {', '.join(fields)}."
            )
    settings = {**settings, **row.overrides, **overrides, "dtype": dtype}
    if "num_classes" in fields:
        settings["num_classes"] = row.num_classes if num_classes is None else num_classes
    return network(**settings)


def dataset(name: str) -> str:
    """The dataset called `name`, as rows call it: `kinetics400` of `k400` or `Kinetics-400`.

    Raises:
      JaxvidError: no such dataset; the message lists all, with their short names.
    """
    known = {_plain(full): full for full in CLASS_COUNTS} | SHORT_NAMES
    if _plain(name) not in known:
        short = {full: f" ({brief})" for brief, full in SHORT_NAMES.items()}
        listed = ", ".join(full + short.get(full, "") for full in CLASS_COUNTS)
        raise JaxvidError(f"No labels of a dataset {name!r}; there are {listed}.")
    return known[_plain(name)]


def labels(name: str) -> list[str]:
    """Class names of a dataset, in the order of the classifier's outputs.

    Args:
      name: anything `dataset` takes.

    Raises:
      JaxvidError: there is no such dataset.
    """
    return list(read_names(_LABELS / f"{dataset(name)}.txt"))


def channel_map(source: str, target: str) -> list[int | None]:
    """For each class of `target` the output of a network of `source`, or None where it has none.

    Kinetics-710 joins the classes of Kinetics-400, 600 and 700, and calls a few of them otherwise.
    Its published maps (UniFormerV2, Li et al. 2022) hold between any two of the four; classes of
    other datasets are the same where their names are, but for case, spaces and signs.

    Args:
      source: dataset of the network, as `dataset` takes it.
      target: dataset whose classes are wanted.

    Raises:
      JaxvidError: one of them is unknown, or they have no class in common.
    """
    source, target = dataset(source), dataset(target)
    keys, wanted = _kinetics_channels(source), _kinetics_channels(target)
    if keys is None or wanted is None:
        keys, wanted = (list(map(_plain, labels(name))) for name in (source, target))
    places = {key: place for place, key in enumerate(keys)}
    found = [places.get(key) for key in wanted]
    if all(place is None for place in found):
        raise JaxvidError(f"{source} and {target} have no class in common.")
    return found


def _kinetics_channels(name: str) -> list[int] | None:
    """For each class of a Kinetics dataset that of Kinetics-710; None for other datasets."""
    if name == "kinetics710":
        return list(range(CLASS_COUNTS[name]))
    published = _LABELS / f"kinetics710_to_{name.removeprefix('kinetics')}.json"
    return json.loads(published.read_text(encoding="utf-8")) if published.is_file() else None


def _plain(text: str) -> str:
    """The text without what people write differently: case, spaces and signs."""
    return re.sub(r"[\W_]", "", text.lower())


@functools.cache
def _costs() -> dict[tuple[str, int, int], dict[str, int]]:
    """By variant, frames and side of a view: what `jaxvid/models/costs.csv` says of it."""
    found = {}
    with _COSTS.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            name, _ = line.pop("variant"), line.pop("counted_on")
            numbers = {key: int(text) for key, text in line.items()}
            found[name, numbers["frames"], numbers["side"]] = numbers
    return found


def cost(name: str) -> Cost:
    """What the network of a row takes: counted on the published models, not as tables print it.

    Where several networks answer together, as two streams, it is what they all take.

    Raises:
      JaxvidError: no row has that name, or nothing was counted of such a view.
    """
    row = get_row(name)
    if len(row.members) > 1:
        parts = [dataclasses.astuple(cost(member)) for member in row.members]
        return Cost(*map(sum, zip(*parts, strict=True)))
    line = _costs().get((row.variant, *row.view[:2]))
    if line is None:
        raise JaxvidError(f"{row.name}: {_COSTS} has no line of {row.variant} at {row.view}.")
    more_classes = row.num_classes - line["num_classes"]
    params = line["params"] + more_classes * line["params_per_class"]
    return Cost(params, line["macs"], line["macs"] * row.num_views)


def family_name(variant: str) -> str:
    """The family of `variant` as papers call it, such as `MViTv2`.

    Raises:
      JaxvidError: no family has such a variant.
    """
    title = family(variant).FAMILY
    return title[variant.split("_")[0]] if isinstance(title, dict) else title


def summary(name: str) -> dict[str, Any]:
    """What a table says of a row, by column: plain values, None where nothing is published.

    `gflops` are 10**9 multiply-accumulates of one view, `total_gflops` those of a video's test.
    `weights` are `Row.weights`, or `members` where those of other rows are tested.

    Raises:
      JaxvidError: no row has that name.
    """
    row = get_row(name)
    taken = cost(row.name)
    modalities = {get_row(member).modality for member in row.members}
    return {
        "name": row.name,
        "family": family_name(row.variant),
        "variant": row.variant,
        "dataset": row.dataset,
        "classes": row.num_classes,
        "modality": "two-stream" if len(modalities) > 1 else row.modality,
        "frames": row.train.frames,
        "test": row.test.views,
        "views": row.num_views,
        "side": row.test.crop,
        "gflops": round(taken.macs / 1e9, 2),
        "total_gflops": round(taken.total_macs / 1e9, 1),
        "params": round(taken.params / 1e6, 2),
        "top1": row.top1,
        "top5": row.top5,
        "map": row.mean_ap,
        "weights": "members" if row.members else row.weights,
        "source": row.source,
        "config": row.config,
        "pretrained": row.pretrained,
        "note": row.note,
    }


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


def percent(value: float | None) -> str:
    """A published accuracy as tables print it, and nothing where there is none."""
    return "" if value is None else f"{value:.2f}"


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
    titles = sorted({family_name(row.variant) for row in _rows().values()}, key=str.lower)
    by_plain_name = {_plain(title): title for title in titles}
    if args.family and _plain(args.family) not in by_plain_name:
        raise JaxvidError(f"Unknown family {args.family!r}; there are {', '.join(titles)}.")
    wanted = {
        "dataset": args.dataset and dataset(args.dataset),
        "family": args.family and by_plain_name[_plain(args.family)],
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


def commands(name: str) -> list[str]:
    """Lines that say what to type to convert, test and fine-tune a row, or to train it.

    Raises:
      JaxvidError: no row has that name.
    """
    row = get_row(name)
    run = f"  python -m jaxvid.main --config=configs/zoo_row.py:name={row.name}"
    build = "  python -m jaxvid.data.build"
    side = f" --short-side={row.short_side}" if row.short_side > RECORD_SIDE else ""
    classes = f"--classes={row.dataset}{side}"
    published = f"dataset={row.dataset},data_dir=DATA"
    if pretrains(row.variant):
        mine = f"{run},dataset=mine,data_dir=MINE"
        return [
            "To pretrain it on your own videos, of which train.csv and test.csv list the path:",
            f"{build} --videos=CLIPS --labels=train.csv --out=MINE",
            f"{build} --videos=CLIPS --labels=test.csv --out=MINE",
            f"{mine} --workdir=RUN",
            f"To see what its weights, fetched by hand as FILE from {row.source}, fill in:",
            f"  python -m converters --model={row.name} --checkpoint=FILE --out=WEIGHTS",
            f"{mine},init=WEIGHTS --mode=eval --workdir=SEEN",
        ]
    test = [
        f"To test it on {row.dataset}, of which val.csv lists path,label of the files in VIDEOS:",
        f"{build} --videos=VIDEOS --labels=val.csv --split=test {classes} --out=DATA",
        f"{run},{published},init=WEIGHTS --mode=eval --workdir=TESTED",
    ]
    if len(row.members) > 1:
        streams = len({get_row(member).dataset for member in row.members}) == 1
        scores = " ".join(f"{member}/eval/scores.npz" for member in row.members)
        return [
            "It has no weights of its own. To convert and test what it is made of, see",
            *(f"  python -m jaxvid.zoo show {member}" for member in row.members),
            *(["and then fuse their tests:"] * streams),
            *([f"  python -m jaxvid.fuse --average=score {scores} --out=FUSED"] * streams),
        ]
    if row.weights == "none" and not row.members:
        return [
            f"No weights are published. To train it on {row.dataset}, of which train.csv and "
            "val.csv list path,label of the files in VIDEOS:",
            f"{build} --videos=VIDEOS --labels=train.csv {classes} --out=DATA",
            f"{build} --videos=VIDEOS --labels=val.csv --split=test {classes} --out=DATA",
            f"{run},{published} --workdir=RUN",
        ]
    owner = get_row(row.members[0]) if row.members else row
    if owner.weights == "page":
        convert = [
            f"To convert its weights, fetched by hand as FILE from {owner.source}:",
            f"  python -m converters --model={owner.name} --checkpoint=FILE --out=WEIGHTS",
        ]
    else:
        convert = [
            "To fetch and convert its weights:",
            f"  python -m converters --model={owner.name} --out=WEIGHTS",
        ]
    if row.modality == "flow":
        return [*convert, "The data pipeline reads RGB only so far, so it cannot be tested here."]
    return [
        *convert,
        *test,
        "To fine-tune it on your own videos, of which train.csv and test.csv list path,label:",
        f"{build} --videos=CLIPS --labels=train.csv{side} --out=MINE",
        f"{build} --videos=CLIPS --labels=test.csv{side} --out=MINE",
        f"{run},dataset=mine,data_dir=MINE,init=WEIGHTS --workdir=RUN",
    ]


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


if __name__ == "__main__":
    with exit_on_error():
        main()
