"""Our checkpoints as Transformers of Hugging Face loads them: every bit returns, and its config."""

import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from converters import checkpoints, files, hugging_face, hugging_face_config, hugging_face_write
from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from tests.converters.test_checkpoints import equal, random_variables, run
from tests.converters.test_layouts import HERE
from tests.converters.test_layouts import hugging_face as golden_of

GOLDENS = sorted(path.stem for path in (HERE / "hugging_face").glob("*.npz"))
NAME = "videomae_test"


def converted(file):
    """A golden's file as a checkpoint of ours, and what it has to come back as."""
    variant, overrides, tensors, video, expected = golden_of(file)
    variables, meta, _ = checkpoints.convert_and_tell(variant, tensors, overrides=overrides)
    meta = json.loads(json.dumps(meta))
    meta["test"] = {"crop": 64, "sampling": {"clip_len": video.shape[3]}}
    kept = {key: tensor for key, tensor in tensors.items() if "predictor." not in key}
    return variant, variables, meta, kept, video, expected


def bits(tensors):
    return {key: (tensor.shape, np.asarray(tensor).tobytes()) for key, tensor in tensors.items()}


@pytest.mark.parametrize("file", GOLDENS)
def test_every_bit_returns_and_the_config_says_what_theirs_did(tmp_path, file):
    variant, variables, meta, kept, *_ = converted(file)
    checkpoint.save(tmp_path / "ours", variables, meta)
    run("--to=hf", f"--checkpoint={tmp_path / 'ours'}", f"--out={tmp_path / 'hf'}")
    assert bits(files.read(tmp_path / "hf" / "model.safetensors")) == bits(kept)
    assert all(tensor.dtype == np.float32 for tensor in files.read(tmp_path / "hf").values())
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    theirs = json.loads(str(np.load(HERE / "hugging_face" / f"{file}.npz")["meta"]))
    assert config["architectures"] == [theirs["class"]]
    assert config["id2label"] == {str(i): f"LABEL_{i}" for i in range(7)}
    shared = (theirs["config"].keys() & config.keys()) - {"layer_norm_eps"}  # 1e-12, of VideoMAE
    assert {key: config[key] for key in shared} == {key: theirs["config"][key] for key in shared}
    beside = {"decoder_", "pred_", "norm_pix", "num_labels", "qv_bias", "drop_path_rate"}
    missing = theirs["config"].keys() - config.keys()
    assert [key for key in missing if not any(key.startswith(word) for word in beside)] == []
    again = converters.convert(variant, tmp_path / "hf", overrides=meta["overrides"])
    assert equal(again, variables)


@pytest.mark.parametrize("file", GOLDENS)
def test_what_was_converted_from_elsewhere_is_spelt_as_transformers_reads_it(file):
    """Version 5 reads the biases of version 4, and both are as in those files."""
    variant, variables, meta, kept, *_ = converted(file)
    elsewhere = {key: meta[key] for key in ("overrides", "num_classes", "test")}
    tensors, _ = checkpoints.to_hugging_face(variant, variables, elsewhere)
    kept = {
        key.replace("query.bias", "q_bias").replace("value.bias", "v_bias")
        if "videomae" in key
        else key: tensor
        for key, tensor in kept.items()
    }
    assert bits(tensors) == bits(kept)


@pytest.mark.parametrize("file", GOLDENS)
def test_transformers_loads_the_folder_and_gives_our_logits(tmp_path, file):
    reason = "Transformers and PyTorch, which only this test is for, are not installed"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    variant, variables, meta, kept, video, expected = converted(file)
    del meta["respelt"]
    tensors, config = checkpoints.to_hugging_face(variant, variables, meta)
    hugging_face_write.write(tmp_path / "hf", tensors, config)
    kind = transformers.AutoModelForVideoClassification
    if variant.startswith("vjepa2"):
        kind = transformers.VJEPA2ForVideoClassification
    model, told = kind.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert type(model).__name__ == config["architectures"][0]
    assert not told["unexpected_keys"] and not told["mismatched_keys"]
    assert {key for key in told["missing_keys"] if "predictor." not in key} == set()
    assert model.config.id2label[6] == "LABEL_6"
    views = video[0].transpose(0, 2, 1, 3, 4)  # [V, T, C, H, W]
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(views)).logits.numpy()
    ours_model = zoo.create_model(variant, 7, **meta["overrides"])
    ours = jax.jit(lambda v, x: ours_model.apply(v, x)[0])(
        variables, jnp.asarray(views.transpose(0, 1, 3, 4, 2))
    )
    allowed = 1e-4 * expected["logits"].std()
    difference = np.abs(np.asarray(ours) - theirs).max()
    print(f"{file}: max |difference| {difference:.2e}, allowed {allowed:.2e}")
    assert difference <= allowed
    assert np.abs(theirs - expected["view_logits"]).max() <= allowed


SIZES = {
    "videomae_vit_l_16x4_k400": {"hidden_size": 1024, "num_hidden_layers": 24, "num_frames": 16},
    "videomae_pretrain_vit_l": {"decoder_hidden_size": 512, "decoder_num_hidden_layers": 12},
    "videomaev2_vit_g": {"patch_size": 14, "intermediate_size": 6144},
    "timesformer_jointst_8x32_k400": {"attention_type": "joint_space_time", "num_frames": 8},
    "vjepa2_vitl_16x4_sthv2": {"crop_size": 256, "frames_per_clip": 16, "num_pooler_layers": 3},
    "vjepa2_vitg": {"hidden_size": 1408, "num_attention_heads": 22},
}


