"""Reads the tensors of a `.pth` file without PyTorch, and runs nothing that the file names.

Since version 1.6 such a file is a zip archive: a pickle that says which tensors there are, and one
member of raw bytes per storage. The pickle is walked here opcode by opcode. Only plain containers
and tensors are built; any other object that it describes becomes an inert `Unread` that knows its
name, which does no harm in the parts that are not kept and is an error in the part that is. Tensors
are views of the mapped file, so nothing is allocated on the word of the file.
"""

import dataclasses
import itertools
import math
import mmap
import os
import pickletools
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxvid.errors import JaxvidError

# The names under which codebases keep the weights, in the order in which they are looked for.
STATE_DICTS = ("state_dict", "model_state", "model")
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
# The pickle of a large checkpoint has some hundred thousand opcodes; each costs about 100 bytes.
MAX_OPCODES = 5_000_000
MAX_PICKLE = 64 << 20
MAX_DIMENSIONS = 32
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the state dict of a `.pth` file: key to read-only array, mapped and not yet in memory.

    The state dict is the dict under `state_dict`, `model_state` or `model`, or else the whole file.
    Raises `JaxvidError` where the file is not of that format, is damaged, or holds anything but
    tensors in that part; nothing that the file names is imported or called.
    """
    path = Path(path)
    if not path.is_file():
        raise JaxvidError(f"there is no file {path}: check --checkpoint")
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise JaxvidError(f"{path} is empty: download it again")
            archive = _Archive(path, file)
    except OSError as error:
        raise JaxvidError(f"cannot read {path} ({error.strerror})") from error
    return _state_dict(path, _Pickle(archive).load())


def _state_dict(path: Path, content: Any) -> dict[str, np.ndarray]:
    if not isinstance(content, dict):
        raise JaxvidError(f"{path} holds {_name(content)} where a dict of tensors should be")
    where = next((key for key in STATE_DICTS if isinstance(content.get(key), dict)), None)
    found = content if where is None else content[where]
    place = str(path) if where is None else f"{where!r} of {path}"
    if not found:
        raise JaxvidError(f"{place} holds no tensors: it is not a checkpoint of a network")
    bad = [(key, value) for key, value in found.items() if not isinstance(value, np.ndarray)]
    bad += [(key, key) for key in found if not isinstance(key, str)]
    if bad:
        shown = ", ".join(f"{_name(key)} is {_name(value)}" for key, value in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise JaxvidError(f"{place} should hold tensors only, but {shown}{more}")
    return found


def _name(value: Any) -> str:
    """Names a value for people; never looks inside, since a file may nest or repeat at will."""
    if isinstance(value, str):
        return repr(value[:100])
    if isinstance(value, Unread):
        return f"an object of {value.name[:200]!r}, which is not read"
    return f"a {type(value).__name__}"


@dataclasses.dataclass(frozen=True, eq=False)
class Unread:
    """Something that the file describes and this reader does not build."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Named:
    """A global that the pickle names: a name and no more, never looked up."""

    name: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
    memory: memoryview
    dtype: np.dtype


