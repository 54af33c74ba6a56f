"""The command: flags to answers, for each video in turn."""

import pathlib
from collections.abc import Sequence

from jaxvid.base import paths
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.progress import Progress
from jaxvid.base.text import say, say_json, shown
from jaxvid.predict import files, flags, formats
from jaxvid.predict.answers import Answer, answering
from jaxvid.predict.videos import find_videos


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags and answers for every video; see `--help`."""
    args = flags.parser().parse_args(argv)
    paths.arguments(args, "checkpoint", "picture", "out", "explain", door=paths.anywhere)
    live = flags.is_live(args.video)
    if not live:
        paths.arguments(args, "video")
    flags.check(args)
    paths.readable(args.checkpoint, "--checkpoint")
    videos, others = ([pathlib.Path(args.video)], 0) if live else find_videos(args.video)
    # Refuses what cannot be written, before any video is decoded.
    outputs = files.places(args, videos)
    # Loads JAX, which what is refused need not wait for.
    from jaxvid.devices import compiled

    compiled.keep()
    answer = answering(args)
    if others:
        say(f"{args.video}: files left out as no videos: {others}", error=True)
    progress = Progress(len(videos), "predict", "videos") if len(videos) > 1 else None
    refused = []
    for video, out in zip(videos, outputs, strict=True):
        try:
            for each in answer(video, out):
                _print(each, progress)
        except JaxvidError as error:
            refused.append(shown(error))
            if args.json or progress:
                _print(formats.refusal(video, error, args.json), progress)
        if progress:
            progress.update()
    if progress:
        progress.close()
    if refused:
        line = "\n  "
        summary = f"{len(refused)} of {len(videos)} videos have no answer:{line}"
        raise JaxvidError(summary + listed(refused, separator=line) if progress else refused[0])


def _print(answer: Answer, progress: Progress | None) -> None:
    if progress:
        progress.clear()
    if isinstance(answer, dict):
        say_json(answer)
    else:
        say(*answer.split("\n"))
