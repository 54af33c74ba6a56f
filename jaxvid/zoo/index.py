"""Rows, variants and families by name, and the networks they stand for."""

import dataclasses
import difflib
import fnmatch
import functools
import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxvid import models
from jaxvid.base.errors import JaxvidError
from jaxvid.rows import Row

if TYPE_CHECKING:
    from flax import linen as nn


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


def family_name(variant: str) -> str:
    """The family of `variant` as papers call it, such as `MViTv2`.

    Raises:
      JaxvidError: no family has such a variant.
    """
    title = family(variant).FAMILY
    return title[variant.split("_")[0]] if isinstance(title, dict) else title


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


def streams(name: str) -> tuple[str, ...]:
    """The rows whose scores the row or variant `name` adds; none where it is one network."""
    members = starting_row(name).members
    datasets = {get_row(member).dataset for member in members}
    return members if len(members) > 1 and len(datasets) == 1 else ()


def starting_row(name: str) -> Row:
    """A row to start a config from: `get_row(name)`, also for a variant that has no row.

    Such a variant borrows sampling, test, recipe and normalisation under its own name, and without
    dataset, published figures or source; a config overrides what differs. It borrows from the first
    row of the longest variant whose name its own lengthens (`tsm_mobileone_s4_deploy`), or of its
    family.

    Raises:
      JaxvidError: neither a row nor a variant has that name.
    """
    if name not in _variants() or name in _aliases():
        return get_row(name)
    module = family(name)
    shorter = (row for row in module.ROWS if name.startswith(f"{row.variant}_"))
    first = max(shorter, key=lambda row: len(row.variant), default=module.ROWS[0])
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
) -> "nn.Module":
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
