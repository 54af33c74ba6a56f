"""A tree of arrays, written to a folder whole or not at all, and read again."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxvid.base import stores, whole
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.checkpoint import folders, leaves, parts, peers, staged, sums
from jaxvid.checkpoint.record import FORMAT, RECORD, dump, next_arrays, read_record


def begin(folder: Path, tree: Any, record: dict, *, at_once: bool = True) -> Callable[[], None]:
    """Begins to write `tree` beside what `folder` holds.

    Returns what waits for the end and makes it the one that `folder` means; any thread may call
    that. Unless it is called `at_once`, the arrays may change or be donated before.
    """
    names, values, _ = leaves.flatten(tree)
    named = dict(zip(names, map(leaves.array_of, values), strict=True))
    # Orbax refuses arrays without elements; their shape is all there is to them.
    full = {name: leaf for name, leaf in named.items() if leaf.size}
    old = read_record(folder)
    arrays = next_arrays(old)
    record = {"format": FORMAT, "arrays": arrays} | record
    record["leaves"] = {name: leaves.describe(leaf) for name, leaf in named.items()}
    in_parts = isinstance(folder, stores.StorePath) and peers.count() > 1
    if in_parts:
        record["parts"] = peers.count()
    dump(record)  # What JSON cannot hold is refused before anything is written.
    with folders.refused(folder):
        if peers.is_first():
            folder.mkdir(parents=True, exist_ok=True)
            folders.remove_leftovers(folder, keep=old["arrays"] if old else None)
        peers.wait_for_all("prepared")
        place = folder / arrays
        wait: Callable[[], None] | None = None
        if in_parts:  # Nothing changes meanwhile: with several processes each save is waited for.
            wait = functools.partial(parts.write, place, full)
        elif full:
            wait = staged.begin(place, full, at_once=at_once)
        # While Orbax writes; later the arrays may be given away.
        record["sums"] = sums.of(named, peers.is_first())

    def finish() -> None:
        with folders.refused(folder):
            if wait is not None:
                wait()
            # All processes have written their parts by now.
            if peers.is_first():
                folders.flush(folder / arrays)
                whole.text(folder / RECORD, dump(record), durable=True)
                folders.remove_leftovers(folder, keep=arrays)

    return finish


def read(folder: Path, record: dict, like: dict[str, Any]) -> dict[str, Any]:
    """Reads the leaves named in `like`, each as its value there says, and checks their checksums.

    Raises `JaxvidError` where that cannot be done.
    """
    restored = {name: leaves.empty(leaf) for name, leaf in like.items() if 0 in leaf.shape}
    full = {name: leaf for name, leaf in like.items() if name not in restored}
    if full:
        with damage(folder):
            how = parts if "parts" in record else staged
            restored |= how.read(folder / record["arrays"], full)
            if restored.keys() != like.keys():
                raise ValueError("arrays are missing")
    sums.check(folder, record.get("sums", {}), restored)
    return restored


def compare(folder: Path, stored: dict[str, str], wanted: dict[str, Any]) -> None:
    """Raises `JaxvidError` that lists leaves of which there are not those, or others, in words."""
    problems = [f"{name} is missing" for name in wanted.keys() - stored.keys()]
    problems += [f"{name} is left over" for name in stored.keys() - wanted.keys()]
    for name in stored.keys() & wanted.keys():
        if stored[name] != leaves.describe(wanted[name]):
            problems.append(f"{name} is {stored[name]}, not {leaves.describe(wanted[name])}")
    if problems:
        raise JaxvidError(
            f"{folder} was written by a run with another state, resume with the config that "
            f"wrote it: {listed(sorted(problems))}"
        )


@contextlib.contextmanager
def damage(folder: Path) -> Iterator[None]:
    """Says in one sentence that a checkpoint cannot be read, whatever Orbax says of it."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or repr(error)).splitlines()[0][:200]
        raise JaxvidError(
            f"the arrays of {folder} cannot be read ({reason}): copy or write them again"
        ) from error
