"""What the command answers for one video: of the whole, of windows, or features of either."""

import argparse
import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxvid.base.text import say, shown
from jaxvid.predict import files, formats
from jaxvid.predict.flags import LIVE_STRIDE, LIVE_WINDOW, is_live

if TYPE_CHECKING:
    from jaxvid.inference.predictor import Predictor, Streamed

Answer = str | dict[str, Any]
"""What is printed: a text, or an object of JSON."""


def answering(args: argparse.Namespace) -> Callable[[pathlib.Path, Any], Iterator[Answer]]:
    """Loads the network; returns what takes a video, and where its file goes, to its answers."""
    from jaxvid.inference.predictor import Predictor

    load = functools.partial(Predictor, args.checkpoint, args.model, args.views, args.flow)
    if args.features:
        predictor = load()
        pooled = not args.features.endswith(":full")
        extract = predictor.extractor(_feature_names(args), pooled)
        return functools.partial(_features, predictor, extract, args)
    of_windows = args.window or is_live(args.video)
    predictor = load() if of_windows else load(ahead=True)
    predictor.require_classifier()
    return functools.partial(_windows if of_windows else _whole, predictor, args)


def _feature_names(args: argparse.Namespace) -> list[str]:
    return args.features.removesuffix(":full").split(",")


def _whole(
    predictor: "Predictor", args: argparse.Namespace, video: pathlib.Path, out: pathlib.Path | None
) -> Iterator[Answer]:
    """Answers for a video."""
    began = time.monotonic()
    prediction = predictor.predict(video)
    milliseconds = 1000 * (time.monotonic() - began)
    written = {}
    if out:
        files.write_picture(prediction, video.name, args.top, out)
        written["picture"] = out
    if args.explain:
        files.write_explanation(predictor, prediction, args.explain)
        written["explanation"] = args.explain
    if args.json:
        yield formats.json(video, prediction, args.top, written, milliseconds)
    else:
        yield formats.text(video, prediction, args.top, written)


def _windows(
    predictor: "Predictor", args: argparse.Namespace, video: pathlib.Path, out: pathlib.Path | None
) -> Iterator[Answer]:
    """Answers for the windows of a video or stream, or of its frames so far, one by one."""
    live = is_live(args.video)
    seconds = args.window or LIVE_WINDOW
    stride = args.stride or (LIVE_STRIDE if live else seconds)
    times, scores, passed = [], [], 0
    if not args.json:
        yield shown(video)
    # A stream that has no end is ended by its user.
    with contextlib.suppress(*[KeyboardInterrupt] * live):
        for streamed in predictor.stream(video, seconds, stride, live):
            answer = _part(video, streamed, args.top)
            if live:
                answer["latency"] = round(time.monotonic() - streamed.ready, 3)
                answer["skipped"] = streamed.skipped
            passed += streamed.skipped
            yield answer if args.json else formats.window_text(answer)
            if out:
                times.append((streamed.start, streamed.end))
                scores.append(streamed.prediction.scores)
    if passed:
        say(f"{video}: windows passed over to keep up: {passed}", error=True)
    if out and times:
        title = f"{video.name}: windows of {seconds:g} s every {stride:g} s"
        files.write_timeline(times, scores, predictor.classes, title, out)
        if not args.json:
            yield f"  picture: {shown(out)}"


def _part(video: pathlib.Path, streamed: "Streamed", top: int) -> dict[str, Any]:
    """The answer for a window, or for what a state has seen, as it is in JSON."""
    return {
        "path": str(video),
        "start": streamed.start,
        "end": streamed.end,
        "frames": streamed.frames,
        "answers": formats.answers(streamed.prediction, top),
        "milliseconds": round(streamed.milliseconds, 1),
    }


def _features(
    predictor: "Predictor",
    extract: Callable[..., dict[str, np.ndarray]],
    args: argparse.Namespace,
    video: pathlib.Path,
    out: pathlib.Path,
) -> Iterator[Answer]:
    """Writes features of a video, or of its windows; says where."""
    if args.window:
        arrays = _window_features(predictor, extract, args, video)
    else:
        arrays = extract(video)
    files.write_features(arrays, out)
    shapes = {name: list(array.shape) for name, array in arrays.items()}
    if args.json:
        yield {"path": str(video), "features": str(out), "shapes": shapes}
    else:
        sizes = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        yield f"{shown(video)}\n  features: {shown(out)}  ({sizes})"


def _window_features(
    predictor: "Predictor",
    extract: Callable[..., dict[str, np.ndarray]],
    args: argparse.Namespace,
    video: pathlib.Path,
) -> dict[str, np.ndarray]:
    """The features of a video's windows, stacked, beside their `start` and `end`."""
    from jaxvid.data import decode
    from jaxvid.inference import stream

    found, times = [], []
    with decode.opened(video, predictor.short_side) as opened:
        for window in stream.windows(opened, args.window, args.stride or args.window):
            found.append(extract(window.frames, window.fps))
            times.append((window.start, window.end))
    arrays = {name: np.stack([each[name] for each in found]) for name in _feature_names(args)}
    arrays["start"], arrays["end"] = np.array(times).T
    return arrays
