"""Other spellings of a network's keys, in which files were released: told apart by what fits.

A spelling is rules: a pattern of its keys, and what such a key is in the spelling that a family's
`NAMES` know. None says that the key belongs to no network. A key without a rule is spelt alike.
`KEY[1/3]` is the second third of the rows of KEY, which `join` puts together and `split` apart.

Around a spelling lies what wrappers make of keys: words before all of them or inside of them, and
keys of their own beside them.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from converters import hugging_face
from converters.mapped import fetched
from converters.names import NameMap, is_real, quoted
from jaxvid.base.errors import JaxvidError, listed

# Put before every key by DataParallel, by Lightning and other wrappers, and by torch.compile.
PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.")
# Put between the words of a key by torch.compile, FSDP, checkpointing, DeepSpeed, Opacus and
# DataParallel, where they wrap a part of the network.
WRAPPERS = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_module",
    "module",
)
# Keys beside a network's own, by whose they are; no network has any of these.
BESIDE = {
    "the averaging": r"(.+\.)?(n_averaged|num_updates|ema_decay|initted|steps)|\w*ema\w*\.decay",
    "a counter of operations": r"(.+\.)?total_(ops|params)",
    "a loss": r"(.+\.)?(criterions?|loss|losses|loss_(fn|func|function|cls))(_\w+)?(\..+)?",
    "a metric": r"((train|val|valid|test)_)?(acc|accuracy|metrics?|top\d|f1|auroc|confmat)\..+",
    "a queue of features": r"(.+\.)?queue(_ptr)?",
    "a wrapper": r"(.+\.)?_extra_state",
}
# What parts saved without their network do not have before their keys, and TEA's files do.
_ADDED = ("backbone.", "encoder.", "classifier.", "module.")
_MAX_PREFIX = 4
_PART = re.compile(r"(.+)\[(\d)/([1-9])\]")
_BLOCK = r"layer(\d)\.(\d+)"
# A ResNet as torchvision has it, behind the prefix, to one whose convolutions hold their norms.
_RESNET = [
    (r"{p}\.conv1\.weight", r"backbone.conv1.conv.weight"),
    (r"{p}\.bn1\.(\w+)", r"backbone.conv1.bn.\1"),
    (rf"{{p}}\.{_BLOCK}\.conv(\d)\.weight", r"backbone.layer\1.\2.conv\3.conv.weight"),
    (rf"{{p}}\.{_BLOCK}\.bn(\d)\.(\w+)", r"backbone.layer\1.\2.conv\3.bn.\4"),
    (rf"{{p}}\.{_BLOCK}\.downsample\.0\.weight", r"backbone.layer\1.\2.downsample.conv.weight"),
    (rf"{{p}}\.{_BLOCK}\.downsample\.1\.(\w+)", r"backbone.layer\1.\2.downsample.bn.\3"),
]
_SHIFTED = r"backbone.layer\1.\2.conv1.conv.net.weight"
_CAFFE2 = {
    "conv": {"_w": ".weight"},
    "bn": {"_s": ".weight", "_b": ".bias", "_rm": ".running_mean", "_riv": ".running_var"},
}


def _behind(prefix: str) -> list[tuple[str, str | None]]:
    return [(pattern.format(p=prefix), known) for pattern, known in _RESNET]


def _caffe2() -> list[tuple[str, str | None]]:
    """PySlowFast's first weights, of Caffe2: slow and fast (t_) pathway side by side."""
    rules: list[tuple[str, str | None]] = [
        (r".*_momentum|lr|model_iter", None),
        (r"pred_w", "head.projection.weight"),
        (r"pred_b", "head.projection.bias"),
    ]
    for number, pathway in enumerate(("", "t_")):
        block, known = rf"{pathway}res(\d)_(\d+)_", rf"s\1.pathway{number}_res\2."
        parts = {
            "conv": [
                (f"{pathway}conv1", f"s1.pathway{number}_stem.conv"),
                (rf"{block}branch1", rf"{known}branch1"),
                (rf"{block}branch2([abc])", rf"{known}branch2.\3"),
            ],
            "bn": [
                (f"{pathway}res_conv1_bn", f"s1.pathway{number}_stem.bn"),
                (rf"{block}branch1_bn", rf"{known}branch1_bn"),
                (rf"{block}branch2([abc])_bn", rf"{known}branch2.\3_bn"),
            ],
        }
        if pathway:  # From the fast pathway to the slow one.
            parts["conv"] += [
                ("t_pool1_subsample", "s1_fuse.conv_f2s"),
                (r"t_res(\d)_\d+_branch2c_bn_subsample", r"s\1_fuse.conv_f2s"),
            ]
            parts["bn"] += [
                ("t_pool1_subsample_bn", "s1_fuse.bn"),
                (r"t_res(\d)_\d+_branch2c_bn_subsample_bn", r"s\1_fuse.bn"),
            ]
        for kind, found in parts.items():
            for own, ours in _CAFFE2[kind].items():
                rules += [(pattern + own, replacement + ours) for pattern, replacement in found]
    return rules


