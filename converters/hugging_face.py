"""How Transformers of Hugging Face spells the keys of networks, both ways.

A spelling is pairs of templates, its key and the one that a family's `NAMES` know, with
placeholders as `converters.names` has them. `KEY[1/3]` is the second third of the rows of KEY. Of
two of its keys that mean one it is the first that is written.
"""

import re
from collections.abc import Iterable

from converters.names import compile_template, words_of

Pair = tuple[str, str]
_W = "{w:weight|bias}"
_MAX_PARTS = 3


def _optional(word: str, pairs: Iterable[Pair], *, written: bool = True) -> list[Pair]:
    """Pairs of keys that stand with and without `word` before them."""
    bare = list(pairs)
    whole = [(word + own, known) for own, known in bare]
    return whole + bare if written else bare + whole


def _parts(own: str, known: str, words: Iterable[str]) -> list[Pair]:
    """Pairs of the parts of one tensor, each with a word of its own in the place of `{}`."""
    words = list(words)
    return [(own.replace("{}", w), f"{known}[{i}/{len(words)}]") for i, w in enumerate(words)]


def _mlp(layer: str, first: str, second: str) -> list[Pair]:
    return [
        (f"{layer}.intermediate.dense.{_W}", f"{first}.{{w}}"),
        (f"{layer}.output.dense.{_W}", f"{second}.{{w}}"),
    ]


def _videomae_block(layer: str, block: str) -> list[Pair]:
    """Version 5 renamed the biases of queries and values, and reads those of before."""
    attention = f"{layer}.attention.attention"
    return [
        *_parts(f"{attention}.{{}}.weight", f"{block}.attn.qkv.weight", ("query", "key", "value")),
        (f"{attention}.{{b:q_bias|v_bias}}", f"{block}.attn.{{b}}"),
        (f"{attention}.query.bias", f"{block}.attn.q_bias"),
        (f"{attention}.value.bias", f"{block}.attn.v_bias"),
        (f"{layer}.attention.output.dense.{_W}", f"{block}.attn.proj.{{w}}"),
        (f"{layer}.layernorm_before.{_W}", f"{block}.norm1.{{w}}"),
        (f"{layer}.layernorm_after.{_W}", f"{block}.norm2.{{w}}"),
    ]


def _videomae() -> list[Pair]:
    layer, block = "encoder.layer.{i}", "backbone.blocks.{i}"
    encoder = [
        (
            f"embeddings.patch_embeddings.projection.{_W}",
            "backbone.patch_embed.projection.{w}",
        ),
        *_videomae_block(layer, block),
        *_mlp(layer, f"{block}.mlp.layers.0.0", f"{block}.mlp.layers.1"),
        (f"layernorm.{_W}", "backbone.norm.{w}"),
    ]
    return [
        *_optional("videomae.", encoder),
        (f"fc_norm.{_W}", "backbone.fc_norm.{w}"),
        (f"classifier.{_W}", "cls_head.fc_cls.{w}"),
    ]


def _videomae_pretraining() -> list[Pair]:
    def blocks(layer: str, block: str) -> list[Pair]:
        mlp = _mlp(layer, f"{block}.mlp.fc1", f"{block}.mlp.fc2")
        return [*_videomae_block(layer, block), *mlp]

    encoder = [
        (f"embeddings.patch_embeddings.projection.{_W}", "encoder.patch_embed.proj.{w}"),
        *blocks("encoder.layer.{i}", "encoder.blocks.{i}"),
        (f"layernorm.{_W}", "encoder.norm.{w}"),
    ]
    decoder = blocks("decoder.decoder_layers.{i}", "decoder.blocks.{i}")
    return [*_optional("videomae.", encoder), *decoder]


def _timesformer(attention: str, norms: tuple[str, str]) -> list[Pair]:
    """`attention` is the number of the attention over space, `norms` where its norms lie."""
    layer, known = "encoder.layer.{i}", "backbone.transformer_layers.layers.{i}"
    pairs = [
        ("embeddings.cls_token", "backbone.cls_token"),
        ("embeddings.position_embeddings", "backbone.pos_embed"),
        ("embeddings.time_embeddings", "backbone.time_embed"),
        (
            f"embeddings.patch_embeddings.projection.{_W}",
            "backbone.patch_embed.projection.{w}",
        ),
        (f"layernorm.{_W}", "backbone.norm.{w}"),
        (f"{layer}.temporal_layernorm.{_W}", f"{known}.attentions.0.norm.{{w}}"),
        (f"{layer}.temporal_dense.{_W}", f"{known}.attentions.0.temporal_fc.{{w}}"),
        (f"{layer}.layernorm_before.{_W}", f"{known}.{norms[0]}.{{w}}"),
        (f"{layer}.layernorm_after.{_W}", f"{known}.{norms[1]}.{{w}}"),
        *_mlp(layer, f"{known}.ffns.0.layers.0.0", f"{known}.ffns.0.layers.1"),
    ]
    # Where there are two, the first one is over time.
    attentions = [("attention", attention), *[("temporal_attention", "0")] * int(attention)]
    for own, number in attentions:
        to = f"{known}.attentions.{number}.attn"
        pairs += [
            (f"{layer}.{own}.attention.qkv.{_W}", f"{to}.in_proj_{{w}}"),
            (f"{layer}.{own}.output.dense.{_W}", f"{to}.out_proj.{{w}}"),
        ]
    return [*_optional("timesformer.", pairs), (f"classifier.{_W}", "cls_head.fc_cls.{w}")]


