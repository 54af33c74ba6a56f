"""The command that builds records of a folder of videos and a CSV of labels; see `building`.

python -m jaxvid.data.build --videos=clips --labels=train.csv --out=records
"""

import argparse
from collections.abc import Sequence

from jaxvid.base import text
from jaxvid.base.errors import listed
from jaxvid.base.exits import exit_on_error
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
    with exit_on_error():
        show(build(**vars(parser.parse_args(arguments))))


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
