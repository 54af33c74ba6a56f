"""Inflated 3-D ConvNets on a ResNet (Carreira and Zisserman, "Quo Vadis", CVPR 2017).

In: video [B, T, H, W, C], a clip of T frames, T at least 5. Out: logits [B, classes].
A ResNet-50 with a stem 5 frames deep and every or every second block inflated (3x1x1 in its first
convolution), laid out as by Wang et al., "Non-local Neural Networks" (CVPR 2018), whose non-local
blocks some forms have. Time is halved after stage 1, and in all but the heavy form also by the stem
and its pooling, so that 32 frames are 4 in stages 2 to 4.
"""

from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax

from jaxvid.layers import names
from jaxvid.layers.heads import MeanHead
from jaxvid.layers.non_local import non_local_hook, non_local_names
from jaxvid.layers.resnet import DEPTHS, BasicBlock, Bottleneck, Hook, ResNet, no_hook, resnet_names
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling


class I3D(nn.Module):
    """An inflated ResNet and a linear layer on its mean feature.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages. The
    `heavy` form inflates every block and keeps every frame up to stage 1. `non_local` is a mode of
    `layers.non_local`, None for a net without such blocks.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
    heavy: bool = False
    non_local: str | None = None
    dropout: float = 0.5
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        hook: Hook = no_hook
        if self.non_local:
            hook = non_local_hook(self.non_local, first=1, dtype=self.dtype)
        x, out = ResNet(
            self.blocks or DEPTHS[self.depth],
            BasicBlock if self.depth < 50 else Bottleneck,
            width=self.width,
            stem_kernel=(5, 7, 7),
            stem_stride=(1 if self.heavy else 2, 2, 2),
            stem_pool=(1 if self.heavy else 2, 2, 2),
            inflate=((3,),) * 4 if self.heavy else ((3,), (3, 1), (3, 1), (1, 3)),
            pool2=True,
            hook=hook,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = I3D

FAMILY = "I3D"
VARIANTS = {
    "i3d_r50": {"depth": 50},
    "i3d_r50_heavy": {"depth": 50, "heavy": True},
    "i3d_r50_nl_dot": {"depth": 50, "non_local": "dot_product"},
    "i3d_r50_nl_embgauss": {"depth": 50, "non_local": "embedded_gaussian"},
    "i3d_r50_nl_gauss": {"depth": 50, "non_local": "gaussian"},
    "i3d_test": {"depth": 50, "blocks": (1, 1), "width": 8},
    "i3d_nl_test": {"depth": 18, "blocks": (1, 2), "width": 8, "non_local": "dot_product"},
}

NAMES = [
    *resnet_names("conv3d"),
    *non_local_names(),
    *names.dense("cls_head.fc_cls", "head/fc"),
]

# Rows: what the table of I3D publishes. All were trained by one recipe from ImageNet weights.

_SGD = Recipe(
    epochs=100,
    batch_size=64,
    lr=0.01,
    clip_norm=40.0,
    milestones=(40, 80),
    norm_groups=8,
    crop_mode="multi_scale",
    crop_scales=(1.0, 0.8),
    crop_scale_gap=0,
)


def _row(
    name: str,
    variant: str,
    top1: float,
    top5: float,
    upstream: str,
    date: str,
    dense: bool = False,
) -> Row:
    """With `dense` clips begin within a window of 64 frames, and a test has ten such windows."""
    if dense:
        train = test = Sampling("dense", clip_len=32, frame_interval=2)
    else:
        train = Sampling(clip_len=32, frame_interval=2)
        test = replace(train, num_clips=10)
    return Row(
        name=name,
        variant=variant,
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=train,
        test=Protocol(test, crops="three", crop=256),
        recipe=_SGD,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/i3d/{upstream}/{upstream}_{date}.pth",
        upstream=upstream,
        section="Kinetics-400",
        config=f"mmaction2/configs/recognition/i3d/{upstream}.py",
        pretrained="ImageNet",
    )


# fmt: off
ROWS = [
    _row("i3d_r50_32x2_k400", "i3d_r50", 73.47, 91.27,
         "i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb", "20220812-e213c223"),
    _row("i3d_r50_dense_32x2_k400", "i3d_r50", 73.77, 91.35,
         "i3d_imagenet-pretrained-r50_8xb8-dense-32x2x1-100e_kinetics400-rgb", "20220812-9f46003f",
         dense=True),
    _row("i3d_r50_heavy_32x2_k400", "i3d_r50_heavy", 76.21, 92.48,
         "i3d_imagenet-pretrained-r50-heavy_8xb8-32x2x1-100e_kinetics400-rgb", "20220812-ed501b31"),
    _row("i3d_r50_nl_dot_32x2_k400", "i3d_r50_nl_dot", 74.80, 92.07,
         "i3d_imagenet-pretrained-r50-nl-dot-product_8xb8-32x2x1-100e_kinetics400-rgb",
         "20220812-8e1f2148"),
    _row("i3d_r50_nl_embgauss_32x2_k400", "i3d_r50_nl_embgauss", 74.73, 91.80,
         "i3d_imagenet-pretrained-r50-nl-embedded-gaussian_8xb8-32x2x1-100e_kinetics400-rgb",
         "20220812-afd8f562"),
    _row("i3d_r50_nl_gauss_32x2_k400", "i3d_r50_nl_gauss", 73.97, 91.33,
         "i3d_imagenet-pretrained-r50-nl-gaussian_8xb8-32x2x1-100e_kinetics400-rgb",
         "20220812-0c5cbf5a"),
]
# fmt: on
