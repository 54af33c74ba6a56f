"""The command: flags to lists, records and a report."""

import argparse
from collections.abc import Sequence

from jaxvid.base import paths, text
from jaxvid.data.build import show
from jaxvid.data.building import FLOW_WAYS
from jaxvid.data.prepare.catalogue import DATASETS
from jaxvid.data.prepare.options import Options
from jaxvid.data.prepare.run import prepare
from jaxvid.rows import RECORD_SIDE


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the flags, prepares the dataset and says what was built; see `--help`."""
    args = _parser().parse_args(argv)
    classes: tuple[str, ...] = ()
    if args.classes is not None:
        classes = text.read_names(paths.local(args.classes, "--classes"))
    given = {split: getattr(args, split) for split in ("train", "val", "test")}
    report, built = prepare(
        args.name,
        args.source,
        args.out,
        annotations=args.annotations,
        given={split: path for split, path in given.items() if path is not None},
        options=Options(args.fold, args.category, args.clips, classes),
        splits=tuple(filter(None, args.splits.split(","))),
        fps=args.fps,
        lists=args.lists,
        flow=args.flow,
        short_side=args.short_side,
        workers=args.workers,
        overwrite=args.overwrite,
    )
    for split, summary in built.items():
        show(summary)
        text.say(f"{split}: {report.splits[split].total}")
    text.say(f"the report, with all classes: {args.out}/report.txt")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.data.prepare",
        description="Turns a dataset as it is published, its annotations and media, into lists and "
        "records, and reports what is there and what is missing. It downloads nothing.",
        epilog=f"Datasets and formats: {', '.join(DATASETS)}.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="the dataset, or the format of the lists; see below")
    add("--source", required=True, metavar="DIR", help="folder with the media, however deep")
    add("--out", required=True, metavar="DIR", help="folder for the lists, records and report")
    add("--annotations", metavar="DIR", help="folder with the annotations (default: --source)")
    for split in ("train", "val", "test"):
        add(f"--{split}", metavar="FILE", help=f"annotations of {split}, whatever their name")
    add("--lists", action="store_true", help="write lists and the report only, no records")
    add("--flow", choices=FLOW_WAYS, default="", help="build records of optical flow, computed so "
        "or read from pictures, in place of those of pictures")  # fmt: skip
    add("--splits", default="", metavar="NAME,...", help="splits to build records of (default: "
        "all that have labels)")  # fmt: skip
    add("--fold", type=int, default=1, metavar="1..3", help="of UCF101 and HMDB51 (default: 1)")
    add("--category", default="", metavar="NAME", help="of HVU's tags (default: all)")
    add("--clips", action="store_true", help="of ActivityNet the annotated parts, not whole videos")
    add("--classes", metavar="FILE", help="names of the numbers in others' lists, one a line, or a "
        "dataset such as kinetics400")  # fmt: skip
    add("--fps", type=float, metavar="RATE", help="frames a second of folders of frames")
    add("--short-side", type=int, default=RECORD_SIDE, metavar="PIXELS", help="shrink larger "
        "frames to this shorter side (default: %(default)s)")  # fmt: skip
    add("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    add("--overwrite", action="store_true", help="replace existing records")
    return parser
