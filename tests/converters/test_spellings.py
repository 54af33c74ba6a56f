"""Released files whose keys are spelt otherwise: whole networks under them, there and back."""

import json
import re

import numpy as np
import pytest

import converters
from converters import checkpoints, spellings, torch_write
from converters.names import NameMap
from jaxvid import checkpoint
from jaxvid.base.errors import JaxvidError
from tests.converters.test_checkpoints import equal, random_variables

# Of each spelling: a network, whose keys become those of the files by these replacements, in order.
PLAIN = [
    (r"(layer\d\.\d\.)conv(\d)\.bn\.", r"\1bn\2."),
    (r"^(\w+)\.conv1\.bn\.", r"\1.bn1."),
    (r"downsample\.conv\.", "downsample.0."),
    (r"downsample\.bn\.", "downsample.1."),
    (r"(conv\d)\.conv\.(net\.)?weight", r"\1.\2weight"),
]
SEQUENTIAL = [
    (r"(fusion_conv|pyramid_fusion_op)\.conv\.", r"\1.0."),
    (r"(fusion_conv|pyramid_fusion_op)\.bn\.", r"\1.1."),
]
HUGGING_FACE = [
    (r"attn\.proj", "attention.output.dense"),
    (r"attn\.(?=[qv]_bias)", "attention.attention."),
    (r"norm1", "layernorm_before"),
    (r"norm2", "layernorm_after"),
]
TIMESFORMER = [
    (r"^cls_head\.fc_cls", "classifier"),
    (r"^backbone\.cls_token", "timesformer.embeddings.cls_token"),
    (r"^backbone\.pos_embed", "timesformer.embeddings.position_embeddings"),
    (r"^backbone\.time_embed", "timesformer.embeddings.time_embeddings"),
    (r"^backbone\.patch_embed", "timesformer.embeddings.patch_embeddings"),
    (r"^backbone\.norm", "timesformer.layernorm"),
    (r"^backbone\.transformer_layers\.layers", "timesformer.encoder.layer"),
    (r"ffns\.0\.layers\.0\.0", "intermediate.dense"),
    (r"ffns\.0\.layers\.1", "output.dense"),
]
VJEPA2 = [
    (r"^classifier\.linear", "classifier"),
    (r"^classifier\.pooler\.blocks\.(\d+)\.(norm)", r"pooler.self_attention_layers.\1.layer_\2"),
    (r"^classifier\.pooler\.blocks\.(\d+)\.mlp", r"pooler.self_attention_layers.\1.mlp"),
    (
        r"^classifier\.pooler\.blocks\.(\d+)\.attn\.proj",
        r"pooler.self_attention_layers.\1.self_attn.out_proj",
    ),
    (r"^classifier\.pooler\.blocks\.(\d+)\.attn", r"pooler.self_attention_layers.\1.self_attn"),
    (r"^classifier\.pooler\.query_tokens", "pooler.query_tokens"),
    (r"^classifier\.pooler\.cross_attention_block", "pooler.cross_attention_layer"),
    (r"cross_attention_layer\.norm", "cross_attention_layer.layer_norm"),
    (r"xattn\.q\.", "cross_attn.q_proj."),
    (r"xattn\.kv", "cross_attn.kv"),
    (r"^(encoder\.)?patch_embed", "encoder.embeddings.patch_embeddings"),
    (r"^(encoder\.)?norm", "encoder.layernorm"),
    (r"^(encoder\.)?blocks\.(\d+)\.attn", r"encoder.layer.\2.attention"),
    (r"^(encoder\.)?blocks", "encoder.layer"),
    (r"^encoder", "vjepa2.encoder"),
]
# Of keys that end so, the words that stand there for parts of their tensors.
PARTS = {
    r"(?<!_)attn\.qkv\.weight": ["attention.attention.{}.weight", "query", "key", "value"],
    # Of TimeSformer's attention they are one there, too.
    r"(?<!attention\.)attention\.qkv\.(\w+)": [r"attention.{}.\1", "query", "key", "value"],
    r"self_attn\.qkv\.(\w+)": [r"self_attn.{}_proj.\1", "q", "k", "v"],
    r"cross_attn\.kv\.(\w+)": [r"cross_attn.{}_proj.\1", "k", "v"],
}
CAFFE2_NORM = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
FILES = {
    "timm before 0.9": ("tsn_swin_test", [(r"layers\.1\.downsample", "layers.0.downsample")]),
    "MMAction, which MMAction2 replaced": ("slowonly_test", PLAIN),
    "the authors of TSM": (
        "tsm_test",
        [*PLAIN, (r"^backbone\.", "base_model."), (r"^cls_head\.fc_cls", "new_fc")],
    ),
    "the authors of TPN": (
        "tpn_tsm_test",
        [
            *PLAIN,
            (r"\.net\.", "."),
            (r"^neck\.", "necks."),
            (r"downsample_ops\.0\.conv", "downsampling_ops.0"),
            (r"(temporal_modulation_ops\.\d)\.conv", r"\1"),
            ("level_fusion_1", "level_fusion_op2"),
            ("level_fusion_2", "level_fusion_op"),
            (r"downsamples\.(\d)\.conv\.conv", r"ops.\1.conv"),
            (r"downsamples\.(\d)\.conv\.bn", r"ops.\1.norm"),
            (r"pyramid_fusion\.", "pyramid_fusion_op."),
            *SEQUENTIAL,
            (r"aux_head\.conv\.", "aux_head.convs."),
        ],
    ),
    "the authors of VideoSwin": ("swin_test", [(r"\.norm3\.", ".norm.")]),
    "the authors of VideoMAE": (
        "videomae_test",
        [
            (r"^cls_head\.fc_cls", "head"),
            (r"^backbone\.", ""),
            (r"patch_embed\.projection", "patch_embed.proj"),
            (r"mlp\.layers\.0\.0", "mlp.fc1"),
            (r"mlp\.layers\.1", "mlp.fc2"),
        ],
    ),
    "Hugging Face": (
        "videomae_test",
        [
            (r"^cls_head\.fc_cls", "classifier"),
            (r"^backbone\.patch_embed", "videomae.embeddings.patch_embeddings"),
            (r"^backbone\.fc_norm", "fc_norm"),
            *HUGGING_FACE,
            (r"^backbone\.blocks", "videomae.encoder.layer"),
            (r"mlp\.layers\.0\.0", "intermediate.dense"),
            (r"mlp\.layers\.1", "output.dense"),
        ],
    ),
    "Hugging Face, of what pretrains": (
        "videomae_pretrain_test",
        [
            (r"^encoder\.patch_embed\.proj", "videomae.embeddings.patch_embeddings.projection"),
            (r"^encoder\.norm", "videomae.layernorm"),
            *HUGGING_FACE,
            (r"^encoder\.blocks", "videomae.encoder.layer"),
            (r"^decoder\.blocks", "decoder.decoder_layers"),
            (r"mlp\.fc1", "intermediate.dense"),
            (r"mlp\.fc2", "output.dense"),
        ],
    ),
    "Hugging Face, of divided attention": (
        "timesformer_test",
        [
            *TIMESFORMER,
            (r"attentions\.0\.norm", "temporal_layernorm"),
            (r"attentions\.0\.temporal_fc", "temporal_dense"),
            (r"attentions\.0\.attn\.in_proj_", "temporal_attention.attention.qkv."),
            (r"attentions\.0\.attn\.out_proj", "temporal_attention.output.dense"),
            (r"attentions\.1\.norm", "layernorm_before"),
            (r"attentions\.1\.attn\.in_proj_", "attention.attention.qkv."),
            (r"attentions\.1\.attn\.out_proj", "attention.output.dense"),
            (r"ffns\.0\.norm", "layernorm_after"),
        ],
    ),
    "Hugging Face, of attention in one": (
        "timesformer_joint_test",
        [
            *TIMESFORMER,
            (r"norms\.0", "layernorm_before"),
            (r"norms\.1", "layernorm_after"),
            (r"attentions\.0\.attn\.in_proj_", "attention.attention.qkv."),
            (r"attentions\.0\.attn\.out_proj", "attention.output.dense"),
        ],
    ),
    "VideoPrism without a classifier": (
        "videoprism_test",
        [(r"^params/encoder/", "params/")],
    ),
    "Hugging Face, of V-JEPA 2": ("vjepa2_test", VJEPA2),
    "Hugging Face, of V-JEPA 2 without a probe": ("vjepa2_vitl", VJEPA2),
    "Caffe2": (
        "pyslowfast_slowfast_test",
        [
            (r"(bn)\.(\w+)$", lambda m: f"{m[1]}_{CAFFE2_NORM[m[2]]}"),
            (r"\.weight$", "_w"),
            (r"\.bias$", "_b"),
            (r"head\.projection", "pred"),
            (r"^s1_fuse\.conv_f2s|^s1_fuse\.", "t_pool1_subsample_"),
            (r"^s(\d)_fuse\.conv_f2s|^s(\d)_fuse\.", r"t_res\1\2_0_branch2c_bn_subsample_"),
            (r"__w$", "_w"),
            (r"^s1\.pathway0_stem\.conv", "conv1"),
            (r"^s1\.pathway0_stem\.", "res_conv1_"),
            (r"^s1\.pathway1_stem\.conv", "t_conv1"),
            (r"^s1\.pathway1_stem\.", "t_res_conv1_"),
            (r"^s(\d)\.pathway0_res(\d)\.", r"res\1_\2_"),
            (r"^s(\d)\.pathway1_res(\d)\.", r"t_res\1_\2_"),
            (r"branch2\.([abc])", r"branch2\1"),
        ],
    ),
}


