"""The files of an answer: where they go, and what is written into them."""

import argparse
import collections
import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxvid.base import paths, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.predict import formats
from jaxvid.predict.flags import is_live
from jaxvid.reports import draw

if TYPE_CHECKING:
    from jaxvid.inference.predictor import Prediction, Predictor

_PICTURE_FRAMES = 8
_PICTURE_ANSWERS = 10


def places(args: argparse.Namespace, videos: list[pathlib.Path]) -> list[pathlib.Path] | list[None]:
    """Where each video's picture or features go, or None for nothing.

    Raises:
      JaxvidError: what the flags ask for cannot be written there.
    """
    found = _places(args, videos)
    option = "--picture" if args.picture else "--out"
    for folder in {out.parent for out in found if out}:
        paths.writable(folder, option)
    for flag in ("picture", "explain"):
        if getattr(args, flag):
            paths.writable_file(getattr(args, flag), f"--{flag}")
    return found


def _places(
    args: argparse.Namespace, videos: list[pathlib.Path]
) -> list[pathlib.Path] | list[None]:
    if args.features:
        folder = args.out or pathlib.Path("features")
        return [folder / path for path in inner_places(args.video, videos, ".npz")]
    if args.picture or is_live(args.video):
        return [args.picture]
    if args.json and not args.out:
        return [None] * len(videos)
    folder = args.out or pathlib.Path("predictions")
    return [folder / path for path in inner_places(args.video, videos, ".png")]


def inner_places(
    root: pathlib.Path, videos: Sequence[pathlib.Path], ending: str
) -> list[pathlib.Path]:
    """Where the videos' files go, relative to a folder: their own places below `root`.

    A file is called as its video up to the ending, or with it where two would be the same.
    """
    base = root.parent if root in videos else root
    inside = [video.relative_to(base) for video in videos]
    counts = collections.Counter(path.with_suffix("") for path in inside)
    return [
        path.with_name((path.stem if counts[path.with_suffix("")] == 1 else path.name) + ending)
        for path in inside
    ]


def write_picture(prediction: "Prediction", name: str, top: int, path: pathlib.Path) -> None:
    """Draws a video's frames and the `top` answers, of which a picture has room for 10."""
    count = len(prediction.view)
    shown = np.unique(np.linspace(0, count - 1, min(count, _PICTURE_FRAMES)).round().astype(int))
    numbers = prediction.numbers[shown]
    fps = prediction.fps
    captions = [f"{n / fps:.2f} s" if fps else f"frame {n}" for n in numbers.tolist()]
    title = f"{name}: {formats.length(prediction)}"
    answers = prediction.top(min(top, _PICTURE_ANSWERS))
    with _writing(path, "picture", "--out"):
        draw.strip(prediction.pictures[shown], answers, path, title, captions)


def write_timeline(
    times: Sequence[tuple[float, float]],
    scores: Sequence[np.ndarray],
    classes: Sequence[str],
    title: str,
    path: pathlib.Path,
) -> None:
    """Draws the scores [classes] of windows over their (start, end) in seconds."""
    with _writing(path, "picture", "--out"):
        draw.timeline(np.array(times), np.array(scores), classes, path, title)


def write_explanation(predictor: "Predictor", prediction: "Prediction", path: pathlib.Path) -> None:
    """Draws where the best class was seen, as a movie."""
    heat, at = predictor.explain(prediction)
    [(label, score)] = prediction.top(1)
    numbers = prediction.numbers
    # As fast as the video itself, within what can be watched.
    span = int(numbers[-1] - numbers[0])
    fps = prediction.fps * (len(numbers) - 1) / span if prediction.fps and span > 0 else 5.0
    with _writing(path, "explanation", "--explain"):
        caption = f"{label} {100 * score:.1f} % ({at})"
        draw.heat_movie(prediction.pictures, heat, path, min(max(fps, 2.0), 30.0), caption)


def write_features(arrays: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
    """Writes intermediates by name."""
    with _writing(path, "features", "--out"):
        whole.arrays(path, **arrays)


@contextlib.contextmanager
def _writing(path: pathlib.Path, what: str, option: str) -> Iterator[None]:
    """Makes the folder of a file that is written inside, and says what cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise JaxvidError(
            f"cannot write the {what} {path} ({error.strerror or error}): choose another {option}"
        ) from None
