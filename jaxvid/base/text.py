"""Text from outside: what may stand in a name, in a list and on a console.

Class names, paths, lists of names and what servers and files say of themselves all come through
here, so that each question about them is decided once:

- A name is one line that can be seen: a line break, a control character, an invisible sign or half
  a character (of a file that is not UTF-8) is refused with the line that holds it. Joiners, which
  some scripts and emoji need, are no such signs.
- Spaces around a name are no part of it, and its composed (NFC) and decomposed (NFD) form are one
  name. Names that differ in nothing but case, width, spaces or leading zeros are two names, which
  is said.
- A list is UTF-8 with or without a byte order mark; its lines end in `\\n` or `\\r\\n`, and only
  there.
- Whatever goes to a console is escaped first, so that nothing that was only read can move its
  cursor, colour it or forge a line; passwords and tokens in addresses become `***`.
"""

import json
import pathlib
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from jaxvid.base import jsons
from jaxvid.base.errors import JaxvidError
from jaxvid.base.secrets import without_secrets

_LABELS = pathlib.Path(__file__).parents[1] / "labels"

MAX_CLASSES = 100_000
"""More classes than this are a mistake."""
MAX_NAME = 1000
"""Characters of the longest name."""
MAX_LIST = 64 << 20
"""Bytes of the longest list of names."""

