"""What a compiled program does, read off its text: what devices send each other, and loops.

The text is XLA's (`compiled.as_text()`), of one device's program.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# Bits of an element, by the name of its type.
_BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4, "c64": 64, "c128": 128}
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r"known_trip_count\D{0,12}(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_NAME = re.compile(r'op_name="([^"]*)"')


_Line = tuple[str, str, str, str]
"""Name, result, kind and rest of an instruction."""

# What moves nothing itself.
_FREE = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional")
    + ("call", "after-all", "opt-barrier", "partition-id", "replica-id", "iota")
)


class Array(NamedTuple):
    """The type and shape of an array of the text."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The bytes of its elements."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS.get(self.dtype) or (int(digits[0]) if digits else 8)
        return math.ceil(self.size * bits / 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of the text.

    Attributes:
      name: what other lines call it.
      kind: what it does, such as `fusion` or `all-reduce`.
      results: the arrays that it makes.
      rest: the line behind its opening bracket: operands, attributes and metadata.
      times: how often it is done in a run of the program; the length of a loop that the compiler
        does not know counts once.
    """

    name: str
    kind: str
    results: tuple[Array, ...]
    rest: str
    times: int

    @property
    def bytes(self) -> int:
        """The bytes of its results, once."""
        return sum(array.bytes for array in self.results)

    @property
    def origin(self) -> str:
        """The path of what was written in Python that it stands for."""
        found = _NAME.search(self.rest)
        return found[1] if found else ""


class Collective(NamedTuple):
    """What devices send each other at one place of a program."""

    kind: str
    results: tuple[Array, ...]
    times: int
    origin: str

    @property
    def bytes(self) -> int:
        """The bytes of its results in a run of the program."""
        return self.times * sum(array.bytes for array in self.results)


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type as it is written, such as `(f32[2,3]{1,0}, bf16[])`."""
    return tuple(
        Array(dtype, tuple(map(int, filter(None, sizes.split(",")))))
        for dtype, sizes in _ARRAY.findall(text)
    )


class Program:
    """The text of a compiled program, as instructions of its computations."""

    def __init__(self, text: str):
        self.text = text
        self._computations: dict[str, list[_Line]] = {}
        self._known_sizes: dict[str, dict[str, int]] = {}
        self._entry, current = "", ""
        for line in text.splitlines():
            begins = _COMPUTATION.match(line)
            if begins:
                current = begins[2]
                self._computations[current] = []
                self._entry = current if begins[1] else self._entry
            elif current and (found := _INSTRUCTION.match(line)):
                name, result, kind, rest = found.groups()
                self._computations[current].append((name, result, kind, rest))

    def instructions(self, fused: bool = False) -> Iterator[Instruction]:
        """What is done from the program's entry on, loops and calls included.

        What lies inside fusions, which costs no memory of its own, comes too if `fused`.
        """
        for _, each in self._walk(self._entry, 1, fused):
            yield each

    def _walk(self, computation: str, times: int, fused: bool) -> Iterator[tuple[str, Instruction]]:
        """Instructions with the computations that they stand in."""
        for name, result, kind, rest in self._computations.get(computation, ()):
            yield computation, Instruction(name, kind, arrays(result), rest, times)
            if kind == "while":
                again = times * self._rounds(rest)
                for called in re.findall(r"\bbody=%?([\w.\-]+)", rest):
                    yield from self._walk(called, again, fused)
            elif kind in ("call", "async-start") or kind == "fusion" and fused:
                for called in _CALLED.findall(rest):
                    yield from self._walk(called, times, fused)
            elif kind == "conditional":
                for names in _BRANCHES.findall(rest):
                    for called in re.findall(r"[\w.\-]+", names):
                        yield from self._walk(called, times, fused)

    def _rounds(self, rest: str) -> int:
        """How often a loop goes round: as the compiler notes, or up to what it is compared with."""
        noted = _TRIPS.search(rest)
        if noted:
            return int(noted[1])
        condition = re.search(r"\bcondition=%?([\w.\-]+)", rest)
        lines = self._computations.get(condition[1] if condition else "", [])
        limits = [
            int(r.split(")")[0]) for _, t, k, r in lines if (k, t[:5]) == ("constant", "s32[]")
        ]
        below = any("direction=LT" in r for *_, r in lines)
        return max(limits[0], 1) if below and len(limits) == 1 else 1

    def collectives(self) -> list[Collective]:
        """All that devices send each other, the most bytes first."""
        found = []
        for each in self.instructions(fused=True):
            kind = each.kind.removesuffix("-start")
            if kind in COLLECTIVES:
                results = each.results
                if each.kind.endswith("-start") and kind != "all-reduce":
                    # Operands stand before results there, and numbers that the chip needs behind.
                    results = tuple(array for array in results if array.shape)
                    results = results[len(results) // 2 :]
                found.append(Collective(kind, results, each.times, each.origin))
        return sorted(found, key=lambda each: -each.bytes)

    def cycles(self) -> int:
        """Clock cycles of a run, as the compiler for TPUs estimates them: 0 by any other.

        What devices send each other and kernels written by hand are not in it.
        """
        found = ((each, _CYCLES.search(each.rest)) for each in self.instructions())
        return sum(each.times * int(cycles[1]) for each, cycles in found if cycles)

    def traffic(self, counted: float | None = None) -> float:
        """Bytes that are read from and written to memory in a run.

        `counted` is the compiler's own number (`counted_bytes`), where it has one: that takes a
        loop for one round, to which the others are added.
        """
        first = 0 if counted is None else 1
        return (counted or 0) + sum(
            (each.times - first) * self._traffic(computation, each)
            for computation, each in self._walk(self._entry, 1, False)
        )

    def _traffic(self, computation: str, each: Instruction) -> int:
        """What an instruction reads and writes, once: of what it takes a slice of, the slice."""
        if each.kind in _FREE or each.kind.endswith("-done"):
            return 0
        operands = self._operands(computation, each.rest)
        if each.kind in ("dynamic-slice", "gather", "slice"):
            return 2 * each.bytes
        if each.kind == "dynamic-update-slice":
            return 2 * operands[1]
        if each.kind != "fusion":
            return each.bytes + sum(operands)
        called = _CALLED.search(each.rest)
        inside = self._computations.get(called[1] if called else "", [])
        sliced, written = self._slices(called[1] if called else "", inside)
        read = sum(sliced.get(number, size) for number, size in enumerate(operands))
        return read + (each.bytes if written is None else written)

    def _operands(self, computation: str, rest: str) -> list[int]:
        """The bytes of an instruction's operands."""
        sizes = self._sizes(computation)
        return [sizes.get(name, 0) for name in re.findall(r"%([\w.\-]+)", rest.split("), ")[0])]

    def _sizes(self, computation: str) -> dict[str, int]:
        if computation not in self._known_sizes:
            self._known_sizes[computation] = {
                name: sum(array.bytes for array in arrays(result))
                for name, result, _, _ in self._computations.get(computation, ())
            }
        return self._known_sizes[computation]

    def _slices(self, name: str, inside: list[_Line]) -> tuple[dict[int, int], int | None]:
        """Of which operands a fusion reads slices only, and what it writes if that is one."""
        places = {each: int(rest.split(")")[0]) for each, _, k, rest in inside if k == "parameter"}
        used: dict[int, list[int | None]] = {}
        written = None
        for _, result, kind, rest in inside:
            size = sum(array.bytes for array in arrays(result))
            names = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            for position, operand in enumerate(names):
                if operand in places:
                    taken = kind in ("dynamic-slice", "gather", "slice") and position == 0
                    updated = kind == "dynamic-update-slice" and position == 0
                    amount = size if taken else 0 if updated else None
                    used.setdefault(places[operand], []).append(amount)
            if kind == "dynamic-update-slice" and len(names) > 1:
                written = self._sizes(name).get(names[1], 0)
        sliced = {
            number: sum(amount or 0 for amount in amounts)
            for number, amounts in used.items()
            if None not in amounts
        }
        return sliced, written

    def custom_calls(self) -> Counter[str]:
        """How often each of the chip's own or the host's functions is called, by name."""
        counts: Counter[str] = Counter()
        for each in self.instructions(fused=True):
            if each.kind == "custom-call":
                found = re.search(r'custom_call_target="([^"]+)"', each.rest)
                counts[found[1] if found else ""] += each.times
        return counts

    def aliases(self) -> int:
        """How many of the results take the memory of an argument over."""
        header = self.text.split("\n", 1)[0]
        return len(re.findall(r"(?:may|must)-alias", header))

    def dtypes(self) -> set[str]:
        """The types of all arrays in it."""
        return {dtype for dtype, _ in _ARRAY.findall(self.text)}


def summed(collectives: list[Collective]) -> dict[str, dict[str, int]]:
    """How many there are of each kind in a run, and their bytes: {kind: {count, bytes}}."""
    total: dict[str, dict[str, int]] = {}
    for each in collectives:
        of_kind = total.setdefault(each.kind, {"count": 0, "bytes": 0})
        of_kind["count"] += each.times
        of_kind["bytes"] += each.bytes
    return total


def needed_bytes(compiled: jax.stages.Compiled) -> int:
    """Memory of a device that a program needs: arguments, temporaries, code, and new results."""
    memory: Any = compiled.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    return held + new + memory.generated_code_size_in_bytes


def counted_bytes(compiled: jax.stages.Compiled) -> float | None:
    """The compiler's own count of bytes read and written, with every loop as one round.

    None where the compiler has none.
    """
    try:
        return (compiled.cost_analysis() or {}).get("bytes accessed")
    except (NotImplementedError, jax.errors.JaxRuntimeError):
        return None
