"""The `.pth` reader: exact on what PyTorch writes, inert and brief on anything else."""

import hashlib
import os
import pickle
import random
import re
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from converters import described, files
from converters.mapped import Mapped
from jaxvid.base.errors import JaxvidError
from tests.converters.pth import ORDERED_DICT, REBUILD, Call, File, Named, Storage, dump

RNG = np.random.default_rng(0)


def same(one, two):
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


def good(path, **options):
    """Writes a small sound checkpoint and returns what it holds."""
    file = File()
    arrays = {
        "conv.weight": RNG.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "bn.num_batches_tracked": np.array(7, np.int64),
    }
    content = {key: file.tensor(array) for key, array in arrays.items()}
    file.write(path, {"state_dict": content, "epoch": 3}, **options)
    return arrays


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("byteorder", ["little", None])
def test_tensors_return_in_order_under_every_pickle_protocol(tmp_path, protocol, byteorder):
    arrays = good(tmp_path / "a.pth", protocol=protocol, byteorder=byteorder)
    read = files.read(tmp_path / "a.pth")
    assert list(read) == list(arrays)
    assert all(same(read[key], array) for key, array in arrays.items())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "uint8"])
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_types_and_byte_orders(tmp_path, dtype, byteorder):
    dtype = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    array = RNG.integers(0, 100, (3, 5)).astype(dtype)
    file = File()
    content = {"a": file.tensor(array)}
    if byteorder == "big":
        words = np.frombuffer(file.storages["0"], f"u{dtype.itemsize}")
        file.storages["0"] = words.byteswap().tobytes()
    file.write(tmp_path / "a.pth", content, byteorder=byteorder)
    assert same(files.read(tmp_path / "a.pth")["a"], array)


def test_views_of_shared_storages(tmp_path):
    base = RNG.normal(size=(6, 8)).astype(np.float32)
    file = File()
    storage = file.storage(base)
    content = {
        "whole": file.view(storage, 0, (6, 8), (8, 1)),
        "transposed": file.view(storage, 0, (8, 6), (1, 8)),
        "slice": file.view(storage, 10, (2, 2), (16, 3)),
        "repeated": file.view(storage, 5, (3, 4), (0, 1)),
        "scalar": file.view(storage, 47, (), ()),
        "none": file.view(storage, 0, (0, 3), (3, 1)),
    }
    file.write(tmp_path / "a.pth", content)
    read = files.read(tmp_path / "a.pth")
    assert same(read["whole"], base)
    assert same(read["transposed"], base.T.copy())
    assert same(read["slice"], base[1:4:2, 2:6:3].copy())
    assert same(
        read["repeated"], np.tile(base[0, 5:8].tolist() + [base[1, 0]], (3, 1)).astype("f4")
    )
    assert same(read["scalar"], base[5, 7])
    assert read["none"].shape == (0, 3)
    described, _ = files.read_and_tell(Mapped(tmp_path / "a.pth"))
    assert np.shares_memory(described["whole"], described["slice"])


def test_any_nonzero_byte_is_true(tmp_path):
    file = File()
    storage = file.storage(np.array([0, 1, 2, 255], np.uint8), "BoolStorage")
    file.write(tmp_path / "a.pth", {"a": file.view(storage, 0, (4,), (1,))})
    read = files.read(tmp_path / "a.pth")["a"]
    assert same(read, np.array([False, True, True, True]))


@pytest.mark.parametrize("key", ["state_dict", "model_state", "model", None])
def test_the_state_dict_is_found_and_other_objects_are_left_unread(tmp_path, key):
    file = File()
    tensors = {"a": file.tensor(np.ones(3, np.float32))}
    strange = Call(Named("mmengine.config", "Config"), ({"x": 1},), {"_cfg": [1, 2]})
    content = tensors if key is None else {key: tensors, "meta": {"cfg": strange}, "epoch": 9}
    file.write(tmp_path / "a.pth", content)
    assert list(files.read(tmp_path / "a.pth")) == ["a"]


def test_parameters_and_ordered_dicts_are_what_they_hold(tmp_path):
    file = File()
    tensor = file.tensor(np.ones(3, np.float32))
    parameter = Call(Named("torch._utils", "_rebuild_parameter"), (tensor, True, ORDERED_DICT))
    file.write(tmp_path / "a.pth", {"a": parameter})
    assert same(files.read(tmp_path / "a.pth")["a"], np.ones(3, np.float32))


