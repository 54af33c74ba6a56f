"""Other spellings of a network's keys, in which files were released: told apart by what fits.

A spelling is rules: a pattern of its keys, and what such a key is in the spelling that a family's
`NAMES` know. None says that the key belongs to no network. A key without a rule is spelt alike.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from converters.names import NameMap

# Put before every key by DataParallel, by Lightning and other wrappers, and by torch.compile.
PREFIXES = ("module.", "model.", "_orig_mod.")
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


def _behind(prefix: str) -> list[tuple[str, str]]:
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
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the keys of a file are read: `known` gives each in the spelling of `NAMES`, or None."""

    prefix: str
    spelling: str
    known: dict[str, str | None]

    def respelt(self) -> dict[str, str]:
        """Returns by its known key each key that is spelt otherwise, without the prefix."""
        own = {known: key.removeprefix(self.prefix) for key, known in self.known.items() if known}
        return {known: key for known, key in own.items() if key != known}

    def remarks(self) -> list[str]:
        """Returns sentences on what is unusual about the keys."""
        remarks = []
        if self.prefix:
            remarks.append(f"every key began with {self.prefix!r}, which the name map does without")
        if self.spelling:
            count = len(self.respelt())
            remarks.append(f"{count} keys are spelt as by {self.spelling}; so --to=torch does too")
        left = [key for key, known in self.known.items() if known is None]
        if left:
            remarks.append(
                f"{len(left)} keys are no part of a network, and left out: {left[0]}, ..."
            )
        return remarks


def read(names: NameMap, keys: Iterable[str]) -> Reading:
    """Returns the reading of `keys` by which the name map knows the most of them.

    Of equals it is the one that changes least: no other spelling before any, a shorter prefix
    before a longer one.
    """
    keys = list(keys)
    best, most = Reading("", "", {key: key for key in keys}), 0
    for reading in _readings(keys):
        count = sum(known is None or names.knows(known) for known in reading.known.values())
        if count > most:
            best, most = reading, count
        if most == len(keys):
            break
    return best


def prefixes(keys: Iterable[str]) -> list[str]:
    """Returns what wrappers may have put before every key: "", then longer and longer."""
    keys, found = list(keys), [""]
    while keys:
        more = next((p for p in PREFIXES if all(k.startswith(found[-1] + p) for k in keys)), None)
        if more is None:
            break
        found.append(found[-1] + more)
    return found


def _readings(keys: list[str]) -> Iterator[Reading]:
    for prefix in prefixes(keys):
        yield Reading(prefix, "", {key: key.removeprefix(prefix) for key in keys})
    for prefix in prefixes(keys):
        for spelling, rules in SPELLINGS.items():
            compiled = [(re.compile(pattern), known) for pattern, known in rules]
            known = {key: _respell(compiled, key.removeprefix(prefix)) for key in keys}
            kept = [key for key in known.values() if key is not None]
            if len(set(kept)) == len(kept):  # Else two keys became one, as they are not spelt so.
                yield Reading(prefix, spelling, known)


def _respell(rules: list[tuple[re.Pattern, str | None]], key: str) -> str | None:
    for pattern, known in rules:
        match = pattern.fullmatch(key)
        if match:
            return match.expand(known) if known is not None else None
    return key
