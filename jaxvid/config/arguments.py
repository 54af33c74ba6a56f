"""Typed arguments of a config file: `--config=FILE.py:name=value,...`."""

import difflib
from typing import Any

from jaxvid.base.errors import JaxvidError

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
    """Reads `a=1,b,c=x` by the types of `defaults`; a bare name of a bool means true.

    Raises:
      JaxvidError: an unknown name (with the nearest known one) or a value of the wrong type.
    """
    values = dict(defaults)
    for part in (arg or "").split(","):
        if not part:
            continue
        name, given, text = part.partition("=")
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise JaxvidError(
                f"config argument {name!r} is unknown: {hint}it takes {', '.join(defaults)}"
            )
        kind = type(defaults[name])
        if kind is bool:
            text = text.lower() if given else "true"
            if text not in _TRUE + _FALSE:
                raise JaxvidError(f"config argument {name}={text!r} must be true or false")
            values[name] = text in _TRUE
            continue
        if not given:
            raise JaxvidError(f"config argument {name} needs a value: {name}=...")
        try:
            values[name] = kind(text)
        except ValueError:
            raise JaxvidError(
                f"config argument {name}={text!r} must be of type {kind.__name__}"
            ) from None
    return values