_CONTROL = ("Cc", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
_SPACES = " \t\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def shown(value: object) -> str:
    """A text as one line that any console can print: what cannot be seen is escaped.

    Secrets in addresses are starred. What was shown before stays as it is.
    """
    text = without_secrets(str(value))
    if text.isprintable():
        return text
    return "".join(_escaped(sign) if _hidden(sign) else sign for sign in text)


def quoted(value: str, most: int = 80) -> str:
    """A text in quotes for a message, cut where it is longer than a message should be."""
    kept = value if len(value) <= most else value[:most] + "…"
    more = "" if kept is value else f" ({len(value)} characters)"
    return f"'{shown(kept)}'{more}"


def say(*lines: object, error: bool = False) -> None:
    """Prints each as one line at once, on standard output or else on standard error."""
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    for line in lines:
        # A console that lacks a letter shows its number instead.
        text = shown(line).encode(encoding, "backslashreplace").decode(encoding)
        print(text, file=stream, flush=True)


def say_json(value: Any) -> None:
    """Prints JSON on one line on standard output; what was hidden or has no letter is escaped.

    The escapes are JSON's own, so that it is read as it was, secrets included; a number that is not
    defined is null.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    value = jsons.defined(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not text.isprintable():
        text = "".join(json.dumps(sign)[1:-1] if _hidden(sign) else sign for sign in text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text, flush=True)


def read_lines(path: pathlib.Path, what: str) -> list[str]:
    """The lines of a list in UTF-8, without the empty ones at its end; `what` is in the list.

    Raises:
      JaxvidError: there is no such file, it is too large for a list, or no UTF-8.
    """
    if not path.is_file():
        raise JaxvidError(f"{path} is not a file: give a list of {what}, one a line")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_LIST + 1)
    except OSError as error:
        raise JaxvidError(f"{path} cannot be read ({error.strerror}): give another file") from None
    if len(data) > MAX_LIST:
        raise JaxvidError(
            f"{path} is larger than {MAX_LIST >> 20} MiB, the most that a list of {what} may have"
        )
    check_utf8(path, data[:4])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise JaxvidError(f"{path} line {line} is not UTF-8: save the list as UTF-8") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1].strip():
        del lines[-1]
    return lines


def check_utf8(path: pathlib.Path, start: bytes) -> None:
    """Refuses a file whose first bytes say that it is UTF-16 or UTF-32."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in start:
        raise JaxvidError(f"{path} is UTF-16 or no text: save it as UTF-8")


def read_names(path: pathlib.Path, what: str = "class names") -> tuple[str, ...]:
    """The names of a list, one a line and each of them once; see `check_names`.

    Where there is no such file, `kinetics400` and the like are the lists of the library.
    """
    shipped = _LABELS / f"{path}.txt"
    if path.name == str(path) and shipped.is_file() and not path.is_file():
        path = shipped
    return check_names(read_lines(path, what), lambda place: f"{path} line {place + 1}")


def check_names(names: Sequence[str], where: Callable[[int], str]) -> tuple[str, ...]:
    """The names of classes as they are used from here on: all there, and no two the same.

    Args:
      names: as they were read.
      where: says where the name at a place stands, for messages.

    Raises:
      JaxvidError: a name is none, or there twice, or there are too many.
    """
    if len(names) > MAX_CLASSES:
        raise JaxvidError(
            f"{where(MAX_CLASSES)} is one name too many: there are at most {MAX_CLASSES} classes"
        )
    first: dict[str, int] = {}
    for place, given in enumerate(names):
        name = check_name(given, where(place))
        if name in first:
            raise JaxvidError(
                f"{where(place)} names {quoted(name)} once more, after {where(first[name])}: name "
                "each of them once"
            )
        first[name] = place
    return tuple(first)


def check_name(given: str, where: str, what: str = "class name") -> str:
    """A name without the spaces around it and in its composed form.

    Raises:
      JaxvidError: it is empty, longer than a name, or not one line that can be seen.
    """
    name = one_line(given, where, what)
    if not name:
        raise JaxvidError(f"{where} is empty: write a {what} there")
    if len(name) > MAX_NAME:
        raise JaxvidError(
            f"{where}: the {what} {quoted(name, 20)} is longer than {MAX_NAME}: shorten it"
        )
    for sign in () if name.isprintable() else name:
        if _hidden(sign):
            raise JaxvidError(f"{where}: the {what} {quoted(name)} holds {_described(sign)}")
    return normal(name)


def one_line(given: str, where: str, what: str) -> str:
    """A name or path without the spaces around it, which may hold signs that cannot be seen.

    Raises:
      JaxvidError: it holds a line break or a control character, or is not UTF-8.
    """
    # Python's own strip would also take line breaks away.
    name = given.strip(_SPACES)
    for sign in () if name.isprintable() else name:
        if unicodedata.category(sign) in _CONTROL:
            raise JaxvidError(f"{where}: the {what} {quoted(name)} holds {_described(sign)}")
    return name


def normal(name: str) -> str:
    """A name in its composed form, of which it may have been a decomposed one."""
    return unicodedata.normalize("NFC", name)


def alike(names: Iterable[str]) -> list[str]:
    """What to say of names that are easily taken for one another, a line for each two of them."""
    first: dict[str, str] = {}
    found = []
    for name in names:
        other = first.setdefault(plain(name), name)
        if other != name:
            found.append(
                f"{quoted(other)} and {quoted(name)} are two classes, which differ in no more than "
                "case, width, spaces or leading zeros"
            )
    return found


def plain(name: str) -> str:
    """What names that are easily taken for one another have in common."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    joined = " ".join("".join(sign for sign in folded if sign not in _JOINERS).split())
    return joined.lstrip("0") or "0" if joined.isdecimal() else joined


def forms(path: str) -> Iterator[str]:
    """The forms in which a disk may keep a path: as written, composed, decomposed."""
    yield from dict.fromkeys([path, *(unicodedata.normalize(f, path) for f in ("NFC", "NFD"))])


def _hidden(sign: str) -> bool:
    """Whether a character cannot be seen, or changes what is seen around it."""
    category = unicodedata.category(sign)
    return category in _CONTROL or category == "Cf" and sign not in _JOINERS


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte of a name that is not UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return repr(sign)[1:-1]


def _described(sign: str) -> str:
    """What a character is that may not be there, and the way out."""
    if unicodedata.category(sign) == "Cs":
        return f"what is not UTF-8 ({_escaped(sign)}): save it as UTF-8"
    what = "a line break" if sign in _BREAKS else "a sign that cannot be seen"
    return f"{what} ({_escaped(sign)}): remove it"
