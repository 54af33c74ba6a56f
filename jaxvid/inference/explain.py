"""Where a network saw what it answered: Grad-CAM (Selvaraju et al., 2017) for any network.

The gradient of a class's logit with respect to an intermediate needs the network cut in two there.
No model is written for that: its traced program is cut, at the value that the intermediate of that
name is made of.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxvid.base.errors import JaxvidError

Apply = Callable[[Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
Program = Any
"""What `jax.make_jaxpr` gives: a `ClosedJaxpr`, which JAX's newest releases call otherwise."""
# What only chooses and arranges numbers, as between the tokens of a stage and their grid.
_ARRANGE = ("convert_element_type", "copy", "reshape", "slice", "squeeze", "transpose")


def grad_cam(
    apply: Apply, variables: Any, clip: jax.Array, label: int, at: str | None = None
) -> tuple[np.ndarray, str]:
    """Heat of one class over the last intermediate with a spatial map that its logit depends on.

    The map's channels are summed with the weight of their mean gradient in each frame, and what is
    below 0 speaks for other classes and is cut off.

    Args:
      apply: (variables, clip) -> (logits [1, classes], intermediates by name); not jitted as a
        whole, which would hide its parts.
      variables: its first argument.
      clip: its second, [1, T, H, W, C], normalised.
      label: the class.
      at: the intermediate to compute it at, in place of the last one.

    Returns:
      Heat float32 [T', H', W'], its highest 1 (or all 0), and the intermediate's name.

    Raises:
      JaxvidError: the logit depends on no intermediate [1, T', H', W', C'], or not on that one.
    """
    program: Program
    program, shapes = jax.make_jaxpr(apply, return_shape=True)(variables, clip)
    arguments = jax.tree.leaves((variables, clip))
    # Flattened as the outputs of the program are, which orders names by their letters.
    names = [None, *sorted(shapes[1])]
    made_at = {var: n for n, eqn in enumerate(program.jaxpr.eqns) for var in eqn.outvars}
    maps = [
        (made_at[var], name, var)
        for name, var in zip(names, program.jaxpr.outvars, strict=True)
        if name and name == (at or name) and len(var.aval.shape) == 5 and var in made_at
    ]
    # A class token looks at the map before its last block: the one after it has no gradient.
    for _, name, var in sorted(maps, key=lambda found: -found[0]):
        source = _source(program.jaxpr, var)
        if source is None:
            continue
        heat, reached = jax.jit(_heat(program, source, var, label))(arguments)
        if reached:
            return np.asarray(heat), name
    raise JaxvidError(
        f"this network's answer depends on no {at or 'intermediate'} with a spatial map, so where "
        "it looked cannot be shown there: leave out --explain"
    )


def enlarge(heat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Heat [T', H', W'] interpolated linearly to `shape` [T, H, W]."""
    return np.asarray(jax.image.resize(jnp.asarray(heat), shape, "linear"))


def _source(jaxpr: jex.Jaxpr, var: jex.Var) -> jex.Var | None:
    """The value that `var` is an arrangement of and that the logits depend on, or None."""
    makers = {out: eqn for eqn in jaxpr.eqns for out in eqn.outvars}
    logits = jaxpr.outvars[0]
    if isinstance(logits, jex.Literal):
        return None
    needed, _ = _needed(jaxpr.eqns, logits)
    while var not in needed:
        eqn = makers.get(var)
        if eqn is None or eqn.primitive.name not in _ARRANGE:
            return None
        of = eqn.invars[0]
        if isinstance(of, jex.Literal):
            return None
        var = of
    return var


def _needed(eqns: list[jex.JaxprEqn], outvar: jex.Var) -> tuple[set[jex.Var], list[jex.JaxprEqn]]:
    """The values and the equations that `outvar` depends on."""
    needed = {outvar}
    kept: list[jex.JaxprEqn] = []
    for eqn in reversed(eqns):
        if needed.intersection(eqn.outvars):
            needed.update(x for x in eqn.invars if not isinstance(x, jex.Literal))
            kept.append(eqn)
    return needed, kept[::-1]


def _heat(
    program: Program, source: jex.Var, var: jex.Var, label: int
) -> Callable[[list[jax.Array]], tuple[jax.Array, jax.Array]]:
    """A function of the program's arguments to the heat at `var`, and whether it has a gradient."""
    jaxpr = program.jaxpr
    value_of = _function(program, jaxpr.invars, jaxpr.eqns, source)
    eqns = [
        eqn.replace(outvars=[jex.DropVar(x.aval) if x is source else x for x in eqn.outvars])
        for eqn in jaxpr.eqns
    ]
    logits_of = _function(program, [*jaxpr.invars, source], eqns, jaxpr.outvars[0])
    map_of = _function(program, [*jaxpr.invars, source], eqns, var)

    def heat(arguments: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
        value = value_of(*arguments)
        slope = jax.grad(lambda x: logits_of(*arguments, x)[0, label])(value)
        # An arrangement of numbers is the same one for their gradient.
        value, slope = map_of(*arguments, value)[0], map_of(*arguments, slope)[0]
        value, slope = value.astype(jnp.float32), slope.astype(jnp.float32)
        weight = slope.mean((1, 2), keepdims=True)
        warm = jax.nn.relu((weight * value).sum(-1))
        return warm / jnp.maximum(warm.max(), 1e-30), jnp.any(slope != 0)

    return heat


def _function(
    program: Program, invars: list[jex.Var], eqns: list[jex.JaxprEqn], outvar: jex.Var
) -> Callable[..., jax.Array]:
    """The part of a program that computes `outvar` from `invars`."""
    part = jex.Jaxpr(
        program.jaxpr.constvars,
        invars,
        [outvar],
        _needed(eqns, outvar)[1],
        program.jaxpr.effects,
        program.jaxpr.debug_info._replace(arg_names=("",) * len(invars), result_paths=("",)),
    )
    function = jex.jaxpr_as_fun(type(program)(part, program.consts))
    return lambda *arguments: function(*arguments)[0]
