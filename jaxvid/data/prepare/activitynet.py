"""ActivityNet 1.3: whole videos, or the parts of them that are annotated.

A video has as many parts as its annotations say, of one class or several. A whole video has the
class of its first part, as in the lists that published networks were trained on. A part may end
after the video does: it is cut there.
"""

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError
from jaxvid.data.prepare.annotations import Annotations, field
from jaxvid.data.prepare.entries import Classes, Entry, Listing
from jaxvid.data.prepare.options import Options
from jaxvid.data.windows import Window

_LONGEST = 1e9  # seconds
_SUBSETS = {"training": "train", "validation": "val", "testing": "test"}


def parse(labels: tuple[str, ...], files: Annotations, options: Options) -> Listing:
    """Reads the one JSON file.

    Raises:
      JaxvidError: it is missing, or not the official one.
    """
    classes = Classes(labels)
    listing = Listing(classes.names, edition="activitynet-clips" if options.clips else "")
    path = files.need("activity_net.v1-3*.json", "activitynet*1-3*.json")
    found: dict[str, list[Entry]] = {split: [] for split in _SUBSETS.values()}
    several = empty = cut = 0
    for name, row in field(files.json(path, dict), "database", dict, str(path)).items():
        where = f"{path} video {text.quoted(name)}"
        split = _SUBSETS.get(field(row, "subset", str, where))
        if split is None:
            raise JaxvidError(f"{where} is of no subset {', '.join(_SUBSETS)}")
        parts = [_part(part, classes, where) for part in field(row, "annotations", list, where)]
        names = (f"v_{name}", name)
        if not options.clips:
            several += len({label for label, _, _ in parts}) > 1
            first = tuple(label for label, _, _ in parts[:1])
            if split == "test" or first:
                found[split].append(Entry(name, names, first if split != "test" else ()))
            else:
                empty += 1
            continue
        duration = field(row, "duration", (int, float), where)
        if not _is_time(duration):
            raise JaxvidError(f"{where} has no duration in seconds: take the official file")
        for number, (label, start, end) in enumerate(parts):
            cut += end > duration
            start, end = round(start, 6), round(min(end, duration), 6)
            if start >= end:
                empty += 1
                continue
            found[split].append(
                Entry(f"{name}#{number}", names, (label,), window=Window(start, end), video=name)
            )
    for split, entries in found.items():
        if entries:
            listing.add(split, path, entries)
    counted = {
        "videos of several classes, of which the first is taken": several,
        "parts that ended after their video, and were cut there": cut,
        "without a part that could be used, and left out": empty,
    }
    listing.notes += [f"{what}: {count:,}" for what, count in counted.items() if count]
    return listing


def _part(part: object, classes: Classes, where: str) -> tuple[str, float, float]:
    """Class, start and end of an annotated part."""
    label = field(part, "label", str, where)
    segment = field(part, "segment", list, where)
    if len(segment) != 2 or not all(map(_is_time, segment)):
        raise JaxvidError(f"{where} has a segment that is no start and end")
    return classes.find(label, where), max(0.0, segment[0]), segment[1]


def _is_time(value: object) -> bool:
    """Whether a value of JSON may be a time in seconds."""
    return isinstance(value, int | float) and -_LONGEST < value < _LONGEST
