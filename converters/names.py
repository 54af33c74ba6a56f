"""The two-way map between PyTorch's keys and our trees, from a family's `NAMES`.

A rule is (key, path, layout). `key` and `path` are templates: literal text with placeholders `{i}`,
which stands for digits, or `{c:conv1|conv2}`, which stands for one of the words. A path starts with
`params/` or `batch_stats/`; it is None for keys that are dropped.
"""

import dataclasses
import difflib
import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import cast

import numpy as np

from converters.mapped import empty
from jaxvid.base.errors import JaxvidError, listed

Rule = tuple[str, str | None, str]
_PLACEHOLDER = re.compile(r"\{(\w+)(?::([^{}]*))?\}")
# A file of another network has hundreds of wrong keys: nearest names are slow and of no use there.
_MAX_SUGGESTIONS = 10
_STRIP = 64  # Elements, of `in_order`.


@dataclasses.dataclass(frozen=True)
class Layout:
    """How an array of PyTorch's becomes ours: transposed by `axes`, then with `new` axes of 1."""

    axes: tuple[int, ...] | None = None
    new: tuple[int, ...] = ()

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """Returns a view of PyTorch's array in our order; `array` has the rank of the layout."""
        return np.expand_dims(array.transpose(self.axes) if self.axes else array, self.new)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Returns a view of our array in PyTorch's order."""
        array = np.squeeze(array, self.new)
        return array.transpose(np.argsort(self.axes)) if self.axes else array

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape that PyTorch's array must have to become one of our `shape`."""
        return self.to_torch(np.broadcast_to(np.zeros(()), shape)).shape


LAYOUTS = {
    "same": Layout(),
    "linear": Layout((1, 0)),  # O I -> I O
    "pointwise": Layout((1, 0), (0, 1, 2)),  # O I -> 1 1 1 I O
    "conv1d": Layout((2, 1, 0), (1, 2)),  # O I t -> t 1 1 I O
    "conv2d": Layout((2, 3, 1, 0), (0,)),  # O I h w -> 1 h w I O
    "conv2d_time": Layout((2, 3, 1, 0), (1,)),  # O I t w -> t 1 w I O
    "conv3d": Layout((2, 3, 4, 1, 0)),  # O I t h w -> t h w I O
    "heads": Layout((1, 2, 0)),  # O heads I -> heads I O
}


