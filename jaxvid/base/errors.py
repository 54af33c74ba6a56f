"""The one error that means the user's input, not this program, is at fault."""

from collections.abc import Iterable

from jaxvid.base.secrets import without_secrets


class JaxvidError(ValueError):
    """A file, field or argument is wrong; the message names it and the way out.

    Passwords and tokens in addresses are not in the message.
    """

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class Stopped(SystemExit):
    """A signal asked for the end, and all that was done is saved; the code is 128 + its number."""


def listed(problems: Iterable[str], most: int = 10, separator: str = "; ") -> str:
    """Joins the first `most` problems and counts the rest, so that a refusal can be read."""
    problems = list(problems)
    left = len(problems) - most
    more = f"{separator}and {left} more" if left > 0 else ""
    return separator.join(problems[:most]) + more
