"""Reads the weights of any checkpoint file: which format it is, and which part of it to take."""

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters import nestings, npz_file, safetensors_file, torch_file
from converters.described import MAX_NAME, Array, Module, Tensor
from converters.mapped import Mapped, fetched
from converters.names import quoted
from converters.nestings import AVERAGES as AVERAGES
from converters.nestings import STATE_DICTS as STATE_DICTS
from converters.nestings import name_of
from converters.shards import Sharded, open_all
from jaxvid.base.errors import JaxvidError, listed

_NO_CHECKPOINT = {
    b"\x1f\x8b": "is packed with gzip: unpack it",
    b"BZh": "is packed with bzip2: unpack it",
    b"\x89HDF": "is in HDF5, which is not read: save the weights as .npz",
    b"<": "is a web page, not a checkpoint: download the file that the page links to",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file: fetch it with git lfs pull",
}


def read(path: str | Path, *, ema: bool = False) -> dict[str, np.ndarray]:
    """Reads the weights of a file: key to read-only array.

    The file may be PyTorch's (`.pth`, `.pyth`, `.pt`, of any version since 0.1.10, TorchScript's
    too), a pickle of numpy arrays (`.pkl`), `.safetensors` or `.npz`; its name does not matter.
    So may be the shards of one checkpoint: `path` is their index, or the folder that holds them and
    no other checkpoint. With `ema` it is the averaged copy that is read. Raises `JaxvidError` where
    the file is of none of these formats, is damaged, or holds anything but tensors in that part;
    nothing that it names is ever called.
    """
    file = open_all(path)
    tensors, _ = read_and_tell(file, ema=ema)
    tensors = {key: fetched(tensor) for key, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.flags.writeable = False
    file.verify()
    return tensors


def read_and_tell(
    file: Mapped | Sharded, *, ema: bool = False
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads as `read` does; returns (tensors, sentences on what was left out or is unusual).

    What the tensors hold is read by `mapped.fetched`, and not checked before `verify_and_tell` has
    returned.
    """
    if isinstance(file, Sharded):
        return _read_shards(file, ema)
    path = file.path
    content, first = _content(file), []
    if isinstance(content, Module):
        content = content.tensors(file)
        first.append("the program of this TorchScript archive is left unread")
    if not isinstance(content, dict):
        raise JaxvidError(f"{path} holds {name_of(content)} where a dict of tensors should be")
    where, found, remarks = nestings.choose(path, content, ema)
    place = f"{nestings.said(where)} of {path}" if where else str(path)
    if not found:
        raise JaxvidError(f"{place} holds no tensors: it is not a checkpoint of a network")
    return _tensors(file, place, found), first + remarks


def read_list(
    file: Mapped | Sharded, name: str
) -> list[Callable[[], dict[str, np.ndarray]]] | None:
    """Returns what reads each entry of the list `name` of a file, or None where it has no such.

    The entries should be dicts of tensors, and what they hold is read as by `read_and_tell`.
    """
    if isinstance(file, Sharded):
        return None
    content = _content(file)
    held = content.get(name) if isinstance(content, dict) else None
    if not isinstance(held, list):
        return None

    def read_entry(file: Mapped, number: int) -> dict[str, np.ndarray]:
        place = f"'{name}.{number}' of {file.path}"
        if not isinstance(held[number], dict) or not held[number]:
            raise JaxvidError(f"{place} is {name_of(held[number])}, not a dict of tensors")
        return _tensors(file, place, held[number])

    return [functools.partial(read_entry, file, number) for number in range(len(held))]


def _read_shards(source: Sharded, ema: bool) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads all shards; refuses what does not lie where the index says, or lies twice."""
    tensors: dict[str, np.ndarray] = {}
    for file in source.files:
        content = _content(file)
        if not isinstance(content, dict):
            raise JaxvidError(f"{file.path} holds {name_of(content)}, not tensors as a shard does")
        read = _tensors(file, str(file.path), content)
        twice = read.keys() & tensors.keys()
        if twice:
            raise JaxvidError(
                f"{file.path} holds what another shard does ({_keys(twice)}): download all again"
            )
        if source.where is not None:
            said = {key for key, name in source.where.items() if name == file.path.name}
            if said != read.keys():
                raise JaxvidError(
                    f"{source.path} and {file.path.name} differ in what is there "
                    f"({_keys(said ^ read.keys())}): download both again"
                )
        tensors |= read
    _, found, remarks = nestings.choose(source.path, tensors, ema)
    return dict(found), [f"read from {len(source.files)} shards", *remarks]


def _keys(keys: Iterable[str]) -> str:
    return listed(sorted(map(quoted, keys)), 3, ", ")


def verify_and_tell(file: Mapped | Sharded) -> list[str]:
    """Checks the sums of a file that was read; returns what is unusual about them, as sentences.

    Raises `JaxvidError` where the file is damaged. This reads all of the file, and leaves Python
    free meanwhile.
    """
    if file.verify() is False:
        return ["the file has not the sum that its name says: it is not the published one"]
    return []


def _content(file: Mapped) -> Any:
    head = bytes(file.read(0, 512))
    if head[:4] == b"PK\3\4":
        members = torch_file.table(file)
        if any(torch_file.is_description(name) for name in members):
            return torch_file.read_archive(file, members)
        if any(name.endswith(".npy") for name in members):
            return npz_file.read(file, members)
        raise JaxvidError(f"{file.path} is a zip file, but neither of torch.save nor of numpy")
    # Before pickles, as the length of its description may begin with the byte that theirs do.
    if safetensors_file.is_safetensors(head):
        return safetensors_file.read(file)
    plain = head[:1] in (b"(", b"}", b"]", b"c") and bytes(file.read(file.size - 1, 1)) == b"."
    if plain or head[:1] == b"\x80":
        return torch_file.read_pickles(file)
    if head[257:262] == b"ustar":
        raise JaxvidError(
            f"{file.path} is in PyTorch's format from before 0.1.10: load it with PyTorch and "
            "torch.save it again"
        )
    for start, reason in _NO_CHECKPOINT.items():
        if head.lstrip().startswith(start):
            raise JaxvidError(f"{file.path} {reason}")
    raise JaxvidError(
        f"{file.path} is not a checkpoint of a format that is read here: .pth, .pyth, .pkl, "
        ".safetensors or .npz"
    )


def _tensors(file: Mapped, place: str, found: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Reads what was only described so far; refuses all but tensors."""
    tensors, bad = {}, []
    try:
        for key, value in found.items():
            if isinstance(key, str) and len(key) > MAX_NAME:
                raise JaxvidError(
                    f"{place} has a key of {len(key)} letters ({key[:50]!r}...), and none of a "
                    f"network has over {MAX_NAME}: check where it comes from"
                )
            array = value.array() if isinstance(value, Tensor | Array) else value
            if isinstance(key, str) and isinstance(array, np.ndarray):
                tensors[key] = array
            else:
                bad.append((key, array))
    except JaxvidError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise file.damaged("its description makes no sense") from error
    if bad:
        shown = listed(
            (f"{name_of(key)} is {name_of(value)}" for key, value in bad), separator=", "
        )
        raise JaxvidError(f"{place} should hold tensors only, but {shown}")
    return tensors
