"""Checkpoints are exact, whole or absent, and independent of the devices that wrote them."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid import checkpoint
from jaxvid.base import whole
from jaxvid.base.errors import JaxvidError
from jaxvid.checkpoint import Checkpoints, folders, sums
from jaxvid.checkpoint import variables as variables_module

NAN = np.array([0x7FC01234], np.uint32).view(np.float32)


def variables(seed=0):
    rng = np.random.default_rng(seed)
    params = {
        "stem": {"kernel": rng.normal(size=(1, 3, 3, 2, 4)).astype(np.float32)},
        "odd": {"scalar": np.float32(rng.normal()), "none": np.zeros((0, 3), np.float32)},
        "nan": NAN,
    }
    return {"params": params, "batch_stats": {"stem": {"mean": rng.normal(size=4).astype("f4")}}}


def train_state(seed=0):
    held = jax.tree.map(jnp.asarray, variables(seed))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    half = {"x": jnp.arange(5, dtype=jnp.bfloat16), "flag": np.array([True, False])}
    return held | {"opt": optimizer.init(held["params"]), "step": 7, "half": half, "ema": None}


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_variables_and_meta_return_as_they_were(tmp_path):
    meta = {"row": "tsm", "classes": ["brushing teeth", "señas"], "mean": [1.5]}
    checkpoint.save(tmp_path / "a", variables(), meta)
    assert_same(checkpoint.load(tmp_path / "a"), variables())
    assert checkpoint.load_meta(tmp_path / "a") == meta


def test_a_net_without_batch_statistics_still_has_the_collection(tmp_path):
    checkpoint.save(tmp_path / "a", {"params": {"w": np.ones(2)}, "batch_stats": {}}, {})
    assert checkpoint.load(tmp_path / "a")["batch_stats"] == {}


def test_an_existing_checkpoint_is_replaced_only_on_request(tmp_path):
    checkpoint.save(tmp_path / "a", variables(0), {"n": 0})
    with pytest.raises(JaxvidError, match="already holds a checkpoint"):
        checkpoint.save(tmp_path / "a", variables(1), {"n": 1})
    assert_same(checkpoint.load(tmp_path / "a"), variables(0))
    checkpoint.save(tmp_path / "a", variables(1), {"n": 1}, overwrite=True)
    assert_same(checkpoint.load(tmp_path / "a"), variables(1))
    assert checkpoint.load_meta(tmp_path / "a") == {"n": 1}
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(JaxvidError, match=r"other files \(thesis.txt\)"):
        checkpoint.save(tmp_path, variables(), {}, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("moment", ["arrays", "record", "cleaning"])
def test_a_save_cut_short_leaves_the_old_one_or_the_new_one(tmp_path, monkeypatch, moment):
    checkpoint.save(tmp_path / "a", variables(0), {"n": 0})

    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "cleaning":
            keeps = iter([folders.remove_leftovers, die])
            patch.setattr(folders, "remove_leftovers", lambda *a, **k: next(keeps)(*a, **k))
        elif moment == "record":
            patch.setattr(whole, "text", die)
        else:
            patch.setattr(folders, "flush", die)
        with pytest.raises(Killed):
            checkpoint.save(tmp_path / "a", variables(1), {"n": 1}, overwrite=True)
    n = 1 if moment == "cleaning" else 0
    assert checkpoint.load_meta(tmp_path / "a") == {"n": n}
    assert_same(checkpoint.load(tmp_path / "a"), variables(n))

    checkpoint.save(tmp_path / "a", variables(2), {"n": 2}, overwrite=True)
    assert_same(checkpoint.load(tmp_path / "a"), variables(2))
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_a_first_save_cut_short_is_no_checkpoint_and_can_be_repeated(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:

        def die(*_, **__):
            raise KeyboardInterrupt

        patch.setattr(whole, "text", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path / "a", variables(0), {})
    with pytest.raises(JaxvidError, match="no finished checkpoint"):
        checkpoint.load(tmp_path / "a")
    checkpoint.save(tmp_path / "a", variables(1), {})
    assert_same(checkpoint.load(tmp_path / "a"), variables(1))


def test_a_full_disk_is_one_sentence_and_costs_nothing_saved_before(tmp_path, monkeypatch):
    run = Checkpoints(tmp_path)
    run.save(1, train_state(1), {})

    def full(*_):
        raise OSError(28, "No space left on device")

    run.wait()
    monkeypatch.setattr(folders, "flush", full)
    run.save(2, train_state(2), {})
    with pytest.raises(JaxvidError, match="No space left on device.*make room"):
        run.wait()
    assert run.steps() == [1]
    assert not run.folder(2).exists()
    assert_same(run.restore(1, train_state(0)), jax.tree.map(jnp.asarray, train_state(1)))


def test_a_save_outlasts_its_call_and_sees_no_later_change(tmp_path, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(folders, "flush", lambda _: go_on.wait(30))
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 1.5, tree), donate_argnums=0)
    held = step({f"w{i}": jnp.full((512, 512), i, jnp.float32) for i in range(8)})
    host = {f"h{i}": np.full((512, 512), i, np.float32) for i in range(8)}
    expected = jax.tree.map(np.array, {"held": held, "host": host})
    with Checkpoints(tmp_path) as run:
        run.save(1, {"held": held, "host": host}, {})
        for array in host.values():
            array += 1
        for _ in range(3):
            held = step(held)  # takes the memory of what it is given
        jax.block_until_ready(held)
        assert run.latest_step() is None
        go_on.set()
        run.wait()
        assert run.latest_step() == 1
        assert_same(run.restore(1, expected), expected)


def fail_at(monkeypatch, step):
    """Lets the system refuse to write the checkpoint of `step`."""
    flush = folders.flush

    def refuse(folder):
        if folder.parent.name.endswith(f"{step}"):
            raise OSError(28, "No space left on device")
        flush(folder)

    monkeypatch.setattr(folders, "flush", refuse)


def test_what_went_wrong_with_a_save_is_raised_by_the_next(tmp_path, monkeypatch):
    fail_at(monkeypatch, 2)
    with Checkpoints(tmp_path) as run:
        run.save(1, train_state(1), {}, metric=0.5)
        run.save(2, train_state(2), {}, metric=0.9)
        with pytest.raises(JaxvidError, match="step_00000002 .No space left"):
            run.save(3, train_state(3), {})
        assert (run.steps(), run.best_step()) == ([1], 1)
        run.save(4, train_state(4), {}, metric=0.1)
        run.wait()
        assert (run.steps(), run.best_step()) == ([1, 4], 1)
    assert_same(checkpoint.load(run.folder(1)), variables(1))


def test_what_went_wrong_is_raised_as_soon_as_known_where_one_looks(tmp_path, monkeypatch):
    fail_at(monkeypatch, 2)
    with Checkpoints(tmp_path) as run:
        run.save(1, train_state(1), {})
        run.check()
        run.save(2, train_state(2), {})
        end = time.monotonic() + 30
        with pytest.raises(JaxvidError, match="No space left"):
            while time.monotonic() < end:
                run.check()
        run.check()


def test_what_went_wrong_with_the_last_save_is_raised_at_the_end(tmp_path, monkeypatch, capsys):
    fail_at(monkeypatch, 2)
    with pytest.raises(JaxvidError, match="No space left"), Checkpoints(tmp_path) as run:
        run.save(2, train_state(2), {})
    # Another error is not hidden by it.
    with pytest.raises(KeyError), Checkpoints(tmp_path) as run:
        run.save(2, train_state(2), {})
        raise KeyError
    assert "warning: cannot write the checkpoint" in capsys.readouterr().err


def test_a_checkpoint_can_be_measured_after_it_was_saved(tmp_path):
    with Checkpoints(tmp_path) as run:
        for step, metric in ((1, 0.5), (2, 0.4), (3, 0.6), (4, float("nan"))):
            run.save(step, train_state(step), {"row": "tsm"})
            assert run.metric(step) is None
            run.measure(step, metric)
    assert (run.steps(), run.best_step(), run.metric(3)) == ([3, 4], 3, 0.6)
    assert run.metric(4) is None
    assert checkpoint.load_meta(tmp_path) == {"row": "tsm", "step": 3, "metric": 0.6}
    assert_same(checkpoint.load(tmp_path), variables(3))


def test_meta_that_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path / "a", variables(), {"bad": object()})
    assert not (tmp_path / "a").exists()


def test_a_train_state_returns_bit_for_bit_in_its_own_classes(tmp_path):
    run = Checkpoints(tmp_path)
    state = train_state()
    run.save(7, state, {})
    restored = run.restore(7, jax.eval_shape(lambda: state))
    assert_same(restored, jax.tree.map(jnp.asarray, state))
    assert isinstance(restored["opt"][1][0], optax.ScaleByAdamState)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))
    again = run.restore(7, state)
    assert isinstance(again["half"]["flag"], np.ndarray)


def test_last_and_best_are_kept_and_load_takes_the_best(tmp_path):
    run = Checkpoints(tmp_path / "checkpoints")
    for step, metric in [(1, 0.2), (2, 0.9), (3, float("nan")), (4, 0.9), (5, None)]:
        run.save(step, train_state(step), {"row": "tsm"}, metric=metric)
    run.wait()
    assert run.steps() == [2, 5]
    assert (run.best_step(), run.latest_step()) == (2, 5)
    meta = {"row": "tsm", "step": 2, "metric": 0.9}
    for path in (tmp_path, tmp_path / "checkpoints", run.folder(2)):
        assert_same(checkpoint.load(path), variables(2))
        assert checkpoint.load_meta(path) == meta
    assert_same(checkpoint.load(run.folder(5)), variables(5))


@pytest.mark.parametrize("read", [checkpoint.load, checkpoint.load_meta])
def test_a_checkpoint_that_a_run_deletes_meanwhile_is_one_sentence(tmp_path, monkeypatch, read):
    run = Checkpoints(tmp_path)
    run.save(1, train_state(1), {"row": "tsm"})
    run.wait()

    def found_and_deleted(path):
        folders.remove(run.folder(1))
        return run.folder(1)

    monkeypatch.setattr(variables_module, "find", found_and_deleted)
    with pytest.raises(JaxvidError, match="step_00000001 was deleted meanwhile.*try again"):
        read(tmp_path)


def test_without_a_metric_load_takes_the_last_of_those_kept(tmp_path):
    run = Checkpoints(tmp_path, keep=2)
    for step in (1, 20, 3):
        run.save(step, train_state(step), {})
    run.wait()
    assert run.steps() == [3, 20]
    assert_same(checkpoint.load(tmp_path), variables(20))


def test_what_a_killed_run_left_is_ignored_and_cleared_by_the_next_save(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, train_state(1), {})
    run.wait()
    (run.folder(2) / "arrays-0.orbax-checkpoint-tmp").mkdir(parents=True)
    assert run.latest_step() == 1
    assert_same(checkpoint.load(tmp_path), variables(1))
    run.save(3, train_state(3), {})
    run.wait()
    assert [entry.name for entry in tmp_path.iterdir()] == [run.folder(3).name]


def test_a_step_can_be_saved_again(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, train_state(1), {})
    run.save(1, train_state(2), {})
    run.wait()
    assert_same(checkpoint.load(tmp_path), variables(2))


def test_a_state_of_another_shape_is_refused_with_every_difference(tmp_path):
    run = Checkpoints(tmp_path)
    run.save(1, {"params": {"a": np.ones(3, np.float32), "b": np.ones(2, np.float32)}}, {})
    wanted = {"params": {"a": np.ones(4, np.float32), "c": np.ones(2, np.float32)}}
    with pytest.raises(JaxvidError) as error:
        run.restore(1, wanted)
    assert "params/a is float32[3], not float32[4]" in str(error.value)
    assert "params/b is left over" in str(error.value)
    assert "params/c is missing" in str(error.value)
    with pytest.raises(JaxvidError, match="this run has \\[1\\]"):
        run.restore(2, wanted)


def test_damage_is_one_sentence(tmp_path):
    for name in ("record", "arrays", "outside"):
        checkpoint.save(tmp_path / name, variables(), {})
    (tmp_path / "record" / "jaxvid.json").write_text("{")
    with pytest.raises(JaxvidError, match="is damaged"):
        checkpoint.load(tmp_path / "record")
    for file in (tmp_path / "arrays" / "arrays-0").rglob("*"):
        if file.is_file():
            file.write_bytes(b"noise")
    with pytest.raises(JaxvidError, match="cannot be read"):
        checkpoint.load(tmp_path / "arrays")
    record = json.loads((tmp_path / "outside" / "jaxvid.json").read_text())
    record["arrays"] = "../arrays/arrays-0"
    (tmp_path / "outside" / "jaxvid.json").write_text(json.dumps(record))
    with pytest.raises(JaxvidError, match="is damaged"):
        checkpoint.load(tmp_path / "outside")
    with pytest.raises(JaxvidError, match="no finished checkpoint"):
        checkpoint.load(tmp_path / "nowhere")
    with pytest.raises(JaxvidError, match="not a local folder"):
        checkpoint.load("az://bucket/run")


def flip(file, position):
    """Turns one bit of a file over."""
    data = bytearray(file.read_bytes())
    data[position // 8] ^= 1 << position % 8
    file.write_bytes(data)


def test_no_flipped_bit_of_the_arrays_goes_unseen(tmp_path):
    """Whatever it hits: the load fails in one sentence, or the bit is one that nobody reads."""
    rng = np.random.default_rng(5)
    state = {"params": {"kernel": rng.normal(size=(40, 700)).astype("f4"), "bias": np.ones(30)}}
    checkpoint.save(tmp_path / "a", state | {"batch_stats": {}}, {})
    inside = (tmp_path / "a" / "arrays-0").rglob("*")
    files = [file for file in inside if file.is_file() and file.stat().st_size]
    largest = max(files, key=lambda file: file.stat().st_size)
    where = [(largest, int(bit)) for bit in rng.integers(largest.stat().st_size * 8, size=12)]
    where += [(file, int(rng.integers(file.stat().st_size * 8))) for file in files]
    named = 0
    for file, bit in where:
        flip(file, bit)
        try:
            loaded = checkpoint.load(tmp_path / "a")
        except JaxvidError as error:
            named += str(error) == (
                f"the array params/kernel of {tmp_path / 'a'} is damaged, as its checksum says: "
                "copy the folder again from where it is whole, or write it again"
            )
        else:
            assert_same(loaded["params"], state["params"])
        flip(file, bit)
    assert named >= 10
    checkpoint.load(tmp_path / "a")


def test_a_run_does_not_go_on_from_a_damaged_state(tmp_path):
    run = Checkpoints(tmp_path)
    with run:
        run.save(1, train_state(1), {})
    record = json.loads((run.folder(1) / "jaxvid.json").read_text())
    record["sums"]["half/x"] = "0" * 16
    record["sums"]["step"] = "1" * 16
    (run.folder(1) / "jaxvid.json").write_text(json.dumps(record))
    with pytest.raises(JaxvidError, match="the array half/x and 1 more of .*step_00000001 is dam"):
        run.restore(1, train_state(0))
    assert_same(checkpoint.load(tmp_path), variables(1))  # Of these all are as they were.


def test_checkpoints_without_checksums_are_read(tmp_path):
    checkpoint.save(tmp_path, variables(), {})
    record = json.loads((tmp_path / "jaxvid.json").read_text())
    del record["sums"]
    (tmp_path / "jaxvid.json").write_text(json.dumps(record))
    assert_same(checkpoint.load(tmp_path), variables())
    for wrong in ({}, {"params/nan": "0" * 16}, dict.fromkeys(record["leaves"], "zz")):
        (tmp_path / "jaxvid.json").write_text(json.dumps(record | {"sums": wrong}))
        with pytest.raises(JaxvidError, match="jaxvid.json is damaged"):
            checkpoint.load(tmp_path)


@pytest.mark.parametrize("size", [0, 1, 7, 2048, 5000, 1 << 20, 2_200_001])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, jnp.bfloat16, np.bool_])
def test_a_checksum_is_of_every_bit_and_of_nothing_else(size, dtype):
    rng = np.random.default_rng(size)
    array = rng.integers(2, size=size).astype(dtype)
    known = sums.checksum(array)
    assert sums.checksum(np.array(array[::-1])[::-1]) == known
    assert sums.checksum(np.asarray(jnp.asarray(array))) == known
    data = array.view(np.uint8)
    for bit in rng.integers(data.size * 8, size=min(size, 20)).tolist():
        data[bit // 8] ^= 1 << bit % 8
        assert sums.checksum(array) != known
        data[bit // 8] ^= 1 << bit % 8


def test_of_two_saves_into_one_folder_one_is_told(tmp_path):
    began = threading.Event()
    flush = folders.flush

    def slow(folder):
        began.set()
        time.sleep(0.2)
        flush(folder)

    def save():
        checkpoint.save(tmp_path / "a", variables(1), {"n": 1}, overwrite=True)

    first = threading.Thread(target=save)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "flush", slow)
        first.start()
        began.wait(30)
        with pytest.raises(JaxvidError, match=f"a is being written by process {os.getpid()} on"):
            checkpoint.save(tmp_path / "a", variables(2), {"n": 2}, overwrite=True)
        first.join()
    assert checkpoint.load_meta(tmp_path / "a") == {"n": 1}
    assert_same(checkpoint.load(tmp_path / "a"), variables(1))
    assert len(list((tmp_path / "a").iterdir())) == 2


WRITE_ON_FOUR = """
import sys, jax, numpy as np
from jaxvid.checkpoint import Checkpoints
mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
run = Checkpoints(sys.argv[1])
if run.latest_step() is None:
    state = {"params": {"w": jax.device_put(np.arange(24.0, dtype="f4").reshape(8, 3), spread)}}
    run.save(1, state, {})
    run.wait()