def _vjepa2(encoder: str) -> list[Pair]:
    """`encoder` is what the encoder's keys begin with, nothing where it has no probe."""
    layer, block = "encoder.layer.{i}", f"{encoder}blocks.{{i}}"
    pooler, known = "pooler.self_attention_layers.{i}", "classifier.pooler.blocks.{i}"
    cross, query = "pooler.cross_attention_layer", "classifier.pooler.cross_attention_block"
    pairs = [
        (f"encoder.embeddings.patch_embeddings.proj.{_W}", f"{encoder}patch_embed.proj.{{w}}"),
        (f"encoder.layernorm.{_W}", f"{encoder}norm.{{w}}"),
        *_parts(
            f"{layer}.attention.{{}}.{_W}", f"{block}.attn.qkv.{{w}}", ("query", "key", "value")
        ),
        (f"{layer}.attention.proj.{_W}", f"{block}.attn.proj.{{w}}"),
        (f"{layer}.{{n:norm1|norm2|mlp.fc1|mlp.fc2}}.{_W}", f"{block}.{{n}}.{{w}}"),
    ]
    return [
        *_optional("vjepa2.", pairs, written=bool(encoder)),
        *_parts(f"{pooler}.self_attn.{{}}_proj.{_W}", f"{known}.attn.qkv.{{w}}", "qkv"),
        (f"{pooler}.self_attn.out_proj.{_W}", f"{known}.attn.proj.{{w}}"),
        ("pooler.query_tokens", "classifier.pooler.query_tokens"),
        (f"{cross}.cross_attn.q_proj.{_W}", f"{query}.xattn.q.{{w}}"),
        *_parts(f"{cross}.cross_attn.{{}}_proj.{_W}", f"{query}.xattn.kv.{{w}}", "kv"),
        *(
            pair
            for own, ours in ((pooler, known), (cross, query))
            for pair in (
                (f"{own}.layer_{{n:norm1|norm2}}.{_W}", f"{ours}.{{n}}.{{w}}"),
                (f"{own}.mlp.{{n:fc1|fc2}}.{_W}", f"{ours}.mlp.{{n}}.{{w}}"),
            )
        ),
        (f"classifier.{_W}", "classifier.linear.{w}"),
    ]


VIDEOMAE, PRETRAINING = "Hugging Face", "Hugging Face, of what pretrains"
DIVIDED = "Hugging Face, of divided attention"
UNDIVIDED = "Hugging Face, of attention in one"
PROBED, UNPROBED = "Hugging Face, of V-JEPA 2", "Hugging Face, of V-JEPA 2 without a probe"
PAIRS = {
    VIDEOMAE: _videomae(),
    PRETRAINING: _videomae_pretraining(),
    DIVIDED: _timesformer("1", ("attentions.1.norm", "ffns.0.norm")),
    UNDIVIDED: _timesformer("0", ("norms.0", "norms.1")),
    PROBED: _vjepa2("encoder."),
    UNPROBED: _vjepa2(""),
}
# What learnt beside V-JEPA 2's encoder to predict, and is no part of it.
_LEFT = (r"(?:vjepa2\.)?predictor\..+", None)


def rules(spelling: str) -> list[tuple[str, str | None]]:
    """Returns the rules of a spelling as `converters.spellings` reads them."""
    found: list[tuple[str, str | None]] = [_LEFT] if spelling in (PROBED, UNPROBED) else []
    for own, known in PAIRS[spelling]:
        pattern = compile_template(own, words_of(own, known))[1].pattern
        found.append((pattern, re.sub(r"\{(\w+)(:[^}]*)?\}", r"\\g<\1>", known)))
    return found


def respelt(spelling: str, keys: Iterable[str]) -> dict[str, str]:
    """Returns a spelling's keys by those that `NAMES` know, or by the parts that they are in.

    A key without a template is spelt alike, and is left out.
    """
    ways = []
    for own, known in PAIRS[spelling]:
        words = words_of(own, known)
        ways.append((compile_template(known, words)[1], compile_template(own, words)[0]))

    def spell(known: str) -> str | None:
        matches = ((pattern.fullmatch(known), form) for pattern, form in ways)
        return next((form.format(**match.groupdict()) for match, form in matches if match), None)

    found: dict[str, str] = {}
    for key in keys:
        whole = {key: spell(key)}
        for count in range(2, _MAX_PARTS + 1):
            parts = {part: spell(part) for part in (f"{key}[{i}/{count}]" for i in range(count))}
            whole = parts if all(parts.values()) else whole
        found |= {known: own for known, own in whole.items() if own is not None}
    return found
