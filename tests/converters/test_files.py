"""Every format that weights come in: the same tensors, the right copy of them, or one sentence."""

import argparse
import contextlib
import gzip
import io
import os
import pathlib
import pickle
import re
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from converters import described, files, mapped, npz_file, safetensors_file
from jaxvid.base.errors import JaxvidError
from tests.converters.pth import Call, File, Named, Python2Text, safetensors

RNG = np.random.default_rng(0)
ARRAYS = {
    "conv.weight": RNG.normal(size=(4, 3, 2, 2)).astype(np.float32),
    "half": RNG.normal(size=(3, 5)).astype(np.float16),
    "flags": np.array([True, False]),
    "bn.num_batches_tracked": np.array(7, np.int64),
    "none": np.zeros((0, 3), np.float32),
}
SAFETENSORS_NAMES = {np.dtype(dtype): name for name, dtype in safetensors_file.DTYPES.items()}


def same(one, two):
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


def raises(path, match, **options):
    with pytest.raises(JaxvidError) as error:
        files.read(path, **options)
    message = str(error.value)
    assert str(path) in message
    assert re.search(match, message.replace(str(path), "")), message
    assert "\n" not in message
    assert len(message) < 1500


def legacy(path, arrays, **options):
    file = File()
    content = {key: file.tensor(array) for key, array in arrays.items()}
    return file.write_legacy(path, {"state_dict": content, "epoch": 3}, **options)


def in_safetensors(arrays, **changes):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for key, array in arrays.items():
        end = len(data) + array.nbytes
        kind = SAFETENSORS_NAMES[array.dtype]
        header[key] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    return safetensors(header | changes, data)


