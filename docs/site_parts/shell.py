"""Commands as they are coloured and wrapped: a flag is one word, which no line breaks."""

from pygments.lexer import inherit
from pygments.lexers.shell import BashLexer
from pygments.token import Name


class ShellLexer(BashLexer):
    """Bash's, to which flags are names of their own."""

    name = "Shell with flags"
    aliases = ("sh",)
    tokens = {"basic": [(r"(?<=\s)--?[A-Za-z][\w.-]*", Name.Attribute), inherit]}
