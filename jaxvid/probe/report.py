"""What a study found as a table, as JSON, and as files with a picture."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from jaxvid.base import csvs, jsons, whole
from jaxvid.base.text import say, say_json
from jaxvid.reports import draw


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure in [0, 1] (an adjusted Rand index may be below) and its standard errors.

    `error` is that over test videos, `seeds_error` that over seeds; None where there is none.
    `chosen` is what the choice was made by, on other videos than `value`.
    """

    probe: str
    figure: str
    value: float
    error: float | None
    seeds_error: float | None
    how: str = ""
    chosen: float | None = None
    processor_seconds: float = 0.0


class Trial(NamedTuple):
    """A probe that was trained for the choice, and its accuracy in [0, 1] there."""

    probe: str
    lr: float
    weight_decay: float
    seed: int
    chosen: float


@dataclasses.dataclass(frozen=True)
class Study:
    """Figures of an encoder, what it is, and all probes that were trained for the choice."""

    about: dict[str, Any]
    figures: tuple[Figure, ...]
    trials: tuple[Trial, ...]

    @property
    def json(self) -> dict[str, Any]:
        """What there is to say for programs."""
        return self.about | {"figures": [dataclasses.asdict(each) for each in self.figures]}


def table(study: Study) -> list[str]:
    """A line for each figure, in Markdown and in percent."""
    rows = [["probe", "figure", "%", "± videos", "± seeds", "chosen at", "how"]]
    rows += [
        [
            each.probe,
            each.figure,
            *map(_percent, (each.value, each.error, each.seeds_error, each.chosen)),
            each.how,
        ]
        for each in study.figures
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return [
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |"
        for row in rows
    ]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def write(study: Study, folder: pathlib.Path) -> None:
    """Writes `figures.json`, `figures.csv`, `probes.csv` with all probes, and `figures.png`."""
    (folder / "figures.json").unlink(missing_ok=True)  # It is there when all of the others are.
    names = [field.name for field in dataclasses.fields(Figure)]
    csvs.write(folder / "figures.csv", names, (list(vars(each).values()) for each in study.figures))
    csvs.write(folder / "probes.csv", Trial._fields, study.trials)
    draw.bars(
        [f"{each.probe} {each.figure}" for each in study.figures],
        [each.value for each in study.figures],
        [max(each.error or 0.0, each.seeds_error or 0.0) for each in study.figures],
        folder / "figures.png",
        f"{study.about['model']}, {study.about['features']}, frozen",
    )
    whole.text(folder / "figures.json", jsons.dump(study.json, indent=1) + "\n", durable=True)


def show(study: Study, as_json: bool) -> None:
    """Prints it."""
    if as_json:
        say_json(study.json)
        return
    about = study.about
    videos = ", ".join(f"{count} of {name}" for name, count in about["videos"].items())
    say(
        f"{about['model']} ({about['init']}), {about['features']} of {about['channels']} channels, "
        f"videos: {videos}, chosen on {about['choose']}"
    )
    say(*table(study))