def respelt(spelling):
    name, replacements = FILES[spelling]
    variables = random_variables(name)
    tensors = {}
    for key, tensor in converters.to_torch(name, variables).items():
        if spelling == "Caffe2" and key.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in replacements:
            key = re.sub(pattern, replacement, key)
        tensors |= in_parts(key, tensor) if spelling.startswith("Hugging Face") else {key: tensor}
    return name, variables, tensors


def in_parts(key, tensor):
    for pattern, (form, *words) in PARTS.items():
        if re.search(rf"{pattern}$", key):
            return {
                re.sub(rf"{pattern}$", form.format(word), key): part
                for word, part in zip(words, np.split(tensor, len(words)), strict=True)
            }
    return {key: tensor}


def test_every_spelling_has_a_file():
    assert FILES.keys() == spellings.SPELLINGS.keys()


LARGE = pytest.mark.slow("architectures")


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "spelling",
    [
        spelling if name.endswith("_test") else pytest.param(spelling, marks=LARGE)
        for spelling, (name, _) in FILES.items()
    ],
)
def test_a_file_of_each_spelling_is_converted_and_returns(spelling, prefix):
    name, variables, tensors = respelt(spelling)
    tensors = {prefix + key: tensor for key, tensor in tensors.items()}
    converted, meta, report = checkpoints.convert_and_tell(name, tensors)
    assert equal(converted, variables)
    said = f"keys are spelt as by {spelling}"
    assert any(said in line for line in report.lines())
    back = converters.to_torch(name, converted, json.loads(json.dumps(meta)))
    assert back.keys() == tensors.keys()
    assert all(back[key].tobytes() == tensors[key].tobytes() for key in tensors)


