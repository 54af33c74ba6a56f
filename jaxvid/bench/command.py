"""The command: rows to figures, one measurement after the other."""

import argparse
import contextlib
import fnmatch
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxvid.base import paths
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.progress import Progress
from jaxvid.base.text import say, say_json

if TYPE_CHECKING:
    from jaxvid.bench.measure import Measured

PARTS = ("forward", "train", "video")
DTYPES = ("float32", "bfloat16")


def parser() -> argparse.ArgumentParser:
    """What reads the flags."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.bench",
        description="Measure networks on one device of this machine, with random weights: the "
        "forward pass of a test's clips (forward), a training step (train), and from a video file "
        "to labels by the published test (video).",
        epilog="Times are medians, with the lowest and the highest. tests/bench_reference.py "
        "measures forwards and training steps in turns with the reference in PyTorch, which this "
        "library never imports.",
    )
    add = parser.add_argument
    add(
        "--model",
        required=True,
        action="append",
        metavar="NAME[,PATTERN]",
        help="rows or variants, or patterns of rows such as 'tsm*'; may be given again",
    )
    add("--parts", default=",".join(PARTS), help="which of forward, train and video (default all)")
    add("--dtype", default=DTYPES[0], help="float32, bfloat16 or both of forward and train")
    add("--batch", type=int, default=1, metavar="CLIPS", help="of forward and train (default 1)")
    add("--repeats", type=int, default=10, help="how often each is timed (default 10)")
    add("--backend", metavar="cpu|gpu|tpu", help="where (default: what JAX takes by itself)")
    add(
        "--video",
        metavar="PATH",
        help="what to answer for (default: 10 seconds of 340 x 256 that are made for it)",
    )
    add("--small", action="store_true", help="the family's tiny networks on small pictures")
    add("--json", action="store_true", help="one JSON object a line and measurement")
    add("--chart", metavar="FILE.png", help="where a picture of the rates goes")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags, measures, prints; see `--help`."""
    args = parser().parse_args(argv)
    paths.arguments(args, "video", "chart")
    parts = _chosen(args.parts, PARTS, "--parts")
    dtypes = _chosen(args.dtype, DTYPES, "--dtype")
    for option in ("batch", "repeats"):
        if getattr(args, option) < 1:
            raise JaxvidError(f"--{option}={getattr(args, option)} must be 1 or more")
    if args.video:
        paths.readable(args.video, "--video")
    if args.chart:
        if args.chart.suffix.lower() != ".png":
            raise JaxvidError(f"--chart={args.chart} must end in .png: charts are PNGs")
        paths.writable_file(args.chart, "--chart")
    names = _rows(args.model)
    if args.backend:
        os.environ["JAX_PLATFORMS"] = "cuda,rocm" if args.backend == "gpu" else args.backend
    found, refused = _measure(args, names, parts, dtypes)
    if args.chart and found:
        from jaxvid.bench import report

        report.draw(found, args.chart)
        say(f"chart: {args.chart}", error=args.json)
    if refused:
        raise JaxvidError(f"not measured: {listed(refused)}")


def _chosen(given: str, known: Sequence[str], option: str) -> list[str]:
    chosen = given.split(",")
    for name in chosen:
        if name not in known:
            raise JaxvidError(f"{option}={given}: {name!r} is none of {', '.join(known)}")
    return [name for name in known if name in chosen]


def _rows(given: Sequence[str]) -> list[str]:
    """The rows and variants that names and patterns stand for, each once."""
    from jaxvid import zoo

    names: dict[str, None] = {}
    for each in ",".join(given).split(","):
        if not set(each) & set("*?["):
            names[zoo.starting_row(each).name] = None
            continue
        matching = zoo.list_models(each) or fnmatch.filter(zoo.variants(), each)
        if not matching:
            raise JaxvidError(
                f"--model={each} matches no row: `python -m jaxvid.zoo list` shows all"
            )
        names.update(dict.fromkeys(matching))
    return list(names)


def _measure(
    args: argparse.Namespace, names: Sequence[str], parts: Sequence[str], dtypes: Sequence[str]
) -> tuple[list["Measured"], list[str]]:
    """What was measured and printed, and why what was not."""
    # From a video to labels it is what predictions compute in.
    todo = [
        (name, part, dtype)
        for name in names
        for part in parts
        for dtype in (dtypes[:1] if part == "video" else dtypes)
    ]
    from jaxvid.bench import measure, report

    found, refused = [], []
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        video = args.video or (measure.write_video(folder) if "video" in parts else None)
        machine = measure.machine()
        if not args.json:
            say(*report.about(machine))
        progress = Progress(len(todo), "bench", "measurements")
        for name, part, dtype in todo:
            try:
                subject = measure.subject(name, dtype, args.batch, args.small)
                work = measure.work(subject, part, folder, video)
                times = measure.time_work(work.run, args.repeats)
            except (JaxvidError, RuntimeError) as error:  # the latter is JAX's, as of full memory
                refused.append(f"{name} {part} {dtype} ({str(error).splitlines()[0]})")
                progress.update()
                continue
            found.append(measure.Measured(machine, subject.name, part, work, times))
            progress.clear()
            if args.json:
                say_json(report.as_json(found[-1]))
            else:
                say(report.as_line(found[-1]))
            progress.update()
        progress.close()
    return found, refused
