"""Whole conversions: every small network there and back, and the command line on top."""

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

import converters
from converters import __main__ as cli
from converters import aside, checkpoints, files, networks, torch_write
from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from tests.converters.test_files import WRITERS

ROOT = Path(converters.__file__).parents[1]
NAME = "tsm_test"
SMALL = [name for name in zoo.variants() if name.endswith("_test")]
LAYOUTS = ["zip.pth", "legacy.pth", "weights.safetensors", "weights.npz", "protocol2.pkl"]


def random_variables(name, **settings):
    """Returns variables of a network without running it."""
    row = zoo.starting_row(name)
    leaves = networks.leaves_of(name, row, settings.pop("num_classes", row.num_classes), settings)
    rng = np.random.default_rng(0)
    arrays = {path: rng.normal(size=x.shape).astype(x.dtype) for path, x in leaves.items()}
    return {"params": {}, "batch_stats": {}} | traverse_util.unflatten_dict(arrays, sep="/")


def equal(one, two):
    one, two = networks.flat(one), networks.flat(two)
    return one.keys() == two.keys() and all(
        one[key].dtype == two[key].dtype and one[key].tobytes() == two[key].tobytes() for key in one
    )


def head_of(tensors):
    return [key for key in tensors if key.startswith("cls_head.") and key.endswith(".weight")][0]


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


# Every small network in one layout, and one of them in all.
@pytest.mark.parametrize(
    "name, layout",
    [
        *zip(SMALL, itertools.cycle(LAYOUTS), strict=False),
        *((NAME, layout) for layout in LAYOUTS if layout != LAYOUTS[SMALL.index(NAME) % 5]),
    ],
)
def test_files_of_every_layout_return_through_orbax_bit_for_bit(tmp_path, name, layout):
    variables = random_variables(name)
    tensors = converters.to_torch(name, variables)
    for key in tensors:
        if key.endswith("num_batches_tracked"):
            tensors[key] = np.array(len(key))
    contiguous = {key: np.array(tensor, order="C") for key, tensor in tensors.items()}
    if layout == "zip.pth":
        torch_write.write(tmp_path / layout, contiguous, {})
    else:
        WRITERS[layout](tmp_path / layout, contiguous)
    run(f"--model={name}", f"--checkpoint={tmp_path / layout}", f"--out={tmp_path / 'a'}")
    assert equal(checkpoint.load(tmp_path / "a"), variables)
    run("--to=torch", f"--checkpoint={tmp_path / 'a'}", f"--out={tmp_path / 'b.pth'}")
    back = files.read(tmp_path / "b.pth")
    assert back.keys() == tensors.keys()
    for key, tensor in contiguous.items():
        assert (back[key].dtype, back[key].shape) == (tensor.dtype, tensor.shape), key
        assert back[key].tobytes() == tensor.tobytes(), key


def test_without_a_source_the_step_counters_are_0():
    tensors = converters.to_torch(NAME, random_variables(NAME))
    means = [key for key in tensors if key.endswith(".running_mean")]
    assert means
    for key in means:
        counter = tensors[key.replace("running_mean", "num_batches_tracked")]
        assert (counter.dtype, counter.shape, counter) == (np.int64, (), 0)


def test_a_file_returns_with_every_key_and_bit(tmp_path):
    tensors = converters.to_torch(NAME, random_variables(NAME))
    for number, key in enumerate(sorted(tensors)):
        if key.endswith("num_batches_tracked"):
            tensors[key] = np.array(2**40 + number)
    head = head_of(tensors)
    tensors[head] = tensors[head].astype(ml_dtypes.bfloat16)
    bias = head.replace("weight", "bias")
    tensors[bias] = tensors[bias].astype(np.float16)
    torch_write.write(tmp_path / "a.pth", tensors, {})

    variables, meta, report = checkpoints.convert_and_tell(NAME, tmp_path / "a.pth")
    checkpoint.save(tmp_path / "a", variables, meta)
    loaded = checkpoint.load(tmp_path / "a")
    assert {leaf.dtype.name for leaf in networks.flat(loaded).values()} == {"float32"}
    assert "1 tensors of bfloat16 widened, exactly, to float32" in report.lines()
    back = converters.to_torch(NAME, loaded, checkpoint.load_meta(tmp_path / "a"))
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert back[key].dtype == tensor.dtype, key
        assert back[key].shape == tensor.shape, key
        assert back[key].tobytes() == np.ascontiguousarray(tensor).tobytes(), key


