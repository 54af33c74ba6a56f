"""Fine-tuning: what comes from the checkpoint, what is new, and what is refused."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.training import start
from jaxvid.training.state import TrainState
from tests.models.test_families import video

TINY = sorted(name for name in zoo.variants() if name.endswith("_test"))


def state_of(variant: str, classes: int, value: float) -> TrainState:
    """A state of the tiny network in which every number is `value`."""
    model = zoo.create_model(variant, classes)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), video(variant)))
    filled = jax.tree.map(lambda leaf: jnp.asarray(np.full(leaf.shape, value, leaf.dtype)), shapes)
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, filled["params"], filled.get("batch_stats", {}), ())


def save(path, variant: str, classes: list[str]) -> str:
    state = state_of(variant, len(classes), 1.0)
    checkpoint.save(path, state.variables, {"variant": variant, "classes": classes})
    return str(path)


def new_arrays(state: TrainState) -> set[str]:
    """Names of the arrays that still hold the zeros of the fresh state."""
    flat = flax.traverse_util.flatten_dict(state.variables, sep="/")
    assert {float(np.ptp(leaf)) for leaf in flat.values()} == {0.0}
    return {name for name, leaf in flat.items() if leaf.ravel()[0] == 0}


@pytest.mark.parametrize(
    "variant, classes",
    [*((variant, ["a", "b"]) for variant in TINY), ("tsm_test", ["b", "a", "c"])],
)
def test_only_the_classifier_is_new_where_the_classes_differ(variant, classes, tmp_path, capsys):
    path = save(tmp_path / "weights", variant, ["a", "b", "c"])
    state = start.start_from(state_of(variant, len(classes), 0.0), path, classes)
    new = new_arrays(state)
    own = flax.traverse_util.flatten_dict(state.variables, sep="/")
    assert new == {name for name in own if name.split("/")[1] == "head"} != set()
    said = capsys.readouterr().out
    assert all(f"new: {name}" in said for name in new)


def test_everything_is_taken_where_the_classes_are_the_same(tmp_path):
    path = save(tmp_path / "weights", "tsm_test", ["a", "b"])
    state = start.start_from(state_of("tsm_test", 2, 0.0), path, ["a", "b"])
    assert new_arrays(state) == set()


def test_another_network_is_refused(tmp_path):
    path = save(tmp_path / "weights", "slowonly_test", ["a", "b"])
    with pytest.raises(JaxvidError, match="not a checkpoint of this network"):
        start.start_from(state_of("tsm_test", 2, 0.0), path, ["a", "b"])


def test_what_an_image_classifier_did_not_have_is_new(tmp_path, capsys):
    known = state_of("tsm_test", 400, 1.0).variables
    known["params"].pop("head")
    paths = ["params/head/fc/bias", "params/head/fc/kernel"]
    checkpoint.save(tmp_path / "trunk", known, {"variant": "tsm_test", "classes": [], "new": paths})
    state = start.start_from(state_of("tsm_test", 2, 0.0), str(tmp_path / "trunk"), ["a", "b"])
    assert new_arrays(state) == set(paths)
    assert "new: params/head/fc/kernel" in capsys.readouterr().out
    checkpoint.save(tmp_path / "less", known, {"variant": "tsm_test", "classes": []})
    with pytest.raises(JaxvidError, match="params/head/fc/kernel is missing"):
        start.start_from(state_of("tsm_test", 2, 0.0), str(tmp_path / "less"), ["a", "b"])
