"""What a dataset holds, in figures, and what of that is worth a warning."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from jaxvid.base.errors import listed
from jaxvid.base.text import shown
from jaxvid.config.parts import Config
from jaxvid.data.datasets import Split
from jaxvid.data.order import clips_of_classes

_UNEVEN = 3
"""So many times more clips in one class than in another are said."""


def class_counts(split: Split) -> np.ndarray:
    """The videos of each class, int64 `[classes]`."""
    return clips_of_classes(split.source.labels, len(split.classes), 0.0).round().astype(np.int64)


def rates(split: Split) -> np.ndarray:
    """Frames a second of each video, NaN where unknown."""
    fps = np.asarray(split.source.fps, np.float64)
    return np.where(fps > 0, fps, np.nan)


def seconds(split: Split) -> np.ndarray:
    """The length of each video, NaN where its rate is unknown."""
    return np.asarray(split.source.num_frames) / rates(split)


def span(config: Config) -> int:
    """Frames from the first to the last of a clip of training; 0 where it spans the video."""
    how = config.data.sampling
    if how.clip_len == 1 or how.sampler == "uniform":
        return 0
    return (how.clip_len - 1) * how.frame_interval + 1


def table(splits: Mapping[str, Split]) -> list[list[str]]:
    """Lines of a table with a column for each split, the first of them its head."""
    lines = [["", *splits]]
    each = [_facts(split) for split in splits.values()]
    return lines + [[name, *(facts[name] for facts in each)] for name in each[0]]


def _facts(split: Split) -> dict[str, str]:
    frames, long = np.asarray(split.source.num_frames), seconds(split)
    known = long[np.isfinite(long)]
    fps = rates(split)[np.isfinite(long)]
    counts = class_counts(split)
    several = [len(labels) for labels in split.source.labels]
    sizes = np.stack([split.source.width, split.source.height], 1)
    each, often = np.unique(sizes, axis=0, return_counts=True)
    width, height = each[often.argmax()]
    return {
        "videos": str(len(split)),
        "classes with videos": f"{(counts > 0).sum()} of {len(counts)}",
        "labels a video": (
            f"{min(several)} to {max(several)}, {np.mean(several):.2f} on average"
            if min(several) < max(several)
            else str(max(several))
        ),
        "videos a class": f"{counts.min()} to {counts.max()}" if len(counts) else "none",
        "frames": f"{frames.min()} to {frames.max()}, {np.median(frames):.0f} at the median",
        "seconds": (
            f"{known.min():.1f} to {known.max():.1f}, {np.median(known):.1f} at the median, "
            f"{known.sum() / 3600:.2g} h in all"
            if len(known)
            else "unknown"
        ),
        "frames a second": f"{fps.min():.4g} to {fps.max():.4g}" if len(fps) else "unknown",
        "pixels": (
            f"{len(each)} sizes, most often {width} x {height}"
            if len(each) > 1
            else f"{width} x {height}"
        ),
    }


def warnings(config: Config, splits: Mapping[str, Split]) -> Iterator[str]:
    """What may go wrong with training on these, a sentence each."""
    (name, train), *others = splits.items()
    yield from _uneven(config, name, train)
    for other, split in others:
        counts, known = class_counts(split), class_counts(train)
        for where, lacking in (
            (name, (known == 0) & (counts > 0)),
            (other, (counts == 0) & (known > 0)),
        ):
            if lacking.any():
                names = [shown(train.classes[number]) for number in np.flatnonzero(lacking)]
                yield f"{where} has no video of {listed(names, 8, ', ')}."
    short = int((np.asarray(train.source.num_frames) < span(config)).sum())
    if short:
        yield (
            f"{short} of {len(train)} videos of {name} are shorter than the {span(config)} frames "
            "that a clip spans: their frames are repeated. A smaller "
            "config.data.sampling.frame_interval or clip_len spans less."
        )
    if _sided(config, train):
        yield (
            f"Classes are called left or right, and config.data.flip={config.data.flip:g} mirrors "
            "clips without changing their labels: set config.data.flip=0, or name the pairs in "
            "config.data.mirrored_labels."
        )
    for where, split in splits.items():
        unknown = int(np.isnan(rates(split)).sum())
        if unknown:
            yield f"{unknown} of {len(split)} videos of {where} do not say their frame rate."
    known = rates(train)[np.isfinite(rates(train))]
    how = config.data.sampling
    if span(config) and how.sampler != "timed" and len(known) and known.max() > 2 * known.min():
        low, high = span(config) / known.max(), span(config) / known.min()
        yield (
            f"Frame rates differ: a clip spans {low:.1f} to {high:.1f} s. Where speed tells "
            "classes apart, bring the videos to one rate, or set "
            "config.data.sampling.sampler=timed."
        )


def _uneven(config: Config, name: str, train: Split) -> Iterator[str]:
    """Says that some classes have far more videos than others, and nothing makes up for it."""
    counts = class_counts(train)
    there = np.flatnonzero(counts)
    made_up = config.data.balance or config.train.class_weights
    if not len(there) or made_up or config.train.loss == "pixels":
        return
    low, high = there[counts[there].argmin()], there[counts[there].argmax()]
    if counts[high] >= _UNEVEN * counts[low]:
        yield (
            f"{shown(train.classes[high])} has {counts[high]} videos in {name}, "
            f"{shown(train.classes[low])} {counts[low]}: config.data.balance or "
            "config.train.class_weights make up for that."
        )


def _sided(config: Config, train: Split) -> bool:
    sides = [re.search(r"(?<![a-z])(left|right)(?![a-z])", name.lower()) for name in train.classes]
    return bool(config.data.flip and not config.data.mirrored_labels and any(sides))
