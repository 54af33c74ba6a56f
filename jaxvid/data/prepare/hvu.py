"""HVU: several tags a video, each of one of six categories; files are called in tenths of seconds.

The label of a video is all its tags, or those of one category; then videos without a tag of it are
left out, and counted.
"""

from collections.abc import Mapping

from jaxvid.base.errors import JaxvidError
from jaxvid.data.prepare.annotations import Annotations, seconds
from jaxvid.data.prepare.entries import Classes, Entry, Listing
from jaxvid.data.prepare.options import Options

_SPLITS = {"train": "HVU_Train_V1*.csv", "val": "HVU_Val_V1*.csv", "test": "HVU_Test_V1*.csv"}


def parse(
    categories: Mapping[str, tuple[str, ...]], files: Annotations, options: Options
) -> Listing:
    """Reads the lists; `categories` maps each to its tags, in the order of their numbers.

    Raises:
      JaxvidError: there are none, they are not the official ones, or there is no such category.
    """
    wanted = [options.category] if options.category else list(categories)
    if not set(wanted) <= set(categories):
        raise JaxvidError(
            f"--category={options.category} is none of HVU's: {', '.join(categories)}"
        )
    every = Classes([tag for tags in categories.values() for tag in tags])
    category = {tag: name for name, tags in categories.items() for tag in tags}
    _check_tags(every, category, files)
    listing = Listing(
        tuple(tag for name in wanted for tag in categories[name]),
        edition=f"hvu-{options.category}" if options.category else "",
    )
    for split, pattern in _SPLITS.items():
        path = files.find(pattern, split=split)
        if path is None:
            continue
        entries, without = [], 0
        for where, row in files.table(path, "youtube_id", "time_start", "time_end"):
            start, end = (seconds(row[name], where) for name in ("time_start", "time_end"))
            name = f"{row['youtube_id']}_{int(start * 10):06d}_{int(end * 10):06d}"
            tags = [every.find(tag, where) for tag in row.get("tags", "").split("|") if tag]
            kept = tuple(dict.fromkeys(tag for tag in tags if category[tag] in wanted))
            if tags and not kept:
                without += 1
                continue
            there = {category[tag] for tag in kept}
            annotated = tuple(name for name in categories if name in there)
            entries.append(
                Entry(
                    name,
                    (name,),
                    kept,
                    annotated=() if options.category else annotated,
                    video=row["youtube_id"],
                )
            )
        listing.add(split, path, entries)
        if without:
            listing.notes.append(
                f"{split}: without a tag of {options.category}, and left out: {without:,}"
            )
    if not listing.splits:
        raise files.lacking()
    return listing


def _check_tags(every: Classes, category: Mapping[str, str], files: Annotations) -> None:
    """Refuses tags of another version."""
    path = files.find("HVU_Tags_Categories_V1*.csv")
    if path is None:
        return
    shipped = {}
    for where, row in files.table(path, "tag", "category"):
        tag = every.find(row["tag"], where)
        shipped[tag] = row["category"]
        if category[tag] != row["category"]:
            raise JaxvidError(f"{where}: {tag} is of {category[tag]}, not of {row['category']}")
    if len(shipped) != len(every.names):
        raise JaxvidError(f"{path} has {len(shipped)} tags and not {len(every.names)}")