class _Archive:
    """The members of the zip file, as views of the mapped file."""

    def __init__(self, path: Path, file: BinaryIO):
        self._path = path
        self._memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.size = len(self._memory)
        try:
            # Only the table of contents is used: `zipfile` would copy what it extracts.
            with zipfile.ZipFile(file) as archive:
                members = sorted(archive.infolist(), key=lambda member: member.header_offset)
        # A hostile table makes `zipfile` raise nearly anything.
        except Exception as error:
            raise self._not_an_archive() from error
        for one, next_one in itertools.pairwise(members):
            if one.header_offset + _LOCAL_HEADER.size + one.compress_size > next_one.header_offset:
                raise self.damaged("its members overlap")
        roots = [m.filename[: -len("data.pkl")] for m in members if _is_pickle(m.filename)]
        if len(roots) != 1:
            raise JaxvidError(f"{path} is a zip file, but not one that torch.save wrote")
        self._root = roots[0]
        self._members = {member.filename: member for member in members}
        self._checked: dict[str, memoryview] = {}
        order = "little"
        if self._root + "byteorder" in self._members:
            order = bytes(self.read("byteorder")[:10]).decode("latin-1").strip()
        if order not in ("little", "big"):
            raise self.damaged("its byte order is neither little nor big")
        self.swapped = order != sys.byteorder

    def read(self, name: str) -> memoryview:
        """Returns the bytes of a member, checked against their sum."""
        if name in self._checked:
            return self._checked[name]
        member = self._members.get(self._root + name)
        if member is None:
            raise self.damaged(f"it lacks {name[:100]!r}")
        if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
            raise JaxvidError(
                f"{self._path} is compressed or encrypted inside, which torch.save never does: "
                "unpack it and save it again"
            )
        start = member.header_offset
        header = self._memory[start : start + _LOCAL_HEADER.size]
        if len(header) < _LOCAL_HEADER.size or bytes(header[:4]) != b"PK\3\4":
            raise self.damaged(f"{name[:100]!r} is not where its table says")
        *_, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start += _LOCAL_HEADER.size + name_length + extra_length
        data = self._memory[start : start + member.file_size]
        if len(data) != member.file_size:
            raise self.damaged(f"{name[:100]!r} is cut off")
        # PyTorch writes 0 where it was told not to compute sums.
        if member.CRC and zlib.crc32(data) != member.CRC:
            raise self.damaged(f"the sum of {name[:100]!r} is wrong")
        self._checked[name] = data
        return data

    def damaged(self, reason: str) -> JaxvidError:
        return JaxvidError(f"{self._path} is damaged ({reason}): download it again")

    def _not_an_archive(self) -> JaxvidError:
        head = bytes(self._memory[:4])
        if head == b"PK\3\4":
            return JaxvidError(f"{self._path} is cut off or damaged: download it again")
        if head[:1] == b"\x80":
            return JaxvidError(
                f"{self._path} is in PyTorch's format from before 1.6: load it with PyTorch and "
                "torch.save it again"
            )
        return JaxvidError(f"{self._path} is not a PyTorch checkpoint: it is no zip file")


