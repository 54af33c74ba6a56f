"""Pictures of results. matplotlib and Pillow are imported only when one is drawn."""

import pathlib
from collections.abc import Sequence

import numpy as np


def confusion_matrix(confusion: np.ndarray, classes: Sequence[str], path: pathlib.Path) -> None:
    """Draws counts [classes, classes] (label by answer) to a PNG.

    Colours are shares of each label's videos; counts are written in where there is room.
    """
    figure, axes = _figure(len(classes))
    totals = np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(confusion / totals, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the label's videos")
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    correct = np.trace(confusion)
    axes.set_title(f"{correct} of {confusion.sum()} videos correct")
    if len(classes) <= 40:
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 20:
        for i, j in zip(*np.nonzero(confusion), strict=True):
            shade = "white" if confusion[i, j] > totals[i, 0] / 2 else "black"
            axes.text(j, i, confusion[i, j], ha="center", va="center", color=shade, fontsize=8)
    figure.savefig(path, dpi=110)


_TILE, _GAP, _MARGIN, _ROW, _MIN_WIDTH = 160, 6, 14, 32, 760
_INK, _FAINT, _TRACK, _FILL = "#1a1a1a", "#5f6368", "#eef1f5", "#a9cdf5"


def strip(
    frames: np.ndarray,
    answers: Sequence[tuple[str, float]],
    path: pathlib.Path,
    title: str = "",
    captions: Sequence[str] = (),
) -> None:
    """Draws frames side by side and the answers below them to a PNG.

    `frames` uint8 [N, H, W, 3] are shown at one height, each above its caption. `answers` are
    labels with their probabilities, each a bar with the label written into it. Text that is too
    long for its place ends in an ellipsis.
    """
    from PIL import Image, ImageDraw

    count, height, width = frames.shape[:3]
    tile = max(1, round(_TILE * width / height))
    total = max(count * (tile + _GAP) - _GAP, _MIN_WIDTH)
    top = _MARGIN + (_ROW if title else 0)
    rows = top + _TILE + _GAP + (24 if captions else 0) + _GAP
    size = (total + 2 * _MARGIN, rows + len(answers) * _ROW + _MARGIN - _GAP)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    normal, small, bold = _font(15), _font(12), _font(15, bold=True)
    if title:
        pen.text((_MARGIN, _MARGIN), _fitted(title, total, bold), _INK, bold)
    for i, frame in enumerate(frames):
        left = _MARGIN + i * (tile + _GAP)
        image = Image.fromarray(np.ascontiguousarray(frame))
        picture.paste(image.resize((tile, _TILE), Image.Resampling.LANCZOS), (left, top))
        if captions:
            place = (left + tile / 2, top + _TILE + _GAP)
            pen.text(place, _fitted(captions[i], tile, small), _FAINT, small, anchor="ma")
    for i, (label, score) in enumerate(answers):
        left, upper, lower = _MARGIN, rows + i * _ROW, rows + (i + 1) * _ROW - _GAP
        filled = round(total * min(max(score, 0.0), 1.0))
        pen.rectangle((left, upper, left + total - 1, lower - 1), _TRACK)
        if filled:
            pen.rectangle((left, upper, left + filled - 1, lower - 1), _FILL)
        middle = (upper + lower) / 2
        percent = f"{100 * score:.1f} %"
        room = total - 30 - normal.getlength(percent)
        pen.text((left + 8, middle), _fitted(label, room, normal), _INK, normal, anchor="lm")
        pen.text((left + total - 8, middle), percent, _INK, normal, anchor="rm")
    picture.save(path, format="PNG")


def _font(size: int, bold: bool = False):
    # matplotlib brings a typeface that has far more than Latin letters; Pillow's own has not.
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(
        str(pathlib.Path(matplotlib.get_data_path(), "fonts/ttf", name)), size
    )


def _fitted(text: str, room: float, font) -> str:
    """Returns the text, or as much of its beginning as fits into `room` pixels with an ellipsis."""
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    kept = len(text)
    while kept and font.getlength(text[:kept].rstrip() + "…") > room:
        kept -= 1
    return text[:kept].rstrip() + "…"


def _figure(classes: int):
    # The object interface, not pyplot: no global state and no display needed.
    from matplotlib.figure import Figure

    side = min(max(5.0, 1.5 + 0.4 * classes), 16.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    return figure, figure.add_subplot()
