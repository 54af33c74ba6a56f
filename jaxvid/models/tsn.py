"""Temporal segment networks (Wang et al., "Temporal Segment Networks", ECCV 2016).

In: video [B, T, H, W, C], one frame from each of T segments. Out: logits [B, classes].
A 2-D trunk sees each frame alone; features are averaged over all frames before one linear layer,
so any number of frames may enter, and the logits of several views average to those of all frames.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.densenet import DenseNet, densenet_names
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.mobileone import MobileOne, mobileone_names
from jaxvid.layers.resnet import (
    DEPTHS,
    BasicBlock,
    Bottleneck,
    ResNet,
    image_resnet_names,
    resnet_names,
)
from jaxvid.layers.swin import Swin, swin_names
from jaxvid.rows import (
    CLASS_COUNTS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OPENMMLAB_V0,
    OPENMMLAB_V1,
    STHV2_MIRRORED,
    Protocol,
    Recipe,
    Row,
    Sampling,
)


class TSN(nn.Module):
    """A trunk on frames and a linear layer on their mean feature.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages. `trunk`
    takes the place of that ResNet: a module that maps video to features and intermediates, as yet
    without its type and name. The classifier is drawn with the deviation `init_std`.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    trunk: Callable[..., nn.Module] | None = None
    dropout: float = 0.4
    init_std: float = 0.01
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        depths = self.blocks or DEPTHS[self.depth]
        block = BasicBlock if self.depth < 50 else Bottleneck
        trunk = self.trunk or functools.partial(ResNet, depths, block, width=self.width, packs=True)
        x, out = trunk(dtype=self.dtype, name="backbone")(video, train)
        head = MeanHead(
            self.num_classes, self.dropout, init_std=self.init_std, dtype=self.dtype, name="head"
        )
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = TSN

_RESNEXT = functools.partial(Bottleneck, groups=32, group_width=4)
_TINY_MOBILEONE = functools.partial(
    MobileOne, (1, 1), widths=(16, 32), squeezed=(0, 1), stem_width=8
)
_SWIN = functools.partial(Swin, window=(1, 7, 7), patch=(1, 4, 4))

FAMILY = "TSN"
VARIANTS = {
    "tsn_r50": {"depth": 50},
    "tsn_r50_flow": {"depth": 50},
    "tsn_r101": {"depth": 101},
    "tsn_r18_hvu": {"depth": 18},
    "tsn_resnext101_32x4d": {"trunk": functools.partial(ResNet, DEPTHS[101], _RESNEXT)},
    "tsn_densenet161": {"trunk": DenseNet},
    "tsn_mobileone_s4": {"trunk": MobileOne},
    "tsn_mobileone_s4_deploy": {"trunk": functools.partial(MobileOne, deploy=True)},
    "tsn_swin_b": {
        "trunk": functools.partial(_SWIN, 128, (2, 2, 18, 2), (4, 8, 16, 32), drop_path=0.1)
    },
    "tsn_test": {"depth": 50, "blocks": (1, 1, 1, 1), "width": 8},
    "tsn_r50_flow_test": {"depth": 50, "blocks": (1, 1, 1, 1), "width": 8},
    "tsn_resnext_test": {
        "trunk": functools.partial(
            ResNet, (1, 1), functools.partial(Bottleneck, groups=4, group_width=16), width=16
        )
    },
    "tsn_densenet_test": {"trunk": functools.partial(DenseNet, (2, 1), growth=4, width=8)},
    "tsn_mobileone_test": {"trunk": _TINY_MOBILEONE},
    "tsn_mobileone_test_deploy": {"trunk": functools.partial(_TINY_MOBILEONE, deploy=True)},
    "tsn_swin_test": {"trunk": functools.partial(_SWIN, 8, (2, 1), (1, 2), window=(1, 3, 3))},
}

_HEAD_NAMES = names.dense("cls_head.fc_cls", "head/fc")
_MOBILEONES = [variant for variant in VARIANTS if "mobileone" in variant]
NAMES = {
    **dict.fromkeys(VARIANTS, resnet_names("conv2d") + _HEAD_NAMES),
    **dict.fromkeys(
        ("tsn_resnext101_32x4d", "tsn_resnext_test"), image_resnet_names("backbone.") + _HEAD_NAMES
    ),
    **dict.fromkeys(("tsn_densenet161", "tsn_densenet_test"), densenet_names() + _HEAD_NAMES),
    **dict.fromkeys(_MOBILEONES, mobileone_names() + _HEAD_NAMES),
    **dict.fromkeys(
        ("tsn_swin_b", "tsn_swin_test"),
        swin_names("conv2d", "norm", merge_closes_stage=False) + _HEAD_NAMES,
    ),
}

