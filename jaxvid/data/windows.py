"""Windows: parts of videos, in seconds, as the annotated clips of longer videos are."""

import dataclasses
import math
import re

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]*)?|\.[0-9]+")


@dataclasses.dataclass(frozen=True)
class Window:
    """The frames that are shown from `start` on and before `end`, in seconds of the video."""

    start: float = 0.0
    end: float = math.inf

    def __str__(self) -> str:
        end = "" if math.isinf(self.end) else _written(self.end)
        return f"{_written(self.start)}-{end}"

    def name(self, path: str) -> str:
        """What this part of a video is called: `path@start-end`, or as the path if it is all."""
        return path if self == WHOLE else f"{path}@{self}"


WHOLE = Window()


def read(start: str, end: str, where: str) -> Window:
    """Reads two cells of a list; an empty one is the start or the end of the video."""
    return Window(_number(start, 0.0, where), _number(end, math.inf, where))


def _number(cell: str, default: float, where: str) -> float:
    if not cell:
        return default
    if not _SECONDS.fullmatch(cell):
        raise JaxvidError(
            f"{where}: {text.quoted(cell, 20)} is no number of seconds; write start and end as 12 "
            "or 12.5, or leave them empty"
        )
    return round(float(cell), 6)


def _written(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")
