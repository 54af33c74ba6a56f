"""Every published architecture at full size, by shapes alone: keys, parameters, operations.

`tests/golden/keys` holds every key of the reference's state_dict with its shape and type;
`tests/golden/arch.csv` what was counted on the reference model: parameters, and the
multiply-accumulates of the convolutions and matrix products of one view.
"""

import csv
import gzip
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from jaxvid import zoo
from jaxvid.layers.conv import use_lowering
from jaxvid.models import mvit

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
with (GOLDEN / "arch.csv").open(newline="") as file:
    ARCHITECTURES = {line["name"]: line for line in csv.DictReader(file)}
SERVED = sorted(ARCHITECTURES.keys() & set(zoo.variants()))


def keys(name: str) -> dict[str, np.ndarray]:
    """The reference's state_dict, of zeros that take no memory."""
    listed = json.loads(gzip.decompress((GOLDEN / "keys" / f"{name}.json.gz").read_bytes()))
    return {
        key: np.broadcast_to(np.zeros((), dtype), shape) for key, (shape, dtype) in listed.items()
    }


def network(name: str):
    """The network with the reference's number of classes, and the shape of one view [1, ...]."""
    line = ARCHITECTURES[name]
    # The keys are those of the reference's config, whose classes may be another row's.
    classes = int(line["num_classes"]) if line["num_classes"] else None
    sizes = [int(size) for size in line["view"].split("x")]
    # Clips are printed C T H W, frames T C H W.
    channels_first = sizes[0] in (3, 10) and sizes[1] not in (3, 10)
    frames, channels = (sizes[1], sizes[0]) if channels_first else (sizes[0], sizes[1])
    return zoo.create_model(name, classes), (1, frames, *sizes[2:], channels)


@pytest.mark.parametrize("name", SERVED)
def test_every_key_has_its_place_and_every_parameter_its_key(name):
    model, shape = network(name)
    tensors = keys(name)
    for key, recompute in getattr(zoo.family(name), "RECOMPUTED", {}).items():
        tensors[key] = recompute(model, tensors[key].shape)
    variables = converters.convert(name, tensors, num_classes=model.num_classes)
    abstract = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros(shape, jnp.float32), train=False)
    )
    assert jax.tree.map(jnp.shape, variables) == {
        kind: jax.tree.map(jnp.shape, abstract.get(kind, {})) for kind in variables
    }
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract["params"]))
    assert count == int(ARCHITECTURES[name]["params"])
    back = converters.to_torch(name, variables)
    counters = {key for key in tensors if key.endswith("num_batches_tracked")}
    assert {key: back[key].shape for key in back.keys() - counters} == {
        key: tensors[key].shape for key in tensors.keys() & back.keys() - counters
    }


@pytest.mark.parametrize("name", SERVED)
def test_multiply_accumulates_are_those_of_the_reference(name, monkeypatch):
    if not ARCHITECTURES[name]["macs"]:
        pytest.skip(f"nothing was counted on the reference's {name}")
    model, shape = network(name)
    video = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), video)
    # MViT's relative positions were not counted on the reference. Here they are further channels
    # of queries and keys, beyond the values' width, and what makes them is called `positions`.
    attend = mvit.attend
    monkeypatch.setattr(
        mvit,
        "attend",
        lambda q, k, v, **scale: attend(q[..., : v.shape[-1]], k[..., : v.shape[-1]], v, **scale),
    )
    with use_lowering("native"):
        program = jax.make_jaxpr(lambda v, x: model.apply(v, x)[0])(variables, video)
    counted = multiply_accumulates(program.jaxpr)
    assert counted == pytest.approx(int(ARCHITECTURES[name]["macs"]), rel=0.01)


def is_position(equation) -> bool:
    return "positions" in str(equation.source_info.name_stack)


def multiply_accumulates(jaxpr) -> int:
    """Those of all convolutions and matrix products in a traced program."""
    total = 0
    for equation in jaxpr.eqns:
        operands = [variable.aval.shape for variable in equation.invars[:2]]
        if equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            kernel = [operands[1][axis] for axis in numbers.rhs_spec[1:]]
            total += math.prod(equation.outvars[0].aval.shape) * math.prod(kernel)
        elif equation.primitive.name == "dot_general" and not is_position(equation):
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(operands[0][axis] for axis in contracted)
            total += math.prod(equation.outvars[0].aval.shape) * depth
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * multiply_accumulates(inner)
    return total
