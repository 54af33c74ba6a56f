"""Our `.pth` files: exact, aligned, whole or absent, and in PyTorch's own few opcodes."""

import pickletools
import zipfile

import ml_dtypes
import numpy as np
import pytest

from converters import files, torch_write
from converters.described import DTYPES, STORAGES
from jaxvid.base.errors import JaxvidError

# What torch.load(weights_only=True) of PyTorch 2.13 was seen to accept.
ACCEPTED = {
    *("PROTO", "EMPTY_DICT", "MARK", "BINUNICODE", "GLOBAL", "EMPTY_TUPLE", "REDUCE", "LONG1"),
    *("TUPLE", "BINPERSID", "NEWFALSE", "NEWTRUE", "SETITEMS", "STOP", "NONE", "BINFLOAT"),
    *("EMPTY_LIST", "APPENDS"),
}
RNG = np.random.default_rng(0)


def tensors():
    wide = RNG.normal(size=(6, 8)).astype(np.float32)
    made = {
        "plain": wide,
        "transposed": wide.T,
        "strided": wide[::2, 1::3],
        "nan": np.array([0x7FC01234], np.uint32).view(np.float32),
        "scalar": np.array(123456789012, np.int64),
        "none": np.zeros((3, 0, 2), np.float32),
        "swapped": wide.astype(">f4"),
    }
    for dtype in (*STORAGES.values(), *DTYPES.values()):
        made[np.dtype(dtype).name] = np.array([0, 1, 1], dtype)
    return made


def test_every_type_and_shape_returns_bit_for_bit(tmp_path):
    wanted = tensors()
    torch_write.write(tmp_path / "a.pth", wanted, {})
    read = files.read(tmp_path / "a.pth")
    assert list(read) == list(wanted)
    for key, array in wanted.items():
        assert read[key].dtype == array.dtype.newbyteorder("="), key
        assert read[key].shape == array.shape, key
        assert read[key].tobytes() == array.astype(read[key].dtype).tobytes(), key


def test_only_opcodes_and_names_that_pytorch_takes_as_weights(tmp_path):
    meta = {"classes": ["a", "ñ"], "none": None, "yes": True, "x": 0.5, "n": -(2**40), "t": (1,)}
    torch_write.write(tmp_path / "a.pth", tensors(), meta)
    described = zipfile.ZipFile(tmp_path / "a.pth").read("checkpoint/data.pkl")
    used = list(pickletools.genops(described))
    assert {opcode.name for opcode, _, _ in used} <= ACCEPTED
    names = {argument for opcode, argument, _ in used if opcode.name == "GLOBAL"}
    known = {"collections OrderedDict"}
    known |= {f"torch._utils _rebuild_tensor_v{n}" for n in (2, 3)}
    known |= {" ".join(n.rsplit(".", 1)) for n in (*STORAGES, *DTYPES)}
    assert names <= known


def test_storages_lie_on_64_bytes_and_the_archive_is_sound(tmp_path):
    torch_write.write(tmp_path / "a.pth", tensors(), {})
    data = (tmp_path / "a.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert archive.testzip() is None
        for member in archive.infolist():
            name = int.from_bytes(data[member.header_offset + 26 :][:2], "little")
            extra = int.from_bytes(data[member.header_offset + 28 :][:2], "little")
            assert (member.header_offset + 30 + name + extra) % 64 == 0


def test_the_same_tensors_make_the_same_file(tmp_path):
    same = tensors()
    for name in ("a.pth", "b.pth"):
        torch_write.write(tmp_path / name, same, {"n": 1})
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_a_file_is_replaced_only_on_request_and_only_when_whole(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.pth"
    torch_write.write(path, {"a": np.zeros(2)}, {})
    with pytest.raises(JaxvidError, match="exists already"):
        torch_write.write(path, {"a": np.ones(2)}, {})

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch_write, "_bytes", full)
        with pytest.raises(JaxvidError, match="No space left on device"):
            torch_write.write(path, {"a": np.ones(2)}, {}, overwrite=True)
    assert files.read(path)["a"].tolist() == [0, 0]
    assert [entry.name for entry in path.parent.iterdir()] == ["a.pth"]
    torch_write.write(path, {"a": np.ones(2)}, {}, overwrite=True)
    assert files.read(path)["a"].tolist() == [1, 1]


def test_what_pytorch_has_no_type_for_is_refused(tmp_path):
    with pytest.raises(JaxvidError, match="int4"):
        torch_write.write(tmp_path / "a.pth", {"a": np.zeros(2, ml_dtypes.int4)}, {})
    assert not list(tmp_path.iterdir())
