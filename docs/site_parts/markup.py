"""Docstrings as they are written here, in the manner of Markdown, made reStructuredText."""

import dataclasses
import itertools
import re
from collections.abc import Iterator

_CODE = re.compile(r"(``.+?``|`[^`\n]+(?:\n[^`\n]+)?`)")
_NAME = re.compile(r"[A-Za-z_][\w.]*")
_EMPHASIS = re.compile(r"((?<![\w*])\*[^\s*](?:[^*]*[^\s*])?\*(?![\w*]))")
# What reStructuredText would take for the beginning of emphasis, a substitution or a link.
_STRAY = re.compile(r"(?<!\\)[*|]|(?<=\w)_(?!\w)")
_TERM = re.compile(r"(\w+(?=  ))( +\S.*)")
_SECTION = re.compile(r"(Args|Returns|Raises|Yields|Attributes|Example):$")


def docstring(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Makes a docstring's lines what Sphinx understands, in place."""
    if dataclasses.is_dataclass(obj) and lines and lines[0].startswith(f"{obj.__name__}("):
        lines[:] = []  # Python's own, of a class that has none: the signature again.
    found = []
    for literal, part in itertools.groupby(_parted(lines), key=lambda each: each[0]):
        text = "\n".join(line for _, line in part)
        found += text.split("\n") if literal else _marked(text).split("\n")
    lines[:] = found


def _parted(lines: list[str]) -> Iterator[tuple[bool, str]]:
    """The lines, each with whether it is of a literal block.

    These are commands and examples, which stand indented between blank lines, or begin a line with
    `python -m` after a blank one.
    """
    section = literal = False
    for number, line in enumerate(lines):
        blank_before = number == 0 or not lines[number - 1].strip()
        if _SECTION.match(line.strip()):
            section, literal = True, False
        elif line and not line.startswith(" "):
            section = literal = False
            if term := _TERM.fullmatch(line):
                # A list of words and what they mean, in two columns.
                yield from ((False, each) for each in (term[1], " " * len(term[1]) + term[2]))
                continue
            if blank_before and line.startswith("python -m "):
                yield from ((True, each) for each in ("::", "", f"    {line}", ""))
                continue
        elif line.startswith("    ") and blank_before and not (section or literal):
            yield from ((True, each) for each in ("::", ""))
            literal = True
        yield literal, line


def _marked(text: str) -> str:
    """Text with its code in roles, and without what would be markup by accident."""
    parts = _CODE.split(text)
    return "".join(map(_part, parts, [*parts[1:], ""]))


def _part(part: str, following: str) -> str:
    """Code, or text between code."""
    if not _CODE.fullmatch(part):
        return "".join(
            piece if _EMPHASIS.fullmatch(piece) else _STRAY.sub(r"\\\g<0>", piece)
            for piece in _EMPHASIS.split(part)
        )
    code = " ".join(part.strip("`").split())
    end = "\\ " if following[:1].isalnum() else ""
    return (f"`{code}`" if _NAME.fullmatch(code) else f"``{code}``") + end


def signature(app, what: str, name: str, obj, options, text: str | None, returned: str | None):
    """Makes defaults short, and leaves out of a Flax module's what every one of them has."""
    if not text:
        return None
    text = re.sub(r"<function (\w+)(?: at 0x\w+)?>", r"\1", text)
    text = re.sub(r"<[^<>]*(?:<locals>)?[^<>]*>", "...", text)
    if what == "class":
        text = re.sub(r",? ?\*?,? ?parent:.*\)$", ")", text, flags=re.DOTALL)
    return text, returned


def skip(app, what: str, name: str, obj, skipped: bool, options) -> bool | None:
    """Leaves out members that are another library's, such as a field's default, or Python's own."""
    home = getattr(obj, "__module__", None) or ""
    foreign = callable(obj) and not home.startswith(("jaxvid", "converters"))
    unsaid = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
    return True if foreign or unsaid else None