# Rows: what the tables of MMAction2 1.x and 0.x publish. Features are averaged over all frames of
# all crops before the one linear layer, which equals averaging the views' scores.

_OTHERS, _OTHERS_V0 = "Using backbones from 3rd-party in TSN", "K400 (3rd-party backbones)"
_DATASETS = {
    "Kinetics-400": "kinetics400",
    "Something-Something V2": "sthv2",
    "UCF101": "ucf101",
    "Diving48": "diving48",
    "HMDB51": "hmdb51",
    "K400": "kinetics400",
    "K400 (data benchmark)": "kinetics400",
    "K400 (OmniSource)": "kinetics400",
    "K600": "kinetics600",
    "K700": "kinetics700",
    "SthV1": "sthv1",
    "SthV2": "sthv2",
    "MiT": "mit",
    "ActivityNet": "activitynet",
    _OTHERS: "kinetics400",
    _OTHERS_V0: "kinetics400",
    "MMiT": "mmit",
    "HVU": "hvu_action",
}
_SECTIONS_V1 = (
    "Kinetics-400",
    "Something-Something V2",
    _OTHERS,
)


def _test(frames: int, crops: str, sampler: str = "frames", crop: int = 224) -> Protocol:
    return Protocol(Sampling(sampler, num_clips=frames), crops=crops, crop=crop, average="score")


_TEN = _test(25, "ten")
_THREE = _test(25, "three", crop=256)
_FLOW_TEN = Protocol(
    Sampling("stacks", clip_len=5, num_clips=25), crops="ten_unnegated", average="score"
)
_DENSE_8 = _test(8, "center", "dense")

_SGD = Recipe(
    epochs=100,
    batch_size=256,
    milestones=(40, 80),
    clip_norm=40.0,
    norm_groups=8,
    crop_mode="multi_scale",
)
_SGD_50 = replace(_SGD, epochs=50, milestones=(20, 40))
_STHV2 = replace(_SGD_50, mirrored_labels=STHV2_MIRRORED)
_DENSE = replace(_SGD, fixed_crops=13)
_DIVING = replace(_SGD, batch_size=64, lr=0.0025)
_MIT = replace(_SGD, batch_size=128, lr=0.005, crop_scales=(1.0, 0.8), crop_scale_gap=0)
_STH_8 = replace(_SGD_50, batch_size=128, lr=0.02, flip=0.0)
_STH_16 = replace(_SGD_50, batch_size=32, lr=0.005, weight_decay=5e-4, clip_norm=20.0, flip=0.0)
_RESIZED = replace(_SGD, crop_mode="random_resized")
_RESIZED_96 = replace(_RESIZED, batch_size=96, lr=0.00375)
_EVAL_NORM: dict[str, Any] = {"freeze_norm": "statistics", "norm_groups": 1}
_UCF = replace(_RESIZED, epochs=75, lr=0.00128, weight_decay=5e-4, milestones=())
_HMDB = replace(_RESIZED, epochs=50, lr=0.025, milestones=(20, 40))
_ACTIVITYNET = replace(_HMDB, batch_size=64, lr=0.001, initial_weights="tsn_r50_1x1x8_k400_320p")
_MMIT = replace(
    _SGD_50,
    batch_size=128,
    clip_norm=20.0,
    head_lr_scale=5.0,
    bias_lr_scale=2.0,
    decay_norm_and_bias=False,
    loss="sigmoid",
    loss_weight=160.0,
)
_HVU = replace(_RESIZED, loss="sigmoid", loss_weight=333.0)
_FLOW = replace(_RESIZED, epochs=110, lr=0.005, milestones=(70, 100))
_ACTIVITYNET_FLOW = replace(
    _FLOW,
    epochs=150,
    batch_size=64,
    lr=0.001,
    milestones=(60, 120),
    initial_weights="tsn_r50_flow_5x1x8_k400",
)

