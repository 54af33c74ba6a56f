"""The pictures and the page of a dataset, put together."""

import functools
import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import IO

import numpy as np

from jaxvid.base import csvs, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.base.progress import Progress
from jaxvid.config.parts import Config
from jaxvid.data import datasets, duplicates
from jaxvid.data.duplicates import Pair
from jaxvid.data.order import clips_of_classes
from jaxvid.data.viewing import facts, looks, page
from jaxvid.data.viewing.looks import Look
from jaxvid.data.views import untrimmed
from jaxvid.reports import charts, draw

COPIES = ("across", "all", "none")
"""Where near copies are looked for: between splits, within each as well, or nowhere."""
_MOST_PAIRS = 20
Splits = dict[str, datasets.Split]
Copies = tuple[str, str, Pair]
"""Two splits and a near copy: the first's video, and the second's."""


def view(config: Config, out: pathlib.Path, *, clips: int, step: int, copies: str) -> list[str]:
    """Writes `index.html` and its pictures into the folder `out`; returns what is to be warned of.

    Args:
      config: what a run is told.
      out: the folder, which is made.
      clips: how many of training are shown, and how many videos of the test.
      step: the training step whose batch comes first, from 0.
      copies: where near copies are looked for, one of `COPIES`.
    """
    splits = _open(config)
    names = list(splits)
    train, test = splits[names[0]], splits[names[-1]]
    fed = _listed(looks.of_training(config, train, step, clips), clips, "making clips")
    said, tested = list(facts.warnings(config, splits)), []
    if untrimmed(config.test.protocol):
        said.append(f"Views of {names[-1]} are not shown: an untrimmed test has too many.")
    else:
        clips = min(clips, len(test))
        tested = _listed(looks.of_test(config, test, clips), clips, "making views")
    found, unread = _copies(splits, copies)
    said += unread
    said += [
        f"{len(list(pairs))} near copies between {one} and {other}: the test measures memory."
        for (one, other), pairs in itertools.groupby(found, key=lambda each: each[:2])
        if one != other
    ]
    out.mkdir(parents=True, exist_ok=True)
    drawn = _charts(config, splits)
    for name, each in drawn.items():
        with whole.file(out / f"{name}.png") as file:
            each(file)
    shown = [_pair(splits, *each) for each in found[:_MOST_PAIRS]]
    titles = {
        "train": f"Clips of {names[0]} from step {step} on, as a device gets them",
        "test": f"Views of {names[-1]}",
        "copies": "Near copies",
    }
    sheets = {"train": fed, "test": tested, "copies": shown}
    for name, several in sheets.items():
        if several:
            with whole.file(out / f"{name}.png") as file:
                pictures = [look.picture for look in several]
                draw.sheet(pictures, [look.caption for look in several], file, titles[name])
    if copies != "none":
        _write_copies(out / "copies.csv", splits, found)
    made = page.make(
        config=config,
        table=facts.table(splits),
        said=said,
        charts={name: (out / f"{name}.png").read_bytes() for name in drawn},
        sections={titles[name]: several for name, several in sheets.items() if several},
        copies=None if copies == "none" else len(found),
    )
    whole.text(out / "index.html", made)
    return said


def _open(config: Config) -> Splits:
    """The splits of training and test, which may be the same."""
    labelled = config.train.loss != "pixels"
    data = config.data
    splits = {
        name: datasets.open_split(data, name, labelled=labelled)
        for name in (data.train_split, data.test_split)
    }
    classes = {split.classes for split in splits.values()}
    if len(classes) > 1:
        raise JaxvidError(
            f"{data.dataset}: the splits {data.train_split} and {data.test_split} name different "
            "classes: build both with the same labels"
        )
    return splits


def _listed(several: Iterable[Look], count: int, what: str) -> list[Look]:
    progress = Progress(count, what, "clips")
    made = []
    for look in several:
        made.append(look)
        progress.update()
    progress.close()
    return made


def _copies(splits: Splits, where: str) -> tuple[list[Copies], list[str]]:
    """Near copies, those between splits first, and what is to be said of videos without a hash."""
    if where == "none" or where == "across" and len(splits) < 2:
        return [], []
    hashed, said = {}, []
    for name, split in splits.items():
        hashed[name], bad = duplicates.hashes(split.source, name)
        said += [f"{reason}: not compared." for reason in bad.values()]
    found = [
        (one, other, pair)
        for one, other in itertools.combinations(splits, 2)
        for pair in duplicates.pairs(hashed[one], hashed[other])
    ]
    if where == "all":
        found += [(name, name, pair) for name in splits for pair in duplicates.pairs(hashed[name])]
    return found, said


def _pair(splits: Splits, one: str, other: str, pair: Pair) -> Look:
    """Two near copies, one above the other."""
    rows, paths, labels = [], [], []
    for name, video in ((one, pair.one), (other, pair.other)):
        split = splits[name]
        places = duplicates.places(split.source, video)
        rows.append(looks.stored(split.source, video, np.unique(places)))
        paths.append(f"{split.paths[video]} ({name})")
        labels.append(looks.named(split, video))
    marks = () if labels[0] == labels[1] else (f"its copy: {labels[1]}",)
    details = f"{pair.bits:.1f} bits a frame apart"
    return Look(" and ".join(paths), labels[0], marks, details, draw.grid(rows, side=80), rows[0])


def _write_copies(path: pathlib.Path, splits: Splits, found: Sequence[Copies]) -> None:
    header = ["split", "path", "other_split", "other_path", "bits"]
    lines = []
    for one, other, pair in found:
        paths = splits[one].paths[pair.one], splits[other].paths[pair.other]
        lines.append([one, paths[0], other, paths[1], f"{pair.bits:.2f}"])
    csvs.write(path, header, lines)


def _charts(config: Config, splits: Splits) -> dict[str, Callable[[IO[bytes]], None]]:
    """What draws each chart, by its name."""
    first = next(iter(splits.values()))
    counts = {name: facts.class_counts(split) for name, split in splits.items()}
    if config.data.balance:
        counts["an epoch of training"] = clips_of_classes(
            first.source.labels, len(first.classes), config.data.balance
        )
    frames = {name: np.asarray(each.source.num_frames, float) for name, each in splits.items()}
    drawn: dict[str, Callable[[IO[bytes]], None]] = {}
    if first.classes and config.train.loss != "pixels":
        drawn["classes"] = functools.partial(charts.classes, first.classes, counts)
    drawn["frames"] = functools.partial(charts.histogram, frames, "frames", mark=facts.span(config))
    for name, values, what in (
        ("seconds", facts.seconds, "seconds"),
        ("rates", facts.rates, "frames a second"),
    ):
        known = {split: values(each) for split, each in splits.items()}
        if any(np.isfinite(each).any() for each in known.values()):
            drawn[name] = functools.partial(charts.histogram, known, what)
    sizes = {
        (w, h)
        for each in splits.values()
        for w, h in zip(each.source.width.tolist(), each.source.height.tolist(), strict=True)
    }
    if len(sizes) == 1:
        return drawn
    widths = {name: np.asarray(each.source.width) for name, each in splits.items()}
    heights = {name: np.asarray(each.source.height) for name, each in splits.items()}
    drawn["sizes"] = functools.partial(charts.sizes, widths, heights)
    return drawn
