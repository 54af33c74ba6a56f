"""Walks a pickle opcode by opcode and builds plain containers, tensors and numpy arrays, no more.

Nothing that a pickle names is imported or called. Objects of the kinds that training codes keep
beside the weights (settings, logs, optimizer state) become an inert `Unread` that knows its name;
a pickle that asks for any other call is refused with the name. Tensors and arrays stay descriptions
until their `array` is asked for, so what is not kept is not even read.
"""

import codecs
import dataclasses
import pickletools
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

from converters.mapped import MAX_DIMENSIONS, Mapped
from jaxvid.base.errors import JaxvidError

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
_MAX_LINE = 1 << 20
_WINDOW = 1 << 16
# Longer strings are numbers in disguise, and stay in the file until they are asked for.
_MAX_STRING = 1 << 16
_MAX_DEPTH = 100
_LENGTHS = {
    "SHORT_BINSTRING": "<B",
    "BINSTRING": "<i",
    "SHORT_BINUNICODE": "<B",
    "BINUNICODE": "<I",
    "BINUNICODE8": "<Q",
    "SHORT_BINBYTES": "<B",
    "BINBYTES": "<I",
    "BINBYTES8": "<Q",
    "BYTEARRAY8": "<Q",
}
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
        shape = _sizes(self.shape)
        if self.columns_first:
            return self.file.array(data, dtype, shape[::-1]).T
        array = self.file.array(data, dtype, shape)
        return array if self.axes is None else array.transpose(self.axes)


def load(
    file: Mapped, data: memoryview, storage: Callable[[tuple], Storage | Unread] | None = None
) -> tuple[Any, int]:
    """Returns what the pickle at the start of `data` describes, and where it ends.

    `storage` answers PyTorch's references to storages: (kind, key, location, count, ...). Raises
    `JaxvidError` where the pickle is damaged or asks for a call that has no place in a checkpoint.
    """
    return _Machine(file, data, storage).load()


class _Cursor:
    """The pickle as `pickletools` reads it, with bounds on what it may copy."""

    def __init__(self, file: Mapped, data: memoryview):
        self._file = file
        self._data = data
        self._copied = 0
        self._window = b""
        self._window_at = 0
        self.position = 0

    def count(self, copied: int) -> None:
        """Counts bytes that leave the file; refuses more than any description has."""
        self._copied += copied
        if self._copied > MAX_TEXT:
            raise self._file.damaged(f"its description is over {MAX_TEXT >> 20} MiB long")

    def read(self, count: int) -> bytes:
        self.count(min(count, len(self._data) - self.position))
        start = self._look(count)
        piece = self._window[start : start + count]
        self.position += len(piece)
        return piece

    def readline(self) -> bytes:
        for reach in (_WINDOW, _MAX_LINE):
            start = self._look(reach)
            end = self._window.find(b"\n", start, start + reach)
            if end >= 0:
                break
        return self.read(end + 1 - start if end >= 0 else 0)

    def view(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._data) - self.position:
            raise ValueError("cut off")
        self.position += count
        return self._data[self.position - count : self.position]

    def _look(self, count: int) -> int:
        """Has `count` bytes, if there are, in `_window`; returns where in it they begin."""
        start = self.position - self._window_at
        if not 0 <= start <= start + count <= len(self._window):
            ahead = self._data[self.position : self.position + max(count, _WINDOW)]
            self._window, self._window_at = bytes(self._file.fetch(ahead)), self.position
            start = 0
        return start


