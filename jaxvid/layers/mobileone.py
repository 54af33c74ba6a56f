"""MobileOne's trunk on frames, in two forms (Vasu et al., "MobileOne", CVPR 2023).

In training a block sums parallel branches, each with a norm of its own. All of them are linear once
the norms' statistics are fixed, so that they add up to one convolution with a bias: the deployed
form, which `deploy` makes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from jaxvid.layers import names
from jaxvid.layers.conv import Conv
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.resnet import ConvNorm, Hook, Place, no_hook
from jaxvid.layers.squeeze import SqueezeExcite

EPSILON = 1e-5
# How many times narrower squeeze-excitation is inside.
SQUEEZE = 16
BRANCHES = ("branch", "scale", "skip")


class MobileOneBlock(nn.Module):
    """One convolution, in training the sum of its branches, with squeeze-excitation and a ReLU.

    The branches are a convolution, where that is not 1x1 a 1x1 one (`scale`), and where nothing
    changes shape the input (`skip`), each normalised. With `deploy` one convolution with a bias
    stands for all. `hook` is called at `block_in`.
    """

    place: Place
    features: int
    size: int = 3
    stride: int = 1
    groups: int = 1
    squeeze: bool = False
    deploy: bool = False
    hook: Hook = no_hook
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, T, H, W, C] to [B, T, H', W', features]."""
        x = self.hook(self.place, x, train)
        stride, half = (1, self.stride, self.stride), self.size // 2
        kernel, padding = (1, self.size, self.size), (0, half, half)
        shared = {"stride": stride, "groups": self.groups, "dtype": self.dtype}
        if self.deploy:
            init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
            y = Conv(
                self.features,
                kernel,
                padding=padding,
                use_bias=True,
                kernel_init=init,
                name="fused",
                **shared,
            )(x)
        else:
            shared |= {"relu": False, "epsilon": EPSILON}
            y = ConvNorm(self.features, kernel, padding=padding, name="branch", **shared)(x, train)
            if self.size > 1:
                y += ConvNorm(self.features, (1, 1, 1), name="scale", **shared)(x, train)
            if self.stride == 1 and x.shape[-1] == self.features:
                y += BatchNorm(EPSILON, dtype=self.dtype, name="skip")(x, train)
        if self.squeeze:
            frames = y.reshape(-1, 1, *y.shape[2:])
            hidden = self.features // SQUEEZE
            y = SqueezeExcite(hidden, dtype=self.dtype, name="se")(frames).reshape(y.shape)
        return nn.relu(y)