def test_meta_says_all_that_prediction_needs(tmp_path):
    name = "tsm_r50_8f"
    row = zoo.get_row(name)
    shapes = networks.leaves_of(name, row, row.num_classes, {})
    zeros = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in shapes.items()}
    tensors = converters.to_torch(name, traverse_util.unflatten_dict(zeros, sep="/"))
    _, meta, report = checkpoints.convert_and_tell(name, tensors)
    assert meta["row"] == row.name
    assert meta["variant"] == name
    assert meta["classes"] == zoo.labels(row.dataset)
    assert meta["num_classes"] == len(meta["classes"]) == row.num_classes
    assert meta["mean"] == list(row.mean)
    assert meta["std"] == list(row.std)
    assert meta["overrides"] == {}
    assert meta["report"] == report.lines()
    assert json.loads(json.dumps(meta)) == meta


def test_the_classifier_may_have_other_classes_and_it_is_said():
    variables = random_variables(NAME, num_classes=7)
    tensors = converters.to_torch(NAME, variables)
    converted, meta, report = checkpoints.convert_and_tell(NAME, tensors)
    assert equal(converted, variables)
    assert meta["num_classes"] == 7
    assert meta["classes"] == []
    assert any("7 classes, not the row's" in line for line in report.lines())
    assert any("no names" in line for line in report.lines())

    names = [f"gesture {i}" for i in range(7)]
    assert checkpoints.convert_and_tell(NAME, tensors, classes=names)[1]["classes"] == names
    with pytest.raises(JaxvidError, match="has shape"):
        converters.convert(NAME, tensors, num_classes=6)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod."])
def test_what_wrappers_put_before_every_key_is_taken_off_and_returns(tmp_path, prefix):
    variables = random_variables(NAME)
    tensors = {prefix + key: array for key, array in converters.to_torch(NAME, variables).items()}
    converted, meta, report = checkpoints.convert_and_tell(NAME, tensors)
    assert equal(converted, variables)
    assert any(repr(prefix) in line for line in report.lines())
    back = converters.to_torch(NAME, converted, json.loads(json.dumps(meta)))
    assert sorted(back) == sorted(tensors)
    one = next(iter(tensors))
    tensors[one.removeprefix(prefix)] = tensors.pop(one)
    with pytest.raises(JaxvidError, match="is unknown"):
        converters.convert(NAME, tensors)


def test_a_checkpoint_of_another_network_is_refused_with_all_that_is_wrong():
    tensors = converters.to_torch(NAME, random_variables(NAME))
    removed = "backbone.conv1.conv.weight"
    tensors["backbone.conv1.weird"] = tensors.pop(removed)
    with pytest.raises(JaxvidError, match="2 problems.*'backbone.conv1.weird' is unknown") as error:
        converters.convert(NAME, tensors)
    assert f"which is '{removed}'" in str(error.value)


def test_dropped_tensors_of_any_kind_come_back_and_too_many_are_refused(monkeypatch):
    dropped = {
        "index": np.arange(2401, dtype=np.int64).reshape(49, 49).T,
        "half": np.array([1.5, -0.0], np.float16),
        "flags": np.array([True, False]),
        "count": np.array(5, np.int64),
    }
    packed = json.loads(json.dumps(aside.pack(dropped)))
    assert packed["count"] == 5
    for key, array in aside.unpack(packed).items():
        assert array.dtype == dropped[key].dtype
        assert array.shape == dropped[key].shape
        assert array.tobytes() == np.ascontiguousarray(dropped[key]).tobytes()
    packed["index"]["shape"] = [49, 50]
    with pytest.raises(JaxvidError, match="'index' in jaxvid.json is damaged"):
        aside.unpack(packed)
    monkeypatch.setattr(aside, "MAX_DROPPED_BYTES", 1000)
    with pytest.raises(JaxvidError, match="would be dropped"):
        aside.pack(dropped)


