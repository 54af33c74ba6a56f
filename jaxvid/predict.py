"""Any video file, folder, camera or pipe to labels, by the preprocessing of the published test.

python -m jaxvid.predict --checkpoint=runs/tsm --video=clip.mp4

In a notebook:

    predictor = predict.Predictor("runs/tsm")
    predictor.scores("clip.mp4")            # [classes], in the order of predictor.classes
    predictor.predict("clip.mp4").top(5)    # [("pulling", 0.91), ...]
"""

import argparse
import collections
import contextlib
import math
import os
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxvid.base import paths, whole
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.exits import exit_on_error
from jaxvid.base.progress import Progress
from jaxvid.base.text import say, say_json, shown
from jaxvid.reports import draw

if TYPE_CHECKING:
    from jaxvid.inference.predictor import Prediction as Prediction
    from jaxvid.inference.predictor import Predictor as Predictor
    from jaxvid.inference.predictor import class_names as class_names
    from jaxvid.inference.predictor import make_config as make_config

# fmt: off
EXTENSIONS = (
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".m2ts", ".m2v", ".m4v", ".mj2", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogg", ".ogv", ".qt", ".rm", ".rmvb", ".ts",
    ".vob", ".webm", ".wmv", ".y4m",
)
# fmt: on
"""What a video's name ends in, where a folder is searched."""

_PICTURE_FRAMES = 8
_PICTURE_ANSWERS = 10
_LIVE_WINDOW, _LIVE_STRIDE = 3.0, 1.0


def __getattr__(name: str) -> Any:
    """`Predictor` and what goes with it, loaded on first use, so that `--help` is quick."""
    if name not in ("Prediction", "Predictor", "class_names", "make_config"):
        raise AttributeError(f"module 'jaxvid.predict' has no attribute {name!r}")
    from jaxvid.inference import predictor

    return getattr(predictor, name)


def find_videos(path: str | os.PathLike) -> tuple[list[pathlib.Path], int]:
    """The video files of a folder and all below it, sorted, and how many other files there are.

    Links to folders are followed, each real folder once. A file stands for itself, whatever its
    name ends in.

    Raises:
      JaxvidError: there is no such file or folder, or no video in the folder.
    """
    path = paths.readable(path, "--video")
    if not path.is_dir():
        return [path], 0
    files = list(_files_below(path))
    videos = [
        file
        for file in files
        # What begins with a dot is a system's note about a file, not a video.
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")
    ]
    if not videos:
        raise JaxvidError(
            f"--video={path} holds no file that ends as a video does (.mp4, .avi, .mkv, ...): "
            "name a file to have it read whatever its ending"
        )
    return sorted(videos), len(files) - len(videos)


def _files_below(top: pathlib.Path) -> Iterator[pathlib.Path]:
    """All files of a folder and of those below it, also behind links, each real folder once.

    Links come last, so that a folder goes by its own path where it has one.
    """
    seen: set[tuple[int, int]] = set()
    waiting = collections.deque([os.fspath(top)])
    while waiting:
        for folder, inner, names in os.walk(waiting.popleft(), onerror=_say_unreadable):
            place = os.stat(folder)
            if (place.st_dev, place.st_ino) in seen:
                inner.clear()
                continue
            seen.add((place.st_dev, place.st_ino))
            inner.sort()
            below = [os.path.join(folder, name) for name in inner]
            waiting.extend(link for link in below if os.path.islink(link))
            yield from (pathlib.Path(folder, name) for name in names)


def _say_unreadable(error: OSError) -> None:
    say(f"warning: {error.filename} is left out ({error.strerror})", error=True)


def _picture_paths(
    root: pathlib.Path, videos: Sequence[pathlib.Path], ending: str = ".png"
) -> list[pathlib.Path]:
    """Where the videos' pictures go, relative to a folder: their own places below `root`.

    A picture is called as its video up to the ending, or with it where two would be the same.
    """
    base = root if root.is_dir() else root.parent
    inside = [video.relative_to(base) for video in videos]
    counts = collections.Counter(path.with_suffix("") for path in inside)
    return [
        path.with_name((path.stem if counts[path.with_suffix("")] == 1 else path.name) + ending)
        for path in inside
    ]


def _write_picture(prediction: "Prediction", name: str, top: int, path: pathlib.Path) -> None:
    count = len(prediction.view)
    shown = np.unique(np.linspace(0, count - 1, min(count, _PICTURE_FRAMES)).round().astype(int))
    numbers = prediction.numbers[shown]
    fps = prediction.fps
    captions = [f"{n / fps:.2f} s" if fps else f"frame {n}" for n in numbers.tolist()]
    title = f"{name}: {_length(prediction)}"
    with _writing(path):
        draw.strip(prediction.view[shown], prediction.top(top), path, title, captions)


