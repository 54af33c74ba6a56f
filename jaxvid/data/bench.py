"""Measures the input pipeline alone: how many clips a second it can give a network.

python -m jaxvid.data.bench --config=configs/tsm_r50.py:data_dir=DIR
"""

import argparse
import dataclasses
import itertools
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxvid.base.errors import JaxvidError
from jaxvid.base.exits import exit_on_error
from jaxvid.base.text import say
from jaxvid.config import fields, loading
from jaxvid.config.parts import Config

if TYPE_CHECKING:
    from jaxvid.data.datasets import Split

_ROUNDS, _STEPS = 3, 5


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


class _Subject(NamedTuple):
    """A config that is measured, and the videos of it."""

    config: Config
    split: "Split"
    name: str


def main(argv: Sequence[str] | None = None) -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxvid.data.bench",
        description="Measures the input pipeline alone, without a network: clips a second on all "
        "cores and, of training, where the time of a processor goes.",
    )
    parser.add_argument(
        "--config",
        required=True,
        action="append",
        help="config file with its arguments: configs/FILE.py:name=...; may be given again, as for "
        "records and the files that they were built from, which take turns then",
    )
    parser.add_argument("--test", action="store_true", help="the views of the test, not training")
    parser.add_argument(
        "--step",
        action="store_true",
        help="also time the training step of the (first) config with a batch that is on the "
        "devices: what no input can exceed",
    )
    parser.add_argument("--batches", type=int, default=20, help="how many to time (default 20)")
    parser.add_argument("--workers", type=int, help="threads; 0 means all cores")
    parser.add_argument("--batch_size", type=int, help="global batch instead of the config's")
    with exit_on_error():
        args = parser.parse_args(argv)
        if args.test and args.step:
            raise JaxvidError("--step is of training: leave --test out")
        subjects = [_open(text, args) for text in args.config]
        speeds = [_speed(subject, args) for subject in subjects]
        if not args.test:
            _say_shares(subjects)
        if args.step:
            _say_step(subjects[0], speeds[0])


def _open(text: str, args: argparse.Namespace) -> _Subject:
    """Reads a config, as the arguments change it, and opens its videos."""
    from jaxvid.data import datasets

    config = loading.load(text)
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
    name = frozen.data.test_split if args.test else frozen.data.train_split
    split = datasets.open_split(frozen.data, name)
    return _Subject(frozen, split, f"{frozen.data.dataset} {name}")


def _speed(subject: _Subject, args: argparse.Namespace) -> Speed:
    """Measures on all workers, and says it."""
    from jaxvid.data import pipeline

    c, split = subject.config, subject.split
    if args.test:
        batches = pipeline.test_batches(split, c.test, loss=c.train.loss, workers=c.data.workers)
    else:
        batches = pipeline.train_batches(
            split, c.data, batch_size=c.train.batch_size, loss=c.train.loss, seed=c.seed
        )
    speed = measure(batches, args.batches)
    if isinstance(batches, pipeline.Batches):
        batches.close()  # They would go on beside what is measured next.
    say(
        f"{subject.name}: {speed.clips:.1f} clips/s, {speed.frames:.0f} frames/s,"
        f" {speed.megabytes:.0f} MB/s out; the first batch took {speed.first_batch:.1f} s"
    )
    return speed


def _say_shares(subjects: Sequence[_Subject]) -> None:
    """Measures what a clip of each costs, in turns, and says the medians."""
    from jaxvid.data import shares

    rounds = [
        [shares.measure(split, c.data, c.train.loss, c.seed) for c, split, _ in subjects]
        for _ in range(_ROUNDS)
    ]
    for subject, measured in zip(subjects, zip(*rounds, strict=True), strict=True):
        spent = {name: statistics.median(one[name] for one in measured) for name in measured[0]}
        ratios = [
            sum(one.values()) / sum(first[0].values())
            for one, first in zip(measured, rounds, strict=True)
        ]
        beside = ""
        if subject is not subjects[0]:
            beside = (
                f", {statistics.median(ratios):.2f} times that of {subjects[0].name}"
                f" ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        say(
            f"{subject.name}: a clip takes {1000 * sum(spent.values()):.1f} ms of a processor"
            f"{beside}",
            *shares.lines(spent),
        )


def _say_step(subject: _Subject, speed: Speed) -> None:
    """Measures the training step on the devices of this process, and says it beside its input."""
    import jax

    from jaxvid.bench import measure as networks
    from jaxvid.devices import placement

    c = subject.config
    mesh = placement.make_mesh(jax.local_devices(), c.train.axes)
    work = networks.work(
        networks.Subject(c.model.name, c, subject.split.classes, mesh),
        "train",
        folder=pathlib.Path(),
        video=None,
    )
    times = networks.time_work(work.run, _STEPS)
    rate = work.clips / statistics.median(times.wall)
    say(
        f"the step with its input cached: {rate:.1f} clips/s on {len(mesh.devices.flat)} x "
        f"{jax.local_devices()[0].device_kind}; its input makes {speed.clips / rate:.2f} times that"
    )


if __name__ == "__main__":
    main()