class _Machine:
    """A pickle machine without the opcodes' reach: it calls nothing and imports nothing."""

    def __init__(self, file: Mapped, data: memoryview, storage: Callable | None):
        self._file = file
        self._cursor = _Cursor(file, data)
        self._answer_storage = storage
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._objects = 0
        self._builders = {
            "collections.OrderedDict": self._ordered_dict,
            "collections.defaultdict": lambda *_: {},
            "torch.Size": lambda sizes=(): _sizes(sizes),
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": lambda data, *_: data,
            "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
            "_codecs.encode": self._encode,
            "numpy.dtype": lambda name, *_: DType(name),
        }
        for module in ("copy_reg", "copyreg"):
            self._builders[f"{module}._reconstructor"] = lambda kind, *_: self._unread(kind)
        for module in ("builtins", "__builtin__"):
            # The old protocols write the name of a method so, and the empty bytes.
            self._builders[f"{module}.getattr"] = lambda of, name: _named(of.name, name)
            self._builders[f"{module}.bytes"] = lambda: memoryview(b"")
        for core in ("numpy.core", "numpy._core"):
            self._builders |= {
                f"{core}.multiarray._reconstruct": lambda *_: Array(file),
                f"{core}.multiarray.scalar": lambda dtype, data="": Array(file, dtype, data=data),
                f"{core}.numeric._frombuffer": self._from_buffer,
            }

    def load(self) -> tuple[Any, int]:
        try:
            for opcode, argument in self._opcodes():
                if opcode == "STOP":
                    return self._stack.pop(), self._cursor.position
                self._count(1)
                self._run(opcode, argument)
        except JaxvidError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self._file.damaged("its description makes no sense") from error
        raise self._file.damaged("its description is cut off")

    def _count(self, objects: int) -> None:
        self._objects += objects
        if self._objects > MAX_OPCODES:
            raise self._file.damaged("it describes too many objects")

    def _opcodes(self) -> Iterator[tuple[str, Any]]:
        cursor = self._cursor
        while code := cursor.read(1):
            opcode = pickletools.code2op.get(code.decode("latin-1"))
            if opcode is None:
                raise self._file.damaged("its description is garbled")
            argument = None
            if length := _LENGTHS.get(opcode.name):
                size = struct.calcsize(length)
                if len(packed := cursor.read(size)) < size:
                    raise ValueError("cut off")
                argument = self._payload(opcode.name, struct.unpack(length, packed)[0])
            elif opcode.arg is not None:
                argument = opcode.arg.reader(cursor)
            yield opcode.name, argument

    def _payload(self, opcode: str, count: int) -> str | Text | memoryview:
        """Returns short text as such, and anything that may be an array's bytes in place."""
        if "BYTE" in opcode or count > _MAX_STRING:
            data = self._cursor.view(count)
            return Text(data) if "UNICODE" in opcode else data
        text = self._cursor.read(count) if count >= 0 else b""
        if len(text) != count:
            raise ValueError("cut off")
        if "STRING" in opcode:
            return str(text, "latin-1")
        return str(text, "utf-8", "surrogatepass")

    def _run(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode == "NEWTRUE")
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4":
                stack.append(argument)
            case "FLOAT" | "BINFLOAT" | "UNICODE" | "STRING":
                stack.append(argument)
            case _ if opcode in _LENGTHS:
                stack.append(argument)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_SET":
                stack.append(Unread("builtins.set"))
            case "MARK":
                self._marks.append(stack)
                self._stack = []
            case "POP":
                stack.pop() if stack else self._to_mark()
            case "POP_MARK":
                self._to_mark()
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                if len(stack) < count:
                    raise IndexError(opcode)
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                items = tuple(self._to_mark())
                self._stack.append(items)
            case "LIST":
                items = self._to_mark()
                self._stack.append(items)
            case "DICT":
                items = self._to_mark()
                self._stack.append({})
                self._set_items(items)
            case "FROZENSET":
                self._to_mark()
                self._stack.append(Unread("builtins.frozenset"))
            case "APPEND":
                item = stack.pop()
                self._extend([item])
            case "APPENDS":
                self._extend(self._to_mark())
            case "ADDITEMS":
                self._to_mark()
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._to_mark())
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(_named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_named(module, name))
            case "REDUCE" | "NEWOBJ":
                arguments, callee = stack.pop(), stack.pop()
                stack.append(self._build(callee, arguments))
            case "NEWOBJ_EX":
                _, _, callee = stack.pop(), stack.pop(), stack.pop()
                stack.append(self._unread(callee))
            case "INST":
                self._to_mark()
                self._stack.append(self._unread(_named(*argument.split(" ", 1))))
            case "OBJ":
                callee, *_ = self._to_mark()
                self._stack.append(self._unread(callee))
            case "BUILD":
                state = stack.pop()
                self._set_state(stack[-1], state)
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _:
                raise self._file.damaged(f"its description uses {opcode}, which is not safe")

    def _to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)
        elif not isinstance(self._stack[-1], Unread):
            raise TypeError("items for what is no list")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                # Keys of other kinds could be made to take for ever to hash or compare.
                simple = type(key) is str or (type(key) is int and abs(key) < 1 << 31)
                target[key if simple else Unread(type(key).__name__)] = value
        elif not isinstance(target, Unread):
            raise TypeError("entries for what is no dict")

    def _set_state(self, target: Any, state: Any) -> None:
        match target:
            case Array():
                _, target.shape, target.dtype, columns_first, target.data = state
                target.columns_first = columns_first is True or columns_first == 1
            case DType():
                target.byteorder = "big" if state[1] == ">" else "little"
            case Module() if isinstance(state, dict):
                target.attributes = state
            # Attributes: those of an `OrderedDict` are version numbers that nothing here reads.
            case dict() | Unread() | Module():
                pass
            case _:
                raise TypeError("a state for what has none")

    def _build(self, callee: Any, arguments: Any) -> Any:
        """Stands in for a call: builds what this reader knows, names what it does not."""
        builder = self._builders.get(callee.name) if isinstance(callee, Named) else None
        if builder is None:
            return self._unread(callee)
        if not isinstance(arguments, tuple):
            raise TypeError("arguments that are no tuple")
        return builder(*arguments)

    def _unread(self, callee: Any) -> Unread | Module:
        """Returns the stand-in for an object that is not made, or refuses it by name."""
        if not isinstance(callee, Named):
            raise TypeError("a call of what is no name")
        if callee.name.startswith("__torch__."):
            return Module()
        if callee.name in UNREAD or callee.name.startswith(UNREAD_PACKAGES):
            return Unread(callee.name)
        raise JaxvidError(
            f"{self._file.path} asks for a call of {callee.name[:200]!r}, which is not made: if "
            "you trust the file, open it with PyTorch and save its state_dict() alone"
        )

    def _ordered_dict(self, pairs: Any = ()) -> dict:
        # Python 2 hands the entries to the call, as a list of pairs.
        filled: dict = {}
        self._count(len(pairs))
        self._stack.append(filled)
        for key, value in pairs:
            self._set_items([key, value])
        self._stack.pop()
        return filled

    def _encode(self, text: Any, codec: str) -> Text | memoryview:
        if codec not in ("latin1", "latin-1"):
            raise ValueError(codec)
        if isinstance(text, Text):
            return text
        self._cursor.count(len(text))
        return memoryview(text.encode("latin-1"))

    def _from_buffer(
        self, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
    ) -> Array:
        # Order K means that the axes are put in another order afterwards.
        axes = axes if order == "K" else None
        return Array(self._file, dtype, shape, order == "F", data, axes)

    def _storage(self, identity: Any) -> Storage | Unread | Named:
        word, kind, *rest = identity
        if word == "module" and isinstance(kind, Named):
            return (
                kind  # The class of a whole network, with its source code: calling it is refused.
            )
        if word != "storage" or self._answer_storage is None or not isinstance(kind, Named):
            raise TypeError("not a storage")
        if kind.name not in STORAGES:
            return Unread(kind.name)
        key, _, count, *_ = rest
        if not isinstance(key, str) or type(count) is not int:
            raise TypeError("not a storage")
        return self._answer_storage((kind.name, *rest))

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
        if isinstance(storage, Unread):
            return storage
        dtype = np.dtype(STORAGES[storage.kind])
        return Tensor(self._file, storage, dtype, offset, _sizes(shape), _sizes(strides))

    def _tensor_v3(self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
        _, _, kind, *_ = rest
        dtype = np.dtype(DTYPES.get(kind.name, np.void))
        if isinstance(storage, Unread) or dtype == np.void:
            return Unread(kind.name)
        if storage.swapped and dtype.itemsize > 1:
            return Unread(f"{kind.name} in the other byte order")
        return Tensor(self._file, storage, dtype, offset, _sizes(shape), _sizes(strides))


def _named(module: Any, name: Any) -> Named:
    if not (isinstance(name, str) and isinstance(module, str)) or len(module) + len(name) > 1000:
        raise TypeError("not a name")
    return Named(f"{module}.{name}")


def _sizes(sizes: Any) -> tuple:
    if len(sizes) > MAX_DIMENSIONS:
        raise ValueError("too many dimensions")
    return tuple(sizes)
