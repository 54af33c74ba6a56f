"""The name map: total in both directions, and every problem said at once."""

import numpy as np
import pytest

from converters.names import LAYOUTS, NameMap, in_order
from jaxvid.base.errors import JaxvidError

RULES = [
    ("stem.weight", "params/stem/kernel", "conv2d"),
    ("layer{s}.{b}.{c:conv1|conv2}.weight", "params/layer{s}_{b}/{c}/kernel", "conv3d"),
    ("layer{s}.{b}.{n:a|b}.mean", "batch_stats/layer{s}_{b}/{n:a|b}/mean", "same"),
    ("layer{s}.{b}.{n:a|b}.count", None, "drop"),
    ("fc.weight", "params/fc/kernel", "linear"),
]


def tensors():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "stem.weight": draw(4, 3, 2, 5),
        "layer1.10.conv1.weight": draw(4, 2, 3, 1, 5),
        "layer1.10.conv2.weight": draw(4, 2, 3, 1, 5),
        "layer1.10.a.mean": draw(7),
        "layer1.10.a.count": np.array(3, np.int64),
        "fc.weight": draw(6, 4),
    }


def leaves():
    shapes = {
        "params/stem/kernel": (1, 2, 5, 3, 4),
        "params/layer1_10/conv1/kernel": (3, 1, 5, 2, 4),
        "params/layer1_10/conv2/kernel": (3, 1, 5, 2, 4),
        "batch_stats/layer1_10/a/mean": (7,),
        "params/fc/kernel": (4, 6),
    }
    return {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}


@pytest.mark.parametrize(
    "layout, theirs, ours, index",
    [
        ("same", (2, 3), (2, 3), lambda o, i: (o, i)),
        ("linear", (2, 3), (3, 2), lambda o, i: (i, o)),
        ("pointwise", (2, 3), (1, 1, 1, 3, 2), lambda o, i: (0, 0, 0, i, o)),
        ("conv1d", (2, 3, 5), (5, 1, 1, 3, 2), lambda o, i, t: (t, 0, 0, i, o)),
        ("conv2d", (2, 3, 5, 7), (1, 5, 7, 3, 2), lambda o, i, h, w: (0, h, w, i, o)),
        ("conv2d_time", (2, 3, 5, 7), (5, 1, 7, 3, 2), lambda o, i, t, w: (t, 0, w, i, o)),
        ("conv3d", (2, 3, 4, 5, 7), (4, 5, 7, 3, 2), lambda o, i, t, h, w: (t, h, w, i, o)),
    ],
)
def test_every_layout_puts_each_element_in_its_place_and_back(layout, theirs, ours, index):
    array = np.arange(np.prod(theirs)).reshape(theirs)
    moved = LAYOUTS[layout].to_ours(array)
    assert moved.shape == ours
    assert LAYOUTS[layout].torch_shape(ours) == theirs
    for where in np.ndindex(theirs):
        assert moved[index(*where)] == array[where]
    assert (LAYOUTS[layout].to_torch(moved) == array).all()


def test_every_tensor_finds_its_leaf_and_returns():
    names, given = NameMap(RULES), tensors()
    arrays, dropped = names.to_ours(given, leaves())
    assert {path: array.shape for path, array in arrays.items()} == {
        path: leaf.shape for path, leaf in leaves().items()
    }
    assert dropped == {"layer1.10.a.count": given["layer1.10.a.count"]}
    back = names.to_torch(arrays) | dropped
    assert back.keys() == given.keys()
    assert all((back[key] == array).all() for key, array in given.items())


def test_all_problems_come_at_once_with_the_nearest_names():
    given = tensors()
    given["layer1.10.conv_2.weight"] = given.pop("layer1.10.conv2.weight")
    given["layer9.0.conv1.weight"] = given["layer1.10.conv1.weight"]
    given["fc.weight"] = given["fc.weight"].T
    given["layer1.10.a.mean"] = given["layer1.10.a.mean"].astype(np.int32)
    with pytest.raises(JaxvidError) as error:
        NameMap(RULES).to_ours(given, leaves())
    message = str(error.value)
    assert "5 problems" in message
    assert "'layer1.10.conv_2.weight' is unknown (nearest: 'layer1.10.conv2.weight')" in message
    assert "nothing fills params/layer1_10/conv2/kernel" in message
    assert "'layer9.0.conv1.weight' has no place" in message
    assert "'fc.weight' has shape (4, 6), not (6, 4)" in message
    assert "'layer1.10.a.mean' has type int32" in message
    assert "\n" not in message


def test_a_leaf_filled_twice_and_a_key_matched_twice_are_problems():
    twice = [*RULES, ("old.{s}.weight", "params/stem{s}/kernel", "conv2d")]
    twice += [("{a:fc}.weight", "params/{a}/other", "linear"), ("x{s}.w", "params/s{s}", "same")]
    given = tensors() | {"x1.w": np.zeros(1), "x01.w": np.zeros(1)}
    with pytest.raises(JaxvidError) as error:
        NameMap(twice).to_ours(given, leaves() | {"params/s1": np.zeros(1)})
    assert "'fc.weight' matches 2 rules" in str(error.value)
    two = [("a.w", "params/a", "same"), ("b.w", "params/a", "same")]
    with pytest.raises(JaxvidError, match="'b.w' and 'a.w' both mean params/a"):
        NameMap(two).to_ours({"a.w": np.zeros(1), "b.w": np.zeros(1)}, {"params/a": np.zeros(1)})
    with pytest.raises(JaxvidError, match="params/a matches 2 rules"):
        NameMap(two).to_torch({"params/a": np.zeros(1)})
    with pytest.raises(JaxvidError, match="params/z matches 0 rules"):
        NameMap(two).to_torch({"params/z": np.zeros(1)})


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (37, 3, 2, 3, 3), (1100, 250)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int64"])
def test_a_copy_in_order_is_the_array_and_its_own_memory(shape, dtype):
    array = np.random.default_rng(0).integers(-99, 99, shape).astype(dtype)
    for view in (array, array.T, array[..., ::-1] if shape else array):
        copy = in_order(view, np.dtype("float32"))
        assert copy.dtype == np.float32 and copy.flags.c_contiguous
        assert copy.flags.writeable and not np.shares_memory(copy, array)
        np.testing.assert_array_equal(copy, view)


def test_literal_text_is_literal():
    names = NameMap([("a.b", "params/a", "same")])
    with pytest.raises(JaxvidError, match="'axb' is unknown"):
        names.to_ours({"axb": np.zeros(1)}, {})


@pytest.mark.parametrize(
    "rule",
    [
        ("a.{i}", "params/{j}", "same"),
        ("a.{i}", "params/a", "same"),
        ("a", "params/a", "conv4d"),
        ("a", None, "same"),
        ("a", "params/a", "drop"),
    ],
)
def test_a_rule_that_cannot_be_read_both_ways_is_refused(rule):
    with pytest.raises(ValueError, match="rule 'a"):
        NameMap([rule])
