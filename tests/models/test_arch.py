"""Every published architecture at full size, by shapes alone, and every row that is on it.

`tests/golden/keys` holds every key of the reference's state_dict with its shape and type;
`jaxvid/models/costs.csv` what was counted: parameters, and the multiply-accumulates of the
convolutions and matrix products of one view. Each view is traced once for all tests here.
"""

import csv
import functools
import gzip
import json
import math
import pathlib
import re
import runpy
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from jaxvid import config, models, zoo
from jaxvid.layers.conv import use_lowering
from jaxvid.models import mvit
from tests.zoo.test_zoo import served

ROOT = pathlib.Path(__file__).parents[2]
KEYS = ROOT / "tests" / "golden" / "keys"
with (pathlib.Path(models.__path__[0]) / "costs.csv").open(newline="") as file:
    COSTS = list(csv.DictReader(file))
# Of each architecture the view that the reference was counted on, where it was.
ARCHITECTURES = {
    line["variant"]: line for line in sorted(COSTS, key=lambda line: line["counted_on"] != "jaxvid")
}
SERVED = sorted(ARCHITECTURES)


def keys(name: str) -> dict[str, np.ndarray]:
    """The reference's state_dict, of zeros that take no memory."""
    listed = json.loads(gzip.decompress((KEYS / f"{name}.json.gz").read_bytes()))
    return {
        key: np.broadcast_to(np.zeros((), dtype), shape) for key, (shape, dtype) in listed.items()
    }


def network(name: str):
    """The network with the number of classes that the reference was counted with."""
    # The keys are those of the reference's config, whose classes may be another row's.
    return zoo.create_model(name, int(ARCHITECTURES[name]["num_classes"]))


@functools.cache
def traced(name: str, frames: int, side: int):
    """Shapes of the variables of a network for such a view, and its multiply-accumulates."""
    model = network(name)
    channels = 10 if name.endswith("_flow") else 3
    video = jax.ShapeDtypeStruct((1, frames, side, side, channels), jnp.float32)
    # MViT's relative positions were not counted on the reference. Here they are further channels
    # of queries and keys, beyond the values' width, and what makes them is called `positions`.
    attend = mvit.attend

    def attend_without_positions(q, k, v, **scale):
        return attend(q[..., : v.shape[-1]], k[..., : v.shape[-1]], v, **scale)

    with use_lowering("native"), mock.patch.object(mvit, "attend", attend_without_positions):
        program, ((logits, _), variables) = jax.make_jaxpr(
            lambda key, x: model.init_with_output(key, x, train=False), return_shape=True
        )(jax.random.key(0), video)
    assert logits.shape == (1, model.num_classes)
    return variables, multiply_accumulates(program.jaxpr)


def variables_of(name: str):
    """Shapes of the variables of a network, traced on its first view."""
    line = ARCHITECTURES[name]
    return traced(name, int(line["frames"]), int(line["side"]))[0]


@pytest.mark.parametrize("name", SERVED)
def test_every_key_has_its_place_and_every_parameter_its_key(name):
    model, shapes = network(name), variables_of(name)
    tensors = keys(name)
    for key, recompute in getattr(zoo.family(name), "RECOMPUTED", {}).items():
        tensors[key] = recompute(model, tensors[key].shape)
    variables = converters.convert(name, tensors, num_classes=model.num_classes)
    assert jax.tree.map(jnp.shape, variables) == {
        kind: jax.tree.map(jnp.shape, shapes.get(kind, {})) for kind in variables
    }
    back = converters.to_torch(name, variables)
    counters = {key for key in tensors if key.endswith("num_batches_tracked")}
    assert {key: back[key].shape for key in back.keys() - counters} == {
        key: tensors[key].shape for key in tensors.keys() & back.keys() - counters
    }


@pytest.mark.parametrize(
    "line", COSTS, ids=lambda line: f"{line['variant']}-{line['frames']}x{line['side']}"
)
def test_costs_are_those_of_the_reference(line):
    """A new line is right once this says nothing against it: `counted` are its numbers."""
    variables, macs = traced(line["variant"], int(line["frames"]), int(line["side"]))
    classes = int(line["num_classes"])
    head = [leaf.shape for leaf in jax.tree.leaves(variables["params"]["head"])]
    leaves = jax.tree.leaves(variables["params"])
    counted = {
        "params": sum(math.prod(leaf.shape) for leaf in leaves),
        "params_per_class": sum(math.prod(shape[:-1]) for shape in head if shape[-1] == classes),
    }
    assert counted == {key: int(line[key]) for key in counted}, f"macs are {macs}"
    tolerance = 0.01 if line["counted_on"] == "reference" else 0
    assert macs == pytest.approx(int(line["macs"]), rel=tolerance)


@pytest.mark.parametrize("name", sorted({row.variant for row in served().values()}))
def test_every_row_of(name):
    """Its config, its network's shapes, its labels, and its place in the documents."""
    get_config = runpy.run_path(str(ROOT / "configs" / "zoo_row.py"))["get_config"]
    page = (ROOT / "docs" / "zoo.md").read_text("utf-8")
    shapes, line = variables_of(name), ARCHITECTURES[name]
    for row in (row for row in served().values() if row.variant == name):
        fields = get_config(f"name={row.name}")
        assert fields.model.name == row.name
        assert fields.test.crop == row.view[1] == row.view[2]
        assert row.modality == "flow" or config.views(fields) == row.num_views
        model = zoo.create_model(row.name)
        assert isinstance(model, zoo.family(name).Model)
        assert {key: getattr(model, key) for key in row.overrides} == row.overrides
        assert len(zoo.labels(row.dataset)) == row.num_classes == model.num_classes
        cost = zoo.cost(row.name)
        if len(row.members) < 2:
            count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
            more = (row.num_classes - int(line["num_classes"])) * int(line["params_per_class"])
            assert cost.params == count + more
        assert cost.total_macs >= cost.macs > 0
        assert f"`{row.name}`" in page


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