WRITERS = {
    "legacy.pth": legacy,
    "legacy4.pth": lambda path, arrays: legacy(path, arrays, protocol=4),
    "weights.safetensors": lambda path, arrays: path.write_bytes(in_safetensors(arrays)),
    "weights.npz": lambda path, arrays: np.savez(path, **arrays),
    "packed.npz": lambda path, arrays: np.savez_compressed(path, **arrays),
    **{
        f"protocol{number}.pkl": lambda path, arrays, number=number: path.write_bytes(
            pickle.dumps({"blobs": arrays}, protocol=number)
        )
        for number in (2, 3, 4, 5)
    },
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_returns_the_same_tensors(tmp_path, name):
    WRITERS[name](tmp_path / name, ARRAYS)
    read = files.read(tmp_path / name)
    assert list(read) == list(ARRAYS)
    for key, array in ARRAYS.items():
        assert same(read[key], array), key
        assert not read[key].size or not read[key].flags.writeable


@pytest.mark.parametrize("name", [name for name in WRITERS if "packed" not in name])
def test_describing_copies_nothing(tmp_path, name):
    array = RNG.normal(size=(16, 1 << 16)).astype(np.float32)
    WRITERS[name](tmp_path / name, {f"a{i}": row for i, row in enumerate(array)})
    tracemalloc.start()
    read, _ = files.read_and_tell(mapped.Mapped(tmp_path / name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(same(mapped.fetched(read[f"a{i}"]), row) for i, row in enumerate(array))
    # Python 3 spells bytes as text under protocol 2: these have to be decoded, one at a time.
    assert peak < (1.3 * array.nbytes if name == "protocol2.pkl" else 0.5 * array.nbytes)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_cut_once_it_was_read_costs_nothing(tmp_path, name):
    WRITERS[name](tmp_path / name, ARRAYS)
    read = files.read(tmp_path / name)
    os.truncate(tmp_path / name, 100)
    assert all(same(read[key], array) for key, array in ARRAYS.items())


@pytest.mark.parametrize("name", [name for name in WRITERS if "packed" not in name])
def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path, name):
    array = RNG.normal(size=(4, 1 << 16)).astype(np.float32)
    WRITERS[name](tmp_path / name, {f"a{i}": row for i, row in enumerate(array)})
    file = mapped.Mapped(tmp_path / name)
    described = mapped.Mapped(tmp_path / name)
    read, _ = files.read_and_tell(described)
    os.truncate(tmp_path / name, 4096)
    changed = pytest.raises(JaxvidError, match="was written to or cut while it was read")
    # What had to be decoded was in memory by then.
    with contextlib.nullcontext() if name == "protocol2.pkl" else changed:
        for tensor in read.values():
            mapped.fetched(tensor)
    with pytest.raises(JaxvidError, match="was written to or cut while it was read"):
        described.verify()
    with contextlib.suppress(JaxvidError):  # Its description may still be there.
        files.read_and_tell(file)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.ones(3))
    file = mapped.Mapped(path)
    files.read_and_tell(file)
    with path.open("r+b") as opened:
        opened.write(b"P")
    os.utime(path, ns=(1, 1))
    with pytest.raises(JaxvidError, match="was written to or cut while it was read"):
        files.verify_and_tell(file)


@pytest.mark.parametrize("what", ["pipe", "device", "folder", "missing"])
def test_what_is_no_file_is_refused_at_once(tmp_path, what):
    path = {"device": pathlib.Path("/dev/zero")}.get(what, tmp_path / what)
    if what == "pipe":
        os.mkfifo(path)
    if what == "folder":
        path.mkdir()
    with pytest.raises(JaxvidError, match="no regular file|there is no file"):
        files.read(path)


@pytest.mark.parametrize("order", ["C", "F", "K"])
@pytest.mark.parametrize("number", [2, 5])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", ">i8"])
def test_orders_of_axes_and_bytes_in_numpy_formats(tmp_path, order, number, dtype):
    array = RNG.integers(0, 99, (2, 3, 4)).astype(dtype)
    array = {"C": array, "F": np.asfortranarray(array), "K": array.transpose(1, 0, 2)}[order]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": array}, protocol=number))
    np.savez(tmp_path / "a.npz", a=array)
    for name in ("a.pkl", "a.npz"):
        read = files.read(tmp_path / name)["a"]
        assert read.dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(read, array)


def python2_array(array):
    dtype = Call(Named("numpy", "dtype"), ("f4", 0, 1), (3, "<", None, None, None, -1, -1, 0))
    state = (1, array.shape, dtype, False, Python2Text(array.tobytes()))
    arguments = (Named("numpy", "ndarray"), (0,), "b")
    return Call(Named("numpy.core.multiarray", "_reconstruct"), arguments, state)


@pytest.mark.parametrize("size", [3, 100_000])
def test_pickles_of_python_2(tmp_path, size):
    array = RNG.normal(size=size).astype(np.float32)
    blobs = {"conv1_w": python2_array(array)}
    File().write_legacy(tmp_path / "a.pkl", {"blobs": blobs})
    assert same(files.read(tmp_path / "a.pkl")["conv1_w"], array)
    file = File()
    pairs = [["a", file.tensor(array)], ["b", file.tensor(array[:2])]]
    ordered = Call(Named("collections", "OrderedDict"), (pairs,))
    file.write_legacy(tmp_path / "a.pth", {"state_dict": ordered})
    assert list(files.read(tmp_path / "a.pth")) == ["a", "b"]


def test_views_of_storages_in_the_legacy_format(tmp_path):
    base = np.arange(12, dtype=np.float32)
    file = File()
    content = {"a": file.view(file.storage(base), 1, (2, 2), (3, 1))}
    file.write_legacy(tmp_path / "a.pth", content, view=("7", 4, 6))
    assert files.read(tmp_path / "a.pth")["a"].tolist() == [[5, 6], [8, 9]]
    file.write_legacy(tmp_path / "a.pth", content, view=("7", 10, 6))
    raises(tmp_path / "a.pth", "shorter than its tensors need")


def strange_objects():
    history = Named("mmengine.logging.history_buffer", "HistoryBuffer")
    config = Named("mmengine.config.config", "Config")
    method = Call(Named("__builtin__", "getattr"), (history, "mean"))
    namespace = Call(Named("argparse", "Namespace"), (), {"lr": 0.1})
    rebuild = Named("copy_reg", "_reconstructor")
    return {
        "config": Call(config, ({"x": 1},), {"_cfg_dict": [1, 2]}),
        "history": Call(history, (), {"_log_history": python2_array(np.ones(3)), "m": [method]}),
        "mmcv": Call(Named("mmcv.utils.config", "ConfigDict"), ()),
        "args": namespace,
        "cfg": Call(rebuild, (Named("yacs.config", "CfgNode"), Named("__builtin__", "dict"), {})),
        "fvcore": Call(Named("fvcore.common.config", "CfgNode"), ()),
        "path": Call(Named("pathlib", "PosixPath"), ("/", "x")),
        "scalar": Call(Named("numpy._core.multiarray", "scalar"), (namespace, "x")),
        "dtype": Named("torch", "float32"),
        "device": Call(Named("torch", "device"), ("cuda", 0)),
        "objects": pickle.dumps(argparse.Namespace()),
    }


def test_what_training_codes_keep_beside_the_weights_is_left_unread(tmp_path):
    file = File()
    weights = {"a": file.tensor(np.ones(3, np.float32))}
    beyond = file.view(file.storage(np.ones(2, np.float32)), 0, (1 << 20,), (1,))
    content = {
        "state_dict": weights,
        "meta": strange_objects(),
        "message_hub": {"log": strange_objects()},
        "optimizer": {"state": {0: {"exp_avg": beyond}}},
    }
    for path in (
        file.write(tmp_path / "a.pth", content),
        file.write_legacy(tmp_path / "b.pth", content),
    ):
        assert list(files.read(path)) == ["a"]


def script(attributes):
    """A module as an archive of TorchScript describes it."""
    return Call(Named("__torch__.some.module", "Part"), (), {"training": False} | attributes)


def test_tensors_of_torchscript_are_read_and_its_program_is_not(tmp_path):
    file, arrays = File(), {"a.w": np.ones(3, np.float16), "b.c.w": np.zeros(2), "n": np.array(4)}
    tensors = {key: file.tensor(array) for key, array in arrays.items()}
    sizes = Call(Named("torch.jit._pickle", "build_intlist"), ([1, 2],))
    inner = script({"w": tensors["b.c.w"], "kernel_size": sizes, "scale": 0.5})
    parts = {"a": script({"w": tensors["a.w"]}), "b": script({"c": inner}), "n": tensors["n"]}
    path = file.write(tmp_path / "net.pt", script(parts))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/code/__torch__.py", "def forward(self): os.system('x')")
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
    read, remarks = files.read_and_tell(mapped.Mapped(path))
    assert read.keys() == arrays.keys()
    assert all(same(read[key], array) for key, array in arrays.items())
    assert remarks == ["the program of this TorchScript archive is left unread"]


@pytest.mark.parametrize(
    "pickled",
    [
        b"c__torch__.a\nB\nq\x00)\x81q\x01}X\x01\x00\x00\x00ah\x01sb.",  # holds itself
        b"c__torch__.a\nB\nq\x00)\x81" + b"q\x010h\x00)\x81}(U\x01ah\x01U\x01bh\x01ub" * 40 + b".",
    ],
)
def test_modules_without_end_are_refused(tmp_path, monkeypatch, pickled):
    monkeypatch.setattr(described, "MAX_OPCODES", 20_000)
    File().write(tmp_path / "a.pt", None, pickled=pickled)
    raises(tmp_path / "a.pt", "its modules have no end")


def test_any_other_call_is_refused_by_name_wherever_it_is(tmp_path):
    file = File()
    weights = {"a": file.tensor(np.ones(3, np.float32))}
    for name in (("os", "system"), ("functools", "partial"), ("own.code", "Config")):
        for call in (Call(Named(*name), ("x",)), [{"y": Call(Named(*name), ())}]):
            file.write(tmp_path / "a.pth", {"state_dict": weights, "meta": call})
            raises(tmp_path / "a.pth", f"a call of '{'.'.join(name)}'.*save its state_dict")
    # The name alone does no harm; that of an attribute is as far from a call.
    named = Call(Named("builtins", "getattr"), (Named("os", "path"), "join"))
    file.write(tmp_path / "a.pth", {"state_dict": weights, "meta": named})
    assert list(files.read(tmp_path / "a.pth")) == ["a"]
    file.write(tmp_path / "a.pth", {"state_dict": weights, "meta": Call(named, ("x",))})
    raises(tmp_path / "a.pth", "a call of 'os.path.join'")


@pytest.mark.parametrize("key", files.STATE_DICTS)
def test_the_state_dict_is_found(tmp_path, key):
    legacy_content = {key: {"a": np.ones(3)}, "epoch": 3, "optimizer": {"a": np.zeros(3)}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(legacy_content))
    assert files.read(tmp_path / "a.pkl")["a"].sum() == 3


def write_copies(path, **parts):
    path.write_bytes(pickle.dumps(parts | {"epoch": 1}))
    return path


@pytest.mark.parametrize("average", files.AVERAGES)
def test_the_averaged_copy_is_taken_where_asked_for(tmp_path, average):
    copies = {"model": {"a": np.ones(3)}, average: {"a": np.full(3, 2.0)}}
    path = write_copies(tmp_path / "a.pth", **copies)
    read, remarks = files.read_and_tell(mapped.Mapped(path))
    assert read["a"][0] == 1
    assert any(average in remark and "left out" in remark for remark in remarks)
    assert files.read(path, ema=True)["a"][0] == 2
    path = write_copies(tmp_path / "a.pth", **{average: copies[average]})
    raises(path, "add --ema")
    assert files.read(path, ema=True)["a"][0] == 2


def test_mmengine_saves_the_average_as_state_dict(tmp_path):
    path = write_copies(
        tmp_path / "a.pth",
        state_dict={"a": np.ones(3)},
        ema_state_dict={"module.a": np.zeros(3), "steps": np.array(5)},
    )
    for ema in (False, True):
        read, remarks = files.read_and_tell(mapped.Mapped(path), ema=ema)
        assert read["a"][0] == 1
        assert any("averaged weights, as MMEngine" in remark for remark in remarks)


def test_the_average_of_mmcv_lies_among_the_weights(tmp_path):
    weights = {"b.a.w": np.ones(3), "b.n": np.array(3), "ema_b_a_w": np.full(3, 2.0)}
    path = write_copies(tmp_path / "a.pth", state_dict=weights)
    for ema, value in ((False, 1), (True, 2)):
        read, remarks = files.read_and_tell(mapped.Mapped(path), ema=ema)
        assert list(read) == ["b.a.w", "b.n"]
        assert read["b.a.w"][0] == value
        assert len(remarks) == 1
    path = write_copies(tmp_path / "a.pth", state_dict={"ema_b_a_w": np.ones(3)})
    assert list(files.read(path)) == ["ema_b_a_w"]
    raises(path, "no averaged copy", ema=True)


def test_what_is_no_checkpoint_is_said(tmp_path):
    path = tmp_path / "a.pth"
    contents = {
        gzip.compress(b"x"): "unpack it",
        b"\n<!DOCTYPE html><html>": "web page",
        b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
        b"\x89HDF\r\n": "HDF5",
        bytes(257) + b"ustar" + bytes(300): "from before 0.1.10",
        b"what": "not a checkpoint of a format",
        pickle.dumps({"a": np.array([{}], object)}): "'a' is an object of 'numpy.ndarray of O8'",
        pickle.dumps({"a": np.array(["x"])}): "'a' is an object of 'numpy.ndarray of U1'",
        pickle.dumps({"a": np.zeros(1, "f4,i4")}): "'a' is an object of 'numpy.ndarray of V8'",
        pickle.dumps(0x1950A86A20F9469CFC6C, 2): "cut off",
        pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(7) * 2: "not known here",
    }
    for content, reason in contents.items():
        path.write_bytes(content)
        raises(path, reason)


@pytest.mark.parametrize("name", ["legacy.pth", "weights.safetensors", "weights.npz"])
def test_every_cut_is_noticed(tmp_path, name):
    WRITERS[name](tmp_path / name, ARRAYS)
    whole = (tmp_path / name).read_bytes()
    for size in range(12, len(whole), 29):
        (tmp_path / name).write_bytes(whole[:size])
        raises(tmp_path / name, "download it again|web page")


def entry(**changes):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


@pytest.mark.parametrize(
    "header, size",
    [
        ({"a": entry(shape=[3])}, 8),
        ({"a": entry(data_offsets=[0, 12], shape=[3])}, 8),
        ({"a": entry(data_offsets=[8, 0])}, 8),
        ({"a": entry(data_offsets=[-8, 0])}, 8),
        ({"a": entry(data_offsets=[0.0, 8.0])}, 8),
        ({"a": entry(data_offsets=[0, 8, 8])}, 8),
        ({"a": entry(data_offsets="08")}, 8),
        ({"a": entry(shape=[True, 2])}, 8),
        ({"a": entry(shape=[1 << 70, 0], data_offsets=[0, 0])}, 0),
        ({"a": entry(shape=[1] * 40 + [2])}, 8),
        ({"a": entry(shape=None)}, 8),
        ({"a": entry(dtype=None)}, 8),
        ({"a": entry(dtype="F4")}, 8),
        ({"a": entry(), "b": entry()}, 8),
        ({"a": entry(), "b": entry(data_offsets=[4, 12])}, 12),
        ({"a": entry(), "b": entry(data_offsets=[12, 20])}, 20),
        ({"a": entry()}, 12),
        ({"a": [1, 2]}, 8),
        ({"a": {}}, 8),
        (b'{"a":1,"a":2}', 8),
        (b"{" * 5000, 8),
        (b'{"a":' + b"[" * 50_000, 8),
        (b'{"a":' + b"9" * 5000 + b"}", 8),
        (b"{\xff}", 8),
    ],
)
def test_safetensors_that_contradict_themselves(tmp_path, header, size):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors(header, bytes(size)))
    raises(path, "damaged|which is not read")


