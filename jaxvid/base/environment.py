"""Numbers that are set by environment variables."""

import math
from collections.abc import Mapping

from jaxvid.base.errors import JaxvidError


def read_number(environment: Mapping[str, str], name: str, meaning: str) -> float | None:
    """The number from 0 on that a variable holds; None where it is not set.

    Raises:
      JaxvidError: it holds anything else, though it must be what `meaning` says.
    """
    given = environment.get(name, "")
    if not given:
        return None
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise JaxvidError(f"{name}={given!r} must be {meaning}")
    return value