@contextlib.contextmanager
def _writing(path: pathlib.Path, what: str = "picture", option: str = "--out") -> Iterator[None]:
    """Makes the folder of a file that is written inside, and says what cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise JaxvidError(
            f"cannot write the {what} {path} ({error.strerror or error}): choose another {option}"
        ) from None


def _length(prediction: "Prediction") -> str:
    text = f"{prediction.num_frames} frames"
    if prediction.fps:
        text += f", {prediction.fps:.4g} fps, {prediction.seconds:.1f} s"
    if prediction.damaged:
        text += f"; damaged or missing packets: {prediction.damaged}"
    return text


def _text(
    path: pathlib.Path, prediction: "Prediction", top: int, files: dict[str, pathlib.Path]
) -> str:
    answers = [(shown(label), score) for label, score in prediction.top(top)]
    width = max(len(label) for label, _ in answers)
    lines = [f"{shown(path)}  ({_length(prediction)})"]
    for label, score in answers:
        bar = "#" * round(20 * score)
        lines.append(f"  {100 * score:5.1f} %  {label:<{width}}  {bar}".rstrip())
    lines += [f"  {what}: {shown(file)}" for what, file in files.items()]
    return "\n".join(lines)


def _json(
    path: pathlib.Path,
    prediction: "Prediction",
    top: int,
    files: dict[str, pathlib.Path],
    milliseconds: float,
) -> dict[str, Any]:
    return {
        "path": str(path),
        "frames": prediction.num_frames,
        "fps": prediction.fps,
        "duration": prediction.seconds,
        "damaged": prediction.damaged,
        "answers": _answers(prediction, top),
        "milliseconds": round(milliseconds, 1),
        **{what: str(file) for what, file in files.items()},
    }


def _answers(prediction: "Prediction", top: int) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in prediction.top(top)]


def _refusal(path: pathlib.Path, error: JaxvidError, as_json: bool) -> str | dict[str, Any]:
    if as_json:
        return {"path": str(path), "error": str(error)}
    return f"{shown(path)}\n  no answer: {shown(error)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.predict",
        description="Say what is seen in a video, or in every video of a folder.",
        epilog="The exit code is 0 only if every video was answered.",
    )
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="a converted checkpoint's folder, or the workdir of a training run (its best one)",
    )
    parser.add_argument(
        "--video",
        required=True,
        metavar="PATH",
        help="a video file, a folder to search, a camera (0, 1, /dev/video0), or - for a video "
        "stream on standard input",
    )
    parser.add_argument("--model", metavar="NAME", help="the row, if the checkpoint does not say")
    parser.add_argument("--top", type=int, default=5, help="how many answers (default 5)")
    parser.add_argument(
        "--views",
        choices=("protocol", "one"),
        default="protocol",
        help="all views of the published test, or only its central one (default protocol)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line and video on standard output, the rest on standard error; "
        "pictures only with --picture or --out",
    )
    parser.add_argument(
        "--picture", metavar="FILE.png", help="where a single video's picture goes, exactly"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="folder of pictures, one a video (default predictions)"
    )
    parser.add_argument(
        "--window",
        type=_seconds,
        metavar="SECONDS",
        help="answer for each window of so many seconds, not for the whole video (camera and "
        f"stream: default {_LIVE_WINDOW:g})",
    )
    parser.add_argument(
        "--stride",
        type=_seconds,
        metavar="SECONDS",
        help=f"from window to window (default --window; camera and stream: {_LIVE_STRIDE:g})",
    )
    parser.add_argument(
        "--features",
        metavar="NAME[,NAME][:full]",
        help="write these intermediates, such as stage4, to one .npz a video in place of answers: "
        "means over all views and positions, or with :full all of them",
    )
    parser.add_argument(
        "--explain",
        metavar="FILE.gif|.mp4",
        help="where a single video's best class was seen, as heat over the frames (Grad-CAM)",
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be a number of seconds above 0")
    return value


def _is_live(video: str | os.PathLike) -> bool:
    """Whether `--video` is a camera or standard input, not a file."""
    video = os.fspath(video)
    camera = video.isdecimal() or video.startswith("/dev/video")
    return video == "-" or (camera and not os.path.isfile(video))


def _check(args: argparse.Namespace) -> None:
    """Refuses flags that do not go together."""
    if args.top < 1:
        raise JaxvidError(f"--top={args.top} must be 1 or more")
    if args.stride and not (args.window or _is_live(args.video)):
        raise JaxvidError("--stride is from window to window: add --window=SECONDS")
    if args.picture and args.picture.suffix.lower() != ".png":
        raise JaxvidError(f"--picture={args.picture} must end in .png: pictures are PNGs")
    for option in ("picture", "explain"):
        if getattr(args, option) and os.path.isdir(args.video):
            way_out = ": use --out for a folder of them" if option == "picture" else ""
            raise JaxvidError(f"--{option} is for a single video{way_out}")
    if args.features and (args.picture or args.explain or _is_live(args.video)):
        raise JaxvidError("--features writes no answers and needs files: leave out other outputs")
    if args.features and args.window and args.features.endswith(":full"):
        raise JaxvidError("--features of windows are means: leave out :full or --window")
    if args.explain:
        if args.explain.suffix.lower() not in (".gif", ".mp4"):
            raise JaxvidError(f"--explain={args.explain} must end in .gif or .mp4")
        if args.window or _is_live(args.video):
            raise JaxvidError("--explain is for a whole video: leave out --window")


def _outputs(
    args: argparse.Namespace, videos: list[pathlib.Path]
) -> list[pathlib.Path] | list[None]:
    """Where each video's picture or features go, or None for nothing."""
    if args.features:
        folder = args.out or pathlib.Path("features")
        return [folder / path for path in _picture_paths(args.video, videos, ".npz")]
    if args.picture:
        return [args.picture]
    if args.json and not args.out:
        return [None] * len(videos)
    folder = args.out or pathlib.Path("predictions")
    return [folder / path for path in _picture_paths(args.video, videos)]


