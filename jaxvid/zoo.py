"""The index of models: every row of every family by name, and `python -m jaxvid.zoo`.

A *row* is one line of a published results table: a variant with a dataset, a test protocol and a
training recipe. A *variant* is an architecture. Every variant of the tables has rows; a variant
made here for tests, such as `tsm_test`, has none: `create_model` takes it, `get_row` refuses it,
and `starting_row` lends it its family's first protocol for a config to override.
"""

import argparse
import dataclasses
import difflib
import fnmatch
import functools
import importlib
import json
import pathlib
import pkgutil
import re
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

from flax import linen as nn

from jaxvid import models
from jaxvid.errors import JaxvidError, exit_on_error
from jaxvid.rows import CLASS_COUNTS, SHORT_NAMES, Row

_LABELS = pathlib.Path(__file__).parent / "labels"


@functools.cache
def _families() -> tuple[ModuleType, ...]:
    """The modules of `jaxvid.models`, imported on the first question asked."""
    names = sorted(module.name for module in pkgutil.iter_modules(models.__path__))
    return tuple(importlib.import_module(f"{models.__name__}.{name}") for name in names)


@functools.cache
def _variants() -> dict[str, ModuleType]:
    return {variant: module for module in _families() for variant in module.VARIANTS}


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
    """Names of all architectures, those made for tests included."""
    return sorted(_variants())


def family(variant: str) -> ModuleType:
    """The module of `jaxvid.models` that holds `variant`.

    Raises:
      JaxvidError: no family has such a variant.
    """
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

    Raises:
      JaxvidError: no row has that name; the message gives the nearest ones.
    """
    row = _rows().get(_aliases().get(name, name))
    if row is not None:
        return row
    if name in _variants():
        raise JaxvidError(
            f"{name!r} is a variant without a published row, so it has no test protocol: "
            "name a row, or let a config say the protocol."
        )
    raise JaxvidError(
        f"Unknown model {name!r}: {_nearest(name, [*_rows(), *_aliases(), *_variants()])}; "
        "`python -m jaxvid.zoo list` shows all."
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
      num_classes: width of the classifier; the row's own number if None.
      dtype: compute dtype; None follows inputs and parameters.
      **overrides: fields of the family's `Model` that differ from the row's.

    Raises:
      JaxvidError: the name or a field is unknown; the message gives the nearest.
    """
    row = starting_row(name)
    module = family(row.variant)
    fields = [f.name for f in dataclasses.fields(module.Model) if f.name not in ("parent", "name")]
    for field in overrides:
        if field not in fields:
            raise JaxvidError(
                f"{name!r} has no field {field!r}: {_nearest(field, fields)}; "
                f"the fields are {', '.join(fields)}."
            )
    settings = {**module.VARIANTS[row.variant], **row.overrides, **overrides}
    settings["num_classes"] = row.num_classes if num_classes is None else num_classes
    return module.Model(**{**settings, "dtype": dtype})


def dataset(name: str) -> str:
    """The dataset called `name`, as rows call it: `kinetics400` of `k400` or `Kinetics-400`.

    Raises:
      JaxvidError: no such dataset; the message lists all, with their short names.
    """
    plain = re.sub(r"[\W_]", "", name.lower())
    known = {re.sub("_", "", full): full for full in CLASS_COUNTS} | SHORT_NAMES
    if plain not in known:
        short = {full: f" ({brief})" for brief, full in SHORT_NAMES.items()}
        listed = ", ".join(full + short.get(full, "") for full in CLASS_COUNTS)
        raise JaxvidError(f"No labels of a dataset {name!r}; there are {listed}.")
    return known[plain]


def labels(name: str) -> list[str]:
    """Class names of a dataset, in the order of the classifier's outputs.

    Args:
      name: anything `dataset` takes.

    Raises:
      JaxvidError: there is no such dataset.
    """
    return (_LABELS / f"{dataset(name)}.txt").read_text(encoding="utf-8").splitlines()


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
        keys, wanted = _plain_labels(source), _plain_labels(target)
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


def _plain_labels(name: str) -> list[str]:
    """Class names without what datasets write differently: case, spaces and signs."""
    return [re.sub(r"[\W_]", "", label.lower()) for label in labels(name)]


def _accuracy(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(rows: Sequence[Row]) -> str:
    cells = [("name", "dataset", "frames", "test", "top-1", "top-5")]
    for row in rows:
        top1, top5 = _accuracy(row.top1), _accuracy(row.top5)
        cells.append((row.name, row.dataset, row.train.frames, row.test.views, top1, top5))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


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


def _commands(row: Row) -> list[str]:
    """What to type to convert, test and fine-tune the row, or to train it."""
    run = f"  python -m jaxvid.main --config=configs/zoo_row.py:name={row.name}"
    published = f"dataset={row.dataset},data_dir=DATA"
    built = "written by `python -m jaxvid.data.build`"
    if row.source is None:
        return [
            f"No checkpoint is published. To train it on DATA, {built}:",
            f"{run},{published} --workdir=RUN",
        ]
    flag = "" if row.file else " --checkpoint=FILE"
    where = "" if row.file else f" (FILE comes by hand from {row.source}, a web page)"
    return [
        f"To convert its checkpoint{where}, test it on DATA and fine-tune it on CLIPS, "
        f"both {built}:",
        f"  python -m converters --model={row.name}{flag} --out=WEIGHTS",
        f"{run},{published},init=WEIGHTS --mode=eval --workdir=RUN",
        f"{run},dataset=mine,data_dir=CLIPS,init=WEIGHTS --workdir=RUN",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.zoo", description="What models there are, and how each was tested."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="a table of the rows whose name matches")
    listing.add_argument("pattern", nargs="?", default="*", help="as in a shell, e.g. 'tsm*'")
    show = commands.add_parser("show", help="all that is known of a row, and the commands for it")
    show.add_argument("name", help="a name of the list, a table's own name, or a variant")
    args = parser.parse_args(argv)
    if args.command == "list":
        names = list_models(args.pattern)
        if not names:
            raise JaxvidError(f"No row matches {args.pattern!r}; without a pattern all are listed.")
        print(_table([get_row(name) for name in names]))
    else:
        row = get_row(args.name)
        print("\n".join([*_fields(row), "", *_commands(row)]))


if __name__ == "__main__":
    with exit_on_error():
        main()
