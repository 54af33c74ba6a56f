"""Batches of uint8 clips, for training and for the published tests.

What an example is stands in `clips` and `views`; what makes batches of them, in `batches`.
"""

from collections.abc import Iterator

import numpy as np

from jaxvid.config.parts import Data, Test
from jaxvid.data.batches import Batches as Batches
from jaxvid.data.batches import Part, filled
from jaxvid.data.clips import Clips
from jaxvid.data.clips import clip_shape as clip_shape
from jaxvid.data.clips import make_augmentation as make_augmentation
from jaxvid.data.datasets import Split
from jaxvid.data.order import epoch_order as epoch_order
from jaxvid.data.order import generator as generator
from jaxvid.data.views import Pieces, Views
from jaxvid.data.views import make_protocol as make_protocol
from jaxvid.data.views import make_views as make_views
from jaxvid.data.views import plan_test as plan_test
from jaxvid.data.views import untrimmed as untrimmed
from jaxvid.data.views import views_shape as views_shape


def steps_per_epoch(videos: int, batch_size: int, repeats: int = 1) -> int:
    """The number of whole batches of clips in an epoch, at least 1.

    An epoch has every video once, that is `repeats` clips of each; with `data.balance` as many
    clips, of some videos more than of others.
    """
    return max(videos * repeats // batch_size, 1)


def train_batches(
    split: Split,
    data: Data,
    *,
    batch_size: int,
    loss: str,
    seed: int,
    start_step: int = 0,
    process: int | None = None,
    processes: int | None = None,
) -> Batches:
    """Yields this process's part of every global batch, from `start_step` on, without end.

    Args:
        split: the videos.
        data: what is seen of them.
        batch_size: clips of a global batch.
        loss: that of the training, which decides what labels are.
        seed: of all that is random, from 0.
        start_step: the step whose batch comes first.
        process: which of `processes` this one is; by default as JAX says.
        processes: how many share a batch; by default as JAX says.

    Returns:
        An iterator of `video` uint8 `[B, T, H, W, C]`, `label` int32 `[B]` (or, where the loss is
        `sigmoid`, uint8 `[B, classes]`, 1 for the classes that a video has) and `index` int64
        `[B]`, the videos' numbers in the split; `close()` ends its threads, and `bad` says of
        the videos that this process could not use why. They are replaced by others until there
        are more than `data.max_bad_records`.
    """
    part = Part(batch_size, process, processes, "train")
    return Batches(
        Clips(split, data, part, loss, seed),
        range(start_step * part.size, np.iinfo(np.int64).max),
        part.size,
        workers=data.workers,
        ahead=2,
        max_bad=data.max_bad_records,
    )


def test_batches(
    split: Split,
    test: Test,
    *,
    loss: str,
    workers: int = 0,
    process: int | None = None,
    processes: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields this process's part of every global batch of the test's views, each video once.

    With the sampler `untrimmed` a video has as many views as it is long, and is there in pieces
    that follow one another.

    Args:
        split: the videos.
        test: the protocol, and the videos of a global batch.
        loss: that of the network's training, which decides what labels are.
        workers: threads that read and decode; 0 takes as many as there are cores.
        process: which of `processes` this one is; by default as JAX says.
        processes: how many share a batch; by default as JAX says.

    Returns:
        An iterator of `video` uint8 `[B, V, T, H, W, C]`, `label` as in training, `index` int64
        `[B]` and `weight` float32 `[B]`. The last batch is filled up with zeros of weight 0 and
        index -1. Of pieces, `weight` is the share of their video, and `shown` float32 `[B, V]` is 0
        for views that only fill them up. Every process gets the same number of batches.
    """
    part = Part(test.batch_size, process, processes, "test")
    views = (Pieces if untrimmed(test.protocol) else Views)(split, test, part, loss)
    steps = -(-len(views) // part.batch)
    own = sum(part.number(i) < len(views) for i in range(steps * part.size))
    # All views of a batch of videos are large: hold no more than the next one.
    batches = Batches(views, range(own), part.size, workers=workers, ahead=1, max_bad=0)
    return filled(batches, steps, part.size, views.none())


test_batches.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test
