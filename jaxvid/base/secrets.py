"""Passwords and tokens in addresses, which nothing that is said may show."""

import re

# One slash is what becomes of an address that was taken for a path; a password may hold slashes.
_LOGIN = re.compile(r"(?i)\b([a-z][a-z0-9+.-]+:/{1,2})(?:[^/\s?#]*|[^/\s:@]*:(?!\d+/)[^\s@]*)@")
_SECRET = re.compile(
    r"(?i)([?&;#][^=&#\s]*(?:auth|cred|key|pass|pwd|secret|session|sig|token)[^=&#\s]*=)"
    r"[^&#\s'\",;)]+"
)


def without_secrets(text: str) -> str:
    """A text with stars for the passwords and tokens of addresses in it."""
    if ":/" not in text:
        return text
    return _SECRET.sub(r"\1***", _LOGIN.sub(r"\1***@", text))
