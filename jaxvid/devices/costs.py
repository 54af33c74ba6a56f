"""What a program computes, counted in the program as it was traced: the same on all devices.

XLA's own count is one of instructions as they were compiled: it takes a loop's body for once, and
knows nothing of what is handed to a vendor's library, as convolutions on GPUs are.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core

_KERNELS = ("pallas_call", "ffi_call", "dot_product_attention_")
"""How instructions begin that are written by hand, and into which one cannot look."""


@dataclasses.dataclass(frozen=True, order=True)
class Counted:
    """What was counted.

    Attributes:
      flops: operations, of which a product is two, a multiplication and an addition.
      loops: whether any are in a loop that goes round.
      kernels: whether there are more, in kernels that are written by hand.
    """

    flops: float = 0.0
    loops: bool = False
    kernels: bool = False

    def __add__(self, other: "Counted") -> "Counted":
        return Counted(
            self.flops + other.flops, self.loops or other.loops, self.kernels or other.kernels
        )


def count(program: Any) -> Counted:
    """The operations of all convolutions and matrix products of a jaxpr, over all its devices.

    Loops are counted as often as they go round, of branches the costliest, and what is recomputed
    as often as it is. A loop whose number of rounds nothing tells is counted once.
    """
    jaxpr = getattr(program, "jaxpr", program)
    return sum(map(_of, jaxpr.eqns), Counted())


def _of(eqn: Any) -> Counted:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        each = math.prod(shape[axis] for axis in contracted)
        return Counted(2.0 * each * eqn.outvars[0].aval.size)
    if name == "conv_general_dilated":
        return Counted(_convolution(eqn))
    if name == "cond":
        return max(map(count, params["branches"]))
    if name.startswith(_KERNELS):
        return Counted(kernels=True)
    inner = sum(map(count, _inside(params)), Counted())
    rounds = params["length"] if name == "scan" else 1
    loops = inner.loops or rounds > 1 or name == "while"
    return Counted(inner.flops * rounds, loops, inner.kernels)


def _convolution(eqn: Any) -> float:
    """Products of a convolution, also where a gradient makes it one of spread inputs."""
    numbers = eqn.params["dimension_numbers"]
    kernel = eqn.invars[1].aval.shape
    _, channels, *space = (kernel[axis] for axis in numbers.rhs_spec)
    # Between spread inputs lie zeros, which nobody multiplies.
    spread = math.prod(eqn.params["lhs_dilation"])
    return 2.0 * eqn.outvars[0].aval.size * channels * math.prod(space) / spread


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """The programs that an instruction is made of."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.Jaxpr | core.ClosedJaxpr):
                yield part