def _check_outputs(args: argparse.Namespace, outputs: Sequence[pathlib.Path | None]) -> None:
    """Refuses, before any video is decoded, outputs that cannot be written."""
    option = "--picture" if args.picture else "--out"
    for folder in {out.parent for out in outputs if out}:
        paths.writable(folder, option)
    for flag in ("picture", "explain"):
        if getattr(args, flag):
            paths.writable_file(getattr(args, flag), f"--{flag}")


def _whole(
    predictor: "Predictor", args: argparse.Namespace, video: pathlib.Path, out: pathlib.Path | None
) -> Iterator[str | dict[str, Any]]:
    """Answers for a video; yields what to print."""
    began = time.monotonic()
    prediction = predictor.predict(video)
    milliseconds = 1000 * (time.monotonic() - began)
    files = {}
    if out:
        _write_picture(prediction, video.name, min(args.top, _PICTURE_ANSWERS), out)
        files["picture"] = out
    if args.explain:
        files["explanation"] = args.explain
        _write_explanation(predictor, prediction, files["explanation"])
    if args.json:
        yield _json(video, prediction, args.top, files, milliseconds)
    else:
        yield _text(video, prediction, args.top, files)


def _write_explanation(
    predictor: "Predictor", prediction: "Prediction", path: pathlib.Path
) -> None:
    heat, at = predictor.explain(prediction)
    [(label, score)] = prediction.top(1)
    numbers = prediction.numbers
    # As fast as the video itself, within what can be watched.
    span = int(numbers[-1] - numbers[0])
    fps = prediction.fps * (len(numbers) - 1) / span if prediction.fps and span > 0 else 5.0
    with _writing(path, "explanation", "--explain"):
        caption = f"{label} {100 * score:.1f} % ({at})"
        draw.heat_movie(prediction.view, heat, path, min(max(fps, 2.0), 30.0), caption)


