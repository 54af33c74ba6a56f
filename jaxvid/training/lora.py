"""Training few numbers of a network: low-rank factors of its kernels, and its head (LoRA).

See Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022. No network knows of
it: the factors stand beside the kernels among the parameters (`checkpoint.lora`), which stay as
they are, and are multiplied into them before the network is applied.
"""

import dataclasses
import fnmatch
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxvid import checkpoint
from jaxvid.base.errors import JaxvidError
from jaxvid.checkpoint.lora import A, B
from jaxvid.config.parts import Train
from jaxvid.training.parts import Parts

LINEAR = "linear"
"""In `config.train.lora_layers` the word for all linear layers of the trunk."""
_STEM = "patch_embed"


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which kernels of a network have factors, and what else is trained; nothing without any.

    Attributes:
      kernels: the paths of the kernels, each with its sizes as a matrix, [in, out].
      frozen: the paths of what is not trained, these kernels among them.
      rank, scale: the factors' rank, and what their product is multiplied by: alpha / rank.
    """

    kernels: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    frozen: frozenset[str] = frozenset()
    rank: int = 0
    scale: float = 1.0

    def __bool__(self) -> bool:
        return bool(self.kernels)

    def __contains__(self, path: str) -> bool:
        """Whether a path is that of a factor."""
        return path.endswith((A, B)) and path[: -len(A)] in self.kernels

    def paths(self) -> Iterator[tuple[str, str]]:
        """The kernel and the path of each factor."""
        for kernel in self.kernels:
            yield from ((kernel, kernel + A), (kernel, kernel + B))

    def started(self, params: Any, key: jax.Array) -> Any:
        """Parameters with factors beside the kernels, which change nothing yet: B is zero.

        A is drawn evenly up to 1 / sqrt(in) on either side, as PyTorch's linear layers are.
        """
        if not self:
            return params
        flat = flatten_dict(params, sep="/")
        for number, (path, (inputs, outputs)) in enumerate(sorted(self.kernels.items())):
            bound = 1 / math.sqrt(inputs)
            own = jax.random.fold_in(key, number)
            flat[path + A] = jax.random.uniform(
                own, (inputs, self.rank), minval=-bound, maxval=bound
            )
            flat[path + B] = jnp.zeros((self.rank, outputs))
        return unflatten_dict(flat, sep="/")

    def merged(self, params: Any) -> Any:
        """The parameters of the network."""
        if not self:
            return params
        product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        whole = checkpoint.merged(flatten_dict(params, sep="/"), self.scale, product)
        return unflatten_dict(whole, sep="/")

    def described(self) -> str:
        """One line that says what is trained."""
        return f"LoRA of rank {self.rank} and scale {self.scale:g} on {len(self.kernels)} kernels"


NONE = Lora()


def find(parts: Parts, train: Train, frozen: frozenset[str] = frozenset()) -> Lora:
    """What `config.train` asks to be trained of the network of `parts`, of which some is frozen.

    Raises:
      JaxvidError: a pattern matches nothing.
    """
    if not train.lora_rank:
        return NONE
    kernels: dict[str, tuple[int, int]] = {}
    linear = [path for path in parts.params if _is_linear(parts, path)]
    for pattern in train.lora_layers:
        matched = linear if pattern == LINEAR else fnmatch.filter(parts.params, pattern)
        trunk = [path for path in matched if not path.startswith("head/")]
        found = {path: _matrix(parts, path) for path in trunk if path.endswith("/kernel")}
        if not found:
            raise JaxvidError(
                f"config.train.lora_layers: {pattern!r} matches no kernel of the trunk: give "
                f"{LINEAR}, where it has linear layers, or a pattern of paths such as "
                f"{_example(linear or parts.params)}"
            )
        kernels |= found
    also = {path for path in parts.params if path.startswith("head/")}
    for pattern in train.lora_also:
        others = fnmatch.filter(parts.params, pattern)
        if not others:
            raise JaxvidError(
                f"config.train.lora_also: {pattern!r} matches no parameter: give a pattern of "
                f"paths such as {_example(parts.params)}"
            )
        also.update(others)
    both = sorted(also & kernels.keys())
    if both:
        raise JaxvidError(
            f"config.train.lora_layers and lora_also both name {both[0]}: leave it out of one"
        )
    frozen |= frozenset(parts.params) - also
    return Lora(kernels, frozen, train.lora_rank, train.lora_alpha / train.lora_rank)


def _is_linear(parts: Parts, path: str) -> bool:
    """Whether a path is a linear layer's kernel in the trunk; convolutions of 1 are linear."""
    shape = parts.shapes[path]
    convolves = len(shape) > 3 and math.prod(shape[:-2]) > 1
    of_trunk = not path.startswith(("head/", _STEM)) and f"/{_STEM}" not in path
    return path.endswith("/kernel") and of_trunk and not convolves


def _matrix(parts: Parts, path: str) -> tuple[int, int]:
    """A kernel as a matrix [in, out], whose outputs, maybe of several heads, are its bias."""
    shape = parts.shapes[path]
    bias = parts.shapes.get(path.removesuffix("kernel") + "bias", ())
    axes = len(bias) if bias and shape[-len(bias) :] == bias else 1
    return math.prod(shape[:-axes]), math.prod(shape[-axes:])


def _example(paths: Sequence[str]) -> str:
    return f"{paths[0]} and {paths[-1]}"
