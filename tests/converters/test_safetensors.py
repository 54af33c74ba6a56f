"""Our reader of `.safetensors` beside the library's own: what we take, it reads alike."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors import numpy as library

from converters import files, safetensors_file
from jaxvid.base.errors import JaxvidError
from tests.converters.pth import safetensors

RNG = np.random.default_rng(0)
KINDS = [kind for kind in safetensors_file.DTYPES.values() if np.dtype(kind).kind != "V"]


def equal(one, two):
    return one.keys() == two.keys() and all(
        (one[key].dtype, one[key].shape) == (two[key].dtype, two[key].shape)
        and one[key].tobytes() == two[key].tobytes()
        for key in one
    )


@pytest.mark.parametrize("length", [0x80, 0x128, 0x17D])
def test_a_description_as_long_as_a_pickle_begins_is_no_pickle(tmp_path, length):
    """Its length is the first byte of the file: 0x80, or that of a bracket, which pickles have."""
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    header = json.dumps({"a": entry}).encode().ljust(length)
    (tmp_path / "a.safetensors").write_bytes(safetensors(header, b"."))
    assert files.read(tmp_path / "a.safetensors")["a"].tolist() == [ord(".")]


def test_what_the_library_writes_is_read(tmp_path):
    arrays = {
        f"a.{np.dtype(kind).name}": RNG.integers(0, 2, (4, 3)).astype(kind)
        for kind in (*KINDS, ml_dtypes.bfloat16)
    }
    arrays |= {"none": np.zeros((0, 3), np.float32), "one": np.array(7.0), "größe": np.ones(1)}
    library.save_file(arrays, tmp_path / "a", metadata={"format": "np"})
    assert equal(files.read(tmp_path / "a"), arrays)


def test_we_take_what_the_library_takes_and_read_it_alike(tmp_path):
    """Of files that are drawn: parts of 8 bytes, most of which overlap, leave gaps or end early."""
    path, taken = tmp_path / "a", 0
    for _ in range(3000):
        header, cuts = {}, [0, *np.sort(RNG.integers(0, 9, 2)).tolist(), 8]
        for name, *ends in zip(["a", "b ", "a.c"], cuts[:-1], cuts[1:], strict=True):
            start, end = (n + int(RNG.choice([-1, 0, 1], p=[0.05, 0.9, 0.05])) for n in ends)
            kind, size = [("U8", 1), ("I16", 2), ("BF16", 2)][RNG.choice(3, p=[0.8, 0.1, 0.1])]
            shape = [[(end - start) // size], [1, end - start], []][
                RNG.choice(3, p=[0.8, 0.1, 0.1])
            ]
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        path.write_bytes(safetensors(header, RNG.bytes(8)))
        try:
            theirs = library.load_file(path)
        except SafetensorError:
            with pytest.raises(JaxvidError):
                files.read(path)
        else:
            assert equal(files.read(path), theirs), header
            taken += 1
    assert 100 < taken < 1500


def test_a_name_that_stands_twice_is_refused_though_the_library_takes_it(tmp_path):
    described = b'"a":{"dtype":"%b","shape":[2],"data_offsets":[0,8]}'
    header = b"{" + described % b"F32" + b"," + described % b"I32" + b"}"
    path = tmp_path / "a"
    path.write_bytes(safetensors(header, bytes(8)))
    assert library.load_file(path)["a"].dtype == np.int32
    with pytest.raises(JaxvidError, match="it holds a name twice in one object"):
        files.read(path)
