"""Reads the weights of any checkpoint file: which format it is, and which part of it to take."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters import npz_file, safetensors_file, torch_file
from converters.mapped import Mapped, fetched
from converters.pickles import MAX_NAME, Array, Module, Named, Tensor, Text, Unread
from jaxvid.errors import JaxvidError

# The names under which codebases keep the weights, in the order in which they are looked for:
# MMAction2 and most others, PySlowFast, many small ones, DeepSpeed's, and caffe2's.
STATE_DICTS = ("state_dict", "model_state", "model_state_dict", "model", "module", "blobs")
# The averaged copy of timm's and of DeiT's training loop, which VideoMAE and others took over.
AVERAGES = ("state_dict_ema", "model_ema")
# MMEngine swaps the two when it saves: `state_dict` is averaged and this is not.
_SWAPPED = "ema_state_dict"
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
    With `ema` it is the averaged copy that is read. Raises `JaxvidError` where the file is of none
    of these formats, is damaged, or holds anything but tensors in that part; nothing that it names
    is ever called.
    """
    file = Mapped(path)
    tensors, _ = read_and_tell(file, ema=ema)
    tensors = {key: fetched(tensor) for key, tensor in tensors.items()}
    for tensor in tensors.values():
        tensor.flags.writeable = False
    file.verify()
    return tensors


def read_and_tell(file: Mapped, *, ema: bool = False) -> tuple[dict[str, np.ndarray], list[str]]:
    """Reads as `read` does; returns (tensors, sentences on what was left out or is unusual).

    What the tensors hold is read by `mapped.fetched`, and not checked before `verify_and_tell` has
    returned.
    """
    path = file.path
    content, first = _content(file), []
    if isinstance(content, Module):
        content = content.tensors(file)
        first.append("the program of this TorchScript archive is left unread")
    if not isinstance(content, dict):
        raise JaxvidError(f"{path} holds {_name(content)} where a dict of tensors should be")
    where, remarks = _choose(file, content, ema)
    found = content if where is None else content[where]
    place = str(path) if where is None else f"{where!r} of {path}"
    if not found:
        raise JaxvidError(f"{place} holds no tensors: it is not a checkpoint of a network")
    if where not in AVERAGES:
        found, more = _choose_copy(file, found, ema and _SWAPPED not in content)
        remarks += more
    return _tensors(file, place, found), first + remarks


def verify_and_tell(file: Mapped) -> list[str]:
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
    plain = head[:1] in (b"(", b"}", b"]", b"c") and file.read(file.size - 1, 1) == b"."
    if plain or head[:1] == b"\x80":
        return torch_file.read_pickles(file)
    if safetensors_file.is_safetensors(head):
        return safetensors_file.read(file)
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


def _choose(file: Mapped, content: Mapping[Any, Any], ema: bool) -> tuple[str | None, list[str]]:
    """Returns the name of the part that holds the weights (None: the whole), and remarks."""

    def first(names: tuple[str, ...]) -> str | None:
        return next((name for name in names if isinstance(content.get(name), dict)), None)

    where, average = first(STATE_DICTS), first(AVERAGES)
    if ema and average:
        return average, []
    if where and isinstance(content.get(_SWAPPED), dict):
        return where, [f"{where!r} holds the averaged weights, as MMEngine saves them"]
    if average and where is None:
        raise JaxvidError(f"{file.path} holds averaged weights only ({average!r}): add --ema")
    return where, [f"the averaged copy {average!r} is left out: --ema takes it"] if average else []


def _choose_copy(
    file: Mapped, found: Mapping[Any, Any], ema: bool
) -> tuple[Mapping[Any, Any], list[str]]:
    """Separates the weights from the second copy that mmcv's averaging hook keeps among them."""
    copies = {}
    for key in found:
        copy = f"ema_{key.replace('.', '_')}" if isinstance(key, str) else None
        if copy in found:
            copies[key] = copy
    if ema and not copies:
        raise JaxvidError(f"{file.path} holds no averaged copy of the weights: leave --ema out")
    if not copies:
        return found, []
    aside = set(copies.values())
    chosen = {
        key: found[copies[key]] if ema and key in copies else value
        for key, value in found.items()
        if key not in aside
    }
    left = "their trained copies are" if ema else "the averaged copies 'ema_*' are"
    how = "" if ema else ": --ema takes them"
    return chosen, [f"{left} left out{how}"]


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
        shown = ", ".join(f"{_name(key)} is {_name(value)}" for key, value in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise JaxvidError(f"{place} should hold tensors only, but {shown}{more}")
    return tensors


def _name(value: Any) -> str:
    """Names a value for people; never looks inside, since a file may nest or repeat at will."""
    match value:
        case str():
            return repr(value[:100])
        case Unread():
            return f"an object of {value.name[:200]!r}, which is not read"
        case Named():
            return f"the name {value.name[:200]!r}, which is not looked up"
        case Tensor() | Array() | np.ndarray():
            return "a tensor"
        case Text():
            return "a str"
        case memoryview():
            return "a bytes"
    return f"a {type(value).__name__}"
