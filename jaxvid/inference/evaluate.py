"""A row's published test: every view of every video, scores to disk, accuracies with errors.

A network that pretrains is tested by how well it fills in masked cubes of videos held out.
"""

import itertools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxvid import checkpoint, rows, zoo
from jaxvid import config as configs
from jaxvid.base import jsons, locks, paths, text, whole
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.progress import Progress
from jaxvid.config import fields
from jaxvid.data import datasets, pipeline
from jaxvid.devices import placement, processes
from jaxvid.inference import reconstruct
from jaxvid.layers.preprocess import normalizer
from jaxvid.objectives import losses
from jaxvid.reports import draw, metrics, results

Scorer = Callable[[Any, jax.Array], jax.Array]


class Outcome(NamedTuple):
    """What a test found: its figures, the line that reports them, and what writes all of it."""

    result: metrics.Result
    line: str
    write: Callable[[pathlib.Path], None]


Test = Callable[[Any, Iterable[dict[str, np.ndarray]], str], Outcome]
"""From variables, the pipeline's test batches and what to call it on the progress bar."""


def make_test(
    model: nn.Module,
    config: ml_collections.ConfigDict,
    split: datasets.Split,
    mesh: jax.sharding.Mesh,
) -> Test:
    """The test that the loss of `config` calls for, over the videos of `split`."""
    make = _reconstruction_test if config.train.loss == "pixels" else _class_test
    return make(model, config, split, mesh)


def _class_test(
    model: nn.Module,
    config: ml_collections.ConfigDict,
    split: datasets.Split,
    mesh: jax.sharding.Mesh,
) -> Test:
    scorer = make_scorer(model, config)
    classes, paths = list(split.classes), list(split.paths)

    def test(variables: Any, batches: Iterable[dict[str, np.ndarray]], what: str) -> Outcome:
        scores, labels = score_batches(scorer, variables, batches, len(split), mesh, what)
        check_scores(scores, paths, what)
        result = metrics.measure(scores, labels)

        def write(folder: pathlib.Path) -> None:
            write_results(folder, config, classes, paths, scores, labels)

        return Outcome(result, report_line(config, result), write)

    return test


def _reconstruction_test(
    model: nn.Module,
    config: ml_collections.ConfigDict,
    split: datasets.Split,
    mesh: jax.sharding.Mesh,
) -> Test:
    scorer = jax.jit(reconstruct.make_scorer(model, config))
    fill_in = jax.jit(
        reconstruct.make_filler(model, config), out_shardings=placement.replicated(mesh)
    )

    def test(variables: Any, batches: Iterable[dict[str, np.ndarray]], what: str) -> Outcome:
        batches = iter(batches)
        first = next(batches)
        there = placement.put_batch(first, mesh)
        pictures = np.asarray(fill_in(variables, there["video"], there["index"]))
        pictures = pictures[: len(split)]
        scores, _ = score_batches(
            scorer, variables, itertools.chain([first], batches), len(split), mesh, what, True
        )
        check_scores(scores, split.paths, what)
        result = metrics.reconstruction(scores[:, 0])

        def write(folder: pathlib.Path) -> None:
            write_reconstructions(folder, config, split.paths, scores[:, 0], pictures)

        return Outcome(result, report_line(config, result), write)

    return test


