"""A checkpoint in several files: the shards of a folder or an index, as Transformers saves them."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from converters.mapped import Mapped
from converters.names import quoted
from jaxvid.base import jsons
from jaxvid.base.errors import JaxvidError, listed

INDEX = ".index.json"
MAX_INDEX = 16 << 20
ENDINGS = (".safetensors", ".bin", ".pth", ".pyth", ".pt", ".pkl", ".npz")
_SHARD = re.compile(r"(.+)-(\d{1,9})-of-(\d{1,9})(\.\w+)")
# What trainers keep beside the weights.
_BESIDE = re.compile(r"(optimizer|scheduler|scaler|rng_state\w*|training_args)\.\w+")


class Sharded:
    """The shards of one checkpoint, each mapped; `where` names the shard of each key, or is None.

    `path` is the index, or the folder of shards without one; `size` is in bytes, of all shards.
    """

    def __init__(self, path: Path, shards: list[Path], where: Mapping[str, str] | None):
        self.path, self.where = path, where
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise JaxvidError(
                f"{path} lacks {len(missing)} of {len(shards)} shards "
                f"({listed(map(quoted, missing), separator=', ')}): download them beside "
                "the others"
            )
        self.files = [Mapped(shard) for shard in shards]
        self.size = sum(file.size for file in self.files)

    def sha256(self) -> str:
        """Returns the sum of the sums of the shards, in their order."""
        return hashlib.sha256("".join(file.sha256() for file in self.files).encode()).hexdigest()

    def verify(self) -> bool | None:
        """Says whether the shards have the sums that their names say; see `Mapped.verify`."""
        said = [file.verify() for file in self.files]
        return False if False in said else True if all(said) else None


def open_all(path: str | Path) -> Mapped | Sharded:
    """Returns the checkpoint that a file, an index of shards or a folder is, not yet read.

    Raises `JaxvidError` where it is not there, is one of several shards, or more than one is there.
    """
    path = Path(path)
    if path.is_dir():
        return _of_folder(path)
    if path.name.endswith(INDEX):
        return _of_index(path)
    shard = _SHARD.fullmatch(path.name)
    if shard and int(shard[3]) > 1 and path.is_file():
        raise JaxvidError(
            f"{path} is shard {int(shard[2])} of {int(shard[3])}: give the folder with all of "
            "them, or their index"
        )
    return Mapped(path)


def holds_weights(folder: Path) -> bool:
    """Says whether a folder holds weights that were not written here."""
    return bool(_choices(folder))


def _of_folder(folder: Path) -> Mapped | Sharded:
    choices = _choices(folder)
    if not choices:
        raise JaxvidError(f"there is no file of weights in {folder}: check --checkpoint")
    if len(choices) > 1:
        raise JaxvidError(
            f"{folder} holds {len(choices)} checkpoints ("
            f"{listed(map(quoted, sorted(choices)), separator=', ')}): give one of them"
        )
    (name, shards), *_ = choices.items()
    if name.endswith(INDEX):
        return _of_index(folder / name)
    return Mapped(folder / name) if shards is None else Sharded(folder, shards, None)


def _choices(folder: Path) -> dict[str, list[Path] | None]:
    """Returns the checkpoints in a folder by their names, with their shards where no index is."""
    names = sorted(entry.name for entry in folder.iterdir())
    choices: dict[str, list[Path] | None] = {n: None for n in names if n.endswith(INDEX)}
    for name in names:
        shard = _SHARD.fullmatch(name)
        if not name.endswith(ENDINGS) or _BESIDE.fullmatch(name):
            continue
        if shard is None or int(shard[3]) < 2:
            choices[name] = None
        elif f"{shard[1]}{shard[4]}{INDEX}" not in choices:
            wide, count = len(shard[2]), min(int(shard[3]), 10**5)
            choices.setdefault(
                f"{shard[1]}-*-of-{shard[3]}{shard[4]}",
                [
                    folder / f"{shard[1]}-{number:0{wide}}-of-{shard[3]}{shard[4]}"
                    for number in range(1, count + 1)
                ],
            )
    return choices


def read_index(path: Path) -> dict[str, str]:
    """Returns the name of the shard of each key, as an index says; they lie beside it."""
    file = Mapped(path)
    if file.size > MAX_INDEX:
        raise file.damaged(f"an index of {file.size >> 20} MiB")
    try:
        where = jsons.parse(bytes(file.read(0, file.size)))["weight_map"]
        sound = isinstance(where, dict) and all(isinstance(name, str) for name in where.values())
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise file.damaged("it maps no weights to files") from error
    if not sound or not where:
        raise file.damaged("it maps no weights to files")
    names = sorted(set(where.values()))
    outside = [name for name in names if re.search(r"[/\\\0]|^\.{0,2}$", name)]
    if outside:
        raise JaxvidError(
            f"{path} names files that are not in its folder "
            f"({listed(map(quoted, outside), separator=', ')}): it may only name those beside it"
        )
    return where


def _of_index(path: Path) -> Sharded:
    where = read_index(path)
    return Sharded(path, [path.parent / name for name in sorted(set(where.values()))], where)
