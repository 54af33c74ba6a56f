"""Networks that label the tokens of clips for others to learn (token labelling).

See Jiang et al., "All tokens matter", NeurIPS 2021; for video Liang et al., "DualFormer", 2021.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.training.step import Teacher


def load(
    config: ml_collections.ConfigDict, classes: Sequence[str], dtype: Any = None
) -> tuple[Teacher, Any]:
    """The network of the checkpoint `config.train.teacher` as a teacher, and its variables.

    Its linear head, made for the mean of its last features, answers for each of them. `dtype` is
    that of its computations, None follows the clips.

    Raises:
      JaxvidError: it has other classes or another normalisation than the run, takes no RGB frames,
        or its head is more than one linear layer.
    """
    path = config.train.teacher
    meta, variables = checkpoint.load_meta(path), checkpoint.load_finite(path)
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
    if variables["params"].get("head", {}).keys() != {"fc"}:
        raise JaxvidError(
            f"config.train.teacher={path} has no head of one linear layer on the mean of its "
            "features: take a DualFormer"
        )
    model = zoo.create_model(
        meta.get("row") or meta.get("variant"),
        len(classes),
        dtype,
        **meta.get("overrides", {}),
    )

    def answer(variables: Any, video: jax.Array) -> jax.Array:
        _, out = model.apply(variables, video, train=False)
        features = out[max(name for name in out if name.startswith("stage"))]
        linear = variables["params"]["head"]["fc"]
        logits = features @ linear["kernel"].astype(features.dtype)
        return logits.astype(jnp.float32) + linear["bias"]

    return answer, variables