def test_the_command_line_goes_both_ways(tmp_path, capsys):
    tensors = converters.to_torch(NAME, random_variables(NAME))
    torch_write.write(tmp_path / "a.pth", tensors, {})
    convert = (f"--model={NAME}", f"--checkpoint={tmp_path / 'a.pth'}", f"--out={tmp_path / 'a'}")
    run(*convert)
    said = capsys.readouterr().out
    assert f"{len(tensors)} tensors" in said
    assert "num_batches_tracked" in said
    assert f"wrote {tmp_path / 'a'}" in said
    source = checkpoint.load_meta(tmp_path / "a")["source"]
    assert source["file"] == "a.pth"
    assert len(source["sha256"]) == 64
    with pytest.raises(JaxvidError, match="already holds a checkpoint"):
        run(*convert)
    run(*convert, "--overwrite")

    back = ("--to=torch", f"--checkpoint={tmp_path / 'a'}", f"--out={tmp_path / 'b.pth'}")
    run(*back)
    read = files.read(tmp_path / "b.pth")
    assert read.keys() == tensors.keys()
    assert all(read[key].tobytes() == array.tobytes() for key, array in tensors.items())
    with pytest.raises(JaxvidError, match="exists already"):
        run(*back)
    with pytest.raises(JaxvidError, match=f"is of {NAME}, not of tsn_test"):
        run(*back, "--model=tsn_test", "--overwrite")


def test_a_training_run_goes_to_torch(tmp_path):
    variables = random_variables(NAME)
    state = variables | {"opt_state": {"m": np.ones(3)}, "step": 5}
    with checkpoint.Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(5, state, {"row": NAME, "classes": ["a", "b"]}, metric=0.5)
    run("--to=torch", f"--checkpoint={tmp_path}", f"--out={tmp_path / 'b.pth'}")
    assert equal(converters.convert(NAME, files.read(tmp_path / "b.pth")), variables)


def test_the_averaged_copy_is_converted_where_asked_for(tmp_path):
    tensors = converters.to_torch(NAME, random_variables(NAME))
    twice = {key: array * 2 for key, array in tensors.items()}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": tensors, "model_ema": twice}))
    convert = (f"--model={NAME}", f"--checkpoint={tmp_path / 'a.pkl'}", f"--out={tmp_path / 'a'}")
    plain = converters.convert(NAME, tmp_path / "a.pkl")
    run(*convert, "--ema")
    averaged = checkpoint.load(tmp_path / "a")
    assert equal(averaged, jax.tree.map(lambda leaf: leaf * 2, plain))
    assert converters.convert(NAME, tmp_path / "a.pkl", ema=True).keys() == plain.keys()
    with pytest.raises(JaxvidError, match="give a path"):
        converters.convert(NAME, tensors, ema=True)
    with pytest.raises(JaxvidError, match="--ema has no use"):
        run("--to=torch", f"--checkpoint={tmp_path / 'a'}", f"--out={tmp_path / 'b.pth'}", "--ema")


def test_classes_come_from_a_file(tmp_path):
    tensors = converters.to_torch(NAME, random_variables(NAME, num_classes=2))
    torch_write.write(tmp_path / "a.pth", tensors, {})
    (tmp_path / "labels.txt").write_text("wave\nswipe left\n")
    convert = (f"--model={NAME}", f"--checkpoint={tmp_path / 'a.pth'}", f"--out={tmp_path / 'a'}")
    run(*convert, f"--classes={tmp_path / 'labels.txt'}")
    assert checkpoint.load_meta(tmp_path / "a")["classes"] == ["wave", "swipe left"]
    # With what Notepad puts before a list and into it.
    (tmp_path / "labels.txt").write_bytes("\ufeffwave\r\nGro\u0308\u00dfe \r\n".encode())
    run(*convert, f"--classes={tmp_path / 'labels.txt'}", "--overwrite")
    assert checkpoint.load_meta(tmp_path / "a")["classes"] == ["wave", "Gr\u00f6\u00dfe"]
    for wrong, message in {
        "wave\nwave\n": "each of them once",
        "wave\n\npoint\n": "labels.txt line 2 is empty",
        "wave\nb\u2028c\n": "labels.txt line 2: .* holds a line break",
        "\n": "is empty",
    }.items():
        (tmp_path / "labels.txt").write_text(wrong, encoding="utf-8")
        with pytest.raises(JaxvidError, match=message):
            run(*convert, f"--classes={tmp_path / 'labels.txt'}", "--overwrite")


