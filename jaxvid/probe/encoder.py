"""A network of the zoo as a frozen encoder: its weights, and which features are taken of it."""

import dataclasses
import functools
import hashlib
import re
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config.parts import Config
from jaxvid.data import pipeline
from jaxvid.inference import features, predictor
from jaxvid.layers.preprocess import normalizer


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A network with its variables, and the intermediate `name` of it that is looked at."""

    config: Config
    network: nn.Module
    variables: Any
    name: str

    @functools.cached_property
    def about(self) -> dict[str, Any]:
        """All that its features of a video depend on, as JSON has it."""
        config = self.config
        return {
            "model": config.model.name,
            "overrides": dict(config.model.overrides),
            "dtype": config.model.dtype,
            "weights": _digest(self.variables),
            "features": self.name,
            "test": dataclasses.asdict(config.test.protocol),
            "mean": list(config.data.mean),
            "std": list(config.data.std),
            "channel_order": config.data.channel_order,
            "flow": config.data.flow,
        }

    @functools.cached_property
    def extract(self) -> features.Extractor:
        """From variables and views uint8 [V, T, H, W, C] to features; see `make_extractor`."""
        return features.make_extractor(
            self.network,
            normalizer(self.config.data, jnp.dtype(self.config.model.dtype)),
            max(self.config.test.batch_size, self.config.test.views_per_step),
            [self.name],
            False,
            self.variables,
            pipeline.make_protocol(self.config.test).view,
        )


def load(config: Config, name: str, random: bool) -> Encoder:
    """The encoder of `config`, with the weights of `config.init` or `random` ones.

    What the classifier lacks is made up, as features do not see it, and a decoder is left out.
    Without a `name` the features are the network's tokens, or else its last grid.

    Raises:
      JaxvidError: there are no weights or two kinds of them, they are another network's, or the
        test has no fixed views.
    """
    model = config.model
    if model.members or zoo.pretrains(model.name):
        kind = "several networks" if model.members else "a network that pretrains"
        raise JaxvidError(
            f"{model.name} is {kind}: give the name of one that classifies, which takes its weights"
        )
    if pipeline.untrimmed(config.test.protocol):
        raise JaxvidError(
            f"the test of {model.name} has as many views of a video as that is long: give another "
            "config.test.sampling.sampler"
        )
    if bool(config.init) == random:
        raise JaxvidError(
            "give the encoder's weights by init=DIR in the config argument, or --random for random "
            "ones, and not both"
        )
    network = zoo.create_model(model.name, None, model.compute_dtype, **model.overrides)
    shape = pipeline.make_protocol(config.test).view
    clip = jnp.zeros((1, *shape), jnp.float32)
    if random:
        variables = jax.jit(network.init)(jax.random.key(config.seed), clip)
    else:
        variables = _without_classifier(config.init, network, clip, config.test.weights)
        expected = predictor.expected_variables(network, shape, config.init)
        predictor.check_variables(expected, variables, config.init)
    _, out = jax.eval_shape(lambda v, x: network.apply(v, x, train=False), variables, clip)
    return Encoder(config, network, jax.device_put(variables), name or _usual(out))


def _without_classifier(path: str, network: nn.Module, clip: jax.Array, weights: str) -> Any:
    """The variables of a checkpoint, with zeros for a classifier that is not the network's own."""
    flat = flax.traverse_util.flatten_dict(checkpoint.load_finite(path, weights), sep="/")
    own = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), clip)
    own = flax.traverse_util.flatten_dict(own, sep="/")

    def of(name: str, part: str) -> bool:
        return name.split("/")[1] == part

    kept = {
        name: array
        for name, array in flat.items()
        if name in own or not (of(name, "head") or of(name, "decoder"))
    }
    for name, leaf in own.items():
        if of(name, "head") and (name not in kept or kept[name].shape != leaf.shape):
            kept[name] = np.zeros(leaf.shape, leaf.dtype)
    return flax.traverse_util.unflatten_dict(kept, sep="/")


def _usual(out: dict[str, jax.ShapeDtypeStruct]) -> str:
    """The intermediate that is looked at if nobody says: tokens, or the last stage's grid."""
    if "tokens" in out:
        return "tokens"
    stages = [name for name in out if re.fullmatch(r"stage\d+", name)]
    return max(stages, key=lambda name: int(name.removeprefix("stage")), default="pre_logits")


def _digest(variables: Any) -> str:
    """What tells weights from others."""
    found = hashlib.blake2b(digest_size=8)
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    for name in sorted(flat):
        # A classifier is no part of the encoder, nor are the classes that it was trained for.
        if name.split("/")[1] != "head":
            found.update(name.encode())
            found.update(np.ascontiguousarray(flat[name]).tobytes())
    return found.hexdigest()
