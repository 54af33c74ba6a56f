"""A row's published test: every view of every video, scores to disk, accuracies with errors.

A network that pretrains is tested by how well it fills in masked cubes of videos held out.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxvid import checkpoint, fuse, rows, zoo
from jaxvid.base import locks, paths, text
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.config.parts import Config, Model
from jaxvid.data import datasets, pipeline
from jaxvid.devices import placement, processes
from jaxvid.inference import reconstruct, scoring, streams
from jaxvid.layers.backend import for_mesh
from jaxvid.layers.preprocess import normalizer
from jaxvid.reports import metrics, results


class Outcome(NamedTuple):
    """What a test found: its figures, the line that reports them, and what writes all of it.

    `write` takes a folder, and what the results there say besides of where they come from.
    `scores` are those of the videos, where there are classes.
    """

    result: metrics.Result
    line: str
    write: Callable[[pathlib.Path, dict[str, Any]], None]
    scores: fuse.Scores | None = None


Test = Callable[[Any, Iterable[dict[str, np.ndarray]], str], Outcome]
"""From variables, the pipeline's test batches and what to call it on the progress bar."""


def make_network(model: Model, classes: int) -> nn.Module:
    """The network that `config.model` says, for so many classes."""
    return zoo.create_model(model.name, classes, model.compute_dtype, **model.overrides)


def make_test(
    model: nn.Module,
    config: Config,
    split: datasets.Split,
    mesh: jax.sharding.Mesh,
) -> Test:
    """The test that the loss of `config` calls for, over the videos of `split`."""
    make = _reconstruction_test if config.train.loss == "pixels" else _class_test
    return make(model, config, split, mesh)


def _class_test(
    model: nn.Module,
    config: Config,
    split: datasets.Split,
    mesh: jax.sharding.Mesh,
) -> Test:
    scorer = scoring.scorer_for(model, config, mesh)
    classes, paths = list(split.classes), list(split.paths)

    def test(variables: Any, batches: Iterable[dict[str, np.ndarray]], what: str) -> Outcome:
        scores, labels = scoring.score_batches(scorer, variables, batches, len(split), mesh, what)
        if pipeline.untrimmed(config.test.protocol):
            scores = scoring.whole(config.test, config.train.loss, scores)
        scoring.check_scores(scores, paths, what)
        result = metrics.measure(scores, labels, split.categories)

        def write(folder: pathlib.Path, about: dict[str, Any]) -> None:
            about = _protocol(config) | about
            results.write_scores(folder, classes, paths, scores, labels, about, split.categories)

        found = fuse.Scores(scores, labels, np.array(paths), np.array(classes))
        return Outcome(result, report_line(config, result), write, found)

    return test


def _reconstruction_test(
    model: nn.Module,
    config: Config,
    split: datasets.Split,
    mesh: jax.sharding.Mesh,
) -> Test:
    task = reconstruct.task_of(model, config.train, config.data)
    prepare = normalizer(config.data, jnp.dtype(config.model.dtype))
    precision = config.model.matmul_precision
    losses = reconstruct.make_scorer(model, task, prepare, config.seed)
    scorer = jax.jit(for_mesh(losses, mesh, precision))
    fill_in = jax.jit(
        for_mesh(reconstruct.make_filler(model, task, prepare, config.seed), mesh, precision),
        out_shardings=placement.replicated(mesh),
    )

    def test(variables: Any, batches: Iterable[dict[str, np.ndarray]], what: str) -> Outcome:
        batches = iter(batches)
        first = next(batches)
        there = placement.put_batch(first, mesh)
        pictures = np.asarray(fill_in(variables, there["video"], there["index"]))
        pictures = pictures[: len(split)]
        scores, _ = scoring.score_batches(
            scorer, variables, itertools.chain([first], batches), len(split), mesh, what, True
        )
        scoring.check_scores(scores, split.paths, what)
        result = metrics.reconstruction(scores[:, 0])

        def write(folder: pathlib.Path, about: dict[str, Any]) -> None:
            masks = {
                "mask_ratio": config.train.mask_ratio,
                "normalize_cubes": config.train.normalize_cubes,
            }
            about = _protocol(config) | masks | about
            results.write_reconstructions(folder, split.paths, scores[:, 0], pictures, about)

        return Outcome(result, report_line(config, result), write)

    return test


def report_line(config: Config, result: metrics.Result) -> str:
    """The one line that a paper's table would need: protocol, videos, accuracies."""
    return f"{config.model.name}: views={_views(config)}, {config.test.crop} px, {result}"


