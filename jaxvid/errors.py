"""The one error that means the user's input, not this program, is at fault; and a wished end."""

import contextlib
import sys
from collections.abc import Iterable, Iterator


class JaxvidError(ValueError):
    """A file, field or argument is wrong; the message names it and the way out."""


class Stopped(SystemExit):
    """A signal asked for the end, and all that was done is saved; the code is 128 + its number."""


def listed(problems: Iterable[str], most: int = 10, separator: str = "; ") -> str:
    """Joins the first `most` problems and counts the rest, so that a refusal can be read."""
    problems = list(problems)
    left = len(problems) - most
    more = f"{separator}and {left} more" if left > 0 else ""
    return separator.join(problems[:most]) + more


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Turns a `JaxvidError` into one line on standard error and exit code 1."""
    try:
        yield
    except JaxvidError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
