"""A study of an encoder: its features of training and test videos, and what each probe reaches."""

import dataclasses
import itertools
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from jaxvid.base import locks, paths
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say
from jaxvid.config import fields
from jaxvid.config.parts import Config
from jaxvid.data import datasets
from jaxvid.inference import predictor
from jaxvid.layers.probe import AttentiveProbe
from jaxvid.probe import clusters, encoder, fit, neighbours, report, store
from jaxvid.probe.report import Figure, Study, Trial
from jaxvid.probe.store import Features
from jaxvid.reports import metrics

_HEADS = 16
_Found = tuple[list[Figure], list[Trial]]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What of an encoder is looked at, and how; see the command's flags."""

    features: str
    random: bool
    views: str
    probes: Sequence[str]
    choose: str
    rates: Sequence[float]
    decays: Sequence[float]
    seeds: int
    depth: int
    neighbours: Sequence[int]
    plan: fit.Plan


@dataclasses.dataclass(frozen=True)
class _Videos:
    """Features that probes learn from, are chosen on and are tested on.

    `train` is all of the training videos, of which `fit` are learned from before the choice, and
    `chosen_on` are `kept` of `choose`.
    """

    train: Features
    test: Features
    choose: Features
    fit: np.ndarray
    kept: np.ndarray
    classes: int

    @property
    def shared(self) -> bool:
        """Whether the choice takes videos away from training, which come back after it."""
        return len(self.fit) < len(self.train)


def study(
    config: ml_collections.ConfigDict | Config, workdir: str | pathlib.Path, asked: Asked
) -> Study:
    """Takes features, trains and tests what is `asked`, and writes all of it into `workdir`."""
    config = fields.freeze(config)
    workdir = paths.writable(paths.local(workdir, "--workdir"), "--workdir")
    share = _share(asked.choose)
    if asked.views == "one":
        config = predictor.one_view(config)
    names = [config.data.train_split, config.data.test_split]
    if share is None and asked.choose not in names:
        names.append(asked.choose)
    elif asked.choose == config.data.train_split:
        raise JaxvidError(
            f"--choose={asked.choose} is the split that probes learn from: give a share of it such "
            "as 0.2, or another split"
        )
    if asked.choose == config.data.test_split:
        say("note: chosen on the test videos themselves, accuracies are too high", error=True)
    splits = {name: datasets.open_split(config.data, name) for name in names}
    for name, split in splits.items():
        if split.classes != splits[names[0]].classes:
            raise JaxvidError(
                f"split {name!r} has other classes ({len(split.classes)}) than {names[0]!r} "
                f"({len(splits[names[0]].classes)}): build both with the same --classes"
            )
    with locks.hold(workdir, "--workdir"):
        frozen = encoder.load(config, asked.features, asked.random)
        begun = time.process_time()
        store.check(workdir / "features", frozen.about)
        tokens = "attentive" in asked.probes
        found = {
            name: store.extract(frozen, split, name, workdir / "features", tokens)
            for name, split in splits.items()
        }
        taken = time.process_time() - begun
        videos = _videos(found, names, asked, share, len(splits[names[0]].classes))
        figures: list[Figure] = []
        trials: list[Trial] = []
        for name in asked.probes:
            begun = time.process_time()
            more, tried = _PROBES[name](videos, asked)
            seconds = time.process_time() - begun
            figures += [dataclasses.replace(each, processor_seconds=seconds) for each in more]
            trials += tried
        about = {
            **{name: frozen.about[name] for name in ("model", "features", "weights")},
            "init": config.init or "random",
            "views": asked.views,
            "dataset": config.data.dataset,
            "videos": {name: len(split) for name, split in splits.items()},
            "choose": asked.choose,
            "channels": videos.train.means.shape[1],
            "features_processor_seconds": taken,
        }
        result = Study(about, tuple(figures), tuple(trials))
        with paths.writing(workdir, "--workdir"):
            report.write(result, workdir)
    return result


def _share(choose: str) -> float | None:
    """The share of the training videos that `--choose` asks for, if it is no split."""
    try:
        share = float(choose)
    except ValueError:
        return None
    if not 0 < share < 1:
        raise JaxvidError(f"--choose={choose} must be a share between 0 and 1, or a split")
    return share


def _videos(
    found: dict[str, Features], names: list[str], asked: Asked, share: float | None, classes: int
) -> _Videos:
    train, test = (found[name] for name in names[:2])
    if share is None:
        choose = found[asked.choose]
        numbers, kept = np.arange(len(train)), np.arange(len(choose))
    else:
        choose, out = train, fit.held_out(train.labels, share, asked.plan.seed)
        numbers, kept = np.flatnonzero(~out), np.flatnonzero(out)
        if not len(numbers) or not len(kept):
            raise JaxvidError(
                f"--choose={asked.choose} of {len(train)} training videos leaves {len(numbers)} to "
                f"learn from and {len(kept)} to choose on: give another share, or a split"
            )
    return _Videos(train, test, choose, numbers, kept, classes)


def _linear(videos: _Videos, asked: Asked) -> _Found:
    """Linear probes on means, each channel of which has mean 0 and deviation 1 in training."""
    means = videos.train.means[videos.fit]
    middle, width = means.mean(0), means.std(0)
    width = np.where(width > 1e-6 * max(width.max(), 1e-12), width, 1)

    def rows(features: Features) -> fit.Rows:
        return lambda numbers: (features.means[numbers] - middle) / width

    return _search("linear", fit.LinearProbe(videos.classes), rows, videos, asked)


