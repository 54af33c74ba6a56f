"""What Transformers of Hugging Face has to know of a network: its `config.json`."""

import math
from collections.abc import Mapping
from typing import Any

from converters import hugging_face
from jaxvid.base.errors import JaxvidError
from jaxvid.models.timesformer import TimeSformer
from jaxvid.models.videomae import Encoder, MaskedAutoencoder, VideoMAE
from jaxvid.models.vjepa2 import VJEPA2
from jaxvid.rows import Row

_ATTENTIONS = {
    "divided": "divided_space_time",
    "joint": "joint_space_time",
    "space": "space_only",
}
_EPSILON = 1e-6  # What norms add to a variance here; Transformers' own default differs.


def describe(row: Row, model: Any, meta: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Returns the spelling of a network's keys, and its config as a dict of JSON.

    `meta` is what its checkpoint says of itself. Raises `JaxvidError` where Transformers has no
    such network.
    """
    test = meta.get("test", {})
    frames = test.get("sampling", {}).get("clip_len", row.test.sampling.clip_len)
    if isinstance(model, VideoMAE):
        spelling = hugging_face.VIDEOMAE
        config = _videomae(model, frames) | {"use_mean_pooling": model.mean_pooling}
        kind = "VideoMAEForVideoClassification"
    elif isinstance(model, MaskedAutoencoder):
        spelling, config = hugging_face.PRETRAINING, _pretraining(model, frames)
        kind = "VideoMAEForPreTraining"
    elif isinstance(model, TimeSformer):
        divided = model.attention == "divided"
        spelling = hugging_face.DIVIDED if divided else hugging_face.UNDIVIDED
        config, kind = _timesformer(row, model), "TimesformerForVideoClassification"
    elif isinstance(model, VJEPA2):
        spelling = hugging_face.PROBED if model.num_classes else hugging_face.UNPROBED
        crop = test.get("crop", row.test.crop)
        config = _vjepa2(row, model, model.clip_frames or frames, crop)
        kind = "VJEPA2ForVideoClassification" if model.num_classes else "VJEPA2Model"
    else:
        raise JaxvidError(
            f"Transformers has no network like {row.name}, of those that are written here: it is "
            "for VideoMAE, TimeSformer and V-JEPA 2; --to=torch takes any"
        )
    config = {"architectures": [kind], **config, "initializer_range": 0.02, "hidden_act": "gelu"}
    return spelling, config | {"torch_dtype": "float32"} | _labels(model, meta)


def _labels(model: Any, meta: Mapping[str, Any]) -> dict[str, Any]:
    count = getattr(model, "num_classes", 0)
    names = list(meta.get("classes") or ()) or [f"LABEL_{number}" for number in range(count)]
    if not count:
        return {}
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def _transformer(model: Any) -> dict[str, Any]:
    """The fields that all of them have."""
    return {
        "patch_size": model.patch,
        "hidden_size": model.dim,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "layer_norm_eps": _EPSILON,
        "qkv_bias": True,
        "attention_probs_dropout_prob": 0.0,
    }


def _videomae(model: Encoder, frames: int) -> dict[str, Any]:
    return {
        "model_type": "videomae",
        **_transformer(model),
        "image_size": model.img_size,
        "num_channels": 3,
        "num_frames": frames,
        "tubelet_size": model.tubelet,
        "intermediate_size": round(model.dim * model.mlp_ratio),
        "hidden_dropout_prob": 0.0,
    }


def _pretraining(model: MaskedAutoencoder, frames: int) -> dict[str, Any]:
    return {
        **_videomae(model, frames),
        "decoder_hidden_size": model.decoder_dim,
        "decoder_num_hidden_layers": model.decoder_depth,
        "decoder_num_attention_heads": model.decoder_heads,
        "decoder_intermediate_size": round(model.decoder_dim * model.mlp_ratio),
        "norm_pix_loss": True,
    }


def _timesformer(row: Row, model: TimeSformer) -> dict[str, Any]:
    if model.attention == "space":
        raise JaxvidError(
            f"{row.name} averages the class tokens of frames, where Transformers answers for each "
            "frame by itself: take a network of divided or joint attention, or --to=torch"
        )
    return {
        "model_type": "timesformer",
        **_transformer(model),
        "attention_type": _ATTENTIONS[model.attention],
        "image_size": model.img_size,
        "num_channels": 3,
        "num_frames": model.num_frames,
        "intermediate_size": model.mlp_ratio * model.dim,
        "hidden_dropout_prob": 0.0,
    }


def _vjepa2(row: Row, model: VJEPA2, frames: int, crop: int) -> dict[str, Any]:
    wrong = ""
    if model.norms:
        wrong = "is of version 2.1, which has other norms and positions"
    elif model.out_layers not in ((), (model.depth - 1,)):
        wrong = f"looks at the blocks {model.out_layers}, where theirs looks at the last one"
    elif model.num_classes and model.probe_heads != model.heads:
        wrong = (
            f"has a probe of {model.probe_heads} heads, where theirs has the encoder's "
            f"{model.heads}"
        )
    if wrong:
        raise JaxvidError(f"{row.name} {wrong}: Transformers has no such network; take --to=torch")
    ratio, hidden = model.mlp_ratio, round(model.dim * model.mlp_ratio)
    if int(model.dim * ratio) != hidden:  # It is cut there.
        ratio = math.nextafter(ratio, math.inf)
    return {
        "model_type": "vjepa2",
        **_transformer(model),
        "crop_size": crop,
        "frames_per_clip": frames,
        "tubelet_size": model.tubelet,
        "in_chans": 3,
        "mlp_ratio": ratio,
        "attention_dropout": 0.0,
        "num_pooler_layers": model.probe_depth - 1,
    }
