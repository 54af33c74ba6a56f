"""Numbers that are numbers: what holds NaN or infinity is refused, and said by name."""

from collections.abc import Iterable

import numpy as np

from jaxvid.base.errors import JaxvidError, listed


def count(array: np.ndarray) -> int:
    """How many values of a float array are NaN or infinite."""
    if array.dtype.kind in "biu":
        return 0
    # A sum takes no memory and is a number wherever all of its terms are, unless it is too large.
    with np.errstate(all="ignore"):
        if np.isfinite(array.sum(dtype=None if array.itemsize >= 4 else np.float32)):
            return 0
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def refuse(where: object, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Raises a `JaxvidError` that names the arrays of `where` with values that are not finite."""
    found = [(name, count(array), array.size) for name, array in arrays]
    raise_if_any(where, [(name, bad, size) for name, bad, size in found if bad])


def raise_if_any(where: object, found: list[tuple[str, int, int]]) -> None:
    """Raises the error of `refuse` for arrays by name, bad values and all values, if there are."""
    if not found:
        return
    arrays = listed(f"{name} ({bad} of {size})" for name, bad, size in found)
    raise JaxvidError(
        f"{where} holds values that are no finite float32 (NaN, infinity or beyond 3.4e38), as a "
        f"training that diverged leaves them, in {arrays}: take an earlier or another one"
    )