_MULTI = "a video may have several labels: trained with a sigmoid, measured by mAP"
_UNNEGATED = "the mirrored crops of its test keep the sign of x"
_SQUEEZED = "frames were stored at 340x256, whatever their aspect"
_UNSCALED = "in training, crops were cut from frames of their own size, not resized before"
_OMNI = "only a checkpoint is published: test and recipe are the baseline's"
_HEAD = "the table's 24.33M parameters are those of 400 classes: 174 make 23.86M"
_POSITIONS = "its config takes the frames at each of 10 positions and one centre crop"
_RANDOM_TEST = "its config of that time drew the test's frames at random, as in training"


def _row(
    name: str,
    section: str,
    segments: int,
    test: Protocol,
    recipe: Recipe,
    top1: float | None,
    top5: float | None,
    upstream: str,
    date: str,
    weights: str = "",
    config: str = "",
    pretrained: str = "ImageNet",
    dropout: float = 0.4,
    note: str = "",
    variant: str = "tsn_r50",
    init_std: float = 0.01,
) -> Row:
    """A row that trains on `segments` segments.

    `date` ends the checkpoint's name, '' where none is published. `weights` is its path under the
    family's address and `config` the config's name, where they are not called `upstream`.
    """
    v1 = section in _SECTIONS_V1
    flow = test.sampling.sampler == "stacks"
    path = weights or f"{upstream}/{upstream}"
    end = date if date.startswith("-") else f"_{date}"
    folder = f"{'mmaction2' if v1 else 'mmaction2@0.x'}/configs/recognition/tsn"
    note = "; ".join(filter(None, [note, _UNNEGATED if flow else ""]))
    overrides = {"dropout": (dropout, 0.4), "init_std": (init_std, 0.01)}
    return Row(
        name=name,
        variant="tsn_r50_flow" if flow else variant,
        dataset=_DATASETS[section],
        num_classes=CLASS_COUNTS[_DATASETS[section]],
        train=replace(test.sampling, num_clips=segments),
        test=test,
        recipe=recipe,
        modality="flow" if flow else "rgb",
        mean=(128.0,) * 10 if flow else IMAGENET_MEAN,
        std=(128.0,) * 10 if flow else IMAGENET_STD,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1 if v1 else OPENMMLAB_V0}/tsn/{path}{end}.pth" if date else None,
        upstream=upstream,
        section=section,
        config=f"{folder}/{config or upstream}.py",
        pretrained=pretrained,
        note=note,
        overrides={field: own for field, (own, usual) in overrides.items() if own != usual},
    )


def _benchmark_rows(
    size: str,
    recipe: Recipe,
    weights: str,
    date: str,
    ten: tuple[float, float],
    three: tuple[float, float],
) -> list[Row]:
    """One trained network of the data benchmark, tested with ten crops and with three."""
    short, crop = ("msc", "multiscalecrop") if recipe is _SGD else ("rrc", "randomresizedcrop")
    name = f"tsn_r50_1x1x3_k400_{size}_{short}"
    upstream = f"tsn_r50_{crop}_{size}_1x1x3_100e_kinetics400_rgb"
    config = f"data_benchmark/{upstream}"
    section = "K400 (data benchmark)"
    weights = f"{weights}/{weights}" if weights else f"data_benchmark/{upstream}/{upstream}"
    stored = _SQUEEZED if size == "340x256" else f"frames were stored at {size}"
    return [
        _row(name, section, 3, _TEN, recipe, *ten, upstream, date, weights, config,
             note=f"{stored}; the table tests these weights with ten crops and with three"),
        replace(
            _row(f"{name}_3crop", section, 3, _THREE, recipe, *three, f"{upstream}__25x3", "",
                 config=config, note=f"{stored}; its member's weights, tested with three crops"),
            members=(name,),
        ),
    ]  # fmt: skip


def _hvu_row(tag: str, mean_ap: float, date: str) -> Row:
    """One of the six networks for HVU, each of which knows one kind of label."""
    upstream = f"tsn_r18_1x1x8_100e_hvu_{tag}_rgb"
    row = _row(f"tsn_r18_1x1x8_hvu_{tag}", "HVU", 8, _THREE, _HVU, None, None, upstream, date,
               weights=f"hvu/{tag}/{upstream}", config=f"hvu/{upstream}",
               variant="tsn_r18_hvu", note=_MULTI)  # fmt: skip
    dataset = f"hvu_{tag}"
    return replace(row, dataset=dataset, num_classes=CLASS_COUNTS[dataset], mean_ap=mean_ap)