SPELLINGS: dict[str, list[tuple[str, str | None]]] = {
    # 0.9 moved patch merging from the end of a stage to the start of the next one.
    "timm before 0.9": [
        (rf"backbone\.layers\.{stage}\.(downsample\..+)", rf"backbone.layers.{stage + 1}.\1")
        for stage in range(3)
    ],
    "Caffe2": _caffe2(),
    "MMAction, which MMAction2 replaced": _behind("backbone"),
    "the authors of TPN": [
        (rf"backbone\.{_BLOCK}\.conv1\.weight", _SHIFTED),
        *_behind("backbone"),
        (r"necks\.(temporal_modulation_ops\.\d+)\.conv\.weight", r"neck.\1.conv.conv.weight"),
        (r"necks\.downsampling_(ops\.\d+)\.conv\.weight", r"neck.downsample_\1.conv.conv.weight"),
        *(
            (rf"necks\.level_fusion_op{own}\.{part}", rf"neck.level_fusion_{ours}.{known}")
            # The first of ours is the second of theirs: it fuses the top-down pyramid.
            for own, ours in (("", 2), ("2", 1))
            for part, known in (
                (r"ops\.(\d+)\.conv\.(\w+)", r"downsamples.\1.conv.conv.\2"),
                (r"ops\.(\d+)\.norm\.(\w+)", r"downsamples.\1.conv.bn.\2"),
                (r"fusion_conv\.0\.(\w+)", r"fusion_conv.conv.\1"),
                (r"fusion_conv\.1\.(\w+)", r"fusion_conv.bn.\1"),
            )
        ),
        (r"necks\.pyramid_fusion_op\.0\.(\w+)", r"neck.pyramid_fusion.conv.\1"),
        (r"necks\.pyramid_fusion_op\.1\.(\w+)", r"neck.pyramid_fusion.bn.\1"),
        (r"necks\.aux_head\.convs\.(.+)", r"neck.aux_head.conv.\1"),
        (r"necks\.((?:spatial_modulation|aux_head\.fc)\..+)", r"neck.\1"),
    ],
    "the authors of TSM": [
        (rf"base_model\.{_BLOCK}\.conv1\.net\.weight", _SHIFTED),
        *_behind("base_model"),
        (r"(?:new_fc|base_model\.fc)\.(\w+)", r"cls_head.fc_cls.\1"),
    ],
    "the authors of VideoSwin": [(r"backbone\.norm\.(\w+)", r"backbone.norm3.\1")],
    "the authors of VideoMAE": [
        (r"patch_embed\.proj\.(\w+)", r"backbone.patch_embed.projection.\1"),
        (r"(blocks\.\d+\.mlp)\.fc1\.(\w+)", r"backbone.\1.layers.0.0.\2"),
        (r"(blocks\.\d+\.mlp)\.fc2\.(\w+)", r"backbone.\1.layers.1.\2"),
        (r"((?:blocks\.\d+|fc_norm)\..+)", r"backbone.\1"),
        (r"head\.(\w+)", r"cls_head.fc_cls.\1"),
    ],
    "VideoPrism without a classifier": [
        (r"params/((?:patch_projection|spatial_\w+|temporal_\w+)/.+)", r"params/encoder/\1"),
    ],
    **{spelling: hugging_face.rules(spelling) for spelling in hugging_face.PAIRS},
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the keys of a file are read.

    `known` gives each of the network's keys in the spelling of `NAMES`, or None. They begin with
    `prefix`, which the name map does without or has `added` for, except `strays`; `wrappers` are
    words inside of them that it does without. `beside` are keys that are not the network's, by
    whose they are.
    """

    prefix: str
    spelling: str
    known: Mapping[str, str | None]
    added: str = ""
    wrappers: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    beside: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)

    def way_back(self) -> dict[str, Any]:
        """Returns a prefix, and by its known key each key that is spelt otherwise behind it."""
        prefix = self.prefix if all(key.startswith(self.prefix) for key in self.known) else ""
        own = {known: key.removeprefix(prefix) for key, known in self.known.items() if known}
        return {"prefix": prefix, "respelt": {k: key for k, key in own.items() if key != k}}

    def remarks(self) -> list[str]:
        """Returns sentences on what is unusual about the keys."""
        remarks = []
        if self.prefix and self.added:
            remarks.append(f"{self.prefix!r} stands for {self.added!r}")
        elif self.prefix:
            remarks.append(f"every key began with {self.prefix!r}, which the name map does without")
        elif self.added:
            remarks.append(f"keys are without the {self.added!r} that the name map has before them")
        if self.wrappers:
            words = ", ".join(map(repr, self.wrappers))
            remarks.append(f"keys had {words} inside, which the name map does without")
        if self.spelling:
            count = sum(known not in (None, key) for key, known in self.known.items())
            remarks.append(f"{count} keys are spelt as by {self.spelling}; so --to=torch does too")
        return remarks + self.left()

    def left(self) -> list[str]:
        """Returns a sentence on the keys that are left out, if there are any."""
        left = [key for key, known in self.known.items() if known is None]
        if not left:
            return []
        return [f"{len(left)} keys are no part of a network, and left out: {left[0]}, ..."]

    def refuse_strays(self) -> None:
        """Raises `JaxvidError` where keys lack what all others begin with."""
        if self.strays:
            one = len(self.strays) == 1
            raise JaxvidError(
                f"all keys but {listed(map(quoted, self.strays), separator=', ')} begin with "
                f"{self.prefix!r}, and {'it is' if one else 'they are'} unknown without: leave "
                f"{'it' if one else 'them'} out of the file, or check --model"
            )


def read(names: NameMap, keys: Iterable[str]) -> Reading:
    """Returns the reading of `keys` by which the name map knows the most of them.

    Of equals it is the one that changes least: no other spelling before any, a shorter prefix
    before a longer one.
    """
    knows = functools.cache(lambda key: names.knows(whole(key)))
    beside = _beside(key for key in keys if not knows(key))
    aside = {key for group in beside.values() for key in group}
    keys = [key for key in keys if key not in aside]
    best, most = Reading("", "", {key: key for key in keys}), 0
    for reading in _readings(keys, knows):
        count = sum(known is None or knows(known) for known in reading.known.values())
        count -= len(reading.strays)
        if count > most:
            best, most = reading, count
        if most == len(keys):
            break
    return dataclasses.replace(best, beside=beside)


def reads(spelling: str, own: Mapping[str, str]) -> bool:
    """Says whether a spelling reads each key, of those `own` has by their known keys, as known."""
    rules = [(re.compile(pattern), known) for pattern, known in SPELLINGS[spelling]]
    return all(_respell(rules, key) == known for known, key in own.items())


def wrapper_of(keys: Iterable[str]) -> str:
    """Returns what wrappers put before every key, the longest of it."""
    keys, found = list(keys), ""
    while keys:
        more = next((p for p in PREFIXES if all(k.startswith(found + p) for k in keys)), None)
        if more is None:
            break
        found += more
    return found


def whole(key: str) -> str:
    """Returns the key of the tensor that `key` is, or is a part of."""
    part = _PART.fullmatch(key)
    return part[1] if part else key


def join(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Puts parts of tensors together; parts that do not make a whole stay as they are."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in tensors.items():
        parts.setdefault(whole(key), {})[key] = tensor
    joined: dict[str, np.ndarray] = {}
    for key, found in parts.items():
        wanted = [f"{key}[{i}/{len(found)}]" for i in range(len(found))]
        shapes = {tensor.shape for tensor in found.values()}
        kinds = {tensor.dtype for tensor in found.values()}
        real = len(kinds) == 1 or all(map(is_real, kinds))
        if found.keys() != set(wanted) or len(shapes) > 1 or shapes == {()} or not real:
            joined |= found
            continue
        # Float32 holds every number of the types that such files mix with it.
        type_ = kinds.pop() if len(kinds) == 1 else np.dtype(np.float32)
        with np.errstate(over="ignore"):  # What became of it is looked at later.
            read = [fetched(found[part]).astype(type_, copy=False) for part in wanted]
        joined[key] = np.concatenate(read)
    return joined


def split(tensors: Mapping[str, np.ndarray], keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns the tensors with those in parts of which `keys` tell: the way back of `join`."""
    tensors = dict(tensors)
    parts = [part for part in map(_PART.fullmatch, keys) if part]
    wholes = {part[1]: tensors.pop(part[1]) for part in parts if part[1] in tensors}
    for part in parts:
        number, count, tensor = int(part[2]), int(part[3]), wholes.get(part[1])
        if tensor is None or tensor.ndim == 0 or len(tensor) % count or number >= count:
            raise JaxvidError(f"the key {quoted(part[0])} in jaxvid.json is damaged")
        rows = len(tensor) // count
        tensors[part[0]] = tensor[number * rows : (number + 1) * rows]
    return tensors


def _beside(keys: Iterable[str]) -> dict[str, list[str]]:
    """Returns the keys that belong beside a network, by whose they are."""
    found: dict[str, list[str]] = {}
    for key in keys:
        owner = next((who for who, pattern in BESIDE.items() if re.fullmatch(pattern, key)), None)
        if owner is not None:
            found.setdefault(owner, []).append(key)
    return found


def _readings(keys: list[str], knows: Callable[[str], bool]) -> Iterator[Reading]:
    bare = {key: _unwrap(key) for key in keys}
    forms: list[tuple[dict[str, str], tuple[str, ...]]] = [({key: key for key in keys}, ())]
    if bare != forms[0][0] and len(set(bare.values())) == len(bare):
        inside = tuple(word for word in WRAPPERS if any(f".{word}." in f".{key}" for key in keys))
        forms.append((bare, inside))
    begun = [(form, words, prefix) for form, words in forms for prefix in _prefixes(form.values())]
    for form, words, prefix in begun:
        strays = tuple(key for key, bare in form.items() if not bare.startswith(prefix))
        known = {key: bare.removeprefix(prefix) for key, bare in form.items()}
        yield Reading(prefix, "", known, "", words, strays)
    for form, words, prefix in begun:
        for added in _ADDED:
            known = {
                key: added + bare.removeprefix(prefix) if _lacks(bare, prefix, knows) else bare
                for key, bare in form.items()
            }
            # Else it would hide what is wrong with the keys, which are named as this spells them.
            if len(set(known.values())) == len(known) and all(map(knows, known.values())):
                yield Reading(prefix, "", known, added, words)
    for form, words, prefix in begun:
        strays = tuple(key for key, bare in form.items() if not bare.startswith(prefix))
        for spelling, rules in SPELLINGS.items():
            compiled = [(re.compile(pattern), known) for pattern, known in rules]
            respelt = {
                key: _respell(compiled, bare.removeprefix(prefix)) for key, bare in form.items()
            }
            kept = [key for key in respelt.values() if key is not None]
            if len(set(kept)) == len(kept):  # Else two keys became one, as they are not spelt so.
                yield Reading(prefix, spelling, respelt, "", words, strays)


def _lacks(key: str, prefix: str, knows: Callable[[str], bool]) -> bool:
    return key.startswith(prefix) if prefix else not knows(key)


def _prefixes(keys: Iterable[str]) -> list[str]:
    """Returns what most of the keys begin with, word by word: "", then longer and longer."""
    keys, found = list(keys), [""]
    for _ in range(_MAX_PREFIX):
        inside = [key for key in keys if key.startswith(found[-1])]
        words = Counter(key[len(found[-1]) :].partition(".")[0] for key in inside)
        word, count = words.most_common(1)[0] if words else ("", 0)
        if 2 * count <= len(keys) or not any(key.startswith(f"{found[-1]}{word}.") for key in keys):
            break
        found.append(f"{found[-1]}{word}.")
    return found


def _unwrap(key: str) -> str:
    """Takes wrappers' words out of a key; those that it begins with are a prefix."""
    words = key.split(".")
    first = next((place for place, word in enumerate(words) if word not in WRAPPERS), len(words))
    return ".".join(words[:first] + [word for word in words[first:] if word not in WRAPPERS])


def _respell(rules: list[tuple[re.Pattern, str | None]], key: str) -> str | None:
    for pattern, known in rules:
        match = pattern.fullmatch(key)
        if match:
            return match.expand(known) if known is not None else None
    return key
