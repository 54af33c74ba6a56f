"""Awkward videos through a build, through batches of files, and through prediction.

`python -m tests.data.odd DIR` takes a folder with a `manifest.csv`, whose columns `file` and
`nb_frames_decoded` say how many frames a correct reader sees, none for a file that is no video.
Each must have that many in all three, or be refused with its reason by all three; a file of which
the manifest expects frames may be refused only as truncated. The exit code is 1 where one is not.
"""

import argparse
import contextlib
import csv
import pathlib
import sys
import tempfile
import time

from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, files, records
from jaxvid.inference.predictor import Predictor
from tests.data import fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path)
    args = parser.parse_args()
    with open(args.folder / "manifest.csv", newline="", encoding="utf-8") as file:
        expected = {row["file"]: row["nb_frames_decoded"] for row in csv.DictReader(file)}
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        place = pathlib.Path(scratch)
        lines = [f"{name},{number % 3}" for number, name in enumerate(expected)]
        (place / "train.csv").write_text("\n".join(["path,label", *lines]) + "\n")
        built = _built(args.folder, place)
        source = files.Files(args.folder, place / "train.csv", place / "train.csv", 2)
        predictor = fuzz.make_predictor(place / "network")
        for number, name in enumerate(expected):
            began = time.perf_counter()
            found = [
                built[name],
                source.bad.get(number) or int(source.num_frames[number]),
                _predicted(predictor, args.folder / name),
            ]
            counts = [each if isinstance(each, int) else None for each in found]
            want = int(expected[name]) if expected[name] else None
            truncated = "truncated" in str(found[0])
            right = counts == [want] * 3 or (counts == [None] * 3 and truncated)
            wrong += not right
            print(
                f"{'ok ' if right else 'BAD'} {name}: manifest {want}, built, as a file, predicted:"
                f" {', '.join(map(str, found))}; {time.perf_counter() - began:.1f} s",
                flush=True,
            )
    print(f"{len(expected)} videos, {wrong} of them wrong")
    sys.exit(wrong > 0)


def _built(folder: pathlib.Path, place: pathlib.Path) -> dict[str, int | str]:
    """How many frames each video has in records, or why it is in none."""
    with contextlib.redirect_stdout(sys.stderr):
        summary = build.build(folder, place / "train.csv", place / "records", workers=2)
    split = records.Records(place / "records", "train")
    counts = dict(zip(split.path.tolist(), split.num_frames.tolist(), strict=True))
    return summary.bad | counts


def _predicted(predictor: Predictor, path: pathlib.Path) -> int | str:
    try:
        return predictor.predict(path).num_frames
    except JaxvidError as error:
        return str(error)


if __name__ == "__main__":
    main()
