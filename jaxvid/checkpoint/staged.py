"""Arrays in an object store: Orbax writes and reads them on a disk, and they are copied.

Orbax itself writes to `gs://` and takes `s3://` for a folder of the disk. So it never sees a store:
what it writes lies in the folder for temporary files (TMPDIR), whole, until all of it is copied.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxvid.base import stores
from jaxvid.base.errors import JaxvidError
from jaxvid.checkpoint import orbax


def check_writers(path: Path) -> None:
    """Refuses a store where several processes write: Orbax's parts have to meet on one disk."""
    if isinstance(path, stores.StorePath) and jax.process_count() > 1:
        raise JaxvidError(
            f"{path} cannot hold checkpoints of several processes, which write theirs together: "
            "mount the bucket on all machines and give its path"
        )


def begin(path: stores.StorePath, named: dict[str, Any], *, at_once: bool) -> Callable[[], None]:
    """As `orbax.begin`."""
    folder = tempfile.TemporaryDirectory(prefix="jaxvid-")
    local = Path(folder.name, path.name)
    wait = orbax.begin(local, named, at_once=at_once)

    def finish() -> None:
        with folder:
            wait()
            stores.upload_folder(local, path)

    return finish


def read(path: stores.StorePath, like: dict[str, Any]) -> dict[str, Any]:
    """As `orbax.read`."""
    with stores.copies() as folder:
        local = folder / path.name
        stores.download_folder(path, local)
        return orbax.read(local, like)
