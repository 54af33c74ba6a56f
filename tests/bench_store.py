"""Clips a second from the simulated object store beside those from the disk, in one run.

    python -m tests.bench_store

Records of random pictures of the size of Kinetics' are written to both. The store takes 30 ms for
each request; of a hundred one fails or stalls. All ways take turns, and the ratio is that to the
disk, read by as many threads, in the same round.
"""

import argparse
import contextlib
import io
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np
from PIL import Image

from jaxvid.base import blocks, stores
from jaxvid.config import fields, loading
from jaxvid.data import batches, bench, datasets, index, pipeline, shards
from jaxvid.data.cores import usable_cores
from tests import store

SHARDS = 8


def write(folder: pathlib.Path, videos: int, frames: int) -> None:
    """Writes records of videos whose frames are 256 x 340 and some 20 kB."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(64):
        rough = Image.fromarray(rng.integers(0, 256, (64, 85, 3), np.uint8))
        out = io.BytesIO()
        rough.resize((340, 256), Image.Resampling.BICUBIC).save(out, "JPEG", quality=90)
        pictures.append(out.getvalue())
    names = shards.names("train", SHARDS)
    entries = []
    for number, name in enumerate(names):
        with open(folder / name, "wb") as file:
            for video in range(number, videos, SHARDS):
                some = [pictures[rng.integers(len(pictures))] for _ in range(frames)]
                entries.append(
                    shards.append(
                        file,
                        some,
                        shard=number,
                        labels=[0],
                        texts=["a"],
                        path=f"{video}.mp4",
                        fps=25.0,
                    )
                )
    (folder / "labels.txt").write_text("a\nb\n")
    index.write(folder, "train", names, entries)


def one_by_one(
    reader: blocks.Reader,
    path: stores.StorePath,
    found: stores.Found,
    spans: Sequence[tuple[int, int]],
) -> list[bytes]:
    """A request for each frame, one after the other, of which nothing is kept."""
    return [stores.read_ranges(path, [span])[0] for span in spans]


@contextlib.contextmanager
def way(name: str) -> Iterator[None]:
    """How the store is read."""
    with contextlib.ExitStack() as stack:
        if "one by one" in name:
            stack.enter_context(mock.patch.object(blocks.Reader, "read", one_by_one))
        if "plain" in name:
            stack.enter_context(mock.patch.object(batches, "IN_FLIGHT", usable_cores()))
        if "cache" not in name:
            stack.enter_context(mock.patch.dict(os.environ, JAXVID_STORE_CACHE_GB="0"))
        yield


DISK = "disk, 32 clips in flight"
WAYS = (
    DISK,
    "disk, a clip for each core, as disks are read",
    "store, plain: frames one by one, a clip for each core",
    "store, 32 clips in flight, frames one by one",
    "store, 32 clips in flight, few ranges a clip",
    "store, the same, into an empty cache",
    "store, the same, from a full cache",
)


def clips_per_second(kind: str, folder: pathlib.Path, args: argparse.Namespace) -> float:
    """How many training clips a second come out of a folder."""
    config = loading.load(f"{args.config}:dataset=mine")
    config.data.data_dir = str(folder)
    c = fields.freeze(config)
    with way(kind):
        split = datasets.open_split(c.data, "train")
        if kind == DISK:  # As many threads, which get more of a machine that others use, too.
            split.source.remote = True
        size = args.batch_size
        made = pipeline.train_batches(split, c.data, batch_size=size, loss=c.train.loss, seed=0)
        speed = bench.measure(made, args.batches)
        made.close()
    return speed.clips


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="configs/slowonly_r50.py")
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, store.running(0.03, 0.007, 0.003) as address:
        folder = pathlib.Path(name, "records")
        folder.mkdir()
        os.environ |= store.environment(address)
        write(folder, args.videos, args.frames)
        there = stores.StorePath("s3://bucket/records")
        stores.upload_folder(folder, there)
        speeds: dict[str, list[float]] = {kind: [] for kind in WAYS}
        asked: dict[str, list[int]] = {kind: [] for kind in WAYS}
        for number in range(args.rounds):
            os.environ["XDG_CACHE_HOME"] = f"{name}/{number}"
            for kind in WAYS:
                before = store.counts(address)["GET"]
                place = folder if kind.startswith("disk") else there
                speeds[kind].append(clips_per_second(kind, place, args))
                asked[kind].append(store.counts(address)["GET"] - before)
        for kind in WAYS:
            ratios = [x / disk for x, disk in zip(speeds[kind], speeds[DISK], strict=True)]
            sys.stdout.write(
                f"{kind}: {statistics.median(speeds[kind]):.1f} clips/s, of the disk's "
                f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
                f"{statistics.median(asked[kind]):.0f} GETs\n"
            )


if __name__ == "__main__":
    main()