else:
    like = jax.ShapeDtypeStruct((8, 3), np.float32, sharding=spread)
    w = run.restore(2, {"params": {"w": like}})["params"]["w"]
    assert w.sharding == spread and len(w.addressable_shards) == 4
    assert (np.asarray(w) == np.arange(24.0).reshape(8, 3) + 1).all()
"""


def test_a_run_moves_between_device_counts(tmp_path):
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    flags |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WRITE_ON_FOUR, str(tmp_path)]
    subprocess.run(command, env=flags, check=True, timeout=120)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {"params": {"w": jax.ShapeDtypeStruct((8, 3), np.float32, sharding=one)}}
    state = Checkpoints(tmp_path).restore(1, like)
    assert state["params"]["w"].sharding == one
    assert_same(state["params"]["w"], np.arange(24.0, dtype="f4").reshape(8, 3))
    assert_same(checkpoint.load(tmp_path)["params"], jax.tree.map(np.asarray, state["params"]))
    with Checkpoints(tmp_path) as run:
        run.save(2, jax.tree.map(lambda x: x + 1, state), {})
    subprocess.run(command, env=flags, check=True, timeout=120)


def test_class_names_come_back_as_lists_of_names_are_read_today(tmp_path):
    names = ["a\u2028b\x1b", "$1", "Gro\u0308\u00dfe"]
    checkpoint.save(tmp_path / "a", variables(), {"classes": names})
    assert checkpoint.load_meta(tmp_path / "a")["classes"] == [*names[:2], "Gr\u00f6\u00dfe"]
    for wrong in ("ab", ["a", 1], {"a": "b"}):
        checkpoint.save(tmp_path / "a", variables(), {"classes": wrong}, overwrite=True)
        with pytest.raises(JaxvidError, match="classes = .* must be a list of at most"):
            checkpoint.load_meta(tmp_path / "a")
