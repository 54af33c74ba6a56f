"""Arrays in an object store: Orbax writes and reads them on a disk, and they are copied.

Orbax itself writes to `gs://` and takes `s3://` for a folder of the disk. So it never sees a store:
what it writes lies in the folder for temporary files (TMPDIR), whole, until all of it is copied.
Where there are several processes, the first one gathers the arrays and writes all of them.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxvid.base import stores
from jaxvid.checkpoint import orbax, peers, sums


def begin(path: stores.StorePath, named: dict[str, Any], *, at_once: bool) -> Callable[[], None]:
    """As `orbax.begin`."""
    if jax.process_count() > 1:
        # In the same order by all, of whom one needs them.
        parts = ((name, sums.gathered(leaf)) for name, leaf in named.items())
        named = {name: array for name, array in parts if peers.is_first()}
    if not peers.is_first():
        return lambda: None
    folder = tempfile.TemporaryDirectory(prefix="jaxvid-")
    local = Path(folder.name, path.name)
    wait = orbax.begin(local, named, at_once=at_once, alone=True)

    def finish() -> None:
        with folder:
            wait()
            stores.upload_folder(local, path)

    return finish


def read(path: stores.StorePath, like: dict[str, Any]) -> dict[str, Any]:
    """As `orbax.read`."""
    with tempfile.TemporaryDirectory(prefix="jaxvid-") as folder:
        local = Path(folder, path.name)
        stores.download_folder(path, local)
        return orbax.read(local, like)