def test_keys_as_they_were_written_in_their_files():
    keys = {
        "timm before 0.9": {
            "backbone.layers.2.downsample.norm.bias": "backbone.layers.3.downsample.norm.bias"
        },
        "Caffe2": {
            "conv1_w": "s1.pathway0_stem.conv.weight",
            "t_res_conv1_bn_riv": "s1.pathway1_stem.bn.running_var",
            "t_pool1_subsample_w": "s1_fuse.conv_f2s.weight",
            "t_res4_5_branch2c_bn_subsample_bn_rm": "s4_fuse.bn.running_mean",
            "t_res4_5_branch2c_bn_subsample_w": "s4_fuse.conv_f2s.weight",
            "res4_0_branch1_bn_s": "s4.pathway0_res0.branch1_bn.weight",
            "res4_4_branch2c_bn_b": "s4.pathway0_res4.branch2.c_bn.bias",
            "t_res5_2_branch2a_w": "s5.pathway1_res2.branch2.a.weight",
            "pred_b": "head.projection.bias",
            "res4_4_branch2c_w_momentum": None,
            "model_iter": None,
        },
        "the authors of TSM": {
            "base_model.layer3.5.conv1.net.weight": "backbone.layer3.5.conv1.conv.net.weight",
            "base_model.layer3.0.downsample.1.running_var": "backbone.layer3.0.downsample.bn"
            ".running_var",
            "base_model.layer3.5.bn3.weight": "backbone.layer3.5.conv3.bn.weight",
        },
    }
    for spelling, pairs in keys.items():
        rules = [(re.compile(own), known) for own, known in spellings.SPELLINGS[spelling]]
        for own, known in pairs.items():
            assert spellings._respell(rules, own) == known


def test_what_caffe2_keeps_of_the_optimizer_is_left_out_and_said():
    name, variables, tensors = respelt("Caffe2")
    own = {f"{key}_momentum": np.zeros(3, np.float32) for key in tensors if key.endswith("_w")}
    own |= {"lr": np.float32(0.1), "model_iter": np.array([5.0])}
    converted, meta, report = checkpoints.convert_and_tell(name, tensors | own)
    assert equal(converted, variables)
    assert any(f"{len(own)} keys are no part of a network" in line for line in report.lines())


def test_a_file_in_two_spellings_is_refused():
    name, _, tensors = respelt("timm before 0.9")
    new = {re.sub(r"0\.(?=downsample)", "1.", key): tensor for key, tensor in tensors.items()}
    with pytest.raises(JaxvidError, match="3 problems.*its keys were read as timm before 0.9"):
        converters.convert(name, tensors | new)


def test_a_prefix_that_the_name_map_has_stays():
    names = NameMap([("module.{a}.weight", "params/a{a}", "same")])

    def prefix(*keys):
        return spellings.read(names, keys).prefix

    assert prefix("module.0.weight") == ""
    assert prefix("module.module.0.weight") == "module."
    assert prefix("model.module.module.0.weight") == "model.module."
    assert prefix("model.x") == ""
    assert prefix() == ""


def test_a_respelt_file_returns_through_a_folder(tmp_path):
    name, _, tensors = respelt("the authors of TSM")
    torch_write.write(tmp_path / "a.pth", tensors, {})
    variables, meta, _ = checkpoints.convert_and_tell(name, tmp_path / "a.pth")
    checkpoint.save(tmp_path / "a", variables, meta)
    loaded, meta = checkpoint.load(tmp_path / "a"), checkpoint.load_meta(tmp_path / "a")
    assert converters.to_torch(name, loaded, meta).keys() == tensors.keys()
