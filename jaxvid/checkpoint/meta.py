"""What a checkpoint says of itself, which may be a stranger's: looked at before it is believed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.rows import MAX_SIDE

_CHANNELS = 64


class _Rule(NamedTuple):
    accepts: Callable[[Any], bool]
    words: str


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= text.MAX_NAME


def _numbers(low: float) -> Callable[[Any], bool]:
    def accept(value: Any) -> bool:
        return (
            isinstance(value, list | tuple)
            and 0 < len(value) <= _CHANNELS
            and all(
                type(item) in (int, float) and math.isfinite(item) and item >= low for item in value
            )
        )

    return accept


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _is_lora(value: Any) -> bool:
    """Whether a value is what `variables.describe_base` says, and by what factors are scaled."""
    return (
        isinstance(value, dict)
        and type(value.get("scale")) in (int, float)
        and math.isfinite(value["scale"])
        and all(isinstance(value.get(name), str) for name in ("base", "digest"))
        and _texts(value.get("held"))
    )


_NAME = _Rule(_is_name, "a name")
_DICT = _Rule(lambda value: isinstance(value, dict), "an object")
_TEXTS = _Rule(_texts, "a list of texts")
_RULES = {
    **dict.fromkeys(("row", "variant", "loss", "channel_order", "flow"), _NAME),
    "num_classes": _Rule(
        lambda value: type(value) is int and 0 <= value <= text.MAX_CLASSES,
        f"a whole number in 0..{text.MAX_CLASSES}",
    ),
    "classes": _Rule(
        lambda value: _texts(value) and len(value) <= text.MAX_CLASSES,
        f"a list of at most {text.MAX_CLASSES} names",
    ),
    "mean": _Rule(_numbers(0), "numbers from 0 on"),
    "std": _Rule(_numbers(1e-6), "numbers above 0"),
    "short_side": _Rule(
        lambda value: type(value) is int and 1 <= value <= MAX_SIDE,
        f"a whole number in 1..{MAX_SIDE}",
    ),
    **dict.fromkeys(("overrides", "test"), _DICT),
    **dict.fromkeys(("new", "report"), _TEXTS),
    "lora": _Rule(_is_lora, "scale, base, digest and held parameters"),
    "source": _Rule(lambda value: value is None or isinstance(value, dict), "an object or null"),
}


def check(meta: dict[str, Any], path: str | Path) -> None:
    """Raises a `JaxvidError` that names the first field of `meta` that is not what it must be.

    `path` is the file that holds it. Fields that this program does not know may be anything.
    """
    for field, rule in _RULES.items():
        if meta.get(field) is not None and not rule.accepts(meta[field]):
            said = text.quoted(repr(meta[field]), 40)
            raise JaxvidError(
                f"{path} says {field} = {said}, which must be {rule.words}: copy the checkpoint or "
                "write it again"
            )
