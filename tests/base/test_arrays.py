"""Reading `.npz` files from anywhere: what numpy wrote comes back, all else is refused cheaply."""

import io
import os
import resource
import struct
import zipfile

import numpy as np
import pytest

from jaxvid.base import arrays

MOST = 1 << 30


def npy(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_what_numpy_writes_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    written = {
        "floats": rng.normal(size=(3, 4)),
        "turned": np.asfortranarray(rng.normal(size=(3, 4)).astype(np.float16)),
        "none": np.zeros((0, 3), np.int32),
        "one": np.array(7, np.uint8),
        "text": np.array(["a", "wörter", "😀"]),
        "empty text": np.array(["", ""]),
        "bools": np.array([True, False]),
        "large": rng.integers(0, 255, 3 << 20, np.uint8),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **written)
        found = arrays.read_npz(tmp_path / "a.npz", MOST)
        assert found.keys() == written.keys()
        for name, array in written.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape
            np.testing.assert_array_equal(found[name], array)


def hostile(path):
    """Writes files of every kind of lie and damage, one after the other; gives what each is."""

    def pack(data, method=zipfile.ZIP_STORED, name="a.npy"):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr(name, data)

    def head(shape, kind="<f4", version=b"\x01\x00", tail=b""):
        text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
        return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + tail

    sound = npy(np.arange(10.0))
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        pack(sound, method)
        yield "compressed in a way"
    np.savez(path, a=np.array([print], object))
    yield "holds Python objects, and allow_pickle is off"
    pack(head("(1000000000000,)"))
    yield "not as long as its shape"
    pack(head("(1000000000000,)", "<U0"))
    yield "more than may be read"
    pack(head("(1e9,)"))
    yield "."
    pack(head("(-1,)"))
    yield "of the kind"
    pack(head("(2,)", "<f4,<f4", tail=bytes(16)))
    yield "."
    pack(head("(2,)", ">f4", tail=bytes(8)))
    yield "of the kind >f4"
    pack(head("(" * 200 + ")" * 200))
    yield "."
    pack(head("(2,)", tail=bytes(8), version=b"\x02\x00"))
    yield "another version"
    pack(head("(1,)", "<U1", tail=b"\xff" * 4))
    yield "text that is none"
    for cut in (1, 20, 60, len(sound) // 2):
        path.write_bytes(sound[:-cut])
        yield "zip"
    np.savez(path, a=np.arange(1000.0), b=np.arange(1000.0))
    whole = bytearray(path.read_bytes())
    whole[500] ^= 1
    path.write_bytes(whole)
    yield "Bad CRC-32"
    np.savez_compressed(path, a=np.random.default_rng(0).normal(size=1000))
    whole = bytearray(path.read_bytes())
    whole[500] ^= 1
    path.write_bytes(whole)
    yield "."
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning):
        archive.writestr("a.npy", sound)
        archive.writestr("a.npy", sound)
    yield "twice"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(40_000):
            archive.writestr(f"{number}.npy", b"")
    yield "table of contents"
    np.savez_compressed(path, a=np.zeros(1 << 29, np.uint8))
    yield "more than may be read"
    np.savez_compressed(path, **{str(n): np.zeros(50 << 20, np.uint8) for n in range(4)})
    yield "more than may be read"
    with open(path, "wb") as file:  # a file of holes
        file.truncate(8 << 30)
    yield "zip"


def test_lies_and_damage_are_one_sentence_and_take_no_memory(tmp_path):
    path = tmp_path / "a.npz"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for words in hostile(path):
        with pytest.raises(ValueError, match=words) as caught:
            arrays.read_npz(path, MOST)
        assert str(caught.value) and "\n" not in str(caught.value)
    # What writing them took is in here too: half a gigabyte of zeros.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 900 << 10


def test_what_is_no_file_is_never_waited_for(tmp_path):
    with pytest.raises(FileNotFoundError):
        arrays.read_npz(tmp_path / "none.npz", MOST)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ValueError, match="it is no file"):
            arrays.read_npz(path, MOST)