def _attentive(videos: _Videos, asked: Asked) -> _Found:
    """Attentive probes on tokens as they are."""
    channels = videos.train.means.shape[1]
    heads = max(count for count in range(1, _HEADS + 1) if channels % count == 0)
    probe = AttentiveProbe(videos.classes, asked.depth, heads)
    return _search("attentive", probe, lambda features: features.tokens, videos, asked)


def _search(
    name: str,
    probe: nn.Module,
    rows: Callable[[Features], fit.Rows],
    videos: _Videos,
    asked: Asked,
) -> _Found:
    """Trains all probes beside one another, chooses a rate and a decay, and tests these.

    Where training videos were held out for the choice, probes of the chosen rate and decay are
    trained again on all.
    """
    pairs = list(itertools.product(asked.rates, asked.decays))
    settings = [fit.Setting(*pair, seed) for pair in pairs for seed in range(asked.seeds)]
    plan, train, size = asked.plan, videos.train, asked.plan.batch_size

    def among(features: Features, numbers: np.ndarray) -> tuple[fit.Rows, np.ndarray]:
        look = rows(features)
        return lambda places: look(numbers[places]), features.labels[numbers]

    params = fit.train(probe, settings, *among(train, videos.fit), plan, name)
    right = fit.right(probe, params, *among(videos.choose, videos.kept), size)
    reached = right.mean(1).reshape(len(pairs), asked.seeds)
    trials = [
        Trial(name, *setting, value)
        for setting, value in zip(settings, reached.ravel().tolist(), strict=True)
    ]
    best = int(reached.mean(1).argmax())
    place = slice(best * asked.seeds, (best + 1) * asked.seeds)
    if videos.shared:
        everything = np.arange(len(train))
        chosen = fit.train(
            probe, settings[place], *among(train, everything), plan, f"chosen {name}"
        )
    else:
        chosen = jax.tree.map(lambda array: array[place], params)
    everything = np.arange(len(videos.test))
    right = fit.right(probe, chosen, *among(videos.test, everything), size)
    rate, decay = pairs[best]
    how = f"best of {len(pairs)} x {asked.seeds}: lr {rate:g}, weight decay {decay:g}"
    figure = _figure(name, "top-1", right, how)
    return [dataclasses.replace(figure, chosen=float(reached.mean(1)[best]))], trials


def _figure(probe: str, name: str, each: np.ndarray, how: str = "") -> Figure:
    """The mean of values [N], or [seeds, N], of videos, with its errors over these and seeds."""
    each = np.atleast_2d(each).astype(float)
    each = each[:, ~np.isnan(each).any(0)]
    videos, seeds = each.mean(0), each.mean(1)
    return Figure(probe, name, float(videos.mean()), _error(videos), _error(seeds), how)


def _error(values: np.ndarray) -> float | None:
    """The standard error of the mean of values [N], which one value alone has not."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _nearest(videos: _Videos, asked: Asked) -> _Found:
    """k-nearest neighbours, with the best number of them."""
    train, test, counts = videos.train, videos.test, asked.neighbours

    def right(queries: Features, numbers: np.ndarray, among: np.ndarray, counts: Any) -> np.ndarray:
        scores = neighbours.votes(
            queries.means[numbers], train.means[among], train.labels[among], videos.classes, counts
        )
        labels = queries.labels[numbers]
        return np.stack([metrics.top_k_hits(each, labels, 1) for each in scores])

    reached = right(videos.choose, videos.kept, videos.fit, counts).mean(1)
    best = int(reached.argmax())
    found = right(test, np.arange(len(test)), np.arange(len(train)), counts[best : best + 1])
    how = f"best of {len(counts)}: {counts[best]} neighbours"
    figure = _figure("knn", "top-1", found, how)
    return [dataclasses.replace(figure, chosen=float(reached[best]))], []


def _retrieval(videos: _Videos, asked: Asked) -> _Found:
    """Training videos of its class among the nearest of each test video."""
    train, test, counts = videos.train, videos.test, asked.neighbours
    hits, precisions = neighbours.retrieval(
        test.means, test.labels, train.means, train.labels, counts
    )
    figures = [
        _figure("retrieval", f"recall@{count}", each)
        for count, each in zip(counts, hits, strict=True)
    ]
    lacking = int(np.isnan(precisions).sum())
    how = f"without {lacking} videos of classes not in training" if lacking else ""
    if lacking < len(precisions):
        figures.append(_figure("retrieval", "mAP", precisions, how))
    return figures, []


def _clusters(videos: _Videos, asked: Asked) -> _Found:
    """k-means of the test videos, as many clusters as they have classes."""
    points, labels = neighbours.normalized(videos.test.means), videos.test.labels
    count = len(np.unique(labels))
    found = [clusters.k_means(points, count, seed) for seed in range(asked.seeds)]
    how = f"{count} clusters, {asked.seeds} beginnings"
    figures = []
    for name, measure in (("ARI", clusters.adjusted_rand), ("NMI", clusters.mutual_information)):
        values = np.array([measure(each, labels) for each in found])
        figures.append(Figure("clusters", name, float(values.mean()), None, _error(values), how))
    return figures, []


_PROBES: dict[str, Callable[[_Videos, Asked], _Found]] = {
    "linear": _linear,
    "attentive": _attentive,
    "knn": _nearest,
    "retrieval": _retrieval,
    "clusters": _clusters,
}
