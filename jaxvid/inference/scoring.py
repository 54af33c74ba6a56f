"""Scores of videos: what a network answers to all views of each, in batches over all devices."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.progress import Progress
from jaxvid.config.parts import Config, Test
from jaxvid.devices import placement
from jaxvid.layers import spread
from jaxvid.layers.backend import for_mesh
from jaxvid.layers.preprocess import normalizer
from jaxvid.objectives import losses

Scorer = Callable[..., jax.Array]
"""(variables, video) -> scores; also of the videos' numbers where it goes by these."""


def make_scorer(
    model: nn.Module,
    test: Test,
    loss: str,
    prepare: Callable[[jax.Array], jax.Array],
    mesh: jax.sharding.Mesh | None = None,
    precision: str = "",
) -> Scorer:
    """A compiled function (variables, video uint8 [B, V, T, H, W, C]) -> scores [B, classes].

    Views are scanned `test.views_per_step` at a time, so that testing needs no more memory than one
    such step; `prepare` normalises them. Scores are probabilities, averaged over the views before
    (`average="score"`) or after (`"prob"`) the softmax, or the sigmoid where the `loss` that the
    network was trained with says so. It is meant for the devices of `mesh`, and
    multiplies float32 in `precision`.
    """
    losses.check_kind(loss)
    average = test.average
    if average not in ("prob", "score"):
        raise JaxvidError(f"config.test.average={average!r} is unknown: take prob or score")
    at_once = test.views_per_step

    def score(variables: Any, video: jax.Array) -> jax.Array:
        variables = spread.whole_variables(model, variables)
        batch, views = video.shape[:2]
        # Only whole steps, so that no view is counted twice.
        step = max(k for k in range(1, max(min(at_once, views), 1) + 1) if views % k == 0)
        chunks = jnp.moveaxis(video.reshape(batch, views // step, step, *video.shape[2:]), 1, 0)

        def one(total: jax.Array, chunk: jax.Array) -> tuple[jax.Array, None]:
            clips = prepare(chunk.reshape(batch * step, *chunk.shape[2:]))
            logits, _ = model.apply(variables, clips, train=False)
            answers = losses.probabilities(loss, logits) if average == "prob" else logits
            return total + answers.reshape(batch, step, -1).sum(1), None

        # The first chunk stands outside the scan: it tells the shape of the sum.
        total, _ = one(jnp.zeros((), jnp.float32), chunks[0])
        if views > step:
            total, _ = jax.lax.scan(one, total, chunks[1:])
        result = total / views
        return result if average == "prob" else losses.probabilities(loss, result)

    return jax.jit(for_mesh(score, mesh, precision))


def scorer_for(model: nn.Module, config: Config, mesh: jax.sharding.Mesh | None = None) -> Scorer:
    """What scores the views of a test by `config`; see `make_scorer`."""
    prepare = normalizer(config.data, jnp.dtype(config.model.dtype))
    precision = config.model.matmul_precision
    return make_scorer(model, config.test, config.train.loss, prepare, mesh, precision)


def check_scores(scores: np.ndarray, paths: Sequence[str], what: str = "test") -> None:
    """Refuses scores [N, classes] that are not finite, by the paths [N] of their videos."""
    bad = np.flatnonzero(~np.isfinite(scores).all(1)).tolist()
    if bad:
        raise JaxvidError(
            f"{what}: the network's answers for {len(bad)} of {len(scores)} videos are not finite "
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
    found = _Found(count, what)
    progress = Progress(count, what, "videos") if jax.process_index() == 0 else None
    for answer in _answers(score, variables, batches, mesh, by_number):
        done = found.add(answer)
        if progress:
            progress.update(done)
    if progress:
        progress.close()
    return found.all()


def _answers(
    score: Scorer,
    variables: Any,
    batches: Iterable[dict[str, np.ndarray]],
    mesh: jax.sharding.Mesh,
    by_number: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """What the network answers to each batch, fetched when the next one is already handed over.

    So the devices never wait for answers to be fetched: while they compute one batch, its follower
    is fetched and put there. They hold these two, and no more.
    """
    everywhere = _copier(placement.replicated(mesh))
    before = None
    for batch in batches:
        there = placement.put_batch(batch, mesh)
        answer = {name: there[name] for name in ("label", "index", "weight")}
        numbers = (there["index"],) if by_number else ()
        answer["scores"] = score(variables, there["video"], *numbers)
        answer = everywhere(answer)
        del there  # Else the video would outlive its scores.
        if before is not None:
            yield jax.device_get(before)
        before = answer
    if before is not None:
        yield jax.device_get(before)


@functools.cache
def _copier(everywhere: jax.sharding.Sharding) -> Callable[[Any], Any]:
    """What copies arrays to all devices; one for all tests, so that it is compiled once."""
    return jax.jit(lambda x: x, out_shardings=everywhere)


class _Found:
    """Scores and labels of the videos of a test, as they come."""

    def __init__(self, count: int, what: str):
        self._what = what
        self._seen = np.zeros(count, bool)
        self._scores: np.ndarray | None = None
        self._labels: np.ndarray | None = None

    def add(self, answer: dict[str, np.ndarray]) -> int:
        """Takes in those of a batch and says of how many videos they are."""
        real = answer["weight"] > 0
        index, scores, labels = (answer[name][real] for name in ("index", "scores", "label"))
        if self._scores is None or self._labels is None:
            count = len(self._seen)
            self._scores = np.zeros((count, scores.shape[-1]), np.float32)
            self._labels = np.zeros((count, *labels.shape[1:]), labels.dtype)
        if self._seen[index].any():
            raise JaxvidError(f"{self._what}: a video came twice in the test batches")
        self._scores[index], self._labels[index] = scores, labels
        self._seen[index] = True
        return len(index)

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Those of all videos, of which none may be missing."""
        if self._scores is None or self._labels is None or not self._seen.all():
            missing = int((~self._seen).sum())
            raise JaxvidError(f"{self._what}: {missing} of {len(self._seen)} videos had no scores")
        return self._scores, self._labels