def test_safetensors_bound_their_description(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors({"a": entry()}, bytes(8), size=1 << 39))
    raises(path, "cut off")
    monkeypatch.setattr(safetensors_file, "MAX_HEADER", 100)
    path.write_bytes(safetensors({"a" * 100: entry()}, bytes(8)))
    raises(path, "MiB long")
    monkeypatch.undo()
    path.write_bytes(safetensors({"a": entry(dtype="BF16", shape=[4])}, bytes(8)))
    assert files.read(path)["a"].dtype == ml_dtypes.bfloat16


def test_npz_of_anything_but_numbers_and_bombs_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez(path, a=np.array([{}], object))
    raises(path, "type '.*O', which is not read")
    np.savez(path, a=np.zeros(2, "f4,i4"))
    raises(path, "makes no sense")
    monkeypatch.setattr(npz_file, "_SMALL", 1 << 16)
    np.savez_compressed(path, a=np.zeros(1 << 20, np.float32))
    raises(path, "would grow to 4 MiB")


def test_the_same_bytes_are_not_decoded_over_and_over(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "_SMALL", 0)
    swapped = np.arange(1000, dtype=">f4")
    array = Call(Named("_codecs", "encode"), (swapped.tobytes().decode("latin-1"), "latin1"))
    dtype = Call(Named("numpy", "dtype"), ("f4", 0, 1), (3, ">", None, None, None, -1, -1, 0))
    make = Named("numpy._core.numeric", "_frombuffer")
    content = {f"a{i}": Call(make, (array, dtype, (1000,), "C")) for i in range(30)}
    File().write_legacy(tmp_path / "a.pth", content)
    raises(tmp_path / "a.pth", "far more memory")


