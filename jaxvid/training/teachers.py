"""Networks whose answers others learn: for whole clips (distillation), or for their tokens.

See Hinton et al., "Distilling the knowledge in a neural network", 2015. For labels of tokens see
Jiang et al., "All tokens matter", NeurIPS 2021; for video Liang et al., "DualFormer", 2021.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Config
from jaxvid.data import pipeline
from jaxvid.inference import predictor
from jaxvid.layers.preprocess import normalizer
from jaxvid.training.step import Teacher, labels_tokens


class Teaching(NamedTuple):
    """A teacher of a run.

    Attributes:
      model: its network.
      clip_shape: the clips that it takes, [T, H, W, C].
      answer: what it answers to clips of the run.
      load: reads its variables.
      subject: what the run learns of it, in words.
    """

    model: nn.Module
    clip_shape: tuple[int, ...]
    answer: Teacher
    load: Callable[[], Any]
    subject: str


def teaching(config: Config, classes: Sequence[str]) -> Teaching:
    """The checkpoint `config.train.teacher` as the teacher of a run.

    It labels tokens where the run's network answers for them, else clips, which it may see smaller,
    larger or with fewer frames than the run's network, and normalised as it is used to.

    Raises:
      JaxvidError: it does not fit the run.
    """
    path, clip_shape = config.train.teacher, pipeline.clip_shape(config.data)
    if labels_tokens(config):
        model = find(config, classes)
        subject = f"the labels that {path} gives to tokens"
        return Teaching(model, clip_shape, make_teacher(model), lambda: load(path), subject)
    own = predictor.make_config(checkpoint.load_meta(path), None, path)
    shape = pipeline.make_protocol(own.test).view
    _check_whole(config, own, classes, shape[0], clip_shape[0])
    model = zoo.create_model(
        own.model.name, len(classes), config.model.compute_dtype, **own.model.overrides
    )

    def read() -> Any:
        variables = checkpoint.load_finite(path)
        predictor.check_variables(predictor.expected_variables(model, shape, path), variables, path)
        return variables

    prepare = normalizer(own.data, jnp.dtype(config.model.dtype))

    def answer(variables: Any, pixels: jax.Array) -> jax.Array:
        return model.apply(variables, prepare(fitted(pixels, shape)), train=False)[0]

    return Teaching(model, shape, answer, read, f"what {path} answers")


def fitted(pixels: jax.Array, clip_shape: Sequence[int]) -> jax.Array:
    """Clips [B, T, H, W, C] as others [B, T', H', W', C] of no more frames.

    Of the frames those in the middle of T' equal parts are taken, and resized.
    """
    times, height, width, _ = clip_shape
    middles = (np.arange(times) + 0.5) * (pixels.shape[1] / times)
    pixels = pixels[:, middles.astype(int)]
    if pixels.shape[2:4] == (height, width):
        return pixels
    shape = (*pixels.shape[:2], height, width, pixels.shape[-1])
    return jax.image.resize(pixels.astype(jnp.float32), shape, "linear")


def _check_whole(
    config: Config, own: Config, classes: Sequence[str], takes: int, frames: int
) -> None:
    """Refuses a teacher of whole clips with other classes, another loss, or other frames."""
    path = config.train.teacher
    said = checkpoint.load_meta(path).get("classes")
    if said and list(said) != list(classes):
        raise JaxvidError(
            f"config.train.teacher={path} has other classes than this run: take a teacher trained "
            "on the same, or give it these by `python -m converters --classes-to`"
        )
    for field, ours, theirs in (
        ("train.loss", config.train.loss, own.train.loss),
        ("data.flow", config.data.flow, own.data.flow),
    ):
        if ours != theirs:
            raise JaxvidError(
                f"config.train.teacher={path} was trained with {field}={theirs!r}, but this run "
                f"has {ours!r}: take another teacher"
            )
    if frames < takes:
        raise JaxvidError(
            f"config.train.teacher={path} takes {takes} frames, and clips of this run have "
            f"{frames}: let config.data.sampling draw as many, or take another teacher"
        )


def find(config: Config, classes: Sequence[str]) -> nn.Module:
    """The network of the checkpoint `config.train.teacher`, by what the checkpoint says of itself.

    Raises:
      JaxvidError: it has other classes or another normalisation than the run.
    """
    path = config.train.teacher
    meta = checkpoint.load_meta(path)
    wanted = {
        "classes": list(classes),
        "mean": list(config.data.mean),
        "std": list(config.data.std),
        "channel_order": config.data.channel_order,
    }
    for field, own in wanted.items():
        said = meta.get(field) or own
        if said != own:
            raise JaxvidError(
                f"config.train.teacher={path} has other {field} than this run: take a teacher "
                "trained on the same classes and pixels"
            )
    name = meta.get("row") or meta.get("variant")
    if not name:
        raise JaxvidError(
            f"config.train.teacher={path} does not say of which model it is: take a checkpoint "
            "that a training or `python -m converters` wrote"
        )
    return zoo.create_model(
        name,
        len(classes),
        config.model.compute_dtype,
        **meta.get("overrides", {}),
    )


def make_teacher(model: nn.Module) -> Teacher:
    """What answers for the tokens of a clip.

    The linear head of `model`, made for the mean of its last features, answers for each of them.
    """

    def answer(variables: Any, video: jax.Array) -> jax.Array:
        _, out = model.apply(variables, video, train=False)
        features = out[max(name for name in out if name.startswith("stage"))]
        linear = variables["params"]["head"]["fc"]
        logits = features @ linear["kernel"].astype(features.dtype)
        return logits.astype(jnp.float32) + linear["bias"]

    return answer


def load(path: str) -> Any:
    """The teacher's variables.

    Raises:
      JaxvidError: its head is more than one linear layer.
    """
    variables = checkpoint.load_finite(path)
    if variables["params"].get("head", {}).keys() != {"fc"}:
        raise JaxvidError(
            f"config.train.teacher={path} has no head of one linear layer on the mean of its "
            "features: take a DualFormer"
        )
    return variables