def _views(config: Config) -> int | str:
    """The views of one video, or where that goes by its length, how."""
    protocol = config.test.protocol
    return protocol.views if pipeline.untrimmed(protocol) else config.test.views


def _protocol(config: Config) -> dict[str, Any]:
    """What `result.json` says of a test besides its figures."""
    return {
        "model": config.model.name,
        "dataset": config.data.dataset,
        "split": config.data.test_split,
        "views": _views(config),
        "test": dataclasses.asdict(config.test),
    }


def check_count(dataset: str, count: int) -> None:
    """Warns where a published test set is not whole: its accuracies are then another set's."""
    published = rows.TEST_VIDEOS.get(dataset, count)
    if count != published:
        text.say(
            f"warning: {dataset} has {count} videos here, but the published accuracies are over "
            f"{published}: compare with care",
            error=True,
        )


def evaluate(
    config: ml_collections.ConfigDict | Config, workdir: str | pathlib.Path
) -> metrics.Result:
    """Tests `config.init`, or the best checkpoint of `workdir`, and writes `workdir/eval`.

    Networks that are tested together have a folder each in both, called as they are.
    """
    config = fields.freeze(config)
    if config.model.members:
        return _evaluate_together(config, workdir)
    return _evaluate(config, workdir).result


def _evaluate_together(config: Config, workdir: str | pathlib.Path) -> metrics.Result:
    """Tests each member of `config`, and fuses their scores."""
    workdir = paths.writable(workdir, "--workdir")
    tests = {}
    with processes.in_first(locks.hold(workdir / "eval", "--workdir")):
        for name, member in streams.members(config).items():
            scores = _evaluate(member, workdir / name).scores
            if scores is not None:
                tests[name] = scores
        with paths.writing(workdir, "--workdir"):
            result = streams.write_fused(config, tests, workdir / "eval")
    _say(f"{config.model.name}: {' + '.join(tests)}, {result}", workdir)
    return result


def _evaluate(config: Config, workdir: str | pathlib.Path) -> Outcome:
    """Tests one network."""
    workdir = paths.writable(workdir, "--workdir")
    with processes.in_first(locks.hold(workdir / "eval", "--workdir")):
        return _evaluate_there(config, workdir)


def _evaluate_there(config: Config, workdir: pathlib.Path) -> Outcome:
    """Tests in a workdir in which no other process does."""
    path = config.init or workdir / "checkpoints"
    meta = checkpoint.load_meta(path)
    pixels = config.train.loss == "pixels"
    split = datasets.open_split(config.data, config.data.test_split, labelled=not pixels)
    classes = split.classes
    if pixels != zoo.pretrains(meta.get("variant", "")):
        raise JaxvidError(
            f"{path} is a checkpoint of {meta.get('variant')}, which "
            + ("does not pretrain" if pixels else "has no classes: fine-tune from it, with init=")
        )
    if meta.get("classes") and list(meta["classes"]) != list(classes):
        raise JaxvidError(
            f"{path} answers {len(meta['classes'])} classes that are not those of "
            f"{config.data.dataset} ({len(classes)}): test on the dataset it was trained for, or "
            "fine-tune it with --mode=train"
        )
    if meta.get("new") and not pixels:
        raise JaxvidError(
            f"{path} holds a trunk without a classifier: train from it first, with init= and "
            "--mode=train"
        )
    loss = meta.get("loss", config.train.loss)
    if loss != config.train.loss:
        raise JaxvidError(
            f"{path} was trained with the loss {loss}, which decides what its scores are: add "
            f"--config.train.loss={loss}"
        )
    check_count(config.data.dataset, len(split))
    mesh = placement.make_mesh(axes=config.train.axes)
    placement.check_batch("test.batch_size", config.test.batch_size, mesh)
    model = make_network(config.model, len(classes))
    variables = checkpoint.load_finite(path, config.test.weights)
    variables = jax.device_put(variables, placement.replicated(mesh))
    test = make_test(model, config, split, mesh)
    batches = pipeline.test_batches(
        split, config.test, loss=config.train.loss, workers=config.data.workers
    )
    outcome = test(variables, batches, "test")
    with paths.writing(workdir, "--workdir"):
        outcome.write(workdir / "eval", {})
    _say(outcome.line, workdir)
    return outcome


def _say(line: str, workdir: pathlib.Path) -> None:
    if jax.process_index() == 0:
        text.say(line)
        text.say(f"scores, answers and pictures are in {workdir / 'eval'}")