@pytest.mark.parametrize(
    "pickled",
    [
        # Long names, texts and lists, named or decoded again and again.
        b"\x80\x04X\x00\x80\x00\x00" + b"a" * 0x8000 + b"\x94" + b"h\x00h\x00\x930" * 2000 + b".",
        b"\x80\x02c_codecs\nencode\nq\x00X\x00\xff\x00\x00" + b"a" * 0xFF00 + b"q\x01"
        b"X\x06\x00\x00\x00latin1q\x02" + b"h\x00h\x01h\x02\x86R0" * 3000 + b"N.",
        b"\x80\x02ctorch\nSize\nq\x00](" + b"K\x01" * 1000 + b"eq\x01" + b"h\x00h\x01\x85R" * 9,
        b"\x80\x02ccollections\nOrderedDict\nq\x00]("
        + b"]K\x01aK\x01a" * 1000
        + b"eq\x01"
        + b"h\x00h\x01\x85R0" * 100_000
        + b"N.",
    ],
)
def test_repeated_work_is_bounded(tmp_path, monkeypatch, pickled):
    monkeypatch.setattr(described, "MAX_OPCODES", 200_000)
    (tmp_path / "a.pth").write_bytes(pickled)
    tracemalloc.start()
    raises(tmp_path / "a.pth", "damaged")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6