def test_errors_are_one_line_and_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "converters", f"--model={NAME}", f"--out={tmp_path / 'a'}"]
    (tmp_path / "a.pth").write_bytes(b"PK\3\4 cut")
    done = subprocess.run(
        [*command, f"--checkpoint={tmp_path / 'a.pth'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_importing_the_converters_loads_nothing_heavy():
    code = (
        "import sys, jaxvid, converters, converters.checkpoints; "
        "print([m for m in ('torch', 'tensorflow', 'orbax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_damaged_file_is_called_damaged_whatever_else_does_not_fit(tmp_path):
    tensors = converters.to_torch(NAME, random_variables(NAME))
    contiguous = {key: np.array(tensor, order="C") for key, tensor in tensors.items()}
    torch_write.write(tmp_path / "a.pth", contiguous, {})
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[data.index(contiguous[head_of(tensors)].tobytes()) + 1] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    for name in (NAME, "c3d_test"):
        with pytest.raises(JaxvidError, match="is damaged .the sum of"):
            converters.convert(name, tmp_path / "a.pth")


def test_what_was_converted_is_left_as_it_is_when_it_is_converted_again():
    tensors = converters.to_torch(NAME, random_variables(NAME))
    key = head_of(tensors)
    wide = np.random.default_rng(0).normal(size=(1 << 15, tensors[key].shape[1]))
    tensors |= {key: wide.astype(np.float32), key.replace("weight", "bias"): np.ones(1 << 15)}
    variables = converters.convert(NAME, tensors)
    kernel = variables["params"]["head"]["fc"]["kernel"]
    assert kernel.nbytes > 1 << 20  # So it is memory of its own, which could be given back.
    again = converters.convert(NAME, converters.to_torch(NAME, variables))
    assert equal(again, variables) and np.array_equal(kernel, tensors[key].T)


@pytest.mark.parametrize(
    "value, dtype",
    [(np.nan, "float32"), (-np.inf, "float16"), (np.nan, "bfloat16"), (1e300, "float64")],
)
@pytest.mark.parametrize("layout", ["zip.pth", "weights.safetensors", "weights.npz"])
def test_what_is_no_number_is_refused_by_the_names_of_the_tensors(tmp_path, value, dtype, layout):
    if layout == "weights.npz" and dtype == "bfloat16":
        dtype = "float32"  # Numpy's own files know no other.
    tensors = converters.to_torch(NAME, random_variables(NAME))
    tensors = {key: np.array(tensor, order="C") for key, tensor in tensors.items()}
    keys = [head_of(tensors), head_of(tensors).replace("weight", "bias")]
    for key in keys:
        tensors[key] = np.full(tensors[key].shape, value, jax.numpy.dtype(dtype))
    path = tmp_path / layout
    torch_write.write(path, tensors, {}) if layout == "zip.pth" else WRITERS[layout](path, tensors)
    with pytest.raises(JaxvidError) as error:
        run(f"--model={NAME}", f"--checkpoint={path}", f"--out={tmp_path / 'a'}")
    assert all(repr(key) in str(error.value) for key in keys) and "\n" not in str(error.value)
    assert not (tmp_path / "a").exists()


def test_a_variance_below_zero_is_said(tmp_path):
    tensors = converters.to_torch(NAME, random_variables(NAME))
    variances = [key for key in tensors if key.endswith("running_var")]
    tensors |= {key: np.abs(tensors[key]) for key in variances}
    *_, report = checkpoints.convert_and_tell(NAME, tensors)
    assert not any("below 0" in line for line in report.lines())
    tensors[variances[3]] = -tensors[variances[3]]
    *_, report = checkpoints.convert_and_tell(NAME, tensors)
    assert any("1 running variances are below 0" in line for line in report.lines())
    assert any(variances[3] in line for line in report.lines())


def test_the_way_back_does_not_overflow(tmp_path):
    variables = random_variables(NAME)
    tensors = converters.to_torch(NAME, variables)
    key = head_of(tensors)
    tensors[key] = np.full_like(tensors[key], 1e6)
    variables = converters.convert(NAME, tensors)
    with pytest.raises(JaxvidError, match=f"{key} .* of "):
        converters.to_torch(NAME, variables, {"cast": {key: "float16"}})
