"""A net for videos and images at once (Duan et al., "Omni-sourced Webly-supervised", ECCV 2020).

In: video [B, T, H, W, C], a clip of T frames taken many frames apart. Out: logits [B, classes].
SlowOnly's trunk with two heads: one names the action of a clip, the other the object of an image.
Built with `images=True` the same network takes images as clips of one frame, and answers with the
other head; its weights are `image_variables` of the video net's.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxvid.layers import names
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.resnet import DEPTHS, Bottleneck, ResNet, image_resnet_names
from jaxvid.rows import CLASS_COUNTS, OPENMMLAB_V1, Protocol, Recipe, Row, Sampling


class VideoHead(nn.Module):
    """Two linear layers, the first with twice as many outputs as there are classes."""

    num_classes: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Maps features [B, F] to scores [B, classes]."""
        x = nn.Dense(2 * self.num_classes, dtype=self.dtype, name="fc1")(features)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc2")(x)


class ImageHead(nn.Module):
    """One linear layer on normalised features."""

    num_classes: int
    dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Maps features [B, F] to scores [B, classes]."""
        x = BatchNorm(dtype=self.dtype, name="bn")(features, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, dtype=self.dtype, name="fc")(x)


class TwoHeads(nn.Module):
    """A head for videos and one for images, of which one answers."""

    num_classes: int
    image_classes: int
    images: bool
    dropout: float
    image_dropout: float
    dtype: Any = None

    @nn.compact
    def __call__(self, features: jax.Array, train: bool = False) -> jax.Array:
        """Maps features [B, F] to logits [B, classes], float32 or wider."""
        video = VideoHead(self.num_classes, self.dropout, dtype=self.dtype, name="video")
        image = ImageHead(self.image_classes, self.image_dropout, dtype=self.dtype, name="image")
        answering, silent = (image, video) if self.images else (video, image)
        logits = answering(features, train)
        if self.is_initializing():
            # Both have weights, whichever answers.
            silent(features, train)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


class Omni(nn.Module):
    """An inflated ResNet and two heads on its mean feature.

    With `images` every frame is seen alone, and the head for `image_classes` answers. `blocks` and
    `width` override the trunk's stages; `dropout` is the video head's.
    """

    num_classes: int = 400
    image_classes: int = 1000
    images: bool = False
    blocks: tuple[int, ...] = DEPTHS[50]
    width: int = 64
    dropout: float = 0.5
    image_dropout: float = 0.2
    dtype: Any = None

    def for_images(self) -> tuple["Omni", Callable[[Any], Any]]:
        """The network that takes images, and what makes its parameters of these."""
        return self.clone(images=True), image_variables

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to logits [B, classes] and the intermediates by name."""
        x, out = ResNet(
            self.blocks,
            Bottleneck,
            width=self.width,
            inflate=((1,),) * 4 if self.images else ((1,), (1,), (3,), (3,)),
            momentum=0.01,
            dtype=self.dtype,
            name="backbone",
        )(video, train)
        out["pre_logits"] = features = x.mean((1, 2, 3))
        logits = TwoHeads(
            self.num_classes,
            self.image_classes,
            self.images,
            self.dropout,
            self.image_dropout,
            dtype=self.dtype,
            name="head",
        )(features, train)
        return logits, out


Model = Omni


def image_variables(variables: Any) -> Any:
    """The variables of a video net for the same net with `images`.

    Kernels are summed over time: an image is a clip that stands still and has no ends. In training,
    gradients flow through the sum into the video net's variables; its published images left the
    trunk's running statistics as they were.
    """
    return jax.tree.map(lambda a: a.sum(0, keepdims=True) if a.ndim == 5 else a, variables)


FAMILY = "OmniSource"
VARIANTS = {
    "omni_slowonly_r50": {},
    "omnisource_test": {"blocks": (1, 1, 1), "width": 8, "image_classes": 7},
}

NAMES = [
    *image_resnet_names("backbone.", "conv3d"),
    *names.dense("cls_head.fc3d.2", "head/video/fc1"),
    *names.batch_norm("cls_head.fc3d.3", "head/video/bn"),
    *names.dense("cls_head.fc3d.6", "head/video/fc2"),
    *names.batch_norm("cls_head.fc2d.2", "head/image/bn"),
    *names.dense("cls_head.fc2d.4", "head/image/fc"),
]

# Rows: what the table of OmniSource publishes.

_CLIPS = Sampling(clip_len=8, frame_interval=8, num_clips=10)
_UPSTREAM = "slowonly_r50_8xb16-8x8x1-256e_imagenet-kinetics400-rgb"

ROWS = [
    Row(
        name="omni_slowonly_r50_8x8_k400",
        variant="omni_slowonly_r50",
        dataset="kinetics400",
        num_classes=CLASS_COUNTS["kinetics400"],
        train=Sampling(clip_len=8, frame_interval=8),
        test=Protocol(_CLIPS, crops="three", crop=256),
        recipe=Recipe(
            epochs=256,
            batch_size=128,
            lr=0.1,
            clip_norm=40.0,
            schedule="cosine",
            warmup_epochs=34,
            norm_groups=8,
        ),
        top1=77.30,
        top5=93.23,
        source=f"{OPENMMLAB_V1}/omnisource/{_UPSTREAM}_20230208-61c4be0d.pth",
        upstream=_UPSTREAM,
        section="Kinetics-400",
        config=f"mmaction2/configs/recognition/omnisource/{_UPSTREAM}.py",
        pretrained="ImageNet",
        note="trained from scratch on Kinetics and, beside each batch of 128 clips, 680 images of "
        "ImageNet; the recipe here is the videos' part. The table's 32.45M parameters are "
        "SlowOnly's: with both heads there are 35.65M",
    )
]