def _windows(
    predictor: "Predictor", args: argparse.Namespace, video: pathlib.Path, out: pathlib.Path | None
) -> Iterator[str | dict[str, Any]]:
    """Answers for the windows of a video or stream, one by one; yields what to print."""
    from jaxvid.data import decode
    from jaxvid.inference import stream

    live = _is_live(args.video)
    seconds = args.window or _LIVE_WINDOW
    stride = args.stride or (_LIVE_STRIDE if live else seconds)
    times, scores, passed = [], [], 0
    if live:
        # Compile before the stream is opened: the first windows would wait for it.
        predictor.predict(np.zeros((1, 64, 64, 3), np.uint8))
    if not args.json:
        yield shown(video)
    opened = decode.Video(video, predictor.short_side, live=live)
    # A thread may still read a stream that is given up.
    with contextlib.nullcontext() if live else opened:
        found = stream.windows(opened, seconds, stride, live)
        # A stream that has no end is ended by its user.
        with contextlib.suppress(*[KeyboardInterrupt] * live):
            for window, skipped in stream.latest(found) if live else ((each, 0) for each in found):
                began = time.monotonic()
                prediction = predictor.predict(window.frames, window.fps)
                answer = {
                    "path": str(video),
                    "start": window.start,
                    "end": window.end,
                    "frames": len(window.frames),
                    "answers": _answers(prediction, args.top),
                    "milliseconds": round(1000 * (time.monotonic() - began), 1),
                }
                if live:
                    answer["latency"] = round(time.monotonic() - window.ready, 3)
                    answer["skipped"] = skipped
                passed += skipped
                yield answer if args.json else _line(answer)
                if out:
                    times.append((window.start, window.end))
                    scores.append(prediction.scores)
    if passed:
        say(f"{video}: windows passed over to keep up: {passed}", error=True)
    if out and times:
        with _writing(out):
            title = f"{video.name}: windows of {seconds:g} s every {stride:g} s"
            draw.timeline(np.array(times), np.array(scores), predictor.classes, out, title)
        if not args.json:
            yield f"  picture: {shown(out)}"


def _line(window: dict[str, Any]) -> str:
    answers = ", ".join(
        f"{shown(each['label'])} {100 * each['score']:.1f} %" for each in window["answers"]
    )
    return f"  {window['start']:8.2f} - {window['end']:8.2f} s  {answers}"


def _features(predictor: "Predictor", args: argparse.Namespace) -> Any:
    """A function like `_whole` that writes features in place of answers."""
    from jaxvid.data import decode
    from jaxvid.inference import stream

    names = args.features.removesuffix(":full").split(",")
    extract = predictor.extractor(names, pooled=not args.features.endswith(":full"))

    def write(
        _: "Predictor", args: argparse.Namespace, video: pathlib.Path, out: pathlib.Path
    ) -> Iterator[str | dict[str, Any]]:
        if args.window:
            found, times = [], []
            with decode.Video(video, predictor.short_side) as opened:
                for window in stream.windows(opened, args.window, args.stride or args.window):
                    found.append(extract(window.frames, window.fps))
                    times.append((window.start, window.end))
            arrays = {name: np.stack([each[name] for each in found]) for name in names}
            arrays["start"], arrays["end"] = np.array(times).T
        else:
            arrays = extract(video)
        with _writing(out, "features"):
            whole.arrays(out, **arrays)
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        if args.json:
            yield {"path": str(video), "features": str(out), "shapes": shapes}
        else:
            sizes = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            yield f"{shown(video)}\n  features: {shown(out)}  ({sizes})"

    return write


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and answers for every video; see `--help`."""
    args = _parser().parse_args(argv)
    paths.arguments(args, "checkpoint", "picture", "out", "explain")
    if not _is_live(args.video):
        paths.arguments(args, "video")
    _check(args)
    paths.readable(args.checkpoint, "--checkpoint")
    if _is_live(args.video):
        videos, others = [pathlib.Path(args.video)], 0
        outputs = [args.picture]
    else:
        videos, others = find_videos(args.video)
        outputs = _outputs(args, videos)
    _check_outputs(args, outputs)

    from jaxvid.inference.predictor import Predictor

    predictor = Predictor(args.checkpoint, args.model, args.views)
    if not args.features:
        predictor.require_classifier()
    answer = _windows if args.window or _is_live(args.video) else _whole
    if args.features:
        answer = _features(predictor, args)
    if others:
        say(f"{args.video}: files left out as no videos: {others}", error=True)
    progress = Progress(len(videos), "predict", "videos") if len(videos) > 1 else None
    refused = []
    for video, out in zip(videos, outputs, strict=True):
        try:
            for each in answer(predictor, args, video, out):
                _print(each, progress)
        except JaxvidError as error:
            refused.append(shown(error))
            if args.json or progress:
                _print(_refusal(video, error, args.json), progress)
        if progress:
            progress.update()
    if progress:
        progress.close()
    if refused:
        line = "\n  "
        summary = f"{len(refused)} of {len(videos)} videos have no answer:{line}"
        raise JaxvidError(summary + listed(refused, separator=line) if progress else refused[0])


def _print(answer: str | dict[str, Any], progress: Progress | None) -> None:
    if progress:
        progress.clear()
    if isinstance(answer, dict):
        say_json(answer)
    else:
        say(*answer.split("\n"))


if __name__ == "__main__":
    with exit_on_error():
        main()
