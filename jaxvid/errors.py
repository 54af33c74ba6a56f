"""The one error that means the user's input, not this program, is at fault; and a wished end."""

import contextlib
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
        from jaxvid import text  # which raises this module's error

        # A list has its items on lines of their own; any other line break came from outside.
        first, *items = str(error).split("\n  ")
        text.say(f"error: {first}", *(f"  {item}" for item in items), error=True)
        raise SystemExit(1) from None
