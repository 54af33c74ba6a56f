"""What networks take, counted on their traced programs, as `jaxvid/models/costs.csv` has it."""

import csv
import functools
import math
import pathlib
import re
from unittest import mock

import jax
import jax.numpy as jnp

from jaxvid import models, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.layers.conv import use_lowering
from jaxvid.models import mvit

FILE = pathlib.Path(models.__path__[0]) / "costs.csv"
# A view: variant, frames, side in pixels.
View = tuple[str, int, int]


def lines() -> list[dict[str, str]]:
    """What was counted so far."""
    with FILE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def missing() -> dict[View, int]:
    """The views of rows of which nothing was counted, each with the classes of its first row."""
    counted = {(line["variant"], int(line["frames"]), int(line["side"])) for line in lines()}
    found: dict[View, int] = {}
    for row in map(zoo.get_row, zoo.list_models()):
        view = row.variant, *row.view[:2]
        if len(row.members) < 2 and view not in counted:
            found.setdefault(view, row.num_classes)
    return found


def write_missing() -> list[str]:
    """Counts what `missing` finds, and writes the lines where they belong; returns the variants."""
    added = []
    for (variant, frames, side), classes in missing().items():
        counted = count(variant, classes, frames, side)
        added.append(
            {"variant": variant, "num_classes": classes, "frames": frames, "side": side}
            | {**counted, "counted_on": "jaxvid"}
        )
    if added:
        written = [*lines(), *added]
        written.sort(key=lambda line: line["variant"])
        with FILE.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(written[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(written)
    return [line["variant"] for line in added]


def count(variant: str, classes: int, frames: int, side: int) -> dict[str, int]:
    """Parameters, those that each class adds, and the multiply-accumulates of one view.

    Raises:
      JaxvidError: the network has no part that is called `head`.
    """
    variables, macs = traced(variant, classes, frames, side)
    if "head" not in variables["params"]:
        raise JaxvidError(
            f"{variant}: its parts are {', '.join(sorted(variables['params']))}; call the "
            "classifier `head`, so that what depends on the classes is known."
        )
    head = [leaf.shape for leaf in jax.tree.leaves(variables["params"]["head"])]
    leaves = jax.tree.leaves(variables["params"])
    return {
        "params": sum(math.prod(leaf.shape) for leaf in leaves),
        "params_per_class": sum(math.prod(shape[:-1]) for shape in head if shape[-1] == classes),
        "macs": macs,
    }


@functools.cache
def traced(variant: str, classes: int, frames: int, side: int):
    """Shapes of the variables of a network for such a view, and its multiply-accumulates."""
    model = zoo.create_model(variant, classes)
    channels = zoo.starting_row(variant).view[-1]
    video = jax.ShapeDtypeStruct((1, frames, side, side, channels), jnp.float32)
    # MViT's relative positions were not counted on the reference. Here attention is given them, and
    # what makes them is called `positions`.
    attend = mvit.attend

    def attend_without_positions(q, k, v, positions):
        return attend(q, k, v)

    with use_lowering("native"), mock.patch.object(mvit, "attend", attend_without_positions):
        program, ((logits, _), variables) = jax.make_jaxpr(
            lambda key, x: model.init_with_output(key, x, train=False), return_shape=True
        )(jax.random.key(0), video)
    assert logits.shape == (1, classes)
    return variables, multiply_accumulates(program.jaxpr)


def is_counted(equation) -> bool:
    """Not what makes MViT's relative positions, nor the classifier that only training has."""
    return not re.search(r"\b(positions|aux)\b", str(equation.source_info.name_stack))


def multiply_accumulates(jaxpr) -> int:
    """Those of all convolutions and matrix products in a traced program."""
    total = 0
    for equation in jaxpr.eqns:
        operands = [variable.aval.shape for variable in equation.invars[:2]]
        if not is_counted(equation):
            continue
        if equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            kernel = [operands[1][axis] for axis in numbers.rhs_spec[1:]]
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(kernel)
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(operands[0][axis] for axis in contracted)
            total += math.prod(equation.outvars[0].aval.shape) * depth
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * multiply_accumulates(inner)
    return total
