"""What a build wrote: `<split>.manifest.json`, a checksum for each file and what made them.

With it `python -m jaxvid.data.verify` sees any change, and makes a shard again as it was. Records
without one, of others or of an older version, are read all the same.
"""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any

from jaxvid.base import jsons, stores, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.data import flow as flows
from jaxvid.rows import FLOWS

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a split was built of, and to which bytes.

    `digests` maps the shards and `labels.txt` to the SHA-256 of their bytes, `made_with` the
    libraries that decide these to their versions. `left_out` are the numbers of videos that could
    not be read, and `flow` is the way to optical flow, "" of pictures. The index has no digest: it
    follows from the shards, and is written after this.
    """

    origin: str
    short_side: int
    quality: int
    made_with: Mapping[str, str]
    left_out: Sequence[int]
    digests: Mapping[str, str]
    flow: str = ""


def libraries(flow: str = "") -> dict[str, str]:
    """The versions of what decodes videos, computes their optical flow, and writes JPEGs."""
    import av
    import PIL

    found = {"av": av.__version__, "pillow": PIL.__version__}
    return found | {"opencv": flows.version()} if flow in FLOWS else found


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with stores.at_hand(path) as local, open(local, "rb") as file:
        return digest_of(file)


def digest_of(file: IO[bytes]) -> str:
    """The SHA-256 of what comes out of a file from its place on."""
    found = hashlib.sha256()
    while data := file.read(1 << 20):
        found.update(data)
    return found.hexdigest()


def write(folder: pathlib.Path, split: str, manifest: Manifest) -> None:
    """Writes the manifest of a split."""
    about = {"version": VERSION, **dataclasses.asdict(manifest)}
    whole.text(_path(folder, split), jsons.dump(about, indent=1) + "\n", durable=True)


def read(folder: pathlib.Path, split: str) -> Manifest | None:
    """The manifest of a split, or None where there is none.

    Raises:
      JaxvidError: it is damaged.
    """
    path = _path(folder, split)
    try:
        about = jsons.read(path)
        if about.pop("version") != VERSION:
            raise ValueError("it is of another version")
        manifest = Manifest(**about)
        _check(manifest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise JaxvidError(
            f"{path} is damaged ({error}): delete it, and what it says is not checked"
        ) from None
    return manifest


def remove(folder: pathlib.Path, split: str) -> None:
    """Removes the manifest of a split, if there is one."""
    _path(folder, split).unlink(missing_ok=True)


def _check(manifest: Manifest) -> None:
    def has(values: Mapping[str, Any], pattern: str) -> bool:
        return all(re.fullmatch(pattern, value) for value in values.values())

    numbers = [manifest.short_side, manifest.quality, *manifest.left_out]
    if (
        not all(type(number) is int for number in numbers)
        or not isinstance(manifest.origin, str)
        or manifest.flow not in ("", *FLOWS, flows.PICTURES)
        or not has(manifest.made_with, r"[\w.+-]{1,40}")
        or not has(manifest.digests, r"[0-9a-f]{64}")
        or any(name != pathlib.PurePath(name).name for name in manifest.digests)
    ):
        raise ValueError("what it says is no manifest")


def _path(folder: pathlib.Path, split: str) -> pathlib.Path:
    return folder / f"{split}.manifest.json"