def _two_stream_row(segments: int, top1: float, top5: float) -> Row:
    """What an RGB and a flow network of the tables score together."""
    rgb, flow = f"tsn_r50_1x1x{segments}_k400_320p", f"tsn_r50_flow_5x1x{segments}_k400"
    recipe = _RESIZED if segments == 3 else _RESIZED_96
    row = _row(f"tsn_r50_1x1x{segments}_k400_twostream", "K400", segments, _THREE, recipe, top1,
               top5, f"tsn_r50_320p_1x1x{segments}_kinetics400_twostream", "",
               note="the scores before the softmax of both members, each of its own test, added "
                    "1:1; test and recipe here are those of the first")  # fmt: skip
    return replace(row, config="", members=(rgb, flow))


# fmt: off
_HVU_ROWS = [
    _hvu_row("action", 57.5, "20201027-011b282b"),
    _hvu_row("scene", 55.2, "20201027-00e5748d"),
    _hvu_row("object", 45.7, "20201102-24a22f30"),
    _hvu_row("event", 63.7, "20201027-dea8cd71"),
    _hvu_row("concept", 47.5, "20201027-fc1dd8e3"),
    _hvu_row("attribute", 46.1, "20201027-0b3b49d2"),
]
ROWS = [
    _row("tsn_r50_1x1x3_k400", "Kinetics-400", 3, _TEN, _SGD, 72.83, 90.65,
         "tsn_imagenet-pretrained-r50_8xb32-1x1x3-100e_kinetics400-rgb", "20220906-cd10898e"),
    _row("tsn_r50_1x1x5_k400", "Kinetics-400", 5, _TEN, _SGD, 73.80, 91.21,
         "tsn_imagenet-pretrained-r50_8xb32-1x1x5-100e_kinetics400-rgb", "20220906-65d68713"),
    _row("tsn_r50_1x1x8_k400", "Kinetics-400", 8, _TEN, _SGD, 74.12, 91.34,
         "tsn_imagenet-pretrained-r50_8xb32-1x1x8-100e_kinetics400-rgb", "20220906-2692d16c"),
    _row("tsn_r50_dense_1x1x5_k400", "Kinetics-400", 5, _test(25, "center", "dense"),
         replace(_DENSE, lr=0.06), 71.37, 89.67,
         "tsn_imagenet-pretrained-r50_8xb32-dense-1x1x5-100e_kinetics400-rgb", "20220906-dcbc6e01",
         init_std=0.001,
         dropout=0.5, note=f"printed 25x10, but {_POSITIONS}; the table's 102.7G FLOPs are of 25 "
         "of its 250 frames"),
    _row("tsn_r50_1x1x8_sthv2", "Something-Something V2", 8, _TEN, _STHV2, 35.51, 67.09,
         "tsn_imagenet-pretrained-r50_8xb32-1x1x8-50e_sthv2-rgb", "20230313-06ad7d03",
         dropout=0.5, note=_HEAD),
    _row("tsn_r50_1x1x16_sthv2", "Something-Something V2", 16, _TEN,
         replace(_STHV2, fixed_crops=13), 36.91, 68.77,
         "tsn_imagenet-pretrained-r50_8xb32-1x1x16-50e_sthv2-rgb", "20230221-85bcc1c3",
         dropout=0.5, note=_HEAD),
    _row("tsn_r101_1x1x8_k400", "Kinetics-400", 8, _TEN, _SGD, 75.89, 92.07,
         "tsn_imagenet-pretrained-r101_8xb32-1x1x8-100e_kinetics400-rgb", "20220906-23cff032",
         variant="tsn_r101"),

    _row("tsn_resnext101_32x4d_1x1x3_k400", _OTHERS, 3, _TEN, _SGD, 72.95, 90.36,
         "tsn_imagenet-pretrained-rn101-32x4d_8xb32-1x1x3-100e_kinetics400-rgb",
         "20221209-de2d5615", config="custom_backbones/"
         "tsn_imagenet-pretrained-rn101-32x4d_8xb32-1x1x3-100e_kinetics400-rgb",
         variant="tsn_resnext101_32x4d"),
    _row("tsn_densenet161_1x1x3_k400", _OTHERS, 3, _TEN, _RESIZED, 72.07, 90.15,
         "tsn_imagenet-pretrained-dense161_8xb32-1x1x3-100e_kinetics400-rgb",
         "20220906-5f4c0daf", config="custom_backbones/"
         "tsn_imagenet-pretrained-dense161_8xb32-1x1x3-100e_kinetics400-rgb",
         variant="tsn_densenet161"),
    _row("tsn_mobileone_s4_1x1x8_k400", _OTHERS, 8, _TEN, replace(_SGD, batch_size=128),
         73.65, 91.32,
         "tsn_imagenet-pretrained-mobileone-s4_8xb32-1x1x8-100e_kinetics400-rgb",
         "20230825-2da3c1f7", config="custom_backbones/"
         "tsn_imagenet-pretrained-mobileone-s4_8xb32-1x1x8-100e_kinetics400-rgb",
         variant="tsn_mobileone_s4",
         note="named 32 videos a GPU, but its config has 16; parameters and FLOPs of the table are "
         "those of the training form"),
    _row("tsn_resnext101_32x4d_1x1x3_k400_320p", _OTHERS_V0, 3, _THREE,
         replace(_RESIZED, batch_size=128, lr=0.005), 73.43, 91.01,
         "tsn_rn101_32x4d_320p_1x1x3_100e_kinetics400_rgb", "-16a8b561",
         weights="custom_backbones/tsn_rn101_32x4d_320p_1x1x3_100e_kinetics400_rgb",
         config="custom_backbones/tsn_rn101_32x4d_320p_1x1x3_100e_kinetics400_rgb",
         variant="tsn_resnext101_32x4d"),
    _row("tsn_densenet161_1x1x3_k400_320p", _OTHERS_V0, 3, _THREE, _RESIZED_96, 72.78, 90.75,
         "tsn_dense161_320p_1x1x3_100e_kinetics400_rgb", "-cbe85332",
         weights="custom_backbones/tsn_dense161_320p_1x1x3_100e_kinetics400_rgb/"
         "tsn_dense161_320p_1x1x3_100e_kinetics400_rgb",
         config="custom_backbones/tsn_dense161_320p_1x1x3_100e_kinetics400_rgb",
         variant="tsn_densenet161"),
    _row("tsn_swin_b_1x1x3_k400", _OTHERS, 3, _TEN, replace(_SGD, norm_groups=1),
         77.03, 92.61,
         "tsn_imagenet-pretrained-swin-transformer_8xb32-1x1x3-100e_kinetics400-rgb",
         "20220906-65ed814e", config="custom_backbones/"
         "tsn_imagenet-pretrained-swin-transformer_8xb32-1x1x3-100e_kinetics400-rgb",
         variant="tsn_swin_b"),
    _row("tsn_swin_b_1x1x8_k400", _OTHERS, 8, _TEN, replace(_SGD_50, norm_groups=1),
         79.22, 94.20,
         "tsn_imagenet-pretrained-swin-transformer_32xb8-1x1x8-50e_kinetics400-rgb",
         "20230530-428f0064", config="custom_backbones/"
         "tsn_imagenet-pretrained-swin-transformer_32xb8-1x1x8-50e_kinetics400-rgb",
         variant="tsn_swin_b", note="batch and devices are its name's: its config holds 32 videos "
         "a device"),
    _row("tsn_swin_b_1x1x3_k400_video_320p", _OTHERS_V0, 3, _TEN,
         replace(_RESIZED, batch_size=192, lr=0.0075, norm_groups=1), 77.51, 92.92,
         "tsn_swin_transformer_video_320p_1x1x3_100e_kinetics400_rgb", "-805380f6",
         weights="custom_backbones/tsn_swin_transformer_video_320p_1x1x3_100e_kinetics400_rgb/"
         "tsn_swin_transformer_video_320p_1x1x3_100e_kinetics400_rgb",
         config="custom_backbones/tsn_swin_transformer_video_320p_1x1x3_100e_kinetics400_rgb",
         variant="tsn_swin_b", note=_UNSCALED),

    _row("tsn_r50_1x1x3_ucf101", "UCF101", 3, _THREE, _UCF, 83.03, 96.78,
         "tsn_r50_1x1x3_75e_ucf101_rgb", "20201023-d85ab600", note="split 1", init_std=0.001),
    _row("tsn_r50_1x1x8_diving48", "Diving48", 8, _test(8, "center"), _DIVING, 71.27, 95.74,
         "tsn_r50_video_1x1x8_100e_diving48_rgb", "20210426-6dde0185"),
    _row("tsn_r50_1x1x16_diving48", "Diving48", 16, _test(16, "center"),
         replace(_DIVING, batch_size=32, lr=0.00125), 76.75, 96.95,
         "tsn_r50_video_1x1x16_100e_diving48_rgb", "20210426-63c5f2f7"),
    _row("tsn_r50_1x1x8_hmdb51", "HMDB51", 8, _test(8, "center", crop=256), _HMDB, 48.95, 80.19,
         "tsn_r50_1x1x8_50e_hmdb51_imagenet_rgb", "20201123-ce6c27ed", note="split 1"),
    _row("tsn_r50_1x1x8_hmdb51_k400pre", "HMDB51", 8, _test(8, "center", crop=256),
         replace(_HMDB, initial_weights="tsn_r50_1x1x8_k400_256p"), 56.08, 84.31,
         "tsn_r50_1x1x8_50e_hmdb51_kinetics400_rgb", "20201123-7f84701b",
         pretrained="Kinetics400", note="split 1"),
    _row("tsn_r50_1x1x8_hmdb51_mitpre", "HMDB51", 8, _test(8, "center", crop=256),
         replace(_HMDB, initial_weights="tsn_r50_1x1x6_mit"), 54.25, 83.86,
         "tsn_r50_1x1x8_50e_hmdb51_mit_rgb", "20201123-01526d41",
         pretrained="Moments",
         note="split 1; its config gives no batch size: that of its siblings"),

    _row("tsn_r50_1x1x3_k400_340x256", "K400", 3, _TEN, _SGD, 70.60, 89.26,
         "tsn_r50_1x1x3_100e_kinetics400_rgb", "20200614-e508be42", note=_SQUEEZED),
    _row("tsn_r50_1x1x3_k400_256p", "K400", 3, _TEN, _SGD, 70.42, 89.03,
         "tsn_r50_1x1x3_100e_kinetics400_rgb", "20200725-22592236",
         weights="tsn_r50_256p_1x1x3_100e_kinetics400_rgb/tsn_r50_256p_1x1x3_100e_kinetics400_rgb"),
    _row("tsn_r50_dense_1x1x5_k400_340x256", "K400", 5, _DENSE_8,
         replace(_DENSE, batch_size=128, lr=0.03, clip_norm=20.0), 70.18, 89.10,
         "tsn_r50_dense_1x1x5_50e_kinetics400_rgb", "20200627-a063165f",
         weights="tsn_r50_dense_1x1x5_100e_kinetics400_rgb/tsn_r50_dense_1x1x5_100e_kinetics400_rgb",
         config="tsn_r50_dense_1x1x5_100e_kinetics400_rgb", dropout=0.5, init_std=0.001,
         note=f"printed 8x10: {_POSITIONS}; named 50 epochs, but its config has 100; {_SQUEEZED}"),
    _row("tsn_r50_1x1x3_k400_320p", "K400", 3, _THREE, _RESIZED, 70.91, 89.51,
         "tsn_r50_320p_1x1x3_100e_kinetics400_rgb", "20200702-cc665e2a"),
    _row("tsn_r50_flow_5x1x3_k400", "K400", 3, _FLOW_TEN, _FLOW, 55.70, 79.85,
         "tsn_r50_320p_1x1x3_110e_kinetics400_flow", "20200705-3036bab6"),
    _row("tsn_r50_1x1x8_k400_256p", "K400", 8, _THREE, _RESIZED_96, 71.80, 90.17,
         "tsn_r50_1x1x8_100e_kinetics400_rgb", "20200817-883baf16",
         weights="tsn_r50_256p_1x1x8_100e_kinetics400_rgb/tsn_r50_256p_1x1x8_100e_kinetics400_rgb",
         config="tsn_r50_320p_1x1x8_100e_kinetics400_rgb"),
    _row("tsn_r50_1x1x8_k400_320p", "K400", 8, _THREE, _RESIZED_96, 72.41, 90.55,
         "tsn_r50_320p_1x1x8_100e_kinetics400_rgb", "20200702-ef80e3d7"),
    _row("tsn_r50_flow_5x1x8_k400", "K400", 8, _FLOW_TEN,
         replace(_FLOW, batch_size=96, lr=0.001875), 57.76, 80.99,
         "tsn_r50_320p_1x1x8_110e_kinetics400_flow", "20200705-1f39486b"),
    _row("tsn_r50_1x1x3_k400_video_320p", "K400", 3, _THREE, _RESIZED, 71.11, 90.04,
         "tsn_r50_video_320p_1x1x3_100e_kinetics400_rgb", "20201014-5ae1ee79", note=_UNSCALED),
    _row("tsn_r50_dense_1x1x8_k400_340x256", "K400", 8, _DENSE_8,
         replace(_DENSE, batch_size=96, lr=0.005), 70.77, 89.3,
         "tsn_r50_dense_1x1x8_100e_kinetics400_rgb", "20200606-e925e6e3",
         note=f"printed 8x10: {_POSITIONS}; {_SQUEEZED}"),
    _row("tsn_r50_1x1x8_k400_video_256p", "K400", 8, _THREE, _SGD, 71.79, 90.25,
         "tsn_r50_video_1x1x8_100e_kinetics400_rgb", "20200702-568cde33",
         note=f"{_UNSCALED}; a later config tests ten crops, for which 71.14 was printed"),
    _row("tsn_r50_dense_1x1x8_k400_video_256p", "K400", 8, _DENSE_8, _SGD, 70.40, 89.12,
         "tsn_r50_video_dense_1x1x8_100e_kinetics400_rgb", "20200703-0f19175f",
         note=f"{_UNSCALED}; a later config tests ten crops"),

    *_benchmark_rows("340x256", _SGD, "tsn_r50_1x1x3_100e_kinetics400_rgb", "20200614-e508be42",
                     (70.60, 89.26), (70.52, 89.39)),
    *_benchmark_rows("340x256", _RESIZED, "", "20200725-88cb325a", (70.11, 89.01), (69.95, 89.02)),
    *_benchmark_rows("320p", _SGD, "", "20200725-9922802f", (70.32, 89.25), (70.54, 89.39)),
    *_benchmark_rows("320p", _RESIZED, "tsn_r50_320p_1x1x3_100e_kinetics400_rgb",
                     "20200702-cc665e2a", (70.44, 89.23), (70.91, 89.51)),
    *_benchmark_rows("256p", _SGD, "tsn_r50_256p_1x1x3_100e_kinetics400_rgb", "20200725-22592236",
                     (70.42, 89.03), (70.79, 89.42)),
    *_benchmark_rows("256p", _RESIZED, "tsn_r50_256p_randomresize_1x1x3_100e_kinetics400_rgb",
                     "20200817-ae7963ca", (69.80, 89.06), (70.48, 89.89)),

    _row("tsn_r50_1x1x3_k400_omni_baseline", "K400 (OmniSource)", 3, _TEN, _SGD, 70.6, 89.3,
         "tsn_r50_1x1x3_100e_kinetics400_rgb", "20200614-e508be42",
         note=f"{_SQUEEZED}; the baseline without OmniSource"),
    _row("tsn_r50_1x1x3_k400_omni", "K400 (OmniSource)", 3, _TEN, _SGD, 73.6, 91.0,
         "tsn_r50_omnisource_imagenet_340x256", "20200926-54192355",
         weights="omni/tsn_imagenet_pretrained_r50_omni_1x1x3_kinetics400_rgb",
         config="tsn_r50_1x1x3_100e_kinetics400_rgb", note=f"{_OMNI}; {_SQUEEZED}"),
    _row("tsn_r50_1x1x3_k400_ig1b", "K400 (OmniSource)", 3, _TEN, _SGD, 73.1, 90.4,
         "tsn_r50_plain_ig1b_320p", "20200926-c133dd49",
         weights="omni/tsn_1G1B_pretrained_r50_without_omni_1x1x3_kinetics400_rgb",
         config="tsn_r50_1x1x3_100e_kinetics400_rgb", pretrained="IG-1B", note=_OMNI),
    _row("tsn_r50_1x1x3_k400_ig1b_omni", "K400 (OmniSource)", 3, _TEN, _SGD, 75.7, 91.9,
         "tsn_r50_omnisource_ig1b_320p", "20200926-2863fed0",
         weights="omni/tsn_1G1B_pretrained_r50_omni_1x1x3_kinetics400_rgb",
         config="tsn_r50_1x1x3_100e_kinetics400_rgb", pretrained="IG-1B", note=_OMNI),

    _row("tsn_r50_1x1x8_k600", "K600", 8, _THREE, _RESIZED_96, 74.8, 92.3,
         "tsn_r50_video_1x1x8_100e_kinetics600_rgb", "20201015-4db3c461", note=_UNSCALED),
    _row("tsn_r50_1x1x8_k700", "K700", 8, _THREE, _RESIZED_96, 61.7, 83.6,
         "tsn_r50_video_1x1x8_100e_kinetics700_rgb", "20201015-e381a6c7", note=_UNSCALED),
    _row("tsn_r50_1x1x8_sthv1", "SthV1", 8, _test(8, "ten"),
         replace(_STH_8, weight_decay=5e-4, clip_norm=20.0, fixed_crops=13, **_EVAL_NORM),
         18.55, 44.80,
         "tsn_r50_1x1x8_50e_sthv1_rgb", "20200618-061b9195", dropout=0.5),
    _row("tsn_r50_1x1x16_sthv1", "SthV1", 16, _test(8, "center"),
         replace(_STH_16, lr=0.01, flip=0.5, fixed_crops=13, **_EVAL_NORM), 15.77, 39.85,
         "tsn_r50_1x1x16_50e_sthv1_rgb", "20200614-7e2fe4f1", dropout=0.5, init_std=0.001,
         note="its config tests 8 frames, and flips without exchanging left and right labels"),
    _row("tsn_r50_1x1x8_sthv2_240p", "SthV2", 8, _test(8, "ten"), _STH_8, 32.97, 63.62,
         "tsn_r50_1x1x8_50e_sthv2_rgb", "20200915-f3b381a5", dropout=0.5, note=_RANDOM_TEST),
    _row("tsn_r50_1x1x16_sthv2_240p", "SthV2", 16, _test(16, "ten"), _STH_16, 27.21, 55.84,
         "tsn_r50_1x1x16_50e_sthv2_rgb", "20200917-80bc3611", dropout=0.5, note=_RANDOM_TEST,
         init_std=0.001),
    _row("tsn_r50_1x1x6_mit", "MiT", 6, _test(6, "three", crop=256), _MIT, 26.84, 51.6,
         "tsn_r50_1x1x6_100e_mit_rgb", "20200618-d512ab1b"),
    replace(
        _row("tsn_r101_1x1x5_mmit", "MMiT", 5, _test(5, "center", crop=256), _MMIT, None, None,
             "tsn_r101_1x1x5_50e_mmit_rgb", "20200618-642f450d", dropout=0.5, variant="tsn_r101",
             note=f"{_MULTI}; the printed mAP is the mean over videos, not over classes"),
        mean_ap=61.09,
    ),
    _row("tsn_r50_1x1x8_activitynet_video", "ActivityNet", 8, _THREE, _ACTIVITYNET, 73.93, 93.44,
         "tsn_r50_320p_1x1x8_50e_activitynet_video_rgb", "20210301-7f8da0c6",
         pretrained="Kinetics400", dropout=0.8, note="trained on whole untrimmed videos"),
    replace(
        _row("tsn_r50_1x1x8_activitynet_clip", "ActivityNet", 8, _THREE, _ACTIVITYNET, 76.90, 94.47,
             "tsn_r50_320p_1x1x8_50e_activitynet_clip_rgb", "20210301-c0f04a7e",
             pretrained="Kinetics400", dropout=0.8,
             note="trained and tested on the annotated clips"),
        prepare="--clips",
    ),
    _row("tsn_r50_flow_5x1x8_activitynet_video", "ActivityNet", 8, _FLOW_TEN, _ACTIVITYNET_FLOW,
         57.51, 83.02, "tsn_r50_320p_1x1x8_150e_activitynet_video_flow", "20200804-13313f52",
         pretrained="Kinetics400", dropout=0.8,
         note="trained on whole untrimmed videos, but its config tests the annotated clips"),
    replace(
        _row("tsn_r50_flow_5x1x8_activitynet_clip", "ActivityNet", 8, _FLOW_TEN, _ACTIVITYNET_FLOW,
             59.51, 82.69, "tsn_r50_320p_1x1x8_150e_activitynet_clip_flow", "20200804-8622cf38",
             pretrained="Kinetics400", dropout=0.8,
             note="trained and tested on the annotated clips"),
        prepare="--clips",
    ),

    _two_stream_row(3, 72.76, 90.52),
    _two_stream_row(8, 74.64, 91.77),

    *_HVU_ROWS,
    replace(
        _hvu_row("action", 52.6, ""), name="tsn_r18_1x1x8_hvu",
        upstream="tsn_r18_hvu_all_tags_average", config="",
        note="no network: the mean of its members' figures, each for its kind of label",
        members=tuple(row.name for row in _HVU_ROWS),
    ),
]
# fmt: on