def make_scorer(model: nn.Module, config: ml_collections.ConfigDict) -> Scorer:
    """A compiled function (variables, video uint8 [B, V, T, H, W, C]) -> scores [B, classes].

    Views are scanned `config.test.views_per_step` at a time, so that testing needs no more memory
    than one such step. Scores are probabilities, averaged over the views before (`average="score"`)
    or after (`"prob"`) the softmax, or the sigmoid where `config.train.loss` says so.
    """
    kind = config.train.loss
    losses.check_kind(kind)
    average = config.test.average
    if average not in ("prob", "score"):
        raise JaxvidError(f"config.test.average={average!r} is unknown: take prob or score")
    normalize = normalizer(config.data, jnp.dtype(config.model.dtype))
    at_once = config.test.views_per_step

    def score(variables: Any, video: jax.Array) -> jax.Array:
        batch, views = video.shape[:2]
        # Only whole steps, so that no view is counted twice.
        step = max(k for k in range(1, max(min(at_once, views), 1) + 1) if views % k == 0)
        chunks = jnp.moveaxis(video.reshape(batch, views // step, step, *video.shape[2:]), 1, 0)

        def one(total: jax.Array, chunk: jax.Array) -> tuple[jax.Array, None]:
            clips = normalize(chunk.reshape(batch * step, *chunk.shape[2:]))
            logits, _ = model.apply(variables, clips, train=False)
            answers = losses.probabilities(kind, logits) if average == "prob" else logits
            return total + answers.reshape(batch, step, -1).sum(1), None

        # The first chunk stands outside the scan: it tells the shape of the sum.
        total, _ = one(jnp.zeros((), jnp.float32), chunks[0])
        if views > step:
            total, _ = jax.lax.scan(one, total, chunks[1:])
        result = total / views
        return result if average == "prob" else losses.probabilities(kind, result)

    return jax.jit(score)


def check_scores(scores: np.ndarray, paths: Sequence[str], what: str = "test") -> None:
    """Refuses scores [N, classes] that are not finite, by the paths [N] of their videos."""
    bad = np.flatnonzero(~np.isfinite(scores).all(1))
    if bad.size:
        raise JaxvidError(
            f"{what}: the network's answers for {bad.size} of {len(scores)} videos are not finite "
            f"({listed(text.quoted(paths[number]) for number in bad)}): its weights are those of a "
            "training that diverged, or too large for config.model.dtype"
        )


def score_batches(
    score: Scorer,
    variables: Any,
    batches: Iterable[dict[str, np.ndarray]],
    count: int,
    mesh: jax.sharding.Mesh,
    what: str = "test",
    by_number: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [count, classes] and labels [count] of all videos, in the order of the dataset.

    Where a video may have several, labels are [count, classes] of zeros and ones. `score` is given
    the videos' numbers too, if it goes `by_number`.

    Raises:
      JaxvidError: a video came twice or not at all.
    """
    everywhere = jax.jit(lambda x: x, out_shardings=placement.replicated(mesh))
    scores = labels = None
    seen = np.zeros(count, bool)
    progress = Progress(count, what, "videos") if jax.process_index() == 0 else None
    for batch in batches:
        there = placement.put_batch(batch, mesh)
        answer = {name: there[name] for name in ("label", "index", "weight")}
        numbers = (there["index"],) if by_number else ()
        answer["scores"] = score(variables, there["video"], *numbers)
        answer = jax.tree.map(np.asarray, everywhere(answer))
        real = answer["weight"] > 0
        index = answer["index"][real]
        if scores is None or labels is None:
            scores = np.zeros((count, answer["scores"].shape[-1]), np.float32)
            labels = np.zeros((count, *answer["label"].shape[1:]), answer["label"].dtype)
        if seen[index].any():
            raise JaxvidError(f"{what}: a video came twice in the test batches")
        scores[index], labels[index] = answer["scores"][real], answer["label"][real]
        seen[index] = True
        if progress:
            progress.update(len(index))
    if progress:
        progress.close()
    if scores is None or labels is None or not seen.all():
        raise JaxvidError(f"{what}: {int((~seen).sum())} of {count} videos had no scores")
    return scores, labels


def report_line(config: ml_collections.ConfigDict, result: metrics.Result) -> str:
    """The one line that a paper's table would need: protocol, videos, accuracies."""
    return f"{config.model.name}: views={configs.views(config)}, {config.test.crop} px, {result}"


def write_results(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    classes: list[str],
    paths: list[str],
    scores: np.ndarray,
    labels: np.ndarray,
) -> metrics.Result:
    """Writes scores, answers, accuracies and the confusion matrix of a test into `folder`.

    See `results.write_scores`; `result.json` also says the protocol.
    """
    return results.write_scores(folder, classes, paths, scores, labels, _protocol(config))


def _protocol(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """What `result.json` says of a test besides its figures."""
    return {
        "model": config.model.name,
        "dataset": config.data.dataset,
        "split": config.data.test_split,
        "views": configs.views(config),
        "test": config.test.to_dict(),
    }


def write_reconstructions(
    folder: pathlib.Path,
    config: ml_collections.ConfigDict,
    paths: list[str],
    losses: np.ndarray,
    pictures: np.ndarray,
) -> None:
    """Writes what can be said of filled-in videos into `folder`; only process 0 does.

    `losses.csv` holds the loss of each video, `result.json` their mean and the protocol,
    `reconstructions.png` some clips, what was seen of them, and what was made of that. Where cubes
    are normalised, the mean colour and contrast of each are the clip's own, as they are no part of
    the answer.
    """
    if jax.process_index() != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    lines = ([path, f"{loss:.4f}"] for path, loss in zip(paths, losses, strict=True))
    text.write_csv(folder / "losses.csv", ["path", "loss"], lines)
    train = config.train
    about = _protocol(config) | {
        "mask_ratio": train.mask_ratio,
        "normalize_cubes": train.normalize_cubes,
    }
    made = "detail filled in" if train.normalize_cubes else "filled in"
    captions = [
        f"{path}: clip, what was seen of it, {made} (loss {loss:.3f})"
        for path, loss in zip(paths, losses, strict=True)
    ]
    draw.reconstructions(pictures, captions[: len(pictures)], folder / "reconstructions.png")
    figures = jsons.dump(about | metrics.reconstruction(losses).figures, indent=1)
    whole.text(folder / "result.json", figures + "\n", durable=True)


def check_count(dataset: str, count: int) -> None:
    """Warns where a published test set is not whole: its accuracies are then another set's."""
    published = rows.TEST_VIDEOS.get(dataset, count)
    if count != published:
        text.say(
            f"warning: {dataset} has {count} videos here, but the published accuracies are over "
            f"{published}: compare with care",
            error=True,
        )


def evaluate(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> metrics.Result:
    """Tests `config.init`, or the best checkpoint of `workdir`, and writes `workdir/eval`."""
    fields.check(config)
    workdir = paths.writable(workdir, "--workdir")
    with processes.in_first(locks.hold(workdir / "eval", "--workdir")):
        return _evaluate(config, workdir)


def _evaluate(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> metrics.Result:
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
    mesh = placement.make_mesh()
    placement.check_batch("test.batch_size", config.test.batch_size, mesh)
    model = zoo.create_model(
        config.model.name, len(classes), compute_dtype(config), **config.model.overrides
    )
    variables = checkpoint.load_finite(path, config.test.weights)
    variables = jax.device_put(variables, placement.replicated(mesh))
    test = make_test(model, config, split, mesh)
    outcome = test(variables, pipeline.test_batches(split, config), "test")
    with paths.writing(workdir, "--workdir"):
        outcome.write(workdir / "eval")
    if jax.process_index() == 0:
        text.say(outcome.line)
        text.say(f"scores, answers and pictures are in {workdir / 'eval'}")
    return outcome.result


def compute_dtype(config: ml_collections.ConfigDict) -> Any:
    """The network's dtype: None (that of the parameters) for float32."""
    if config.model.dtype == "float32":
        return None
    if config.model.dtype != "bfloat16":
        raise JaxvidError(
            f"config.model.dtype={config.model.dtype!r} is unknown: take float32 or bfloat16"
        )
    return jnp.bfloat16
