"""JSON as it is read and written here: within bounds, and without what is no number."""

import json
import math
import os
from pathlib import Path
from typing import Any

from jaxvid.base import regular, stores

MAX_BYTES = 32 << 20
MAX_VALUES = 2_000_000
_MAX_DIGITS = 20
_TOO_LONG = f"it is over {MAX_BYTES >> 20} MiB long"


def dump(value: Any, **how: Any) -> str:
    """Returns `value` as JSON; a number that is not defined (NaN, infinity) is null.

    `how` is what `json.dumps` takes. Text that is no Unicode, as a file's name may be, is escaped.
    """
    value = defined(value)
    text = json.dumps(value, allow_nan=False, **how)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False, **how | {"ensure_ascii": True})
    return text


def parse(data: bytes | str) -> Any:
    """Reads JSON of at most 32 MiB and 2 million values, without a name twice in one object.

    Raises a `ValueError` that says in words what is wrong, also of numbers that no 64 bits hold.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(_TOO_LONG)
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise ValueError(f"it holds over {MAX_VALUES} values")
    try:
        return json.loads(
            text,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def read(path: str | Path) -> Any:
    """Reads a file as `parse` does; raises `OSError` or `ValueError`."""
    if isinstance(path, stores.StorePath):
        return parse(path.read_bytes())
    with regular.open_to_read(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_BYTES:
            raise ValueError(_TOO_LONG)
        return parse(file.readall())


def defined(value: Any) -> Any:
    """Returns `value`, of what JSON can hold, with None for every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: defined(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [defined(item) for item in value]
    return value


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds a number that is not finite ({text[:20]})")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it holds a name twice in one object")
    return found
