"""Where the tensors of a conversion come from: a file, the shards of one, or a dict."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converters import files, hub
from converters.mapped import Mapped
from converters.shards import Sharded, open_all
from jaxvid.base.errors import JaxvidError

Source = Mapping[str, Any] | Mapped | Sharded


def open_source(source: Mapping[str, Any] | str | Path) -> Source:
    """Returns what `source` is a path of, not yet read, or the tensors that it is.

    The path may be an address on the hub; see `converters.hub`.
    """
    return open_all(hub.local(source)) if isinstance(source, str | Path) else source


def read_source(source: Source, ema: bool) -> tuple[dict, list[str]]:
    """Returns a new dict of the tensors of what `open_source` gave, and remarks on them.

    Those of a file are not checked before `check_source` has returned.
    """
    if isinstance(source, Mapped | Sharded):
        return files.read_and_tell(source, ema=ema)
    if ema:
        raise JaxvidError("ema = True chooses within a file: give a path or leave it out")
    return dict(source), []


def check_source(source: Source) -> list[str]:
    """Checks what `read_source` read, where that was a file; returns remarks on it."""
    if not isinstance(source, Mapped | Sharded):
        return []
    remarks = files.verify_and_tell(source)
    source.sha256()  # Which `describe_source` says: any other time it would be waited for.
    return remarks


def describe_source(source: Source) -> dict[str, Any] | None:
    """Returns what a checkpoint says of the file that it was made from."""
    if not isinstance(source, Mapped | Sharded):
        return None
    return {"file": source.path.name, "bytes": source.size, "sha256": source.sha256()}
