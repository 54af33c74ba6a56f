"""Every published architecture at full size, by shapes alone, and every row that is on it.

`tests/golden/keys` holds every key of the reference's state_dict with its shape and type;
`jaxvid/models/costs.csv` what was counted: parameters, and the multiply-accumulates of the
convolutions and matrix products of one view. Each view is traced once for all tests here.
"""

import gzip
import json
import math
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from jaxvid import config, zoo
from tests import counting
from tests.zoo.test_zoo import published, rows

ROOT = pathlib.Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "golden"
KEYS = GOLDENS / "keys"
COSTS = counting.lines()
# Of each architecture the view that the reference was counted on, where it was.
ARCHITECTURES = {
    line["variant"]: line for line in sorted(COSTS, key=lambda line: line["counted_on"] != "jaxvid")
}
SERVED = sorted(ARCHITECTURES)
LISTED = sorted(path.name.partition(".")[0] for path in KEYS.glob("*.json.gz"))


def file_name(variant: str) -> str:
    """What the file of its family is called in `jaxvid/models/`."""
    return zoo.family(variant).__name__.rpartition(".")[2]


def others_slow(names: list[str]) -> list:
    """The parameters of a test: of each family all but the network of fewest numbers are slow."""
    standing: dict[str, str] = {}
    uncounted = {"params": 0}
    for name in sorted(names, key=lambda name: int(ARCHITECTURES.get(name, uncounted)["params"])):
        standing.setdefault(file_name(name), name)
    slow = pytest.mark.slow("architectures")
    return [name if name in standing.values() else pytest.param(name, marks=slow) for name in names]


def keys(name: str) -> dict[str, np.ndarray]:
    """The reference's state_dict, of zeros that take no memory."""
    listed = json.loads(gzip.decompress((KEYS / f"{name}.json.gz").read_bytes()))
    return {
        key: np.broadcast_to(np.zeros((), dtype), shape) for key, (shape, dtype) in listed.items()
    }


def architecture(name: str) -> dict[str, str]:
    """What was counted of a network on its first view."""
    assert name in ARCHITECTURES, f"{name} was not counted: run `python -m tests.generate`"
    return ARCHITECTURES[name]


def network(name: str):
    """The network with the number of classes that the reference was counted with."""
    # The keys are those of the reference's config, whose classes may be another row's.
    return zoo.create_model(name, int(architecture(name)["num_classes"]))


def variables_of(name: str):
    """Shapes of the variables of a network, traced on its first view."""
    line = architecture(name)
    view = int(line["num_classes"]), int(line["frames"]), int(line["side"])
    return counting.traced(name, *view)[0]


def test_every_row_was_counted():
    assert counting.missing() == {}, (
        "jaxvid/models/costs.csv lacks these views: run `python -m tests.generate`"
    )


@pytest.mark.parametrize("family", sorted({file_name(row.variant) for row in rows()}))
def test_every_family_is_held_to_its_reference(family):
    """Of the published tables each variant has its keys here; a family beyond them has a golden."""
    served = {row.variant for row in rows() if file_name(row.variant) == family}
    if family in {file_name(row.variant) for row in published()}:
        assert served <= set(LISTED), (
            f"tests/golden/keys lacks variants of jaxvid/models/{family}.py"
        )
    else:
        asked = " or ".join(f"tests/golden/{variant}.npz" for variant in sorted(served))
        assert any((GOLDENS / f"{variant}.npz").is_file() for variant in served), (
            f"jaxvid/models/{family}.py has no golden file, {asked}: docs/add-a-family.md says "
            "how it is made"
        )


@pytest.mark.parametrize("name", others_slow(LISTED))
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


@pytest.mark.parametrize("name", others_slow(SERVED))
def test_costs_are_those_of_the_reference(name):
    """Where nothing was counted on the reference, the program is held to what it was."""
    again = "if the network is meant to have changed, take its line out of jaxvid/models/costs.csv "
    again += "and run `python -m tests.generate`"
    for line in (line for line in COSTS if line["variant"] == name):
        view = (int(line[key]) for key in ("num_classes", "frames", "side"))
        counted = counting.count(name, *view)
        macs = counted.pop("macs")
        assert counted == {key: int(line[key]) for key in counted}, again
        tolerance = 0.01 if line["counted_on"] == "reference" else 0
        assert macs == pytest.approx(int(line["macs"]), rel=tolerance), again


@pytest.mark.parametrize("name", others_slow(sorted({row.variant for row in rows()})))
def test_every_row_of(name):
    """Its config, its network's shapes, its labels, and its place in the documents."""
    get_config = runpy.run_path(str(ROOT / "configs" / "zoo_row.py"))["get_config"]
    page = (ROOT / "docs" / "zoo.md").read_text("utf-8")
    shapes, line = variables_of(name), architecture(name)
    for row in (row for row in rows() if row.variant == name):
        fields = get_config(f"name={row.name}")
        assert fields.model.name == row.name
        assert fields.test.crop == row.view[1] == row.view[2]
        assert config.views(fields) == row.num_views
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
        assert f"`{row.name}`" in page, "docs/zoo.md is stale: run `python -m tests.generate`"
