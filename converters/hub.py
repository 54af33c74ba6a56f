"""Files of the Hugging Face hub, by name: `hf:ORG/REPO/FILE`, or `hf:ORG/REPO@REVISION/FILE`.

Its own library brings them, where that is installed: so caches, mirrors, tokens and resumed
downloads are as its users know them (HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE).
"""

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from converters import shards
from jaxvid.base import paths
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import quoted, say

# Also as pathlib bends hf://.
_BEGIN = re.compile(r"hf:/{0,2}(?=[^/])")
_ADDRESS = re.compile(r"([\w.-]+/[\w.-]+)(?:@([^/@\s]+))?/(.*[^/])")
# What the library's errors mean, the more special ones first.
_REASONS = {
    "GatedRepoError": "its owners let in only whom they know: ask there, and set HF_TOKEN",
    "RepositoryNotFoundError": "there is no such repository, or it is closed: check its name, or "
    "set HF_TOKEN",
    "RevisionNotFoundError": "the repository has no such revision: check what stands behind the @",
    "LocalEntryNotFoundError": "it is not in the cache, and the hub was not asked or did not "
    "answer: check the network, HF_ENDPOINT and HF_HUB_OFFLINE",
    "EntryNotFoundError": "the repository has no such file: check its name",
    "HFValidationError": "the hub knows no such names: check it",
}


def is_address(path: str | os.PathLike) -> bool:
    """Says whether a path is one on the hub."""
    return bool(_BEGIN.match(os.fspath(path)))


def door(text: str | os.PathLike, what: str) -> Path:
    """As `paths.anywhere`, or an address on the hub, which `local` brings."""
    if is_address(text):
        return Path(text)
    path = paths.anywhere(text, what)
    return path.absolute() if is_address(path) else path  # `./hf:name` has lost its dot.


def local(path: str | Path, what: str = "--checkpoint") -> Path:
    """Returns a path as it is, and in place of an address on the hub that of the file brought here.

    Beside an index are then all shards that it names. Raises `JaxvidError` where one cannot be had.
    """
    if not is_address(path):
        return Path(path)
    said = os.fspath(path)
    match = _ADDRESS.fullmatch(_BEGIN.sub("", said, count=1))
    if match is None:
        raise JaxvidError(
            f"{what}={said} names no file on the hub: write hf:ORG/REPO/FILE, or "
            "hf:ORG/REPO@REVISION/FILE"
        )
    repository, revision, file = match.groups()
    said = f"{what}={said}"
    library = _library(said)
    say(f"bringing {said.partition('=')[2]} by huggingface_hub")
    found = _fetch(library, repository, file, revision, said)
    if file.endswith(shards.INDEX):
        folder = PurePosixPath(file).parent
        # Of the commit that the index is of, by which the cache calls its folder.
        commit = found.parts[-1 - len(PurePosixPath(file).parts)]
        for shard in sorted(set(shards.read_index(found).values())):
            _fetch(library, repository, str(folder / shard), commit, said)
    return found


def _fetch(library: Any, repository: str, file: str, revision: str | None, said: str) -> Path:
    try:
        return Path(library.hf_hub_download(repository, file, revision=revision))
    # It raises its own errors, those of its HTTP library, the system's, and ValueError.
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        reason = next((why for name, why in _REASONS.items() if name in kinds), None)
        if reason is None:
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            reason = f"{quoted(first, 200)}: check the network, HF_ENDPOINT and HF_HOME"
        named = "" if said.endswith(f"/{file}") else f", of it {quoted(file)}"
        raise JaxvidError(f"{said} cannot be had{named}, as {reason}") from error


def _library(said: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise JaxvidError(
            f"{said} needs huggingface_hub: pip install 'jaxvid[hub]', or bring the file by hand "
            "and give its path"
        ) from None
    return huggingface_hub