@pytest.mark.parametrize("name", SIZES)
def test_configs_of_published_sizes(name):
    row = zoo.starting_row(name)
    model = zoo.create_model(name)
    _, config = hugging_face_config.describe(row, model, {})
    assert {key: config[key] for key in SIZES[name]} == SIZES[name]
    if name == "vjepa2_vitg":
        assert int(config["hidden_size"] * config["mlp_ratio"]) == 6144
        assert config["architectures"] == ["VJEPA2Model"] and "id2label" not in config
    if "mae_pretrain" in name:
        assert config["architectures"] == ["VideoMAEForPreTraining"]


def test_pretraining_and_encoders_alone_come_back_too():
    for name, begin in (("videomae_pretrain_test", "videomae."), ("vjepa2_vitl", "encoder.")):
        small = {} if "test" in name else {"dim": 24, "depth": 3, "heads": 2, "patch": 8}
        variables = random_variables(name, **small)
        meta = {"num_classes": 0, "overrides": small}
        tensors, _ = checkpoints.to_hugging_face(name, variables, meta)
        assert any(key.startswith(begin) for key in tensors)
        assert not any("qkv" in key or "blocks" in key for key in tensors)
        back, _, report = checkpoints.convert_and_tell(name, tensors, overrides=small)
        assert equal(back, variables) and "spelt as by Hugging Face" in "\n".join(report.lines())


def test_the_names_of_the_classes_are_written(tmp_path):
    meta = {"row": NAME, "num_classes": 2, "classes": ["wave", "naïve"], "overrides": {}}
    checkpoint.save(tmp_path / "ours", random_variables(NAME, num_classes=2), meta)
    run("--to=hf", f"--checkpoint={tmp_path / 'ours'}", f"--out={tmp_path / 'hf'}")
    config = json.loads((tmp_path / "hf" / "config.json").read_text("utf-8"))
    assert config["id2label"] == {"0": "wave", "1": "naïve"}
    assert config["label2id"] == {"wave": 0, "naïve": 1}


def test_large_networks_are_written_in_shards_with_an_index(tmp_path, monkeypatch):
    variables = random_variables(NAME)
    tensors, config = checkpoints.to_hugging_face(NAME, variables)
    monkeypatch.setattr(hugging_face_write, "MAX_SHARD", 10_000)
    hugging_face_write.write(tmp_path / "hf", tensors, config)
    names = sorted(path.name for path in (tmp_path / "hf").iterdir())
    count = len(names) - 2
    assert count > 1 and f"model-00001-of-{count:05}.safetensors" in names
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    assert index["weight_map"].keys() == tensors.keys()
    assert equal(converters.convert(NAME, tmp_path / "hf"), variables)
    for path in (tmp_path / "hf").glob("*.safetensors"):
        (size,) = struct.unpack("<Q", path.read_bytes()[:8])
        assert size % 8 == 0


def test_their_own_library_reads_what_is_written(tmp_path):
    from safetensors import safe_open

    tensors, config = checkpoints.to_hugging_face(NAME, random_variables(NAME))
    hugging_face_write.write(tmp_path / "hf", tensors, config)
    with safe_open(tmp_path / "hf" / "model.safetensors", "numpy") as file:
        assert set(file.keys()) == tensors.keys()
        assert file.metadata() == {"format": "pt"}
        assert bits({key: file.get_tensor(key) for key in tensors}) == bits(tensors)


def test_a_folder_is_replaced_only_on_request_and_only_when_it_is_such_a_one(tmp_path, monkeypatch):
    def write(value, **how):
        hugging_face_write.write(tmp_path / "hf", {"a": np.full(2, value, "f4")}, {}, **how)

    write(0)
    with pytest.raises(JaxvidError, match="exists already: choose another or pass --overwrite"):
        write(1)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(hugging_face_write, "write_safetensors", full)
        with pytest.raises(JaxvidError, match="No space left on device"):
            write(1, overwrite=True)
    assert files.read(tmp_path / "hf")["a"].tolist() == [0, 0]
    write(1, overwrite=True)
    assert files.read(tmp_path / "hf")["a"].tolist() == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
    (tmp_path / "hf" / "thesis.doc").write_text("")
    with pytest.raises(JaxvidError, match="holds other files .thesis.doc.: choose a new folder"):
        write(2, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxvidError, match="file .Not a directory"):
        hugging_face_write.check_free(tmp_path / "file", overwrite=True)


@pytest.mark.parametrize(
    "name, fields, match",
    [
        ("tsm_test", {}, "no network like tsm_test, .* --to=torch takes any"),
        ("timesformer_space_test", {}, "averages the class tokens of frames"),
        ("vjepa2_1_test", {}, "is of version 2.1"),
        ("vjepa2_vitl_32x2_diving48", {}, "looks at the blocks .17, 19, 21, 23."),
        ("vjepa2_vitg_384_64x2_sthv2", {}, "a probe of 16 heads, .* encoder's 22"),
    ],
)
def test_what_transformers_has_not_is_refused_with_the_reason(name, fields, match):
    with pytest.raises(JaxvidError, match=match):
        checkpoints.to_hugging_face(name, {}, {"overrides": fields})


def test_each_spelling_writes_what_it_reads():
    """Also keys that no golden has: a template that is read otherwise would come back elsewhere."""
    for name in ("videomae_test", "timesformer_test", "vjepa2_test", "videomae_pretrain_test"):
        known = converters.to_torch(name, random_variables(name))
        model = zoo.create_model(name)
        spelling, _ = hugging_face_config.describe(zoo.starting_row(name), model, {})
        found = hugging_face.respelt(spelling, known)
        assert converters.spellings.reads(spelling, found)
        assert len(set(found.values())) == len(found)
