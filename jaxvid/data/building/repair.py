"""Damaged files of a split, made again from the videos to the same bytes."""

import collections
import io
import pathlib
from collections.abc import Collection, Mapping, Sequence

from jaxvid.base import text, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.data import index, manifest, records, shards, table
from jaxvid.data.building import split as splits
from jaxvid.data.building.tasks import Result
from jaxvid.data.cores import usable_cores


def rebuild(
    videos: pathlib.Path,
    labels: pathlib.Path,
    out: pathlib.Path,
    split: str,
    damaged: Collection[str],
    workers: int | None = None,
) -> None:
    """Makes the `damaged` files of a split again, for who holds the lock of `out`.

    A file takes its place only if its bytes are those that the manifest knows.

    Raises:
      JaxvidError: there is no manifest, or other files came of it, as of other videos, another list
        or other versions of the libraries.
    """
    known = manifest.read(out, split)
    if known is None:
        raise JaxvidError(
            f"{out} has no {split}.manifest.json, which says what its files were: build the split "
            "again with --overwrite"
        )
    _restore_labels(labels, out, known, damaged)
    names = [name for name in known.digests if name != "labels.txt"]
    plan = splits.plan_split(
        table.read(labels),
        records.read_classes(out / "labels.txt"),
        videos,
        labels,
        out,
        split,
        len(names),
        known.short_side,
        known.quality,
        known.flow,
    )
    if [task.file for task in plan.tasks] != names:
        raise JaxvidError(
            f"{labels} makes {len(plan.tasks)} shards, and {out} has {len(names)} of {split!r}: "
            "give the list that they were built from"
        )
    with whole.workplace(out / f".verify-{split}") as workplace:
        tasks = [task for task in plan.tasks if task.file in damaged]
        results = splits.write_shards(plan, tasks, workplace, workers or usable_cores())
        _check(results, names, known)
        for result in results:
            whole.put(workplace / names[result.shard], out / names[result.shard])
            text.say(f"{split}: {names[result.shard]} is made again, to the same bytes")
    if not {f"{split}.index.npz", f"{split}.frames.npy"}.isdisjoint(damaged):
        _index(out, split, names, known)


def _check(results: Sequence[Result], names: Sequence[str], known: manifest.Manifest) -> None:
    """Refuses shards that are others than were built."""
    for result in results:
        name = names[result.shard]
        if result.digest != known.digests[name]:
            now = manifest.libraries(known.flow)
            changed = [
                f"{library} {then}, which is {now.get(library)} here"
                for library, then in known.made_with.items()
                if now.get(library) != then
            ]
            way_out = (
                f"use {', '.join(changed)}" if changed else "give those that it was built from"
            )
            raise JaxvidError(
                f"{name} stays as it is, as these videos and this list make other bytes of it: "
                f"{way_out}, or build the split again with --overwrite"
            )


def _restore_labels(
    labels: pathlib.Path, out: pathlib.Path, known: manifest.Manifest, damaged: Collection[str]
) -> None:
    """Makes the names of the classes again, where the list has all of them."""
    if "labels.txt" not in damaged:
        return
    names, _ = table.number_labels(table.read(labels), (), labels, "correct it")
    content = "".join(f"{name}\n" for name in names)
    if manifest.digest_of(io.BytesIO(content.encode())) != known.digests["labels.txt"]:
        raise JaxvidError(
            f"{out / 'labels.txt'} had other classes than {labels} has: copy it from where it is "
            "whole"
        )
    whole.text(out / "labels.txt", content)


def _index(out: pathlib.Path, split: str, names: Sequence[str], known: manifest.Manifest) -> None:
    """Makes the index again, with the records in the order of the list."""
    left_out: Mapping[int, int] = collections.Counter(known.left_out)
    found: dict[int, shards.Entry] = {}
    for shard, name in enumerate(names):
        number = shard
        for entry in shards.scan(out / name, shard, index.feature_of(split)):
            while left_out[number]:
                number += len(names)
            found[number] = entry
            number += len(names)
    entries = [found[number] for number in sorted(found)]
    index.write(out, split, names, entries, known.origin, known.flow)
    text.say(f"{split}: the index is made again")