class MobileOne(nn.Module):
    """Stem and four stages, each of pairs of blocks: one for every channel apart, one 1x1.

    `depths` counts the pairs, of which the first carries the stride 2; the last `squeezed` of a
    stage have squeeze-excitation. The defaults are those of MobileOne-S4.
    """

    depths: Sequence[int] = (2, 8, 10, 1)
    widths: Sequence[int] = (192, 448, 896, 2048)
    squeezed: Sequence[int] = (0, 0, 5, 1)
    stem_width: int = 64
    deploy: bool = False
    hook: Hook = no_hook
    dtype: Any = None

    @nn.compact
    def __call__(
        self, video: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps video [B, T, H, W, C] to features [B, T, H', W', C'] and the intermediates."""
        shared = {"deploy": self.deploy, "hook": self.hook, "dtype": self.dtype}
        out = {}
        x = MobileOneBlock(
            Place(0, 0, 1, "block_in"), self.stem_width, stride=2, name="stage0", **shared
        )(video, train)
        out["stem"] = x
        for i, depth in enumerate(self.depths, start=1):
            for j in range(2 * depth):
                depthwise = j % 2 == 0
                x = MobileOneBlock(
                    Place(i, j, 2 * depth, "block_in"),
                    x.shape[-1] if depthwise else self.widths[i - 1],
                    3 if depthwise else 1,
                    2 if j == 0 else 1,
                    x.shape[-1] if depthwise else 1,
                    j // 2 >= depth - self.squeezed[i - 1],
                    name=f"stage{i}_{j}",
                    **shared,
                )(x, train)
            out[f"stage{i}"] = x
        return x, out


def deploy(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of the deployed form from those of the training form.

    Whatever a network has beside such blocks stays as it is. Sums are computed in float64 and kept
    in the parameters' own type; logits differ by rounding alone.
    """
    params = traverse_util.flatten_dict(variables["params"])
    stats = traverse_util.flatten_dict(variables.get("batch_stats", {}))
    for block in [path[:-3] for path in params if path[-3:] == ("branch", "conv", "kernel")]:
        dtype = params[*block, "branch", "conv", "kernel"].dtype
        kernel, bias = _fuse(params, stats, block)
        for tree in (params, stats):
            for path in [path for path in tree if _is_branch(path, block)]:
                del tree[path]
        params[*block, "fused", "kernel"] = kernel.astype(dtype)
        params[*block, "fused", "bias"] = bias.astype(dtype)
    return {
        "params": traverse_util.unflatten_dict(params),
        "batch_stats": traverse_util.unflatten_dict(stats),
    }


def _is_branch(path: tuple[str, ...], block: tuple[str, ...]) -> bool:
    return path[: len(block)] == block and path[len(block)] in BRANCHES


def _fuse(params: Mapping, stats: Mapping, block: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Returns kernel [1, h, w, in / groups, out] and bias [out] that a block's branches add up to.

    Between its mean's removal and its bias's addition a norm only scales, and so scales the kernel
    before it; the input itself is what a 1x1 kernel of ones and zeros passes on.
    """
    shape = params[*block, "branch", "conv", "kernel"].shape
    kernel, bias = np.zeros(shape), np.zeros(shape[-1])
    for branch in BRANCHES:
        norm = (*block, branch) if branch == "skip" else (*block, branch, "bn")
        if (*norm, "scale") not in params:
            continue
        scale, offset = (np.asarray(params[*norm, name], np.float64) for name in ("scale", "bias"))
        mean, var = (np.asarray(stats[*norm, name], np.float64) for name in ("mean", "var"))
        factor = scale / np.sqrt(var + EPSILON)
        if branch == "skip":
            own = np.zeros((1, 1, 1, *shape[3:]))
            outputs = np.arange(shape[4])
            own[..., outputs % shape[3], outputs] = 1
        else:
            own = np.asarray(params[*block, branch, "conv", "kernel"], np.float64)
        border = (shape[1] - own.shape[1]) // 2
        kernel += np.pad(own * factor, ((0, 0), (border, border), (border, border), (0, 0), (0, 0)))
        bias += offset - mean * factor
    return kernel, bias


def mobileone_names(prefix: str = "backbone.", wrapper: str = "") -> list[names.Rule]:
    """Name rules of mmpretrain's MobileOne behind `prefix`, in both forms.

    `wrapper` lengthens what a block is called.
    """
    rules = []
    for block in ("stage0", "stage{s}.{b}"):
        key, path = f"{prefix}{block}{wrapper}", f"backbone/{block.replace('.', '_')}"
        for branch, ours in (("branch_conv_list.0", "branch"), ("branch_scale", "scale")):
            rules += names.conv(f"{key}.{branch}.conv", f"{path}/{ours}/conv", "conv2d")
            rules += names.batch_norm(f"{key}.{branch}.norm", f"{path}/{ours}/bn")
        rules += names.batch_norm(f"{key}.branch_norm", f"{path}/skip")
        rules += names.conv(f"{key}.branch_reparam", f"{path}/fused", "conv2d", bias=True)
        rules += names.conv(f"{key}.se.conv{{n}}.conv", f"{path}/se/fc{{n}}", "conv2d", bias=True)
    return rules
