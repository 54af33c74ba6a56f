"""The parts of a network: its parameters in order of use, its layers, and what is to be frozen.

They are read off one abstract run, so that no family has to say them: blocks are the modules that
are named by a number (`layer2_0`, `block7`, `stage1/block0`).
"""

import contextlib
import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from jaxvid.base.errors import JaxvidError
from jaxvid.layers.blocks import changing
from jaxvid.layers.norm import BatchNorm
from jaxvid.rows import FREEZE_NORM

_NUMBERED = re.compile(r"(layer|block|stage)s?_?\d")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Paths of a network's parameters and of its BatchNorms, in the order of their first use.

    `shapes` are those of the parameters.
    """

    params: tuple[str, ...]
    norms: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]


def find(model: nn.Module, clip_shape: Sequence[int]) -> Parts:
    """Reads the parts off `model` on a clip [T, H, W, C], without computing anything."""
    shapes: dict[str, tuple[int, ...]] = {}
    norms: list[str] = []

    def note(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            norms.append("/".join(context.module.path))
        return call(*args, **kwargs)

    def run(key: jax.Array, clip: jax.Array) -> None:
        with nn.intercept_methods(note):
            variables = model.init(key, clip, train=False)
        # Here the dicts are still in the order in which the network filled them.
        flat = flax.traverse_util.flatten_dict(variables["params"], sep="/")
        shapes.update((path, value.shape) for path, value in flat.items())

    clip = jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32)
    jax.eval_shape(run, jax.random.key(0), clip)
    return Parts(tuple(shapes), tuple(dict.fromkeys(norms)), shapes)


def block_of(path: str) -> str | None:
    """The block that a path lies in: `backbone/layer1_0` of `backbone/layer1_0/conv1/kernel`.

    Two numbers name a block, one may name a stage of blocks that are numbered in turn.
    """
    names = path.split("/")
    first = next((i for i, name in enumerate(names) if _NUMBERED.match(name)), None)
    if first is None:
        return None
    end = first + 1
    while end < len(names) and _NUMBERED.match(names[end]) and len(_numbers(names[first:end])) < 2:
        end += 1
    return "/".join(names[:end])


def blocks(params: Sequence[str]) -> frozenset[str]:
    """The paths of all blocks among paths of parameters."""
    found = set(filter(None, map(block_of, params)))
    # A stage that holds numbered blocks is not a block itself.
    return frozenset(b for b in found if not any(other.startswith(b + "/") for other in found))


def layers(params: Sequence[str]) -> dict[str, int]:
    """The layer of each parameter, of paths in their order of use.

    Layer 0 is all that stands before the first block (stem, tokens, embeddings of positions), each
    block is one layer in the order of its numbers, and what follows the last one is the last layer
    (final norm, head): the order in which MMAction2's optimizer constructors count. Blocks of the
    same numbers in two pathways are one layer. What stands between blocks belongs to the next one.

    Raises:
      JaxvidError: the network has no numbered blocks.
    """
    keys = {block: _numbers(block.split("/")) for block in blocks(params)}
    if not keys:
        raise JaxvidError(
            "config.optim.layer_decay needs a network of numbered blocks, which this one is not: "
            "set it to 1"
        )
    ranks = {key: rank for rank, key in enumerate(sorted(set(keys.values())), 1)}
    order = [block if (block := block_of(path)) in keys else None for path in params]

    def next_layer(place: int) -> int:
        names = params[place].split("/")
        for depth in range(len(names) - 1, -1, -1):
            scope = "".join(f"{name}/" for name in names[:depth])
            for block in order[place:]:
                if block and block.startswith(scope):
                    rank = ranks[keys[block]]
                    return rank if rank > 1 else 0
        return len(ranks) + 1

    return {
        path: ranks[keys[block]] if block else next_layer(place)
        for place, (path, block) in enumerate(zip(params, order, strict=True))
    }


def describe_layers(layer_of: Mapping[str, int], decay: float) -> str:
    """One line that says the groups and their shares of the rate: `block0 x0.56, ...`."""
    top = max(layer_of.values())
    members: dict[int, dict[str, None]] = {}
    for path, layer in layer_of.items():
        name = block_of(path) or "/".join(path.split("/")[:-1][:2]) or path
        members.setdefault(layer, {})[name] = None
    groups = [f"{' + '.join(members[n])} x{decay ** (top - n):.3g}" for n in sorted(members)]
    if len(groups) > 8:
        groups[4:-3] = ["..."]
    return f"rates of {len(members)} layers: {', '.join(groups)}"


def frozen(parts: Parts, patterns: Sequence[str], freeze_norm: str) -> frozenset[str]:
    """Paths of the parameters that training leaves as they are.

    `patterns` are fnmatch globs on the path, or `trunk`, which stands for all but the head.
    `freeze_norm` adds the scales and biases of `all` BatchNorms or of all but the first (`partial`,
    which is MMAction2's `partial_bn`); `statistics` adds none, see `holding_norms`.

    Raises:
      JaxvidError: a pattern matches nothing, or nothing is left to train.
    """
    if freeze_norm not in FREEZE_NORM:
        raise JaxvidError(
            f"config.train.freeze_norm={freeze_norm!r} is unknown: take all, partial, statistics "
            "or ''"
        )
    paths: set[str] = set()
    for pattern in patterns:
        if pattern == "trunk":
            matched = {path for path in parts.params if not path.startswith("head/")}
        else:
            matched = set(fnmatch.filter(parts.params, pattern))
        if not matched:
            raise JaxvidError(
                f"config.optim.freeze: {pattern!r} matches no parameter: give trunk, or a pattern "
                f"of paths such as {parts.params[0]} and {parts.params[-1]}"
            )
        paths |= matched
    held = {"all": parts.norms, "partial": parts.norms[1:]}.get(freeze_norm, ())
    paths |= {f"{norm}/{name}" for norm in held for name in ("scale", "bias")}
    if paths.issuperset(parts.params):
        raise JaxvidError("config.optim.freeze leaves nothing to train: freeze less")
    return frozenset(paths)


@contextlib.contextmanager
def holding_norms(paths: Set[str], every: bool = False) -> Iterator[None]:
    """Lets BatchNorms whose scale and bias are in `paths`, or all, use their running statistics.

    In training they would otherwise use the batch's and change the running ones: a frozen one
    changes nothing at all.
    """

    def hold(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, BatchNorm) and context.method_name == "__call__":
            path = "/".join(module.path)
            if every or f"{path}/scale" in paths and f"{path}/bias" in paths:
                return call(args[0], train=False)
        return call(*args, **kwargs)

    with nn.intercept_methods(hold):
        yield


@contextlib.contextmanager
def grouping_norms(groups: int, measure: bool = False) -> Iterator[None]:
    """Lets BatchNorms in training normalise each of `groups` parts of the batch by itself.

    With `measure` their running statistics become the batch's; see `BatchNorm`.
    """

    def group(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, BatchNorm) and context.method_name == "__call__":
            return call(*args, **kwargs, groups=groups, measure=measure)
        return call(*args, **kwargs)

    with nn.intercept_methods(group):
        yield


@contextlib.contextmanager
def recomputing(paths: Set[str]) -> Iterator[None]:
    """Keeps of every block in `paths` its inputs only: the backward pass computes the rest again.

    See Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """
    with changing(paths, lambda _, run: nn.remat(run)):
        yield


def _numbers(names: Sequence[str]) -> tuple[int, ...]:
    """All numbers in the names of blocks and stages."""
    numbered = filter(_NUMBERED.match, names)
    return tuple(int(number) for name in numbered for number in re.findall(r"\d+", name))
