"""The slow pathway alone (Feichtenhofer et al., "SlowFast Networks", ICCV 2019).

In: video [B, T, H, W, C], a clip of T frames taken many frames apart. Out: logits [B, classes].
A ResNet whose last two stages are inflated (3x1x1 in each block's first convolution) and which
never strides in time; in some forms with non-local blocks.
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


class SlowOnly(nn.Module):
    """An inflated ResNet and a linear layer on its mean feature.

    `depth` is a key of `layers.resnet.DEPTHS`; `blocks` and `width` override its stages.
    `non_local` is a mode of `layers.non_local`, None for a net without such blocks.
    """

    num_classes: int = 400
    depth: int = 50
    blocks: tuple[int, ...] | None = None
    width: int = 64
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
            hook = non_local_hook(self.non_local, scale=True, dtype=self.dtype)
        x, out = ResNet(
            self.blocks or DEPTHS[self.depth],
            BasicBlock if self.depth < 50 else Bottleneck,
            width=self.width,
            inflate=((1,), (1,), (3,), (3,)),
            hook=hook,
            zero_init=True,
            packs=True,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        head = MeanHead(self.num_classes, self.dropout, dtype=self.dtype, name="head")
        logits, out["pre_logits"] = head(x, train)
        return logits, out


Model = SlowOnly

FAMILY = "SlowOnly"
VARIANTS = {
    "slowonly_r50_4f": {"depth": 50},
    "slowonly_r50_8f": {"depth": 50},
    "slowonly_r101_8f": {"depth": 101},
    "slowonly_r50_nl_4f": {"depth": 50, "non_local": "embedded_gaussian"},
    "slowonly_r50_nl_8f": {"depth": 50, "non_local": "embedded_gaussian"},
    "slowonly_test": {"depth": 50, "blocks": (1, 1, 1, 1), "width": 8},
    "slowonly_nl_test": {
        "depth": 18,
        "blocks": (1, 1),
        "width": 8,
        "non_local": "embedded_gaussian",
    },
}

NAMES = [
    *resnet_names("conv3d"),
    *non_local_names(),
    *names.dense("cls_head.fc_cls", "head/fc"),
]

# Rows: what the tables of SlowOnly publish.

_SECTIONS = {
    "kinetics400": "Kinetics-400",
    "kinetics700": "Kinetics-700",
    "kinetics710": "Kinetics-710",
}
_STEPS = Recipe(
    epochs=150,
    batch_size=128,
    lr=0.02,
    clip_norm=40.0,
    # Upstream writes 90 and 130, which it counts from the end of the warm-up.
    milestones=(100, 140),
    warmup_epochs=10,
    warmup_every="epoch",
    norm_groups=8,
)
_STEPS_256 = replace(_STEPS, batch_size=256, lr=0.04, norm_groups=16)
_STEPS_NON_LOCAL = replace(_STEPS, epochs=256, lr=0.01)
_COSINE = Recipe(
    epochs=256,
    batch_size=128,
    lr=0.2,
    clip_norm=40.0,
    schedule="cosine",
    schedule_every="epoch",
    warmup_epochs=34,
    warmup_every="epoch",
    norm_groups=8,
)
_COSINE_196 = replace(_COSINE, epochs=196)
_HEAD = "the table's 32.45M parameters are those of 400 classes: these classes make"
_EPOCHS = "its name says 150 epochs, its config 256: those after 150 keep the last rate"


def _row(
    name: str,
    clip: tuple[int, int],
    dataset: str,
    recipe: Recipe,
    top1: float,
    top5: float,
    upstream: str,
    date: str,
    file: str = "",
    net: str = "r50",
    note: str = "",
) -> Row:
    """`clip` is its length and interval; `file` names a checkpoint not called as its config."""
    length, interval = clip
    test = Sampling(clip_len=length, frame_interval=interval, num_clips=10)
    return Row(
        name=name,
        variant=f"slowonly_{net}_{length}f",
        dataset=dataset,
        num_classes=CLASS_COUNTS[dataset],
        train=replace(test, num_clips=1),
        test=Protocol(test, crops="three", crop=256),
        recipe=recipe,
        top1=top1,
        top5=top5,
        source=f"{OPENMMLAB_V1}/slowonly/{upstream}/{file or upstream}_{date}.pth",
        upstream=upstream,
        section=_SECTIONS[dataset],
        config=f"mmaction2/configs/recognition/slowonly/{upstream}.py",
        pretrained="None" if recipe.schedule == "cosine" else "ImageNet",
        note=note,
    )


# fmt: off
ROWS = [
    _row("slowonly_r50_4x16_k400", (4, 16), "kinetics400", _COSINE, 72.97, 90.88,
         "slowonly_r50_8xb16-4x16x1-256e_kinetics400-rgb", "20220901-f6a40d08",
         file="slowonly_r50_4x16x1_256e_8xb16_kinetics400-rgb"),
    _row("slowonly_r50_8x8_k400", (8, 8), "kinetics400", _COSINE, 75.15, 92.11,
         "slowonly_r50_8xb16-8x8x1-256e_kinetics400-rgb", "20220901-2132fc87"),
    _row("slowonly_r101_8x8_k400", (8, 8), "kinetics400", _COSINE_196, 76.59, 92.80,
         "slowonly_r101_8xb16-8x8x1-196e_kinetics400-rgb", "20220901-e6281431", net="r101"),
    _row("slowonly_r50_4x16_k400_in1k", (4, 16), "kinetics400", _STEPS, 75.12, 91.72,
         "slowonly_imagenet-pretrained-r50_8xb16-4x16x1-steplr-150e_kinetics400-rgb",
         "20220901-e7b65fad"),
    _row("slowonly_r50_8x8_k400_in1k", (8, 8), "kinetics400", _STEPS, 76.45, 92.55,
         "slowonly_imagenet-pretrained-r50_8xb16-8x8x1-steplr-150e_kinetics400-rgb",
         "20220901-df42dc84"),
    _row("slowonly_r50_nl_4x16_k400_in1k", (4, 16), "kinetics400", _STEPS_NON_LOCAL, 75.07, 91.69,
         "slowonly_r50-in1k-pre-nl-embedded-gaussian_8xb16-4x16x1-steplr-150e_kinetics400-rgb",
         "20220901-cf739c75", net="r50_nl", note=_EPOCHS),
    _row("slowonly_r50_nl_8x8_k400_in1k", (8, 8), "kinetics400", _STEPS_NON_LOCAL, 76.65, 92.47,
         "slowonly_r50-in1k-pre-nl-embedded-gaussian_8xb16-8x8x1-steplr-150e_kinetics400-rgb",
         "20220901-df42dc84", net="r50_nl", note=_EPOCHS),
    _row("slowonly_r50_4x16_k700", (4, 16), "kinetics700", _STEPS_256, 65.52, 86.39,
         "slowonly_imagenet-pretrained-r50_16xb16-4x16x1-steplr-150e_kinetics700-rgb",
         "20221013-98b1b0a7", note=f"{_HEAD} 33.07M"),
    _row("slowonly_r50_8x8_k700", (8, 8), "kinetics700", _STEPS_256, 67.67, 87.80,
         "slowonly_imagenet-pretrained-r50_16xb16-8x8x1-steplr-150e_kinetics700-rgb",
         "20221013-15b93b10", note=f"{_HEAD} 33.07M"),
    _row("slowonly_r50_8x8_k710", (8, 8), "kinetics710",
         replace(_STEPS_256, norm_groups=32), 72.39, 90.60,
         "slowonly_imagenet-pretrained-r50_32xb8-8x8x1-steplr-150e_kinetics710-rgb",
         "20230612-12ce977c", note=f"{_HEAD} 33.09M"),
]
# fmt: on