def npz_of(shape, size):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}".encode() + b"\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        head = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header
        archive.writestr("a.npy", head + bytes(size))
    return out.getvalue()


def safetensors_of(shape, size):
    return safetensors(
        {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}, bytes(size)
    )


def chain_of_modules():
    """A TorchScript archive of 95 modules inside one another, all of one name of 60,000 letters."""

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x10tQ"
    )
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(K\x04t(K\x01t\x89}tR"
    module = b"c__torch__\nM\n)\x81"
    out = b"\x80\x02" + text("n" * 60000) + b"q\x010" + tensor + b"q\x020" + module + b"}("
    out += b"".join(text(f"t{i}") + b"h\x02" for i in range(1000)) + b"ubq\x030"
    out += (module + b"}h\x01h\x03sbq\x030") * 95
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a/data.pkl", out + b"h\x03.")
        archive.writestr("a/data/0", bytes(64))
    return made.getvalue()


def table_without_end():
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("a/data.pkl", b".")
    data = bytearray(made.getvalue())
    end = data.rindex(b"PK\5\6")
    table = data[data.index(b"PK\1\2") : end]
    table *= (20 << 20) // len(table)
    start = data.index(b"PK\1\2")
    data[start:end] = table
    struct.pack_into("<L", data, len(data) - 10, len(table))
    return bytes(data)


@pytest.mark.parametrize(
    "data, match",
    [
        (lambda: safetensors_of([1] * 1_000_000 + [4], 16), "more than 32 dimensions"),
        (lambda: safetensors_of([1] * 3_000_000 + [4], 16), "over 2000000 values"),
        (lambda: safetensors_of([1 << 47, 1 << 47, 0], 0), "shape makes no sense"),
        (lambda: safetensors_of([1 << 47] * 40, 0), "more than 32 dimensions"),
        (lambda: safetensors_of([int("9" * 30)], 0), "a number of 30 digits"),
        (lambda: npz_of("1," * 32000 + "4", 16), "more than 32 dimensions|makes no sense"),
        (lambda: npz_of("140737488355328,140737488355328,0", 0), "shape makes no sense"),
        (chain_of_modules, "names of its modules have no end"),
        (table_without_end, "cut off or damaged"),
    ],
)
def test_what_is_out_of_bounds_is_refused_before_memory_is_taken(tmp_path, data, match):
    path = tmp_path / "a"
    path.write_bytes(data())
    tracemalloc.start()
    with pytest.raises(JaxvidError, match=match):
        files.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 << 20


def test_a_key_longer_than_any_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(npz_of("4,", 16))
    np.savez(tmp_path / "a.npz", **{"k" * 2000: np.ones(3)})
    with pytest.raises(JaxvidError, match="a key of 2000 letters"):
        files.read(tmp_path / "a.npz")
