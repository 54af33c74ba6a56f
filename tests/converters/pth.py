"""Writes checkpoint files the long way round, apart from our writer: by Python's own pickler."""

import dataclasses
import io
import json
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclasses.dataclass(frozen=True)
class Named:
    """A global, by name only."""

    module: str
    name: str


@dataclasses.dataclass
class Call:
    """What a pickle asks to be called when it is read."""

    function: Any
    arguments: tuple
    state: Any = None


@dataclasses.dataclass
class Storage:
    """A storage: its bytes are member `key` of the archive."""

    kind: Named
    key: str
    count: int


@dataclasses.dataclass
class Python2Text:
    """A `str` of Python 2, which is bytes."""

    data: bytes


class _Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)
    view: tuple = ()

    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", value.kind, value.key, "cpu", value.count, *self.view)
        return None

    def save_python2_text(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value.data)) + value.data)

    def save_named(self, value):
        self.write(b"c" + f"{value.module}\n{value.name}\n".encode())

    def save_call(self, value):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.REDUCE)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    dispatch[Named] = save_named
    dispatch[Call] = save_call
    dispatch[Python2Text] = save_python2_text


ORDERED_DICT = Call(Named("collections", "OrderedDict"), ())
REBUILD = Named("torch._utils", "_rebuild_tensor_v2")


class File:
    """A file in the making: `tensor` adds storages, `write` puts all of it on disk."""

    def __init__(self):
        self.storages: dict[str, bytes] = {}
        self.itemsizes: dict[str, int] = {}

    def storage(self, array, kind=None):
        """Adds the elements of `array`, in order, as one storage."""
        key = str(len(self.storages))
        self.storages[key] = array.tobytes()
        self.itemsizes[key] = array.itemsize
        name = kind or STORAGES[array.dtype.newbyteorder("=").name]
        return Storage(Named("torch", name), key, array.size)

    def tensor(self, array):
        """Adds `array` as a contiguous tensor over a storage of its own."""
        strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
        return self.view(self.storage(array), 0, array.shape, strides)

    def view(self, storage, offset, shape, strides):
        """A tensor over part of a storage."""
        arguments = (storage, offset, tuple(shape), tuple(strides), False, ORDERED_DICT)
        return Call(REBUILD, arguments)

    def write(self, path, content, *, protocol=2, byteorder="little", pickled=None, **zip_options):
        """Writes `content`, or the ready-made pickle `pickled`."""
        with zipfile.ZipFile(path, "w", **zip_options) as archive:
            if pickled is None:
                pickled = dump(content, protocol)
            members = {"data.pkl": pickled}
            members |= {"byteorder": byteorder} if byteorder else {}
            members |= {f"data/{key}": data for key, data in self.storages.items()}
            members |= {"version": "3\n"}
            for name, data in members.items():
                # Named so, a member has no date, and the same content makes the same file.
                member = zipfile.ZipInfo(f"archive/{name}")
                archive.writestr(member, data, compress_type=archive.compression)
        return path

    def write_legacy(self, path, content, *, protocol=2, view=None, pickled=None):
        """Writes `content` as PyTorch did before 1.6; `view` is the view of every storage."""
        heads = (
            0x1950A86A20F9469CFC6C,
            1001,
            {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}},
        )
        data = b"".join(pickle.dumps(head, protocol) for head in heads)
        data += pickled or dump(content, protocol, (view,))
        data += pickle.dumps(list(self.storages), protocol)
        for key, storage in self.storages.items():
            count = len(storage) // self.itemsizes[key]
            data += struct.pack("<q", count) + storage
        path.write_bytes(data)
        return path


def dump(content, protocol=2, view=()):
    """Pickles `content`, in which `Named`, `Call` and `Storage` stand for what they describe."""
    out = io.BytesIO()
    pickler = _Pickler(out, protocol)
    pickler.view = view
    pickler.dump(content)
    return out.getvalue()


def safetensors(header, data=b"", size=None):
    """Returns a file of that format; `header` is a dict of JSON or ready-made bytes."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + data
