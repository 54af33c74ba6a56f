"""Starts a video network from an image classifier: 2-D weights, inflated where it looks in time."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from converters import spellings
from converters.mapped import fetched
from converters.names import NameMap, in_order
from converters.networks import leaves_of
from converters.sources import check_source, describe_source, open_source, read_source
from jaxvid import zoo
from jaxvid.base import finite
from jaxvid.base.errors import JaxvidError
from jaxvid.layers.densenet import densenet_names
from jaxvid.layers.mobilenet import (
    mobilenet_names,
    timm_mobilenet_names,
    torchvision_mobilenet_names,
)
from jaxvid.layers.mobileone import mobileone_names
from jaxvid.layers.resnet import image_resnet_names
from jaxvid.layers.swin import swin_names
from jaxvid.models.uniformerv2 import clip_names

# What CLIP has beside the image transformer: all about text, and what compares images with it.
_CLIP_HEAD = ["proj", "ln_post.{n:weight|bias}"]
_CLIP_TEXT = [
    *("positional_embedding", "token_embedding.weight", "ln_final.{n:weight|bias}"),
    *("text_projection", "logit_scale", "{n:input_resolution|context_length|vocab_size}"),
    "transformer.resblocks.{i}.attn.{n:in_proj_weight|in_proj_bias}",
    # Not in a state_dict, but OpenAI's archives of TorchScript hold it.
    "transformer.resblocks.{i}.attn_mask",
    "transformer.resblocks.{i}.{m:ln_1|ln_2|attn.out_proj|mlp.c_fc|mlp.c_proj}.{n:weight|bias}",
]
STYLES = {
    "ResNet": image_resnet_names(),
    "DenseNet": densenet_names(""),
    "DenseNet of torchvision's files": densenet_names("", dot="."),
    "mmpretrain's MobileNetV2": mobilenet_names(""),
    "torchvision's MobileNetV2": torchvision_mobilenet_names(),
    "timm's MobileNetV2": timm_mobilenet_names(),
    "mmpretrain's MobileOne": mobileone_names(""),
    "Swin": swin_names("conv2d", "norm", merge_closes_stage=True, prefix=""),
    "timm's Swin": swin_names("conv2d", "norm", merge_closes_stage=False, prefix=""),
    "OpenAI's CLIP": [
        *clip_names("visual.", "conv2d"),
        *((key, None, "drop") for key in [*(f"visual.{key}" for key in _CLIP_HEAD), *_CLIP_TEXT]),
    ],
    "the image half of CLIP": [
        *clip_names("", "conv2d"),
        *((key, None, "drop") for key in _CLIP_HEAD),
    ],
}
# What begins the keys of classifiers, and what mmpretrain puts before all others.
_CLASSIFIERS = ("fc.", "head.", "classifier.")
_PREFIX = "backbone."
_IMAGE_CHANNELS = 3
# What ends the path of a table that knows distances inside the windows of Swin.
_TABLE = "/position_bias"
# What is done to arrays of an image classifier, as the report says it.
_REPEATED = "kernels repeated over the frames they span, and divided by those"
_AVERAGED = f"kernels of {_IMAGE_CHANNELS} channels averaged for each of ours"
_TILED = "tables of positions repeated for every distance in time"


def inflate(
    name: str,
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Mapping[str, Any] | None = None,
    ema: bool = False,
) -> dict[str, Any]:
    """Returns the variables of model `name` that an image classifier has: its trunk's.

    `source` is a file or a dict of arrays in the style of torchvision, timm, mmpretrain or CLIP. A
    kernel that spans frames gets the image's at each of them, divided by their number, so that a
    clip that stands still looks like its picture (Carreira and Zisserman, CVPR 2017); a stem that
    takes other than 3 channels gets their mean for each (Wang et al., "Temporal Segment Networks",
    ECCV 2016); a table of distances inside windows is the image's for each distance in time (Liu et
    al., "Video Swin Transformer", CVPR 2022).
    Hooks, necks and the head are new and not among the variables. Raises `JaxvidError`, which lists
    every key of the trunk and every leaf that does not fit.
    """
    return inflate_and_tell(name, source, overrides=overrides, ema=ema)[0]


def inflate_and_tell(
    name: str,
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Mapping[str, Any] | None = None,
    ema: bool = False,
) -> tuple[dict, dict, list[str]]:
    """Inflates as `inflate` does; returns (variables, meta for `checkpoint.save`, a report).

    `meta["new"]` lists the paths that training has to fill.
    """
    row = zoo.starting_row(name)
    overrides = dict(overrides or {})
    opened = open_source(source)
    where = "the source" if isinstance(opened, Mapping) else opened.path
    tensors, remarks = read_source(opened, ema)
    remarks = check_source(opened) + remarks
    wrapper = spellings.wrapper_of(tensors)
    tensors = {key.removeprefix(wrapper): tensor for key, tensor in tensors.items()}
    trunk = {
        key.removeprefix(_PREFIX): np.asarray(tensor)
        for key, tensor in tensors.items()
        if not key.startswith(_CLASSIFIERS)
    }
    style, names = _style(trunk)
    leaves = leaves_of(name, row, row.num_classes, overrides)
    images = _images(names, trunk, leaves)
    arrays, dropped = names.to_ours(trunk, images)
    how: Counter[str] = Counter()
    bad: list[tuple[str, int, int]] = []
    for path, array in arrays.items():
        array = in_order(fetched(array), leaves[path].dtype)
        if count := finite.count(array):
            bad.append((repr(names.key_of(path)), count, array.size))
        arrays[path], done = _widened(name, path, array, leaves[path].shape)
        how.update(done)
    finite.raise_if_any(where, bad)
    new = sorted(leaves.keys() - arrays.keys())
    left = [key for key in tensors if key.startswith(_CLASSIFIERS)]
    left += [key for key in dropped if not key.endswith("num_batches_tracked")]
    lines = [f"{style}: {len(trunk)} tensors for {len(arrays)} of {len(leaves)} arrays"]
    lines += [f"{how[done]} {done}" for done in (_REPEATED, _AVERAGED, _TILED) if how[done]]
    lines += [f"left out: {key}" for key in sorted(left)]
    lines += [f"new: {path} {leaves[path].shape}" for path in new] + remarks
    meta = {
        "row": row.name,
        "variant": row.variant,
        "num_classes": row.num_classes,
        "classes": [],
        "mean": list(row.mean),
        "std": list(row.std),
        "channel_order": row.channel_order,
        "overrides": overrides,
        "source": describe_source(opened),
        "report": lines,
        "new": new,
    }
    variables = traverse_util.unflatten_dict(arrays, sep="/")
    return {"params": {}, "batch_stats": {}} | variables, meta, lines


def _widened(
    name: str, path: str, array: np.ndarray, wanted: tuple[int, ...]
) -> tuple[np.ndarray, list[str]]:
    """Returns an image's array as the leaf at `path` of model `name` needs it, and what was done.

    Raises `JaxvidError` where that cannot be, as for another size of window.
    """
    done = []
    if array.ndim == 5 and array.shape[3] != wanted[3]:
        array = np.repeat(array.mean(3, keepdims=True), wanted[3], 3)
        done.append(_AVERAGED)
    if array.ndim == 5 and wanted[0] > 1:
        array = np.repeat(array / wanted[0], wanted[0], 0)
        done.append(_REPEATED)
    if path.endswith(_TABLE) and array.shape != wanted:
        times, rest = divmod(wanted[0], len(array))
        # Moments of a window lie up to its length apart, before and behind: an odd number.
        if rest or times % 2 == 0:
            side = (math.isqrt(len(array)) + 1) // 2
            raise JaxvidError(
                f"{path} is for windows of {side} x {side} in the image classifier, but {name} "
                "has others: take one trained with its windows"
            )
        array = np.tile(array, (times, 1))
        done.append(_TILED)
    return array, done


def _style(trunk: Mapping[str, np.ndarray]) -> tuple[str, NameMap]:
    """Returns the classifiers whose keys these are, most of them at least, and their map."""
    maps = {style: NameMap(rules) for style, rules in STYLES.items()}
    known = {style: sum(map(names.knows, trunk)) for style, names in maps.items()}
    style = max(known, key=known.__getitem__)
    if not known[style]:
        raise JaxvidError(
            "these are not the weights of an image classifier that is known here: take one of "
            f"{', '.join(STYLES)}"
        )
    return style, maps[style]


def _images(
    names: NameMap, trunk: Mapping[str, np.ndarray], leaves: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Returns what the trunk's leaves look like in a network that sees one image, by path."""
    images = {}
    for path, leaf in leaves.items():
        key = names.key_of(path)
        if key is None:
            continue
        shape = leaf.shape
        if len(shape) == 5:
            tensor = trunk.get(key)
            stem = tensor is not None and tensor.ndim == 4 and tensor.shape[1] == _IMAGE_CHANNELS
            shape = (1, *shape[1:3], _IMAGE_CHANNELS if stem else shape[3], shape[4])
        if path.endswith(_TABLE) and key in trunk and trunk[key].ndim == 2:
            shape = (len(trunk[key]), shape[1])
        images[path] = np.broadcast_to(np.zeros((), leaf.dtype), shape)
    return images
