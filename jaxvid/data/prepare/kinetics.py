"""Kinetics: CSVs of YouTube's ids and times, and clips that are called by both, or by the id.

A header names the columns, of which editions have more or fewer and the test list no label. Times
may have a point; files have them as six digits of whole seconds. Where clips are called by the id
alone, as in OpenDataLab's Kinetics-400, the id finds them.
"""

import pathlib

from jaxvid.base.errors import JaxvidError
from jaxvid.data.prepare.annotations import Annotations, seconds
from jaxvid.data.prepare.entries import Classes, Entry, Listing
from jaxvid.data.prepare.media import stem
from jaxvid.data.prepare.options import Options

# CVDF's CSVs of Kinetics-600 are incomplete where a `.txt` lies beside them.
_SPLITS = {
    "train": ("kinetics-{n}_train.csv", "kinetics{n}_train.csv", "train.txt", "train.csv"),
    "val": ("kinetics-{n}_val.csv", "kinetics{n}_val.csv", "val.txt", "val.csv", "validate.csv"),
    "test": ("kinetics-{n}_test.csv", "kinetics{n}_test.csv", "test.csv"),
}


def parse(number: int, labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the lists of Kinetics-`number`.

    Raises:
      JaxvidError: there are none, or they are not the official ones.
    """
    classes = Classes(labels)

    def read(_: str, path: pathlib.Path) -> list[Entry]:
        entries = []
        for where, row in files.table(path, "youtube_id", "time_start", "time_end"):
            start = int(seconds(row["time_start"], where))
            end = int(seconds(row["time_end"], where))
            name = f"{row['youtube_id']}_{start:06d}_{end:06d}"
            label = row.get("label", "")
            entries.append(
                Entry(
                    id=name,
                    files=(name, row["youtube_id"]),
                    labels=(classes.find(label, where),) if label else (),
                    video=row["youtube_id"],
                )
            )
        unlabelled = [entry.id for entry in entries if not entry.labels]
        if unlabelled and len(unlabelled) < len(entries):
            raise JaxvidError(f"{path} has rows without a label ({unlabelled[0]}), others with one")
        return entries

    lists = {split: [each.format(n=number) for each in names] for split, names in _SPLITS.items()}
    return files.by_split(classes, lists, read)


def parse_710(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the six lists of Kinetics-710: files of Kinetics-400, 600 and 700, and class numbers.

    Raises:
      JaxvidError: there are none, or their numbers are not those of 710 classes.
    """
    classes = Classes(labels)
    listing = Listing(classes.names)
    for split in ("train", "val"):
        for number in (400, 600, 700):
            path = files.find(f"k{number}_{split}_list*.txt")
            if path is None:
                continue
            entries = []
            for where, line in files.lines(path):
                name, _, label = line.rpartition(" ")
                one = stem(name)
                entries.append(
                    Entry(
                        id=f"k{number}/{one}",
                        files=(one,),
                        labels=(classes.number(label, where),),
                        near=(f"kinetics{number}", f"k{number}"),
                        video=one[:11],
                    )
                )
            listing.add(split, path, entries)
    if not listing.splits:
        raise files.lacking()
    return listing
