"""Walks a pickle opcode by opcode and builds plain containers, tensors and numpy arrays, no more.

Nothing that a pickle names is imported or called. Objects of the kinds that training codes keep
beside the weights (settings, logs, optimizer state) become an inert `Unread` that knows its name;
a pickle that asks for any other call is refused with the name.
"""

import pickletools
import struct
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

import numpy as np

from converters import described
from converters.described import (
    DTYPES,
    MAX_TEXT,
    STORAGES,
    UNREAD,
    UNREAD_PACKAGES,
    Array,
    DType,
    Module,
    Named,
    Storage,
    Tensor,
    Text,
    Unread,
    sizes_of,
)
from converters.mapped import Mapped
from jaxvid.base.errors import JaxvidError

_MAX_LINE = 1 << 20
_WINDOW = 1 << 16
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
# Longer strings are numbers in disguise, and stay in the file until they are asked for.
_MAX_STRING = 1 << 16
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
_DOWN_TO_MARK = {
    *("POP_MARK", "TUPLE", "LIST", "DICT", "FROZENSET", "APPENDS", "ADDITEMS", "SETITEMS"),
    *("INST", "OBJ"),
}


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
        start, end = 0, -1
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
        self._builders: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": self._ordered_dict,
            "collections.defaultdict": lambda *_: {},
            "torch.Size": lambda sizes=(): sizes_of(sizes),
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
        if self._objects > described.MAX_OPCODES:
            raise self._file.damaged("it describes too many objects")

    def _opcodes(self) -> Iterator[tuple[str, Any]]:
        cursor = self._cursor
        while code := cursor.read(1):
            opcode = _OPCODES.get(code.decode("latin-1"))
            if opcode is None:
                raise self._file.damaged("its description is garbled")
            argument = None
            if length := _LENGTHS.get(opcode.name):
                size = struct.calcsize(length)
                if len(packed := cursor.read(size)) < size:
                    raise ValueError("cut off")
                argument = self._payload(opcode.name, struct.unpack(length, packed)[0])
            elif opcode.arg is not None:
                # Such a reader calls no more of a file than a cursor has.
                argument = opcode.arg.reader(cast(IO[bytes], cursor))
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
            case _ if opcode in _DOWN_TO_MARK:
                self._run_down_to_mark(opcode, argument)
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
            case "DUP":
                stack.append(stack[-1])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode[-1])
                if len(stack) < count:
                    raise IndexError(opcode)
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                self._extend([item])
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items([key, value])
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
            case "BUILD":
                state = stack.pop()
                self._set_state(stack[-1], state)
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _:
                raise self._file.damaged(f"its description uses {opcode}, which is not safe")

    def _run_down_to_mark(self, opcode: str, argument: Any) -> None:
        """Runs an opcode that takes all down to the last mark off the stack."""
        items = self._to_mark()
        match opcode:
            case "TUPLE":
                self._stack.append(tuple(items))
            case "LIST":
                self._stack.append(items)
            case "DICT":
                self._stack.append({})
                self._set_items(items)
            case "FROZENSET":
                self._stack.append(Unread("builtins.frozenset"))
            case "APPENDS":
                self._extend(items)
            case "SETITEMS":
                self._set_items(items)
            case "INST":
                self._stack.append(self._unread(_named(*argument.split(" ", 1))))
            case "OBJ":
                callee, *_ = items
                self._stack.append(self._unread(callee))

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
            return kind  # The class of a whole network, with its code: calling it is refused.
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
        return Tensor(self._file, storage, dtype, offset, sizes_of(shape), sizes_of(strides))

    def _tensor_v3(self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Any:
        _, _, kind, *_ = rest
        dtype = np.dtype(DTYPES.get(kind.name, np.void))
        if isinstance(storage, Unread) or dtype == np.void:
            return Unread(kind.name)
        if storage.swapped and dtype.itemsize > 1:
            return Unread(f"{kind.name} in the other byte order")
        return Tensor(self._file, storage, dtype, offset, sizes_of(shape), sizes_of(strides))


def _named(module: Any, name: Any) -> Named:
    if not (isinstance(name, str) and isinstance(module, str)) or len(module) + len(name) > 1000:
        raise TypeError("not a name")
    return Named(f"{module}.{name}")
