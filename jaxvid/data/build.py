"""The command that builds records of a folder of videos and a CSV of labels; see `building`.

python -m jaxvid.data.build --videos=clips --labels=train.csv --out=records
"""

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

from jaxvid.base import paths, text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.exits import exit_on_error
from jaxvid.data import splitting
from jaxvid.data.building import FLOW_WAYS, Summary, build
from jaxvid.rows import RECORD_SIDE


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m jaxvid.data.build`."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.data.build",
        description="Turns a folder of videos and a CSV of labels into sharded TFRecords in "
        "DMVR's layout, with an index, frame rates and class names beside them. A build that was "
        "killed goes on where it was when the same command is run again.",
        epilog="The CSV begins with the line path,label, or with path alone for videos without "
        "labels, which pretraining takes; with the columns start and end, in seconds, a line is "
        "that part of its video; paths start from --videos; labels are "
        "names or class numbers (0, 1, ..., none with leading zeros), several of one video with | "
        "between; what holds a comma stands in quotes. Videos that cannot be read are left out and "
        "listed with the reason in bad_videos.csv in --out.",
    )
    add = parser.add_argument
    add("--videos", required=True, metavar="DIR", help="folder from which the CSV's paths start")
    add("--labels", required=True, metavar="FILE", help="CSV with the columns path and label")
    add("--out", required=True, metavar="DIR", help="folder for the records")
    add("--split", metavar="NAME", help="name of the split (default: that of the CSV)")
    add("--split-by", choices=splitting.BY, help="part the CSV at random into train.csv and "
        "test.csv in --out, and build both: with the clips of a group, as the column group names "
        "them, on one side; or, where no two clips have person, place or recording in common, "
        "with no more than the parts of a video together")  # fmt: skip
    add("--test-share", type=float, default=0.2, metavar="SHARE", help="of the clips, with "
        "--split-by (default: %(default)s)")  # fmt: skip
    add("--val-share", type=float, default=0.0, metavar="SHARE", help="likewise, for val.csv "
        "(default: no such split)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of --split-by (default: 0)")
    add("--shards", type=int, metavar="N", help="number of files (default: the square root of "
        "the number of videos)")  # fmt: skip
    add("--short-side", type=int, default=RECORD_SIDE, metavar="PIXELS", help="shrink larger "
        "frames to this shorter side; none is enlarged (default: %(default)s)")  # fmt: skip
    add("--flow", choices=FLOW_WAYS, default="", help="optical flow in place of the pictures, as "
        "the split NAME.flow beside the split NAME: computed by OpenCV, or read from folders of "
        "pictures flow_x_00001.jpg, flow_y_00001.jpg, ... that the CSV lists")  # fmt: skip
    add("--quality", type=int, default=95, metavar="1..100", help="of the JPEGs (default: 95)")
    add("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    add("--classes", metavar="FILE", help="class names, one a line, in the order of their numbers, "
        "or a dataset whose list the library brings, such as kinetics400 "
        "(default: labels.txt in --out, or the labels of the CSV, sorted)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace existing records of this split")
    add("--strict", action="store_true", help="fail if any video cannot be read")
    add("--runner", metavar="NAME", help="let the workers of an Apache Beam pipeline write the "
        "shards: its runner, such as DirectRunner or DataflowRunner; all other flags are then "
        "passed on to it")  # fmt: skip
    with exit_on_error():
        args, others = parser.parse_known_args(arguments)
        if others and args.runner is None:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        given = vars(args)
        runner = given.pop("runner")
        given["beam"] = None if runner is None else [f"--runner={runner}", *others]
        how = [given.pop(name) for name in ("split_by", "seed", "test_share", "val_share")]
        for each in build_sides(*how, **given) if how[0] else [build(**given)]:
            show(each)


def build_sides(
    by: str, seed: int, test: float, val: float, *, labels: str, out: str, **given: Any
) -> Iterator[Summary]:
    """Parts the list as `splitting` says, and builds each side."""
    if given.pop("split"):
        raise JaxvidError("--split names one split, but --split-by makes several: leave one out")
    folder, whole_list = paths.writable(out, "--out"), paths.local(labels, "--labels")
    shares = {"test": test, "val": val} if val else {"test": test}
    sides, names = splitting.split(whole_list, by, seed, shares)
    if whole_list.resolve() in [(folder / f"{side}.csv").resolve() for side in sides]:
        raise JaxvidError(f"{labels} would be overwritten by its part: choose another --out")
    with paths.writing(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        splitting.write(folder, sides, names, by, given["overwrite"])
    splitting.show(sides, names, by)
    for side in sides:
        yield build(labels=folder / f"{side}.csv", out=out, names=names, **given)


def show(summary: Summary) -> None:
    """Prints what was built and what was left out."""
    text.say(
        f"{summary.split}: {summary.num_videos} videos, {summary.num_frames} frames, "
        f"{len(summary.classes)} classes, {summary.num_bytes / 1e6:.1f} MB in {summary.num_shards} "
        f"shards in {summary.folder}"
    )
    for wrong, what in ((summary.bad, "left out"), (summary.damaged, "kept though not whole")):
        if wrong:
            text.say(f"{len(wrong)} {what}, listed in {summary.folder / 'bad_videos.csv'}:")
            for path, reason in list(wrong.items())[:5]:
                text.say(f"  {path}: {reason}")
            if len(wrong) > 5:
                text.say(f"  and {len(wrong) - 5} more")
    if summary.empty_classes:
        text.say(f"classes without a video: {listed(summary.empty_classes, separator=', ')}")


if __name__ == "__main__":
    main()
