"""What a checkpoint says of itself, `jaxvid.json`: read only if it is sound.

It has the fields `format`, `arrays` (the folder of the arrays beside it), `leaves` (name to type
and shape), `sums` (name to checksum), `meta` (anything), in training `step` and `metric`, and
`parts` where so many processes wrote the arrays each by itself.
"""

import re
from pathlib import Path
from typing import Any

from jaxvid.base import jsons
from jaxvid.base.errors import JaxvidError

RECORD = "jaxvid.json"
FORMAT = 1
_ARRAYS = re.compile(r"arrays-([0-9]{1,9})")
_LEAF = re.compile(r"[\w<>]{1,30}\[(?:[0-9]{1,15}(?:,[0-9]{1,15}){0,31})?\]")
_SUM = re.compile(r"[0-9a-f]{16}")
_MAX_NAME, _MAX_DEPTH = 1000, 50


def read_record(folder: Path) -> dict | None:
    """Returns the checkpoint's record, or None where `folder` is no finished checkpoint."""
    try:
        record = jsons.read(folder / RECORD)
        if not _is_sound(record):
            raise ValueError("meta, arrays or leaves")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise JaxvidError(f"cannot read {folder / RECORD} ({error.strerror or error})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise JaxvidError(
            f"{folder / RECORD} is damaged: delete that folder, or copy or write it again"
        ) from error
    if record.get("format") != FORMAT:
        raise JaxvidError(
            f"{folder / RECORD} has format {str(record.get('format'))[:20]!r}, this program reads "
            f"{FORMAT}: update jaxvid"
        )
    return record


def record_of(folder: Path) -> dict:
    """Returns the record of what was a checkpoint a moment ago, as a run deletes its older ones.

    Raises `JaxvidError` where it is none any more.
    """
    record = read_record(folder)
    if record is None:
        raise JaxvidError(
            f"{folder} was deleted meanwhile, as a run in training does with what is neither its "
            "last nor its best checkpoint: try again"
        )
    return record


def dump(record: dict) -> str:
    """Returns a record as it is written; raises what JSON cannot hold as `json.dumps` does."""
    text = jsons.dump(record, indent=1, ensure_ascii=False)
    if len(text.encode()) > jsons.MAX_BYTES:
        raise JaxvidError(
            f"what {RECORD} would say takes over {jsons.MAX_BYTES >> 20} MiB, which is not read "
            "again: say less in `meta`"
        )
    return text


def next_arrays(old: dict | None) -> str:
    """Names a folder of arrays that is not the one of the record in place."""
    return f"arrays-{int(old['arrays'].removeprefix('arrays-')) + 1 if old else 0}"


def _is_sound(record: Any) -> bool:
    """Says whether a record has the parts that all of them have, and such as can be read."""
    leaves, names = record["leaves"], set(record["leaves"])
    step, metric, parts = record.get("step", 0), record.get("metric"), record.get("parts", 2)
    return (
        isinstance(record["meta"], dict)
        and bool(_ARRAYS.fullmatch(record["arrays"]))
        and all(_LEAF.fullmatch(described) for described in leaves.values())
        and all(len(name) <= _MAX_NAME and name.count("/") < _MAX_DEPTH for name in names)
        # No array has another one inside.
        and not any(
            name[: end.start()] in names for name in names for end in re.finditer("/", name)
        )
        and record.get("sums", leaves).keys() == leaves.keys()
        and all(_SUM.fullmatch(digits) for digits in record.get("sums", {}).values())
        and type(step) is int
        and type(parts) is int
        and (metric is None or isinstance(metric, int | float))
    )
