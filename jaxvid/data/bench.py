"""Measures the input pipeline alone: how many clips a second it can give a network.

python -m jaxvid.data.bench --config=configs/tsm_r50.py:data_dir=DIR
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Iterator, Sequence

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.base.text import say
from jaxvid.config import fields, loading


@dataclasses.dataclass(frozen=True)
class Speed:
    """What was measured after the first batch: rates per second, and seconds until that one."""

    clips: float
    frames: float
    megabytes: float
    first_batch: float


def measure(batches: Iterator[dict[str, np.ndarray]], count: int) -> Speed:
    """Times `count` batches after the first, which also starts the pipeline."""
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter()
    clips = frames = size = 0
    for batch in itertools.islice(batches, count):
        *many, _, _, _ = batch["video"].shape
        clips += int(np.prod(many[:-1]))
        frames += int(np.prod(many))
        size += batch["video"].nbytes
    seconds = time.perf_counter() - first
    if not clips:
        raise JaxvidError("there is only one batch: measure with a smaller batch_size")
    return Speed(clips / seconds, frames / seconds, size / 1e6 / seconds, first - start)


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.data.bench",
        description="Measures the input pipeline alone, without a network.",
    )
    parser.add_argument(
        "--config", required=True, help="config file with its arguments: configs/FILE.py:name=..."
    )
    parser.add_argument("--test", action="store_true", help="the views of the test, not training")
    parser.add_argument("--batches", type=int, default=20, help="how many to time (default 20)")
    parser.add_argument("--workers", type=int, help="threads; 0 means all cores")
    parser.add_argument("--batch_size", type=int, help="global batch instead of the config's")
    with exit_on_error():
        args = parser.parse_args(argv)
        from jaxvid.data import datasets, pipeline

        config = loading.load(args.config)
        part = config.test if args.test else config.train
        if args.workers is not None:
            config.data.workers = args.workers
        if args.batch_size is not None:
            part.batch_size = args.batch_size
        frozen = fields.freeze(config)
        if frozen.model.members:
            raise JaxvidError(
                f"{frozen.model.name} is several networks: measure {frozen.model.members[0]}"
            )
        data, loss = frozen.data, frozen.train.loss
        name = data.test_split if args.test else data.train_split
        split = datasets.open_split(data, name)
        if args.test:
            batches = pipeline.test_batches(split, frozen.test, loss=loss, workers=data.workers)
        else:
            batches = pipeline.train_batches(
                split, data, batch_size=frozen.train.batch_size, loss=loss, seed=frozen.seed
            )
        speed = measure(batches, args.batches)
        say(
            f"{data.dataset} {name}: {speed.clips:.1f} clips/s, {speed.frames:.0f} frames/s,"
            f" {speed.megabytes:.0f} MB/s out; the first batch took {speed.first_batch:.1f} s"
        )


if __name__ == "__main__":
    main()