def _is_pickle(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


class _Pickle:
    """A pickle machine without the opcodes' reach: it calls nothing and imports nothing."""

    def __init__(self, archive: _Archive):
        self._archive = archive
        self._data = archive.read("data.pkl")
        if len(self._data) > MAX_PICKLE:
            raise archive.damaged(f"its description is {len(self._data) >> 20} MiB long")
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[tuple[str, str], _Storage] = {}
        self._builders = {
            "collections.OrderedDict": self._ordered_dict,
            "torch.Size": lambda sizes: tuple(sizes),
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
        }

    def load(self) -> Any:
        """Returns what the pickle describes, with `Unread` for what is neither plain nor tensor."""
        try:
            for count, (opcode, argument) in enumerate(self._opcodes()):
                if opcode == "STOP":
                    return self._stack.pop()
                if count > MAX_OPCODES:
                    raise self._archive.damaged("it describes too many objects")
                self._run(opcode, argument)
        except JaxvidError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise self._archive.damaged("its description makes no sense") from error
        raise self._archive.damaged("its description is cut off")

    def _opcodes(self) -> Iterator[tuple[str, Any]]:
        try:
            for opcode, argument, _ in pickletools.genops(bytes(self._data)):
                yield opcode.name, argument
        except (ValueError, OverflowError, MemoryError) as error:
            raise self._archive.damaged("its description is cut off or garbled") from error

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
            case "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8":
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
                stack.append(_Named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not (isinstance(name, str) and isinstance(module, str)):
                    raise TypeError(opcode)
                stack.append(_Named(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ":
                arguments, callee = stack.pop(), stack.pop()
                stack.append(self._build(callee, arguments))
            case "NEWOBJ_EX":
                _, _, callee = stack.pop(), stack.pop(), stack.pop()
                stack.append(_unread(callee))
            case "INST":
                self._to_mark()
                self._stack.append(Unread(argument.replace(" ", ".", 1)))
            case "OBJ":
                callee, *_ = self._to_mark()
                self._stack.append(_unread(callee))
            case "BUILD":
                # Attributes: those of an `OrderedDict` are version numbers that nothing here reads.
                stack.pop()
                if not isinstance(stack[-1], dict | Unread):
                    raise TypeError(opcode)
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _:
                raise self._archive.damaged(f"its description uses {opcode}, which is not safe")

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

    def _build(self, callee: Any, arguments: Any) -> Any:
        """Stands in for a call: builds what this reader knows, names what it does not."""
        builder = self._builders.get(callee.name) if isinstance(callee, _Named) else None
        if builder is None or not isinstance(arguments, tuple):
            return _unread(callee)
        return builder(*arguments)

    def _ordered_dict(self, pairs: Any = ()) -> dict:
        if pairs:
            raise self._archive.damaged("it fills an OrderedDict in a way that PyTorch never does")
        return {}

    def _storage(self, identity: Any) -> _Storage | Unread:
        word, kind, key, _, count = identity[:5]
        if word != "storage" or not isinstance(key, str) or type(count) is not int:
            raise TypeError("not a storage")
        if not isinstance(kind, _Named) or kind.name not in STORAGES:
            return _unread(kind)
        if (kind.name, key) not in self._storages:
            memory = self._archive.read(f"data/{key}")
            dtype = np.dtype(STORAGES[kind.name])
            if count < 0 or count * dtype.itemsize > len(memory):
                raise self._archive.damaged(f"'data/{key}' is shorter than its tensors need")
            memory = self._native(memory[: count * dtype.itemsize], dtype)
            self._storages[kind.name, key] = _Storage(memory, dtype)
        return self._storages[kind.name, key]

    def _native(self, memory: memoryview, dtype: np.dtype) -> memoryview:
        """Returns the bytes as this machine wants them, the same memory wherever it can be."""
        if self._archive.swapped and dtype.itemsize > 1:
            word = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
            return memoryview(np.frombuffer(memory, f"u{word}").byteswap()).cast("B")
        if dtype == np.bool_:
            # Any byte but 0 means true to PyTorch; numpy must never see another than 0 and 1.
            flags = np.frombuffer(memory, np.uint8)
            if flags.max(initial=0) > 1:
                return memoryview((flags != 0).view(np.uint8))
        return memory

    def _parameter(self, data: Any, *_: Any) -> Any:
        return data

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Any:
        if isinstance(storage, Unread):
            return storage
        return self._view(storage.memory, storage.dtype, offset, shape, strides)

    def _tensor_v3(self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
        _, _, kind, *_ = rest
        dtype = np.dtype(DTYPES.get(kind.name, np.void))
        if isinstance(storage, Unread) or dtype == np.void:
            return _unread(kind)
        if self._archive.swapped and dtype.itemsize > 1:
            return Unread(f"{kind.name} in the other byte order")
        return self._view(storage.memory, dtype, offset, shape, strides)

    def _view(
        self, memory: memoryview, dtype: np.dtype, offset: Any, shape: Any, strides: Any
    ) -> np.ndarray:
        numbers = (offset, *shape, *strides)
        sound = all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)
        if not sound or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
            raise self._archive.damaged("a tensor's shape makes no sense")
        elements = math.prod(shape)
        # A stride of 0 could claim any size; no real tensor is larger than the file it lies in.
        if elements * dtype.itemsize > self._archive.size:
            raise self._archive.damaged("a tensor claims to be larger than the file")
        if elements == 0:
            return np.zeros(shape, dtype)
        steps = zip(shape, strides, strict=True)
        last = offset + sum((size - 1) * stride for size, stride in steps)
        if (last + 1) * dtype.itemsize > len(memory):
            raise self._archive.damaged("a tensor reaches beyond its data")
        strides = tuple(stride * dtype.itemsize for stride in strides)
        return np.ndarray(shape, dtype, memory, offset * dtype.itemsize, strides)


def _unread(callee: Any) -> Unread:
    return Unread(callee.name if isinstance(callee, _Named | Unread) else type(callee).__name__)
