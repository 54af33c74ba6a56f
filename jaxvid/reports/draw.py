"""Pictures of results. matplotlib and Pillow are imported only when one is drawn."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from jaxvid.base import whole
from jaxvid.base.text import shown

# Text that matplotlib takes neither for a formula nor for TeX.
_VERBATIM = {"parse_math": False, "usetex": False}
_TICK_ROOM = 600
_DPI = 110


def confusion_matrix(confusion: np.ndarray, classes: Sequence[str], path: pathlib.Path) -> None:
    """Draws counts [classes, classes] (label by answer) to a PNG.

    Colours are shares of each label's videos; counts are written in where there is room.
    """
    font = _font(15)
    names = [_fitted(name, _TICK_ROOM, font) for name in classes] if len(classes) <= 40 else []
    figure, axes = _figure(len(classes), max(map(font.getlength, names), default=0))
    totals = np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(confusion / totals, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the label's videos")
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    correct = np.trace(confusion)
    axes.set_title(f"{correct} of {confusion.sum()} videos correct")
    if names:
        axes.set_xticks(range(len(names)), names, rotation=90, **_VERBATIM)
        axes.set_yticks(range(len(names)), names, **_VERBATIM)
    if len(classes) <= 20:
        for i, j in zip(*np.nonzero(confusion), strict=True):
            shade = "white" if confusion[i, j] > totals[i, 0] / 2 else "black"
            axes.text(j, i, confusion[i, j], ha="center", va="center", color=shade, fontsize=8)
    with whole.file(path) as file:
        figure.savefig(file, dpi=_DPI, format="png")


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
    with whole.file(path) as file:
        picture.save(file, format="PNG")


_SMALL_TILE = 96


def reconstructions(pictures: np.ndarray, captions: Sequence[str], path: pathlib.Path) -> None:
    """Draws clips, each in several versions below one another, to a PNG.

    `pictures` are uint8 [clips, versions, frames, H, W, 3]; a caption stands above each clip.
    """
    from PIL import Image, ImageDraw

    clips, versions, count, height, width = pictures.shape[:5]
    tile = (max(1, round(_SMALL_TILE * width / height)), _SMALL_TILE)
    block = _ROW + versions * (_SMALL_TILE + _GAP)
    total = max(count * (tile[0] + _GAP) - _GAP, _MIN_WIDTH)
    size = (total + 2 * _MARGIN, clips * block + 2 * _MARGIN - _GAP)
    picture = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(picture), _font(12)
    for i, caption in enumerate(captions):
        top = _MARGIN + i * block
        pen.text((_MARGIN, top + _ROW / 2), _fitted(caption, total, font), _INK, font, anchor="lm")
        for version, column in np.ndindex(versions, count):
            image = Image.fromarray(np.ascontiguousarray(pictures[i, version, column]))
            left = _MARGIN + column * (tile[0] + _GAP)
            place = (left, top + _ROW + version * (_SMALL_TILE + _GAP))
            picture.paste(image.resize(tile, Image.Resampling.BICUBIC), place)
    with whole.file(path) as file:
        picture.save(file, format="PNG")


_COLORS = ("#2b6cb0", "#dd6b20", "#2f855a", "#c53030", "#6b46c1", "#b7791f", "#0e7490", "#97266d")


def timeline(
    times: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    path: pathlib.Path,
    title: str = "",
    count: int = len(_COLORS),
) -> None:
    """Draws how the answers change over time to a PNG.

    `times` [N, 2] are the windows' beginnings and ends in seconds, `scores` [N, classes] their
    probabilities. Above is a band in the colour of each window's best class, below a curve for each
    of the `count` classes that are highest somewhere; the others are grey in the band.
    """
    from matplotlib.figure import Figure

    highest = np.argsort(-scores.max(0), kind="stable")[: min(count, len(_COLORS), len(classes))]
    colors = dict(zip(highest.tolist(), _COLORS, strict=False))
    # A window says most of its middle: each stands for what is nearest to that.
    middles = times.mean(1)
    edges = np.concatenate([times[:1, 0], (middles[1:] + middles[:-1]) / 2, times[-1:, 1]])
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    band, axes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 9))
    best = scores.argmax(1).tolist()
    band.broken_barh(
        list(zip(edges[:-1], np.diff(edges), strict=True)),
        (0, 1),
        facecolors=[colors.get(number, "#c8ccd0") for number in best],
    )
    band.set_yticks([])
    band.set_title(shown(title), fontsize=11, loc="left", **_VERBATIM)
    font = _font(13)
    for number in colors:
        # The last value is drawn to its end, as every other one is to the next.
        curve = np.append(scores[:, number], scores[-1, number])
        axes.step(edges, curve, where="post", color=colors[number], label=number, linewidth=1.8)
    axes.set_ylim(0, 1.02)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xlabel("seconds")
    axes.set_ylabel("probability")
    axes.grid(alpha=0.25)
    legend = figure.legend(loc="outside right center", frameon=False, fontsize=9)
    for entry, number in zip(legend.get_texts(), colors, strict=True):
        # Of a curve that is called so from the start, a name such as `_x` would leave none.
        entry.set(text=_fitted(classes[number], 230, font), **_VERBATIM)
    with whole.file(path) as file:
        figure.savefig(file, dpi=_DPI, format="png")


def bars(
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float],
    path: pathlib.Path,
    title: str = "",
) -> None:
    """Draws values in 0..1 with their standard errors, a bar each from the top down, to a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.36 * len(names)), layout="constrained")
    axes: Any = figure.add_subplot()
    places = range(len(names))
    axes.barh(places, values, xerr=errors, color=_FILL, ecolor=_INK, capsize=3)
    for place, value, error in zip(places, values, errors, strict=True):
        text = f"{100 * value:.1f} ± {100 * error:.1f} %"
        axes.text(max(value, 0) + error + 0.01, place, text, va="center", fontsize=8)
    axes.set_yticks(places, [shown(name) for name in names], **_VERBATIM)
    axes.invert_yaxis()
    axes.set_xlim(min(0.0, *values), 1.2)
    axes.set_title(shown(title), fontsize=11, loc="left", **_VERBATIM)
    with whole.file(path) as file:
        figure.savefig(file, dpi=_DPI, format="png")


