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
from jaxvid.layers import spread, streaming
from jaxvid.layers.backend import for_mesh
from jaxvid.layers.preprocess import normalizer
from jaxvid.objectives import losses

Scorer = Callable[..., jax.Array]
"""(variables, video) -> scores; also of the videos' numbers where it goes by these."""
_ROUNDED = 1e-5  # by which the shares of a video may miss 1: a video has far fewer pieces


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

    Of pieces of videos, the function is also given `shown` [B, V], 0 for views that do not count.
    It then gives their mean answers, of which `whole` makes the videos' scores.
    """
    losses.check_kind(loss)
    average = test.average
    if average not in ("prob", "score"):
        raise JaxvidError(f"config.test.average={average!r} is unknown: take prob or score")
    at_once = test.views_per_step

    def score(variables: Any, video: jax.Array, shown: jax.Array | None = None) -> jax.Array:
        variables = spread.whole_variables(model, variables)
        batch, views = video.shape[:2]
        # Only whole steps, so that no view is counted twice.
        step = max(k for k in range(1, max(min(at_once, views), 1) + 1) if views % k == 0)
        chunks = jax.tree.map(
            lambda x: jnp.moveaxis(x.reshape(batch, views // step, step, *x.shape[2:]), 1, 0),
            (video, shown),
        )

        def one(total: jax.Array, seen: tuple[jax.Array, Any]) -> tuple[jax.Array, None]:
            chunk, count = seen
            clips = prepare(chunk.reshape(batch * step, *chunk.shape[2:]))
            logits, _ = model.apply(variables, clips, train=False)
            answers = losses.probabilities(loss, logits) if average == "prob" else logits
            answers = answers.reshape(batch, step, -1)
            if count is not None:
                answers = answers * count[..., None]
            return total + answers.sum(1), None

        # The first chunk stands outside the scan: it tells the shape of the sum.
        total, _ = one(jnp.zeros((), jnp.float32), jax.tree.map(lambda x: x[0], chunks))
        if views > step:
            total, _ = jax.lax.scan(one, total, jax.tree.map(lambda x: x[1:], chunks))
        if shown is not None:
            return total / jnp.maximum(shown.sum(1, keepdims=True), 1)
        result = total / views
        return result if average == "prob" else losses.probabilities(loss, result)

    return jax.jit(for_mesh(score, mesh, precision))


def make_stepper(
    model: nn.Module,
    test: Test,
    loss: str,
    prepare: Callable[[jax.Array], jax.Array],
    precision: str = "",
) -> Callable[..., tuple[jax.Array, streaming.State]]:
    """A compiled function (variables, state, video uint8 [V, t, H, W, C]) -> (scores, state).

    It carries the state of a causal network over the views of a video: `scores` [classes] are those
    that `make_scorer` gives for all frames so far, whose views these are.
    """

    def score(
        variables: Any, state: streaming.State, video: jax.Array
    ) -> tuple[jax.Array, streaming.State]:
        (logits, _), state = streaming.step(model, variables, state, prepare(video))
        if test.average == "score":
            return losses.probabilities(loss, logits.mean(0)), state
        return losses.probabilities(loss, logits).mean(0), state

    return jax.jit(for_mesh(score, None, precision))


def scorer_for(model: nn.Module, config: Config, mesh: jax.sharding.Mesh | None = None) -> Scorer:
    """What scores the views of a test by `config`; see `make_scorer`."""
    prepare = normalizer(config.data, jnp.dtype(config.model.dtype))
    precision = config.model.matmul_precision
    return make_scorer(model, config.test, config.train.loss, prepare, mesh, precision)


def whole(test: Test, loss: str, answers: np.ndarray) -> np.ndarray:
    """Scores [N, classes] of videos whose mean answers over pieces those are."""
    if test.average == "prob":
        return answers
    return np.asarray(losses.probabilities(loss, jnp.asarray(answers)))


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
    the videos' numbers too, if it goes `by_number`. Of pieces of videos the scores are means by
    their weights.

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
        more = ("index",) if by_number else ("shown",) if "shown" in there else ()
        answer["scores"] = score(variables, there["video"], *(there[name] for name in more))
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
        self._seen = np.zeros(count)  # shares of the videos
        self._scores: np.ndarray | None = None
        self._labels: np.ndarray | None = None

    def add(self, answer: dict[str, np.ndarray]) -> int:
        """Takes in those of a batch and says of how many videos they are."""
        real = answer["weight"] > 0
        index, weight, scores, labels = (
            answer[name][real] for name in ("index", "weight", "scores", "label")
        )
        if self._scores is None or self._labels is None:
            count = len(self._seen)
            self._scores = np.zeros((count, scores.shape[-1]), np.float32)
            self._labels = np.zeros((count, *labels.shape[1:]), labels.dtype)
        np.add.at(self._seen, index, weight)
        if (self._seen > 1 + _ROUNDED).any():
            raise JaxvidError(f"{self._what}: a video came twice in the test batches")
        np.add.at(self._scores, index, scores * weight[:, None])
        self._labels[index] = labels
        return int((self._seen[np.unique(index)] > 1 - _ROUNDED).sum())

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Those of all videos, of which none may be missing."""
        missing = int((self._seen < 1 - _ROUNDED).sum())
        if self._scores is None or self._labels is None or missing:
            raise JaxvidError(f"{self._what}: {missing} of {len(self._seen)} videos had no scores")
        return self._scores, self._labels
