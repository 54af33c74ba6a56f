"""Scores of videos: what a network answers to all views of each, in batches over all devices."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.base import text
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.base.progress import Progress
from jaxvid.config.parts import Test
from jaxvid.devices import placement
from jaxvid.layers import spread
from jaxvid.layers.backend import for_mesh
from jaxvid.objectives import losses

Scorer = Callable[[Any, jax.Array], jax.Array]


def make_scorer(
    model: nn.Module,
    test: Test,
    loss: str,
    prepare: Callable[[jax.Array], jax.Array],
    mesh: jax.sharding.Mesh | None = None,
) -> Scorer:
    """A compiled function (variables, video uint8 [B, V, T, H, W, C]) -> scores [B, classes].

    Views are scanned `test.views_per_step` at a time, so that testing needs no more memory than one
    such step; `prepare` normalises them. Scores are probabilities, averaged over the views before
    (`average="score"`) or after (`"prob"`) the softmax, or the sigmoid where the `loss` that the
    network was trained with says so. It is meant for the devices of `mesh`.
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

    return jax.jit(for_mesh(score, mesh))


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
