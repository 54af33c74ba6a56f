"""Writes the folder that Transformers of Hugging Face loads by `from_pretrained`, without it."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from converters.names import in_order
from converters.safetensors_file import DTYPES
from jaxvid.base import jsons, locks, paths, whole
from jaxvid.base.errors import JaxvidError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# What Transformers itself writes into one file at most, in bytes.
MAX_SHARD = 5_000_000_000
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8


def write(
    folder: str | Path,
    tensors: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Writes `config.json` and the tensors, in shards with an index where they are large.

    The folder is there whole or not at all. Raises `JaxvidError` where it exists and `overwrite` is
    false, holds anything else, or cannot be written.
    """
    folder = check_free(folder, overwrite=overwrite)
    with locks.hold(folder, "--out", beside=True):
        check_free(folder, overwrite=overwrite)  # Another process may have written it meanwhile.
        try:
            with whole.folder(folder) as unfinished:
                _write_weights(unfinished, tensors)
                text = jsons.dump(dict(config), indent=2, ensure_ascii=False)
                (unfinished / CONFIG).write_text(text + "\n", encoding="utf-8")
                whole.remove_folder(folder)
        except OSError as error:
            raise JaxvidError(
                f"cannot write {folder} ({error.strerror or error}): make room or choose another "
                "--out"
            ) from error


def check_free(folder: str | Path, *, overwrite: bool = False) -> Path:
    """Refuses a folder that `write` could not write, before the work whose result it would hold."""
    folder = paths.writable(folder, "--out")
    held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    for name in held:
        if not _is_ours(name):
            raise JaxvidError(f"--out={folder} holds other files ({name}): choose a new folder")
    if held and not overwrite:
        raise JaxvidError(f"--out={folder} exists already: choose another or pass --overwrite")
    return folder


def _is_ours(name: str) -> bool:
    weights = name.startswith("model") and name.endswith(".safetensors")
    return weights or name in (CONFIG, INDEX)


def _write_weights(folder: Path, tensors: Mapping[str, np.ndarray]) -> None:
    shards = _shards(tensors)
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        with open(folder / name, "wb") as file:
            write_safetensors(file, shard)
        whole.flush(folder / name)
        where |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(array.nbytes for array in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(jsons.dump(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for key, array in tensors.items():
        if size + array.nbytes > MAX_SHARD and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][key] = array
        size += array.nbytes
    return shards


def write_safetensors(file: IO[bytes], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes tensors as one file of that format, as of PyTorch, which Transformers asks for."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, array in tensors.items():
        start, end = end, end + array.nbytes
        kind = _NAMES[array.dtype]
        header[key] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [start, end]}
    said = jsons.dump(header, ensure_ascii=False).encode()
    said += b" " * (-len(said) % _ALIGNMENT)
    file.write(struct.pack("<Q", len(said)) + said)
    for array in tensors.values():
        file.write(memoryview(in_order(array, array.dtype)).cast("B"))
