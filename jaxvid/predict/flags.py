"""The flags of the command: what there is, and what goes together."""

import argparse
import math
import os

from jaxvid.base.errors import JaxvidError
from jaxvid.rows import FLOWS

LIVE_WINDOW, LIVE_STRIDE = 3.0, 1.0
"""Seconds of a window of a camera or stream, and from one to the next, unless flags say others."""


def parser() -> argparse.ArgumentParser:
    """What reads the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.predict",
        description="Say what is seen in a video, or in every video of a folder.",
        epilog="The exit code is 0 only if every video was answered.",
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        metavar="DIR",
        help="a converted checkpoint's folder, or the workdir of a training run (its best one)",
    )
    add(
        "--video",
        required=True,
        metavar="PATH",
        help="a video file, a folder to search, a camera (0, 1, /dev/video0), or - for a video "
        "stream on standard input",
    )
    add("--model", metavar="NAME", help="the row, if the checkpoint does not say")
    add("--top", type=int, default=5, help="how many answers (default 5)")
    add(
        "--views",
        choices=("protocol", "one"),
        default="protocol",
        help="all views of the published test, or only its central one (default protocol)",
    )
    add(
        "--flow",
        choices=FLOWS,
        help="how optical flow is computed, of networks that take it (default: as in training)",
    )
    add(
        "--json",
        action="store_true",
        help="one JSON object a line and video on standard output, the rest on standard error; "
        "pictures only with --picture or --out",
    )
    add("--picture", metavar="FILE.png", help="where a single video's picture goes, exactly")
    add("--out", metavar="DIR", help="folder of pictures, one a video (default predictions)")
    add(
        "--window",
        type=_seconds,
        metavar="SECONDS",
        help="answer for each window of so many seconds, not for the whole video (camera and "
        f"stream: default {LIVE_WINDOW:g})",
    )
    add(
        "--stride",
        type=_seconds,
        metavar="SECONDS",
        help=f"from window to window (default --window; camera and stream: {LIVE_STRIDE:g})",
    )
    add(
        "--features",
        metavar="NAME[,NAME][:full]",
        help="write these intermediates, such as stage4, to one .npz a video in place of answers: "
        "means over all views and positions, or with :full all of them",
    )
    add(
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


def is_live(video: str | os.PathLike) -> bool:
    """Whether `--video` is a camera or standard input, not a file."""
    video = os.fspath(video)
    camera = video.isdecimal() or video.startswith("/dev/video")
    return video == "-" or (camera and not os.path.isfile(video))


def check(args: argparse.Namespace) -> None:
    """Refuses flags that do not go together."""
    if args.top < 1:
        raise JaxvidError(f"--top={args.top} must be 1 or more")
    if args.stride and not (args.window or is_live(args.video)):
        raise JaxvidError("--stride is from window to window: add --window=SECONDS")
    if args.picture and args.picture.suffix.lower() != ".png":
        raise JaxvidError(f"--picture={args.picture} must end in .png: pictures are PNGs")
    for option in ("picture", "explain"):
        if getattr(args, option) and os.path.isdir(args.video):
            way_out = ": use --out for a folder of them" if option == "picture" else ""
            raise JaxvidError(f"--{option} is for a single video{way_out}")
    if args.features and (args.picture or args.explain or is_live(args.video)):
        raise JaxvidError("--features writes no answers and needs files: leave out other outputs")
    if args.features and args.window and args.features.endswith(":full"):
        raise JaxvidError("--features of windows are means: leave out :full or --window")
    if args.explain:
        if args.explain.suffix.lower() not in (".gif", ".mp4"):
            raise JaxvidError(f"--explain={args.explain} must end in .gif or .mp4")
        if args.window or is_live(args.video):
            raise JaxvidError("--explain is for a whole video: leave out --window")
