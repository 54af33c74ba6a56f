"""Which part of a file's content is the weights, and which a copy of them averaged in training."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters.described import Array, Named, Tensor, Text, Unread
from jaxvid.base.errors import JaxvidError, listed

# The names under which codebases keep the weights, in the order in which they are looked for:
# MMAction2 and most others, PySlowFast, many small ones, DeepSpeed's, caffe2's, and loops of
# people's own.
STATE_DICTS = (
    *("state_dict", "model_state", "model_state_dict", "model", "module", "blobs"),
    *("net", "network", "params", "weights", "model_weights", "model_dict"),
    *("net_state_dict", "network_state_dict"),
)
# The averaged copy of timm's and of DeiT's training loop, which VideoMAE and others took over, and
# of others; any other name that says so is known by `_AVERAGED`.
AVERAGES = (
    *("state_dict_ema", "model_ema", "ema", "ema_state_dict", "ema_model", "model_ema_state_dict"),
    *("averaged", "averaged_model", "shadow", "swa_model", "swa_state_dict", "teacher"),
)
_AVERAGED = re.compile(
    r"(?:.*[^a-z])?(?:ema|swa|polyak|shadow|teacher|averag(?:e|ed|ing))(?:[^a-z].*)?",
    re.IGNORECASE,
)
_CAMEL = re.compile(r"(?:EMA|SWA|Averag)")
# The encoder that V-JEPA's published tests are of, an average of the one that is called `encoder`.
# Where there are both, `target_encoder` is a larger network, which the other was taught by.
_TEACHERS = (("ema_encoder",), ("target_encoder",))
# What training keeps beside the weights, whose tensors are none of them.
_TRAINING = re.compile(
    r"(?:.*_)?(?:optim\w*|sched\w*|lr_sched\w*|scaler|amp|rng\w*|loops|meta|message_hub|"
    r"cfg|config|args|hparams|hyper_parameters|buffer_names|param_shapes)(?:_.*)?",
    re.IGNORECASE,
)
_MAX_DEPTH = 4
_MAX_PARTS = 1000
Part = tuple[str, ...]


def choose(
    path: Path, content: Mapping[Any, Any], ema: bool
) -> tuple[Part, Mapping[Any, Any], list[str]]:
    """Returns the names that lead to the weights, what lies there, and remarks on what does not.

    With `ema` it is the averaged copy. Raises `JaxvidError` where it is not clear which to take,
    and names what there is.
    """
    parts = _parts(content)
    teacher = next((place for place in _TEACHERS if place in parts), None)
    if teacher and content.keys() & {"encoder", "predictor"}:
        remark = "holds the averaged weights that V-JEPA is tested with; all else is left out"
        return teacher, parts[teacher], [f"{said(teacher)} {remark}"]
    plain, averaged = _plain(content, parts), [part for part in parts if _is_averaged(part)]
    swapped = _swapped_by(content, plain)
    if swapped and plain:
        return plain, parts[plain], [f"{said(plain)} holds the averaged weights, as {swapped}"]
    if ema and len(averaged) > 1:
        raise JaxvidError(
            f"{path} holds {len(averaged)} averaged copies of the weights "
            f"({listed(map(said, averaged), separator=', ')}): save the one to take by itself"
        )
    if ema and averaged:
        whole = {} if plain is None else parts[plain]
        return averaged[0], *_completed(parts[averaged[0]], whole)
    if plain is None and averaged:
        raise JaxvidError(
            f"{path} holds averaged weights only ({listed(map(said, averaged), 10, ', ')}): "
            "add --ema"
        )
    if plain is None:
        return _without_tensors(path, content, parts)
    found, remarks = _choose_copy(path, parts[plain], ema, content)
    if plain and plain[-1] not in STATE_DICTS:
        remarks.append(f"the weights are those under {said(plain)}")
    others = [part for part in parts if part != plain and part not in averaged]
    remarks += [f"{said(part)}, which holds tensors too, is left out" for part in others]
    remarks += [f"the averaged copy {said(part)} is left out: --ema takes it" for part in averaged]
    return plain, found, remarks


def name_of(value: Any) -> str:
    """Names a value for people; never looks inside, since a file may nest or repeat at will."""
    match value:
        case str():
            return repr(value[:100])
        case Unread():
            return f"an object of {value.name[:200]!r}, which is not read"
        case Named():
            return f"the name {value.name[:200]!r}, which is not looked up"
        case Tensor() | Array() | np.ndarray():
            return "a tensor"
        case Text():
            return "a str"
        case memoryview():
            return "a bytes"
    return f"a {type(value).__name__}"


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | Array | np.ndarray)


def _parts(content: Mapping[Any, Any]) -> dict[Part, Mapping[Any, Any]]:
    """Returns the dicts that hold tensors and may be weights, by the names that lead to them.

    The whole is (). Of a dict and one inside of it, it is the inner one where its name says so,
    else the one with more tensors: numbers lie beside weights, and seldom weights beside others.
    """
    counts: dict[Part, int] = {}
    left: list[tuple[Part, Mapping[Any, Any]]] = [((), content)]
    for place, part in left:
        count = sum(map(_is_tensor, part.values()))
        outside = [place[:end] for end in range(len(place)) if place[:end] in counts]
        named = place and (place[-1] in STATE_DICTS or _is_averaged(place[-1:]))
        if count and (named or all(counts[outer] < count for outer in outside)):
            counts = {other: n for other, n in counts.items() if other not in outside}
            counts[place] = count
        for name, inner in part.items():
            deep = len(place) == _MAX_DEPTH or len(left) >= _MAX_PARTS
            if deep or not isinstance(name, str) or not isinstance(inner, dict):
                continue
            if not _TRAINING.fullmatch(name):
                left.append(((*place, name), inner))
    found = dict(left)
    # Of what callbacks keep, only averages are weights.
    return {p: found[p] for p in counts if p[:1] != ("callbacks",) or _is_averaged(p)}


def _is_averaged(place: Part) -> bool:
    return any(_AVERAGED.fullmatch(name) or _CAMEL.search(name) for name in place)


def _plain(content: Mapping[Any, Any], parts: Mapping[Part, Any]) -> Part | None:
    """Returns where the weights lie: under the first known name, as whole, or where alone."""
    places = [place for place in parts if not _is_averaged(place)]
    for name in STATE_DICTS:
        inside = [place for place in places if place[:1] == (name,)]
        if len(inside) > 1:
            inside = [place for place in inside if set(place) <= set(STATE_DICTS)]
        if len(inside) == 1:
            return inside[0]
    return places[0] if len(places) == 1 else None


def _swapped_by(content: Mapping[Any, Any], plain: Part | None) -> str:
    """Says who saved the averaged weights under the plain name and the others beside them."""
    beside = content.get("ema_state_dict")
    if plain and isinstance(beside, dict) and "steps" in beside:
        return "MMEngine saves them"
    if plain and "current_model_state" in content and "averaging_state" in content:
        return "Lightning saves them"
    return ""


def _completed(
    copy: Mapping[Any, Any], plain: Mapping[Any, Any]
) -> tuple[Mapping[Any, Any], list[str]]:
    """Adds to an averaged copy what it lacks, as do those that average parameters only."""

    def bare(key: Any) -> Any:
        return key.removeprefix("module.") if isinstance(key, str) else key

    averaged = {bare(key): value for key, value in copy.items()}
    lacking = [key for key in plain if bare(key) not in averaged]
    inside = averaged.keys() <= {bare(key) for key in plain}
    if not lacking or not inside:
        return copy, []
    whole = {key: averaged.get(bare(key), value) for key, value in plain.items()}
    shown = listed(map(name_of, lacking), 3, ", ")
    return whole, [
        f"{len(lacking)} keys that the averaged copy lacks are the trained ones: {shown}"
    ]


def _choose_copy(
    path: Path, found: Mapping[Any, Any], ema: bool, content: Mapping[Any, Any]
) -> tuple[Mapping[Any, Any], list[str]]:
    """Separates the weights from a second copy of them that is kept among them."""
    copies, begin = _copies(found)
    if ema and not copies:
        raise JaxvidError(f"{path} holds no averaged copy of the weights, {_rest(content)}")
    if not copies:
        return found, []
    aside = set(copies.values())
    chosen = {
        key: found[copies[key]] if ema and key in copies else value
        for key, value in found.items()
        if key not in aside
    }
    left = "their trained copies are" if ema else f"the averaged copies {begin!r} are"
    how = "" if ema else ": --ema takes them"
    return chosen, [f"{left} left out{how}"]


def _copies(found: Mapping[Any, Any]) -> tuple[dict[str, str], str]:
    """Returns by key the key of its averaged copy, and what these begin with."""
    keys = [key for key in found if isinstance(key, str)]
    # mmcv's averaging hook, and the latent diffusion models' averaging.
    ways = {
        "ema_*": lambda key: f"ema_{key.replace('.', '_')}",
        "model_ema.*": lambda key: f"model_ema.{key.removeprefix('model.').replace('.', '')}",
    }
    for begin, way in ways.items():
        copies = {key: way(key) for key in keys if way(key) in found}
        if copies:
            return copies, begin
    for word in {key.partition(".")[0]: None for key in keys}:
        if not _AVERAGED.fullmatch(word):
            continue
        inside = {
            key[len(word) + 1 :].removeprefix("module."): key
            for key in keys
            if key.startswith(f"{word}.")
        }
        copies = {}
        for key in keys:
            rest = key.partition(".")[2]
            same = next((k for k in (key, rest, rest.removeprefix("module.")) if k in inside), None)
            if same is not None and not key.startswith(f"{word}."):
                copies[key] = inside[same]
        if 2 * len(copies) > len(inside):
            return copies, f"{word}.*"
    return {}, ""


def _without_tensors(
    path: Path, content: Mapping[Any, Any], parts: Mapping[Part, Any]
) -> tuple[Part, Mapping[Any, Any], list[str]]:
    """Raises `JaxvidError` on what there is instead; returns what is only named as weights."""
    if parts:
        held = listed(map(said, parts), separator=", ")
        raise JaxvidError(
            f"{path} holds {_held(content)}; of these {held} hold tensors: save the network's by "
            "themselves, as 'state_dict'"
        )
    if isinstance(content.get("classifiers"), list):
        raise JaxvidError(
            f"{path} holds probes ('classifiers') and no encoder: give it as --head, and the file "
            "of the encoder as --checkpoint"
        )
    named = [name for name in STATE_DICTS if name in content]
    objects = [name for name in named if isinstance(content[name], Unread)]
    if objects:
        raise JaxvidError(
            f"{path} holds {objects[0]!r} as {name_of(content[objects[0]])}: load it where its "
            "code is, and save its state_dict"
        )
    dicts = [name for name in named if isinstance(content[name], dict)]
    return ((dicts[0],), content[dicts[0]], []) if dicts else ((), content, [])


def _rest(content: Mapping[Any, Any]) -> str:
    kept = [
        name
        for name in content
        if isinstance(name, str)
        and _AVERAGED.fullmatch(name)
        and not isinstance(content[name], int | float)
        and not _is_tensor(content[name])
    ]
    if kept:
        return f"as {kept[0]!r} is {name_of(content[kept[0]])} without names: leave --ema out"
    return f"it holds {_held(content)}: leave --ema out"


def _held(content: Mapping[Any, Any]) -> str:
    return listed(map(name_of, content), 10, ", ") or "nothing"


def said(place: Part) -> str:
    """Names a part for people by what leads to it."""
    return repr(".".join(name[:100] for name in place)) if place else "the whole"