def ranges(
    groups: Mapping[str, Sequence[tuple[str, float, float, float]]], path: pathlib.Path, title: str
) -> None:
    """Draws values by name, each with the lowest and the highest, as bars to a PNG.

    `groups` are {heading: [(name, value, lowest, highest)]}, below one another and each from 0.
    """
    from matplotlib.figure import Figure

    counts = [len(rows) for rows in groups.values()]
    height = 1.0 + sum(0.7 + 0.32 * count for count in counts)
    figure = Figure(figsize=(9, min(height, 60.0)), layout="constrained")
    plots = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[n + 1 for n in counts])
    font = _font(13)
    for axes, (heading, rows), color in zip(
        plots[:, 0], groups.items(), itertools.cycle(_COLORS), strict=False
    ):
        names, values, lowest, highest = zip(*rows, strict=True)
        middle = np.array(values)
        reach = np.stack([middle - lowest, np.array(highest) - middle])
        places = np.arange(len(rows))
        axes.barh(places, middle, xerr=np.maximum(reach, 0), color=color, ecolor=_INK, capsize=3)
        axes.set_yticks(places, [_fitted(name, 320, font) for name in names], **_VERBATIM)
        axes.invert_yaxis()
        axes.set_xlim(0)
        axes.set_title(heading, fontsize=10, loc="left", **_VERBATIM)
        for place, value, most in zip(places, values, highest, strict=True):
            axes.text(most, place, f"  {value:.3g}", va="center", fontsize=8)
    figure.suptitle(shown(title), fontsize=11, **_VERBATIM)
    with whole.file(path) as file:
        figure.savefig(file, dpi=_DPI, format="png")


_MOVIE_SIDE, _HEAT = 320, 0.6


def heat_movie(
    frames: np.ndarray, heat: np.ndarray, path: pathlib.Path, fps: float, caption: str = ""
) -> None:
    """Draws heat over frames to an endless GIF or an MP4, by what `path` ends in.

    `frames` are uint8 [T, H, W, 3] and `heat` [T, H, W] is in 0..1: the hotter, the less of the
    frame shows through. Small frames are enlarged; the caption stands below.
    """
    from PIL import Image, ImageDraw

    count, height, width = heat.shape
    scale = max(1.0, _MOVIE_SIDE / min(height, width))
    # Even, as video codecs need it.
    width, height = (2 * round(side * scale / 2) for side in (width, height))
    font, pictures = _font(15), []
    for frame, warmth in zip(frames, heat, strict=True):
        cover = (_HEAT * np.clip(warmth, 0, 1))[..., None]
        mixed = np.rint((1 - cover) * frame + cover * _thermal(warmth)).astype(np.uint8)
        picture = Image.new("RGB", (width, height + (_ROW if caption else 0)), "white")
        picture.paste(Image.fromarray(mixed).resize((width, height), Image.Resampling.BICUBIC))
        if caption:
            place = (_MARGIN, height + _ROW / 2)
            text = _fitted(caption, width - 2 * _MARGIN, font)
            ImageDraw.Draw(picture).text(place, text, _INK, font, anchor="lm")
        pictures.append(picture)
    write = _write_gif if path.suffix.lower() == ".gif" else _write_mp4
    with whole.file(path) as file:
        write(pictures, file, fps)


def _write_gif(pictures: Sequence, file: IO[bytes], fps: float) -> None:
    # Browsers play what is faster than 50 a second slowly.
    duration = max(20, round(1000 / fps))
    pictures[0].save(
        file, save_all=True, append_images=pictures[1:], duration=duration, loop=0, format="GIF"
    )


def _write_mp4(pictures: Sequence, file: IO[bytes], fps: float) -> None:
    from fractions import Fraction

    import av

    with av.open(file, "w", format="mp4") as movie:
        stream = movie.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        for picture in pictures:
            movie.mux(stream.encode(av.VideoFrame.from_image(picture)))
        movie.mux(stream.encode())


