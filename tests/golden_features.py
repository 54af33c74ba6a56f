"""What goldens say beside logits of single views: an encoder's tokens, and clips seen together."""

import functools
import json
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

# Fields of our networks by what configs of Hugging Face call them.
_FIELDS = {
    "hidden_size": "dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "patch_size": "patch",
    "tubelet_size": "tubelet",
    "use_mean_pooling": "mean_pooling",
    "mlp_ratio": "mlp_ratio",
}
_ATTENTION = {"divided_space_time": "", "joint_space_time": "joint_", "space_only": "space_"}
STATISTICS = {"mean": np.mean, "absmean": lambda x: np.abs(x).mean(), "std": np.std}


def hugging_face(path: pathlib.Path) -> tuple[str, dict[str, Any]]:
    """The variant of ours, and its fields, that a golden of Hugging Face's layout is of."""
    config = json.loads(str(np.load(path)["meta"]))["config"]
    kind, variant = config["model_type"], f"{config['model_type']}_test"
    fields = {ours: config[theirs] for theirs, ours in _FIELDS.items() if theirs in config}
    if kind == "vjepa2":
        pooler = {"probe_depth": config["num_pooler_layers"] + 1, "probe_heads": fields["heads"]}
        return variant, fields | pooler
    fields["mlp_ratio"] = config["intermediate_size"] // config["hidden_size"]
    fields["img_size"] = config["image_size"]
    if kind == "timesformer":
        variant = f"timesformer_{_ATTENTION[config['attention_type']]}test"
        fields["num_frames"] = config["num_frames"]
    return variant, fields


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


def _spatial(model: Any, variables: Any, video: np.ndarray) -> jax.Array:
    grid = _apply(model, variables, video)[1]["stage1"]
    return grid.reshape(len(grid), -1, grid.shape[-1])


# The answers by name, each a function of model, variables and clips.
ANSWERS = {
    "features": lambda *given: _apply(*given)[0],
    "pooled": lambda *given: _apply(*given)[0].mean(1),
    "levels_pooled": _levels,
    "image_pooled": lambda model, variables, video: _apply(model, variables, video[:, :1])[0].mean(
        1
    ),
    "segments_logits": _together,
    "spatial_features": _spatial,
}
