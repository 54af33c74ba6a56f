"""What goldens say beside logits of single views: an encoder's tokens, and clips seen together."""

import functools
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

STATISTICS = {"mean": np.mean, "absmean": lambda x: np.abs(x).mean(), "std": np.std}


def check(
    path: pathlib.Path,
    model: nn.Module,
    variables: Any,
    video: np.ndarray,
    expected: dict[str, np.ndarray],
) -> None:
    """Compares the answers beside logits that the file at `path` has for clips [V, T, H, W, C].

    Raises:
      AssertionError: one is not what `model` answers, or there is nothing to compare.
    """
    meta = json.loads(str(np.load(path)["meta"]))
    asked = {key.partition(".")[0] for key in expected} & ANSWERS.keys()
    assert asked or "view_logits" in expected, "nothing in this file is known here"
    for key in sorted(asked):
        answer = np.asarray(ANSWERS[key](model, variables, video))
        for kind, statistic in STATISTICS.items():
            if f"{key}.{kind}" in expected:
                difference = abs(statistic(answer) - expected[f"{key}.{kind}"])
                assert difference <= 1e-4 * answer.std(), f"{key}.{kind}"
        if key not in expected:
            continue
        if key in ("features", "spatial_features"):
            answer = answer[:, :: meta.get("token_stride", 1)]
        wanted = expected[key]
        if key == "spatial_features":
            answer = answer[:, : wanted.shape[1]]
        # Half a step of float16, where they are stored so, is what rounding may have moved them.
        rounding = np.abs(wanted) * 2.0**-11 if wanted.dtype == np.float16 else 0.0
        difference = np.abs(answer - wanted.astype(np.float32)) - rounding
        noise = meta.get("f32_noise", {}).get(key, 0.0)
        allowed = max(1e-4 * answer.std(), 10 * noise)
        print(f"{path.stem}: {key}: max |difference| {difference.max():.2e}, allowed {allowed:.2e}")
        assert answer.shape == wanted.shape, key
        assert difference.max() <= allowed, key


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: nn.Module, variables: Any, video: np.ndarray) -> Any:
    return model.apply(variables, video, train=False)


def _levels(model: Any, variables: Any, video: np.ndarray) -> np.ndarray:
    levels = model.clone(out_layers=model.norms)
    out = _apply(levels, variables, video)[1]
    stages = [out[f"stage{i}"] for i in range(1, len(model.norms) + 1)]
    return np.stack([stage.mean((1, 2, 3)) for stage in stages], axis=1)


def _together(model: Any, variables: Any, video: np.ndarray) -> jax.Array:
    """Clips as segments of one video."""
    one = video.reshape(1, -1, *video.shape[2:])
    return _apply(model.clone(clip_frames=video.shape[1]), variables, one)[0]


# The answers by name, each a function of model, variables and clips.
ANSWERS = {
    "features": lambda *given: _apply(*given)[0],
    "pooled": lambda *given: _apply(*given)[0].mean(1),
    "levels_pooled": _levels,
    "image_pooled": lambda model, variables, video: _apply(model, variables, video[:, :1])[0].mean(
        1
    ),
    "segments_logits": _together,
    "spatial_features": lambda *given: _apply(*given)[1]["spatial"],
}