def raises(path, match):
    with pytest.raises(JaxvidError) as error:
        files.read(path)
    message = str(error.value)
    assert str(path) in message
    assert re.search(match, message.replace(str(path), ""))
    assert "\n" not in message
    assert len(message) < 1500


@pytest.mark.parametrize(
    "module, name",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_sparse_tensor"),
        ("torch.storage", "_load_from_bytes"),
        ("converters.torch_file", "read"),
        ("collections.OrderedDict", "fromkeys"),
    ],
)
@pytest.mark.parametrize("where", ["whole", "tensor", "key", "shape", "storage", "state"])
def test_nothing_that_a_file_names_is_called(tmp_path, monkeypatch, module, name, where):
    witness = tmp_path / "called"
    for target in ("os.system", "posix.system", "subprocess.Popen", "builtins.eval"):
        monkeypatch.setattr(target, lambda *_, **__: witness.touch())
    evil = Call(Named(module, name), (f"touch {witness}",))
    file = File()
    tensor = file.tensor(np.ones(3, np.float32))
    content = {
        "whole": evil,
        "tensor": {"a": tensor, "b": evil},
        "key": {"a": tensor, "state_dict": evil},
        "shape": {"a": Call(REBUILD, (tensor.arguments[0], 0, evil, (1,), False, None))},
        "storage": {"a": file.view(Storage(Named(module, name), "0", 3), 0, (3,), (1,))},
        "state": {"a": Call(REBUILD, tensor.arguments, evil)},
    }[where]
    file.write(tmp_path / "a.pth", content)
    raises(tmp_path / "a.pth", f"call of '{re.escape(module)}.*not made|not read|makes no sense")
    assert not witness.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"(S'touch called'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch called'\no.",  # OBJ
        b"cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x04cos\nsystem\n)}\x92.",  # NEWOBJ_EX
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch called\x85R.",  # STACK_GLOBAL
        b"\x82\x01.",  # EXT1
        b"Pos.system\n.",  # PERSID
        b"cos\nsystem\nQ.",  # BINPERSID
        b"}cos\nsystem\nb.",  # BUILD with a global as state
        b"cbuiltins\ngetattr\n(cos\nS'system'\ntR.",
    ],
)
def test_no_opcode_reaches_the_world(tmp_path, monkeypatch, pickled):
    monkeypatch.chdir(tmp_path)
    File().write(tmp_path / "a.pth", None, pickled=pickled)
    raises(tmp_path / "a.pth", ".")
    assert not (tmp_path / "called").exists()


def nested_tuples(depth):
    value = b"K\x01\x85q\x00"
    return value + b"0h\x00h\x00\x86q\x00" * depth


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02Nr\xff\xff\xff\xff.",  # a memo entry far away
        b"\x80\x04B\xff\xff\xff\xff.",  # 4 GiB of bytes that are not there
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",
        b"\x8b\xff\xff\xff\x7f.",  # a number of 2 GiB
        b"\x80\x02}" + nested_tuples(60) + b"Ns.",  # a key of 2**60 leaves to hash
        b"(" * 50_000 + b".",
        b"]" * 50_000 + b"a" * 49_999 + b".",
        b"I" + b"9" * 100_000 + b"\n.",
        b"0.",
        b"t.",
        b"s.",
        b"h\x05.",
        b"",
        b".",
        b"\xff" * 100,
    ],
)
def test_bombs_and_nonsense_are_cheap_errors(tmp_path, pickled):
    File().write(tmp_path / "a.pth", None, pickled=pickled)
    tracemalloc.start()
    raises(tmp_path / "a.pth", ".")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_more_objects_than_any_checkpoint_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(described, "MAX_OPCODES", 1000)
    File().write(tmp_path / "a.pth", None, pickled=b"\x80\x02" + b"N" * 2000 + b".")
    raises(tmp_path / "a.pth", "too many objects")


@pytest.mark.parametrize(
    "count, offset, shape, strides",
    [
        (3, 0, (4,), (1,)),
        (3, 1, (3,), (1,)),
        (3, 0, (2, 2), (2, 1)),
        (3, -1, (2,), (1,)),
        (3, 0, (-2,), (1,)),
        (3, 2, (3,), (-1,)),
        (3, 0, (1 << 40,), (0,)),
        (3, 0, (1 << 40, 1 << 40), (0, 0)),
        (3, 0, (1, 1 << 30), (1 << 40, 0)),
        (3, 0, (0, 1 << 47, 1 << 47), (1, 1, 1)),
        (3, 0, (3,), (1, 1)),
        (3, 0, (1,) * 100, (1,) * 100),
        (3, 0, (1.0,), (1,)),
        (3, 1 << 70, (1,), (1,)),
        (1 << 60, 0, (3,), (1,)),
        (-1, 0, (3,), (1,)),
        (4, 0, (3,), (1,)),
    ],
)
def test_a_tensor_lies_within_its_bytes_or_is_refused(tmp_path, count, offset, shape, strides):
    file = File()
    storage = file.storage(np.ones(3, np.float32))
    storage.count = count
    file.write(tmp_path / "a.pth", {"a": file.view(storage, offset, shape, strides)})
    raises(tmp_path / "a.pth", "is damaged")


