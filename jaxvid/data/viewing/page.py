"""The page: one file that asks for nothing from the network; `page.html` beside is its frame."""

import base64
import html
import io
import pathlib
import string
from collections.abc import Mapping, Sequence

from jaxvid.base.text import shown
from jaxvid.config.parts import Config
from jaxvid.data.viewing.looks import Look

_FRAME = pathlib.Path(__file__).with_suffix(".html")
_TITLES = {
    "classes": "Videos of each class",
    "frames": "Length in frames",
    "seconds": "Length in seconds",
    "rates": "Frame rates",
    "sizes": "Sizes",
}


def make(
    *,
    config: Config,
    table: Sequence[Sequence[str]],
    said: Sequence[str],
    charts: Mapping[str, bytes],
    sections: Mapping[str, Sequence[Look]],
    copies: int | None,
) -> str:
    """The page's text.

    Args:
      config: what a run is told.
      table: lines of figures, the first of them the head.
      said: warnings.
      charts: PNGs by name.
      sections: clips to look at, by the section's title.
      copies: how many near copies there are; None where nobody looked.
    """
    looks = "".join(_section(title, several) for title, several in sections.items())
    found = {None: "Near copies were not looked for.", 0: "No near copies were found."}
    return string.Template(_FRAME.read_text("utf-8")).substitute(
        title=_text(f"{config.data.dataset}: what training is fed"),
        about=_text(_about(config)),
        said="".join(f"<li>{_text(line)}</li>" for line in said),
        said_class="" if said else "none",
        table=_table(table),
        charts="".join(_chart(name, png) for name, png in charts.items()),
        looks=looks,
        copies=_text(found.get(copies, f"{copies} near copies are listed in copies.csv.")),
    )


def _about(config: Config) -> str:
    """What is done to clips, in a line."""
    data, train = config.data, config.train
    how = [
        f"{config.model.name}, batches of {train.batch_size}",
        f"sampling {data.sampling.frames}",
        f"crops ({data.crop_mode}) to {data.crop} pixels",
        f"flip {data.flip:g}",
    ]
    how += ["colours"] * any(data.color_jitter) + ["RandAugment"] * bool(data.rand_augment)
    for name, value in (
        ("random erasing", data.random_erasing),
        ("mixup", train.mixup),
        ("CutMix", train.cutmix),
        ("balance", data.balance),
    ):
        how += [f"{name} {value:g}"] * bool(value)
    return ", ".join(how) + ". Clips are shown before they are normalised."


def _text(value: object) -> str:
    return html.escape(shown(value))


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = (list(map(_text, line)) for line in lines)
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    rows = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, *cells in rest
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"


def _chart(name: str, png: bytes) -> str:
    title = _text(_TITLES.get(name, name))
    picture = f'<img alt="{title}" src="{_data(png, "png")}">'
    return f"<figure><figcaption>{title}</figcaption>{picture}</figure>"


def _section(title: str, several: Sequence[Look]) -> str:
    return f"<h2>{_text(title)}</h2>" + "".join(map(_look, several))


def _look(look: Look) -> str:
    marks = "".join(f"<em>{_text(mark)}</em>" for mark in look.marks)
    file = io.BytesIO()
    look.picture.save(file, "JPEG", quality=88)
    alt = _text(f"frames of {look.path}")
    width, height = look.picture.size
    return (
        f'<figure class="look"><figcaption><b>{_text(look.labels)}</b> {marks}'
        f"<span>{_text(look.path)}: {_text(look.details)}</span></figcaption>"
        f'<div class="strip" tabindex="0"><img width="{width}" height="{height}" alt="{alt}" '
        f'loading="lazy" src="{_data(file.getvalue(), "jpeg")}"></div></figure>'
    )


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
