"""Arrays in an object store: Orbax writes and reads them on a disk, and they are copied.

Orbax itself writes to `gs://` and takes `s3://` for a folder of the disk. So it never sees a store:
what it writes lies in the folder for temporary files (TMPDIR), whole, until all of it is copied.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxvid.base import stores
from jaxvid.checkpoint import orbax


def begin(path: Path, named: dict[str, Any], *, at_once: bool) -> Callable[[], None]:
    """As `orbax.begin`, on a disk or in a store."""
    if not isinstance(path, stores.StorePath):
        return orbax.begin(path, named, at_once=at_once)
    folder = tempfile.TemporaryDirectory(prefix="jaxvid-")
    local = Path(folder.name, path.name)
    wait = orbax.begin(local, named, at_once=at_once)

    def finish() -> None:
        with folder:
            wait()
            stores.upload_folder(local, path)

    return finish


def read(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    """As `orbax.read`, on a disk or in a store."""
    if not isinstance(path, stores.StorePath):
        return orbax.read(path, like)
    with stores.copies() as folder:
        local = folder / path.name
        stores.download_folder(path, local)
        return orbax.read(local, like)