def test_what_is_not_such_a_file_is_said(tmp_path):
    path = tmp_path / "a.pth"
    raises(path, "there is no file")
    raises(tmp_path, "there is no file")
    path.write_bytes(b"")
    raises(path, "is empty")
    path.write_bytes(b"hello")
    raises(path, "is not a checkpoint of a format")
    path.write_bytes(pickle.dumps({"a": 1}))
    raises(path, "'a' is a int")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/readme.txt", "x")
    raises(path, "neither of torch.save nor of numpy")
    good(path, compression=zipfile.ZIP_DEFLATED)
    raises(path, "compressed")
    File().write(path, {"state_dict": {}})
    raises(path, "holds no tensors")
    File().write(path, {"state_dict": {"a": 1.5, "b": [1]}})
    raises(path, "'a' is a float, 'b' is a list")
    File().write(path, [1, 2])
    raises(path, "holds a list")


def test_every_cut_is_noticed(tmp_path):
    good(tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    for size in range(1, len(whole), 37):
        (tmp_path / "b.pth").write_bytes(whole[:size])
        raises(tmp_path / "b.pth", "download it again|not a checkpoint of a format")


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path):
    arrays = good(tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[data.index(arrays["conv.weight"].tobytes()) + 5] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    raises(tmp_path / "a.pth", "sum of 'data/0' is wrong")


def test_a_sum_in_the_name_stands_in_for_those_within(tmp_path):
    arrays = good(tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[data.index(arrays["conv.weight"].tobytes()) + 5] ^= 1
    named = tmp_path / f"a-{hashlib.sha256(data).hexdigest()[:8]}.pth"
    named.write_bytes(data)
    file = Mapped(named)
    tensors, remarks = files.read_and_tell(file)
    assert tensors.keys() == arrays.keys() and remarks + files.verify_and_tell(file) == []
    data[-1] ^= 1
    named.write_bytes(data)
    raises(named, "sum of 'data/0' is wrong|cut off")
    other = tmp_path / "a-00000000.pth"
    good(other)
    assert "has not the sum that its name says" in files.verify_and_tell(Mapped(other))[0]


def test_members_that_overlap_are_refused(tmp_path):
    good(tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\1\2"]
    data[entries[2] + 42 : entries[2] + 46] = data[entries[0] + 42 : entries[0] + 46]
    (tmp_path / "a.pth").write_bytes(data)
    raises(tmp_path / "a.pth", "overlap")


def test_mutated_files_give_tensors_or_one_sentence(tmp_path):
    good(tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    pickled = zipfile.ZipFile(tmp_path / "a.pth").read("archive/data.pkl")
    file = File()
    file.storages = {"0": bytes(192), "1": bytes(8)}
    draw = random.Random(0)
    refused = 0
    for number in range(int(os.environ.get("JAXVID_MUTANTS", 400))):
        data = bytearray(whole if number % 2 else pickled)
        for _ in range(draw.choice((1, 1, 2, 8))):
            where = draw.randrange(len(data))
            match draw.randrange(4):
                case 0:
                    data[where] = draw.randrange(256)
                case 1:
                    del data[where : where + draw.randrange(1, 9)]
                case 2:
                    data[where:where] = draw.randbytes(draw.randrange(1, 9))
                case 3:
                    data[where : where + 4] = draw.choice((b"\xff" * 4, bytes(4), b"\x7f" * 4))
            data = data or bytearray(b"x")
        if number % 2:
            (tmp_path / "b.pth").write_bytes(data)
        else:
            file.write(tmp_path / "b.pth", None, pickled=bytes(data))
        try:
            files.read(tmp_path / "b.pth")
        except JaxvidError:
            refused += 1
    assert refused > number / 2


def test_fixture_pickles_are_what_they_seem():
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        pickle.loads(dump(Call(Named("nowhere", "f"), ())))
