"""Checksums of arrays: whoever reads them on any devices sees if they are what was written."""

import hashlib
import os
from concurrent import futures
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxvid.base.errors import JaxvidError

_ROWS, _COLUMNS = 512, 256


def check(folder: Path, expected: dict[str, str], arrays: dict[str, Any]) -> None:
    """Refuses arrays that are not what was written; of what older versions wrote nothing is known.

    Raises:
      JaxvidError: naming the first of them.
    """
    known = {name: array for name, array in arrays.items() if name in expected}
    wrong = [name for name, found in of(known).items() if found != expected[name]]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise JaxvidError(
            f"the array {wrong[0]}{more} of {folder} is damaged, as its checksum says: copy the "
            "folder again from where it is whole, or write it again"
        )


def of(arrays: dict[str, Any], needed: bool = True) -> dict[str, str]:
    """The checksum of each array; {} if not `needed` here, where only its parts are.

    All processes take part, as some arrays may have to be gathered.
    """

    def sum_of(leaf: Any) -> str:
        array = _gathered(leaf)
        return checksum(array) if needed else ""

    local = {name: leaf for name, leaf in arrays.items() if _is_here(leaf)}
    # What is gathered is gathered by all processes in the same order.
    sums = {name: sum_of(leaf) for name, leaf in arrays.items() if name not in local}
    if not needed:
        return {}
    with futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return sums | dict(zip(local, pool.map(sum_of, local.values()), strict=True))


def checksum(array: np.ndarray) -> str:
    """Sixteen digits that change with any bit of an array, at the speed at which memory is read.

    The bytes, in the order of the array's elements, are laid out in blocks of 512 rows of 256 words
    of 8 bytes, the last one shorter. Of each block the rows are added up, modulo 2**64, and all
    these sums with what is left over at the end are hashed by BLAKE2b. A word that changes always
    changes its sum.
    """
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    end = data.size - data.size % (_COLUMNS * 8)
    rows = data[:end].view("<u8").reshape(-1, _COLUMNS)
    whole_blocks = len(rows) - len(rows) % _ROWS
    blocks = rows[:whole_blocks].reshape(-1, _ROWS, _COLUMNS)
    digest = hashlib.blake2b(np.add.reduce(blocks, axis=1), digest_size=8)
    digest.update(np.add.reduce(rows[whole_blocks:], axis=0))
    digest.update(data[end:])
    return digest.hexdigest()


def _is_here(leaf: Any) -> bool:
    """Whether this process has all of an array."""
    return isinstance(leaf, np.ndarray) or leaf.is_fully_replicated or leaf.is_fully_addressable


def _gathered(leaf: Any) -> np.ndarray:
    """All of an array; what is on this machine's memory as numpy already is not copied.

    `np.asarray` of the array itself would be kept as long as the array is.
    """
    if isinstance(leaf, np.ndarray):
        return leaf
    if not _is_here(leaf):
        everywhere = jax.sharding.NamedSharding(leaf.sharding.mesh, jax.sharding.PartitionSpec())
        leaf = jax.jit(lambda x: x, out_shardings=everywhere)(leaf)
    if leaf.is_fully_replicated:
        return np.asarray(leaf.addressable_data(0))
    array = np.empty(leaf.shape, leaf.dtype)
    for shard in leaf.addressable_shards:
        array[shard.index] = np.asarray(shard.data)
    return array