def to_look_at(pixels: np.ndarray) -> np.ndarray:
    """RGB uint8 [..., 3] of RGB, which it is, or of stacked optical flow: its first pair."""
    return pixels if pixels.shape[-1] == 3 else flow_colours(pixels[..., :2])


def flow_colours(flow: np.ndarray) -> np.ndarray:
    """Optical flow uint8 [..., 2], 128 for none, as colours uint8 [..., 3] to look at.

    Hue is the direction, and the faster, the brighter.
    """
    import matplotlib.colors

    x, y = np.moveaxis(flow.astype(np.float32) / 127.5 - 1, -1, 0)
    hue = np.arctan2(y, x) / (2 * np.pi) + 0.5
    speed = np.sqrt(np.minimum(np.hypot(x, y), 1))  # else what is slow would be black
    colours = matplotlib.colors.hsv_to_rgb(np.stack([hue, np.ones_like(hue), speed], -1))
    return np.rint(255 * colours).astype(np.uint8)


def _thermal(heat: np.ndarray) -> np.ndarray:
    """Colours float [..., 3] of heat [...] in 0..1: blue, green, yellow, red."""
    import matplotlib

    return 255 * matplotlib.colormaps["turbo"](np.clip(heat, 0, 1))[..., :3]


def _font(size: int, bold: bool = False) -> Any:
    # matplotlib brings a typeface that has far more than Latin letters; Pillow's own has not.
    import matplotlib
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(
        str(pathlib.Path(matplotlib.get_data_path(), "fonts/ttf", name)), size
    )


def _fitted(text: str, room: float, font: Any) -> str:
    """Returns the text, or as much of its beginning as fits into `room` pixels with an ellipsis."""
    text = shown(" ".join(text.split()))
    if font.getlength(text) <= room:
        return text
    kept = len(text)
    while kept and font.getlength(text[:kept].rstrip() + "…") > room:
        kept -= 1
    return text[:kept].rstrip() + "…"


def _figure(classes: int, label: float) -> tuple[Any, Any]:
    """A square for so many classes, and room beside it for their labels of so many pixels."""
    # The object interface, not pyplot: no global state and no display needed.
    from matplotlib.figure import Figure

    side = min(max(5.0, 1.5 + 0.4 * classes), 16.0)
    beside = max(0.0, label / _DPI - 1)
    figure = Figure(figsize=(side + 1 + beside, side + beside), layout="constrained")
    return figure, figure.add_subplot()


def grid(tiles: Sequence[Sequence[np.ndarray] | np.ndarray], side: int = 112, gap: int = 3) -> Any:
    """A picture (of Pillow) of rows of pictures uint8 [H, W, 3], each `side` pixels high."""
    from PIL import Image

    rows = [[_tile(tile, side) for tile in row] for row in tiles]
    widths = [sum(tile.width + gap for tile in row) - gap for row in rows]
    picture = Image.new("RGB", (max(widths), len(rows) * (side + gap) - gap), "white")
    for number, row in enumerate(rows):
        left = 0
        for tile in row:
            picture.paste(tile, (left, number * (side + gap)))
            left += tile.width + gap
    return picture


def _tile(pixels: np.ndarray, side: int) -> Any:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    width = max(1, round(side * image.width / image.height))
    return image.resize((width, side), Image.Resampling.LANCZOS)


def boxed(pixels: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """A picture uint8 [H, W, 3] in which only the box (top, left, height, width) is bright."""
    top, left, height, width = box
    dark = (pixels * 0.35 + 0.4 * 255 * 0.35).astype(np.uint8)
    inside = (slice(top, top + height), slice(left, left + width))
    dark[inside] = pixels[inside]
    return dark


def sheet(
    pictures: Sequence[Any], captions: Sequence[Sequence[str]], file: IO[bytes], title: str
) -> None:
    """Draws pictures (of Pillow) below one another to a PNG, each under its lines of caption."""
    from PIL import Image, ImageDraw

    bold, normal, small = _font(16, bold=True), _font(13, bold=True), _font(12)
    line = 18
    heights = [
        len(lines) * line + 4 + each.height + 16
        for lines, each in zip(captions, pictures, strict=True)
    ]
    width = max(_MIN_WIDTH, *(each.width for each in pictures))
    size = (width + 2 * _MARGIN, sum(heights) + _MARGIN + _ROW)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    pen.text((_MARGIN, _MARGIN), _fitted(title, width, bold), _INK, bold)
    top = _MARGIN + _ROW
    for lines, each, height in zip(captions, pictures, heights, strict=True):
        for number, words in enumerate(lines):
            font, ink = (small, _FAINT) if number else (normal, _INK)
            pen.text((_MARGIN, top + number * line), _fitted(words, width, font), ink, font)
        picture.paste(each, (_MARGIN, top + len(lines) * line + 4))
        top += height
    picture.save(file, format="PNG")
