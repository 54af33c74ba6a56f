"""Networks that label the tokens of clips for others to learn (token labelling).

See Jiang et al., "All tokens matter", NeurIPS 2021; for video Liang et al., "DualFormer", 2021.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Config
from jaxvid.training.step import Teacher


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
