"""What a pickle of tensors may describe: tensors and arrays, not read yet, and what is not built.

Tensors and arrays stay descriptions until their `array` is asked for, so what is not kept is not
even read. What training codes keep beside them becomes an inert `Unread` that knows its name.
"""

import codecs
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from converters.mapped import MAX_DIMENSIONS, Mapped

STORAGES = {
    "torch.FloatStorage": np.float32,
    "torch.DoubleStorage": np.float64,
    "torch.HalfStorage": np.float16,
    "torch.BFloat16Storage": ml_dtypes.bfloat16,
    "torch.LongStorage": np.int64,
    "torch.IntStorage": np.int32,
    "torch.ShortStorage": np.int16,
    "torch.CharStorage": np.int8,
    "torch.ByteStorage": np.uint8,
    "torch.BoolStorage": np.bool_,
    "torch.ComplexFloatStorage": np.complex64,
    "torch.ComplexDoubleStorage": np.complex128,
    "torch.storage.UntypedStorage": np.uint8,
}
# Types younger than the storage classes: they lie in an untyped storage and are named beside it.
DTYPES = {
    "torch.uint16": np.uint16,
    "torch.uint32": np.uint32,
    "torch.uint64": np.uint64,
    "torch.float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "torch.float8_e5m2": ml_dtypes.float8_e5m2,
}
# What training codes keep beside the weights: not built, but no reason to refuse the file.
UNREAD_PACKAGES = (
    *("mmengine.", "mmcv.", "mmaction.", "addict.", "yacs.config.", "fvcore.common.config."),
    *("torch.optim.", "torch.jit._pickle.", "numpy.random."),
)
UNREAD = {
    "argparse.Namespace",
    *(f"pathlib.{kind}Path" for kind in ("", "Pure", "Posix", "PurePosix", "Windows")),
    *("pathlib.PureWindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *(f"collections.{name}" for name in ("deque", "Counter")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("set", "frozenset", "slice", "range", "xrange", "complex", "bytearray")
    ),
    *("torch.device", "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_qtensor"),
    "torch.serialization._get_layout",
}
# The pickle of a large checkpoint has some hundred thousand opcodes; each costs about 100 bytes.
MAX_OPCODES = 2_000_000
MAX_TEXT = 64 << 20
MAX_NAME = 1000  # Letters of a tensor's key.
_WINDOW = 1 << 16
_MAX_DEPTH = 100
_NUMPY_TYPE = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")


@dataclasses.dataclass(frozen=True, eq=False)
class Unread:
    """Something that the file describes and this reader does not build."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """A global that the pickle names: a name and no more, never looked up."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A long text, still in the file and not decoded."""

    data: memoryview

    def encode(self, file: Mapped) -> memoryview:
        """Returns the bytes that Python 3 writes as such a text under the old protocols."""
        decoder, encoded = codecs.getincrementaldecoder("utf-8")(), bytearray()
        for chunk in file.chunks(self.data, _WINDOW):
            encoded += decoder.decode(chunk).encode("latin-1")
        decoder.decode(b"", final=True)
        return memoryview(bytes(encoded))


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """The bytes under one or more tensors; `load` reads them, in this machine's order."""

    kind: str
    swapped: bool
    load: Callable[[], memoryview]


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of PyTorch's, as described."""

    file: Mapped
    storage: Storage
    dtype: np.dtype
    offset: Any
    shape: Any
    strides: Any

    def array(self) -> np.ndarray:
        """Returns the tensor as a read-only view of its storage."""
        data = self.storage.load()
        return self.file.array(data, self.dtype, self.shape, self.strides, self.offset)


@dataclasses.dataclass(eq=False)
class Module:
    """A part of a network in an archive of TorchScript: tensors, parts and settings by name."""

    attributes: dict[Any, Any] = dataclasses.field(default_factory=dict)

    def tensors(self, file: Mapped) -> dict[str, Tensor]:
        """Returns the tensors by the keys that they have in the network's state_dict."""
        found, left, count, letters = {}, [("", 0, self)], 0, 0
        while left:
            place, depth, module = left.pop()
            for name, value in module.attributes.items():
                count += 1
                if count > MAX_OPCODES or depth > _MAX_DEPTH:
                    raise file.damaged("its modules have no end")
                if not isinstance(name, str) or not isinstance(value, Module | Tensor):
                    continue
                letters += len(place) + len(name)
                if len(place) + len(name) > MAX_NAME or letters > MAX_TEXT:
                    raise file.damaged("the names of its modules have no end")
                if isinstance(value, Module):
                    left.append((f"{place}{name}.", depth + 1, value))
                else:
                    found[place + name] = value
        return found


@dataclasses.dataclass(eq=False)
class DType:
    """A numpy type; the order of its bytes comes after it in the pickle."""

    name: str
    byteorder: str = "little"


@dataclasses.dataclass(eq=False)
class Array:
    """A numpy array or scalar, as described; what it holds may come after it in the pickle."""

    file: Mapped
    dtype: Any = None
    shape: Any = ()
    columns_first: bool = False
    data: Any = b""
    axes: Any = None

    def array(self) -> np.ndarray | Unread:
        """Returns the array, of which an `Unread` stays where its elements are no numbers."""
        if not isinstance(self.dtype, DType) or not _NUMPY_TYPE.fullmatch(self.dtype.name):
            name = self.dtype.name if isinstance(self.dtype, DType) else "unknown type"
            return Unread(f"numpy.ndarray of {name}")
        dtype, data = np.dtype(self.dtype.name), self.data
        if isinstance(data, Text):
            self.file.count(len(data.data))
            data = data.encode(self.file)
        elif isinstance(data, str):
            data = memoryview(data.encode("latin-1"))
        if not isinstance(data, memoryview):
            raise TypeError("an array without bytes")
        data = self.file.native(
            data[: len(data) // dtype.itemsize * dtype.itemsize], dtype, self.dtype.byteorder
        )
        shape = sizes_of(self.shape)
        if self.columns_first:
            return self.file.array(data, dtype, shape[::-1]).T
        array = self.file.array(data, dtype, shape)
        return array if self.axes is None else array.transpose(self.axes)


def sizes_of(sizes: Any) -> tuple:
    """A shape or strides as a tuple; raises `ValueError` where there are too many."""
    if len(sizes) > MAX_DIMENSIONS:
        raise ValueError("too many dimensions")
    return tuple(sizes)
