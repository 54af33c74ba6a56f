"""The configs of tests as rooms are handed them: frozen, but not checked."""

from collections.abc import Iterator
from typing import Any

from jaxvid.config import parts
from jaxvid.inference import scoring


def frozen(config: Any) -> parts.Config:
    """The parts of a ConfigDict."""
    return config if isinstance(config, parts.Config) else parts.from_dict(config.to_dict())


def train_batches(split: Any, config: Any, **how: Any) -> Iterator[dict[str, Any]]:
    """The batches that a training by `config` is fed."""
    from jaxvid.data import pipeline

    config = frozen(config)
    train = config.train
    return pipeline.train_batches(
        split, config.data, batch_size=train.batch_size, loss=train.loss, seed=config.seed, **how
    )


def test_batches(split: Any, config: Any, **how: Any) -> Iterator[dict[str, Any]]:
    """The batches that a test by `config` is fed."""
    from jaxvid.data import pipeline

    config = frozen(config)
    workers = config.data.workers
    return pipeline.test_batches(split, config.test, loss=config.train.loss, workers=workers, **how)


test_batches.__test__ = False


def make_scorer(model: Any, config: Any) -> scoring.Scorer:
    """What scores the views of a test by `config`."""
    return scoring.scorer_for(model, frozen(config))