def in_order(view: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Copies a transposed array to one whose last axis varies fastest, as numpy does, but quickly.

    Numpy walks the result row by row and so fetches a line of memory per element that it reads;
    in strips of a few lines' width each is read once.
    """
    dtype = np.dtype(dtype)
    copy = empty(math.prod(view.shape) * dtype.itemsize).view(dtype).reshape(view.shape)
    with np.errstate(over="ignore"):  # Whoever casts to less looks at what has become of it.
        if view.flags.c_contiguous:
            copy[...] = view
            return copy
        for start in range(0, view.shape[-1], _STRIP):
            copy[..., start : start + _STRIP] = view[..., start : start + _STRIP]
    return copy


class NameMap:
    """A family's rules, read in both directions."""

    def __init__(self, rules: Sequence[Rule]):
        self._rules = [_CompiledRule(*rule) for rule in rules]

    def to_ours(
        self,
        tensors: Mapping[str, np.ndarray],
        leaves: Mapping[str, np.ndarray],
        new: Collection[str] = (),
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Sorts PyTorch's tensors into our leaves: (path to array, dropped key to tensor).

        `leaves` gives shape and dtype of every leaf by path; those in `new` need no tensor. The
        arrays are views in our order and still of the tensor's type. Raises one `JaxvidError` that
        lists keys without a place, leaves without a tensor and wrong shapes or types.
        """
        filled: dict[str, np.ndarray] = {}
        sources: dict[str, str] = {}
        dropped: dict[str, np.ndarray] = {}
        problems = _Problems({path: self.key_of(path) for path in leaves})
        for key, tensor in tensors.items():
            matches = [(rule, path) for rule in self._rules for path in rule.paths(key)]
            if not matches:
                problems.add_unknown(key)
                continue
            if len(matches) > 1:
                problems.add(f"{quoted(key)} matches {len(matches)} rules of the name map")
                continue
            rule, path = matches[0]
            if path is None:
                dropped[key] = tensor
            elif path not in leaves:
                problems.add(f"{quoted(key)} has no place: this network has no {path[:200]}")
            elif path in sources:
                problems.add(f"{quoted(key)} and {quoted(sources[path])} both mean {path}")
            else:
                sources[path] = key
                wanted = rule.layout.torch_shape(tuple(leaves[path].shape))
                if tensor.shape != wanted:
                    problems.add(f"{quoted(key)} has shape {tensor.shape}, not {wanted}")
                elif not is_real(tensor.dtype):
                    problems.add(f"{quoted(key)} has type {tensor.dtype}, not a float")
                else:
                    filled[path] = rule.layout.to_ours(tensor)
        for path in leaves.keys() - sources.keys() - set(new):
            problems.add_missing(path)
        problems.raise_if_any()
        return filled, dropped

    def to_torch(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns PyTorch's keys and arrays, views of ours, in the order of the paths."""
        problems = _Problems({})
        tensors: dict[str, np.ndarray] = {}
        for path, array in arrays.items():
            matches = [(rule, key) for rule in self._rules for key in rule.keys(path)]
            if len(matches) != 1:
                problems.add(f"{path} matches {len(matches)} rules of the name map")
                continue
            rule, key = matches[0]
            if key in tensors:
                problems.add(f"{path} and another leaf both mean {quoted(key)}")
            tensors[key] = rule.layout.to_torch(array)
        problems.raise_if_any()
        return tensors

    def key_of(self, path: str) -> str | None:
        """Returns PyTorch's key of a leaf, or None where no rule or more than one fits."""
        keys = [key for rule in self._rules for key in rule.keys(path)]
        return keys[0] if len(keys) == 1 else None

    def knows(self, key: str) -> bool:
        """Says whether any rule fits `key`."""
        return any(rule.paths(key) for rule in self._rules)

    def drops(self, key: str) -> bool:
        """Says whether `key` is one that a rule drops."""
        return any(path is None for rule in self._rules for path in rule.paths(key))

    def layout_of(self, path: str) -> Layout | None:
        """Returns the layout of a leaf, or None where no rule or more than one fits."""
        layouts = [rule.layout for rule in self._rules if rule.keys(path)]
        return layouts[0] if len(layouts) == 1 else None


class _CompiledRule:
    """One rule, with both templates as patterns."""

    def __init__(self, key: str, path: str | None, layout: str):
        if (path is None) != (layout == "drop") or (layout not in LAYOUTS and path is not None):
            raise ValueError(f"rule {key!r} has layout {layout!r} for path {path!r}")
        words = words_of(key, path or "")
        names = [set(dict(_PLACEHOLDER.findall(side))) for side in (key, path) if side]
        if any(side != names[0] for side in names):
            raise ValueError(f"rule {key!r} and its path {path!r} have different placeholders")
        self.layout = cast(Layout, LAYOUTS.get(layout))  # None without a path, which has none
        self._key, self._key_pattern = compile_template(key, words)
        self._path: str | None = None
        self._path_pattern: re.Pattern | None = None
        if path:
            self._path, self._path_pattern = compile_template(path, words)

    def paths(self, key: str) -> list[str | None]:
        """Returns [the path of a key] (None where it is dropped), or [] if the rule is not its."""
        match = self._key_pattern.fullmatch(key)
        if not match:
            return []
        return [self._path.format(**match.groupdict()) if self._path else None]

    def keys(self, path: str) -> list[str]:
        """Returns [the key of a path], or [] if the rule is not its."""
        match = self._path_pattern.fullmatch(path) if self._path_pattern else None
        return [self._key.format(**match.groupdict())] if match else []


def words_of(*templates: str) -> dict[str, str]:
    """Returns the pattern of each placeholder of templates that belong together."""
    words: dict[str, str] = {}
    for name, choice in itertools.chain(*map(_PLACEHOLDER.findall, templates)):
        pattern = "|".join(map(re.escape, choice.split("|"))) if choice else "[0-9]+"
        if choice or name not in words:
            words[name] = pattern
    return words


def compile_template(template: str, words: Mapping[str, str]) -> tuple[str, re.Pattern]:
    """Returns the template for `str.format` and the pattern of all that it can make."""
    pattern, seen, end = "", set(), 0
    for match in _PLACEHOLDER.finditer(template):
        name = match[1]
        group = f"(?P={name})" if name in seen else f"(?P<{name}>{words[name]})"
        pattern += re.escape(template[end : match.start()]) + group
        seen.add(name)
        end = match.end()
    pattern += re.escape(template[end:])
    return _PLACEHOLDER.sub(r"{\1}", template), re.compile(pattern)


class _Problems:
    """Everything that is wrong with a conversion, said at once: the first of it, and how much."""

    def __init__(self, expected: Mapping[str, str | None]):
        self._expected = expected
        self._found: list[str] = []
        self._unknown: list[str] = []
        self._missing: list[str] = []

    def add(self, problem: str) -> None:
        self._found.append(problem)

    def add_unknown(self, key: str) -> None:
        self._unknown.append(key)

    def add_missing(self, path: str) -> None:
        self._missing.append(path)

    def raise_if_any(self) -> None:
        known = [key for key in self._expected.values() if key]
        wanted = {key for path in self._missing if (key := self._expected.get(path)) is not None}
        for number, key in enumerate(self._unknown):
            problem = f"{quoted(key)} is unknown"
            if number < _MAX_SUGGESTIONS:
                near = difflib.get_close_matches(key[:200], sorted(wanted) or known, 1, 0.8)
                problem += f" (nearest: {near[0]!r})" if near else ""
            self._found.append(problem)
        for path in sorted(self._missing):
            named = self._expected.get(path)
            also = f", which is {named!r}" if named else ""
            self._found.append(f"nothing fills {path}{also}")
        if not self._found:
            return
        count = len(self._found)
        raise JaxvidError(
            f"the tensors are not those of this network, check --model; {count} "
            f"{'problem' if count == 1 else 'problems'}: {listed(self._found)}"
        )


def quoted(key: str) -> str:
    """Returns a key as refusals name it, of a length that can be read."""
    return repr(key[:200])


def is_real(dtype: np.dtype) -> bool:
    """Says whether a type is a float, also one that numpy knows only through `ml_dtypes`."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat16", "float8"))
