"""Folders of checkpoints: what may lie in one, what a kill leaves there, and giving back room."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from jaxvid.base import locks, paths, stores, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.checkpoint import orbax, peers
from jaxvid.checkpoint.record import RECORD, read_record

# What a killed save may leave: its own folder, Orbax's temporary form of it, an unnamed record.
_OURS = re.compile(r"arrays-\d+(\..+)?|jaxvid\.json\.tmp|\.jaxvid\.json\.part")


def local(path: str | os.PathLike) -> Path:
    """Returns the full path of a folder that this library and Orbax can reach."""
    return paths.in_utf8(path, "path", "Orbax").absolute()


def check_free(path: str | Path, what: str, *, overwrite: bool = False) -> Path:
    """Refuses a folder that `save` could not write to, before the work whose result it would hold.

    `what` is the flag that names it. Returns it as it is to be given to `save`.
    """
    folder = paths.writable(path, what)
    paths.in_utf8(folder, what, "Orbax")
    refuse_if_taken(folder, overwrite)
    return folder


def refuse_if_taken(folder: Path, overwrite: bool) -> None:
    """Raises `JaxvidError` where a folder holds a checkpoint to keep, or other files at all."""
    if not overwrite and read_record(folder) is not None:
        raise JaxvidError(
            f"{folder} already holds a checkpoint: choose another folder or overwrite"
        )
    if folder.is_dir():
        with paths.writing(folder, "path"):
            _leftovers(folder)


@contextlib.contextmanager
def refused(folder: Path) -> Iterator[None]:
    """Says in one sentence that the system lets nothing be written, and gives back the room."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = orbax.system_reason(error)
        if reason is None:
            raise
        if peers.is_first():
            _undo(folder)
        raise JaxvidError(
            f"cannot write the checkpoint {folder} ({reason}): make room or choose another "
            "folder; what was saved before is untouched"
        ) from error


def _undo(folder: Path) -> None:
    """Removes all but what the record in place names, to give back the room of a failed save."""
    with contextlib.suppress(OSError, JaxvidError):
        record = read_record(folder)
        remove_leftovers(folder, keep=record["arrays"] if record else None)
        if record is None:
            folder.rmdir()


def _leftovers(folder: Path) -> list[Path]:
    """Returns all of ours but the record; whatever else is in the folder is refused."""
    entries = [entry for entry in folder.iterdir() if entry.name not in (RECORD, locks.NAME)]
    for entry in entries:
        if not _OURS.fullmatch(entry.name):
            raise JaxvidError(
                f"{folder} holds other files ({entry.name}): choose an empty or new folder"
            )
    return entries


def remove_leftovers(folder: Path, keep: str | None) -> None:
    """Deletes all but the record and what is called `keep`; other files are refused."""
    for entry in _leftovers(folder):
        if entry.name != keep:
            whole.remove_folder(entry) if entry.is_dir() else entry.unlink()


def remove(folder: Path) -> None:
    """Deletes a checkpoint; its record goes first, so that a kill leaves no half of it."""
    (folder / RECORD).unlink(missing_ok=True)
    whole.remove_folder(folder)


def flush(folder: Path) -> None:
    """Waits until all that a folder holds is on disk."""
    if isinstance(folder, stores.StorePath):
        return
    for parent, _, files in os.walk(folder):
        for name in files:
            whole.flush(Path(parent, name))
        whole.flush(parent)
