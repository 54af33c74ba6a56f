"""Checkpoints as people have them: wrapped, averaged, in shards, a trunk alone."""

import json
import pickle
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import converters
from converters import changes, checkpoints, files, shards, spellings, torch_write
from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.inference import predictor
from jaxvid.training import start
from tests import golden_features
from tests.converters.pth import safetensors
from tests.converters.test_checkpoints import NAME, equal, random_variables, run
from tests.golden import weights as golden
from tests.training.test_start_from import state_of

HERE = Path(__file__).parent
VARIABLES = random_variables(NAME)
TENSORS = {k: np.array(t, order="C") for k, t in converters.to_torch(NAME, VARIABLES).items()}
HEAD = {key for key in TENSORS if key.startswith("cls_head.")}
TRUNK = {key: tensor for key, tensor in TENSORS.items() if key not in HEAD}


def returns(tensors, name=NAME, source=None):
    """Converts, asserts that every key and bit returns; gives variables, meta and the report."""
    variables, meta, report = checkpoints.convert_and_tell(name, source or tensors)
    back = converters.to_torch(name, variables, json.loads(json.dumps(meta)))
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert (back[key].dtype, back[key].shape) == (tensor.dtype, tensor.shape), key
        assert back[key].tobytes() == np.ascontiguousarray(tensor).tobytes(), key
    return variables, meta, "\n".join(report.lines())


def refused(tensors, match, name=NAME):
    with pytest.raises(JaxvidError, match=match) as error:
        converters.convert(name, tensors)
    assert len(str(error.value)) < 2000 and "\n" not in str(error.value)


WRAPPED = {
    "net.": lambda key: f"net.{key}",
    "lightning.network.": lambda key: f"lightning.network.{key}",
    "_forward_module.module.": lambda key: f"_forward_module.module.{key}",
    "part compiled": lambda key: key.replace("backbone.", "backbone._orig_mod."),
    "one block compiled": lambda key: key.replace("layer1.0.", "layer1.0._orig_mod."),
    "part in parallel": lambda key: key.replace("backbone.", "backbone.module."),
    "FSDP": lambda key: (
        "_fsdp_wrapped_module."
        + re.sub(r"(layer\d\.\d\.)", r"\1_fsdp_wrapped_module._checkpoint_wrapped_module.", key)
    ),
    "all of them": lambda key: (
        "model._fsdp_wrapped_module." + re.sub(r"(layer\d\.)", r"\1_orig_mod.", key)
    ),
    "encoder.": lambda key: key.replace("backbone.", "encoder."),
    "trunk in a model": lambda key: key.replace("backbone.", "model.trunk."),
    "no name": lambda key: key.removeprefix("backbone."),
}


@pytest.mark.parametrize("form", WRAPPED)
def test_what_wraps_a_network_or_a_part_is_taken_out_of_keys_and_returns(form):
    variables, _, said = returns({WRAPPED[form](key): TENSORS[key] for key in TENSORS})
    assert equal(variables, VARIABLES)
    assert re.search("every key began|had .* inside|stands for|are without", said)


BESIDE = [
    *("n_averaged", "total_ops", "total_params", "module.total_ops", "backbone.conv1.total_ops"),
    *("criterion.weight", "loss_fn.margin", "loss.weight", "cls_head.loss_cls.class_weight"),
    *("train_acc.tp", "val_f1.fp", "queue", "queue_ptr", "model_ema.decay", "num_updates"),
    *("backbone.layer1._extra_state", "steps"),
]


@pytest.mark.parametrize("prefix", ["", "module.", "model.net."])
def test_what_is_nobodys_parameter_is_dropped_listed_and_returns(prefix):
    beside = {key: np.full(3, number, np.float32) for number, key in enumerate(BESIDE)}
    beside["n_averaged"] = np.array(7)
    tensors = {prefix + key: tensor for key, tensor in TENSORS.items()} | beside
    variables, meta, said = returns(tensors)
    assert equal(variables, VARIABLES)
    assert all(key in said for key in BESIDE)
    assert meta["prefix"] == prefix


def test_none_of_those_is_a_key_of_a_network():
    for variant in zoo.variants():
        for key, *_ in zoo.names(variant):
            example = re.sub(r"\{\w+:([^|}]*)[^}]*\}", r"\1", re.sub(r"\{\w+\}", "0", key))
            assert not spellings._beside([example]), key


def test_an_unknown_key_without_the_prefix_is_named_in_a_sentence():
    wrapped = {f"module.{key}": tensor for key, tensor in TENSORS.items()}
    refused(
        wrapped | {"text.weight": np.ones(3)}, "all keys but 'text.weight' begin with 'module.'"
    )
    many = {f"text.{number}": np.ones(1) for number in range(30)}
    refused(wrapped | many, "'text.9', and 20 more begin with 'module.'")
    refused(TENSORS | many, r"30 problems: ('text.\d+' is unknown; ){10}and 20 more$")


def test_keys_that_would_become_one_are_refused():
    refused(TENSORS | {f"module.{key}": tensor for key, tensor in TENSORS.items()}, "problems")


def write(path, **parts):
    path.write_bytes(pickle.dumps(parts))
    return path


@pytest.mark.parametrize(
    "place",
    [
        *("ema", "ema.state_dict", "ema.module", "ema_model.state_dict", "averaged_model"),
        *("ema_state_dict", "shadow", "swa_state_dict", "callbacks.EMACallback.ema_state_dict"),
        *("callbacks.EMAWeightAveraging{'decay': 0.9}.weights", "model_averaged"),
    ],
)
@pytest.mark.parametrize("weights", ["model", "state_dict", "net.state_dict", "generator"])
def test_an_average_beside_the_weights_is_said_and_taken_where_asked_for(tmp_path, place, weights):
    def at(place, tensors):
        for name in reversed(re.findall(r"[^.{]+(?:{.*})?", place)):
            tensors = {name: tensors}
        return tensors

    parts = at(weights, dict.fromkeys("ab", np.ones(3)))
    parts |= at(place, dict.fromkeys("ab", np.full(3, 2.0)))
    training = {"optimizer": {"state": {"a": np.zeros(3)}}, "epoch": 3, "best_acc": np.ones(2)}
    path = write(tmp_path / "a.pth", **parts, **training)
    read, remarks = files.read_and_tell(shards.open_all(path))
    assert read["a"][0] == 1
    left = [remark for remark in remarks if "is left out: --ema takes it" in remark]
    assert len(left) == 1 and place.split(".")[0] in left[0]
    assert files.read(path, ema=True)["a"][0] == 2


def test_an_average_of_parameters_alone_is_completed_and_that_is_said(tmp_path):
    weights = {"a": np.ones(3), "a.running_mean": np.full(3, 5.0)}
    path = write(tmp_path / "a.pth", model=weights, ema={"module.a": np.full(3, 2.0)})
    read, remarks = files.read_and_tell(shards.open_all(path), ema=True)
    assert (read["a"][0], read["a.running_mean"][0]) == (2, 5)
    assert any("'a.running_mean'" in remark and "trained ones" in remark for remark in remarks)


@pytest.mark.parametrize("word", ["model_ema.module.", "ema_model.", "teacher.", "ema."])
def test_an_average_among_the_weights_is_told_apart_by_its_prefix(tmp_path, word):
    weights = {"student.a.w": np.ones(3), "student.b": np.ones(3)}
    copies = {f"{word}{key.removeprefix('student.')}": np.full(3, 2.0) for key in weights}
    path = write(tmp_path / "a.pth", state_dict=weights | copies)
    read, remarks = files.read_and_tell(shards.open_all(path))
    assert read.keys() == weights.keys() and read["student.b"][0] == 1
    assert any("--ema takes them" in remark for remark in remarks)
    assert files.read(path, ema=True)["student.b"][0] == 2


def test_other_nestings_are_named(tmp_path):
    w = {"a": np.ones(3)}
    for parts, match, ema in (
        ({"encoder": w, "head": w, "epoch": 1}, "'encoder', 'head', 'epoch'; of these", False),
        ({"model": w, "epoch": 1}, "no averaged copy of the weights, it holds 'model', 'epo", True),
        ({"model": w, "ema": [w["a"]]}, "as 'ema' is a list without names", True),
        ({"model": w, "ema": w, "swa_model": w}, "2 averaged copies", True),
        ({"ema": w}, "averaged weights only .'ema'.: add --ema", False),
        ({"epoch": 1}, "should hold tensors only, but 'epoch' is a int", False),
    ):
        with pytest.raises(JaxvidError, match=match):
            files.read(write(tmp_path / "a.pth", **parts), ema=ema)
    with pytest.raises(JaxvidError, match="should hold tensors only") as error:
        files.read(write(tmp_path / "a.pth", **{"x" * 5000: w | {"b": 3}}))
    assert len(str(error.value)) < 1000
    path = write(tmp_path / "a.pth", model=w, discriminator=w)
    _, remarks = files.read_and_tell(shards.open_all(path))
    assert remarks == ["'discriminator', which holds tensors too, is left out"]
    path = write(tmp_path / "a.pth", state_dict=w, current_model_state=w, averaging_state={"n": 3})
    assert "as Lightning saves them" in files.read_and_tell(shards.open_all(path))[1][0]


def write_shard(path, tensors):
    header, data = {}, b""
    for key, tensor in tensors.items():
        start, data = len(data), data + np.ascontiguousarray(tensor).tobytes()
        kind = {"float32": "F32", "int64": "I64"}[tensor.dtype.name]
        offsets = [start, len(data)]
        header[key] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
    path.write_bytes(safetensors(header, data))


def in_shards(folder, ending=".safetensors", stem="model"):
    """Writes two shards and their index; returns the index and both."""
    folder.mkdir()
    keys = list(TENSORS)
    halves = [{key: TENSORS[key] for key in part} for part in (keys[:30], keys[30:])]
    paths = [folder / f"{stem}-{number:05}-of-00002{ending}" for number in (1, 2)]
    for path, half in zip(paths, halves, strict=True):
        if ending == ".bin":
            path.write_bytes(pickle.dumps(half))
        else:
            write_shard(path, half)
    where = {key: path.name for path, half in zip(paths, halves, strict=True) for key in half}
    index = folder / f"{stem}{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index, *paths


@pytest.mark.parametrize("ending, stem", [(".safetensors", "model"), (".bin", "pytorch_model")])
def test_shards_are_read_by_folder_and_by_index(tmp_path, ending, stem):
    index, one, two = in_shards(tmp_path / "x", ending, stem)
    (tmp_path / "x" / "config.json").write_text("{}")
    (tmp_path / "x" / "optimizer.bin").write_bytes(b"")
    for path in (index, index.parent):
        variables, meta, said = returns(TENSORS, source=path)
        assert equal(variables, VARIABLES) and "read from 2 shards" in said
        assert meta["source"]["bytes"] == one.stat().st_size + two.stat().st_size
    run(f"--model={NAME}", f"--checkpoint={index.parent}", f"--out={tmp_path / 'w'}")
    assert equal(checkpoint.load(tmp_path / "w"), VARIABLES)
    index.unlink()
    assert equal(converters.convert(NAME, tmp_path / "x"), VARIABLES)


def test_shards_that_are_not_one_checkpoint_are_refused_by_name(tmp_path):
    def refuses(path, match):
        with pytest.raises(JaxvidError, match=match):
            files.read(path)

    index, one, two = in_shards(tmp_path / "x")
    text = index.read_text()
    refuses(two, "is shard 2 of 2: give the folder")
    for name in ("../a.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\\\b"):
        index.write_text(text.replace(one.name, name, 1))
        refuses(index, "names files that are not in its folder")
    for wrong in ("", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 3}}', "[" * 10**5):
        index.write_text(wrong or " ")
        refuses(index, "is damaged .it maps no weights")
    index.write_text(text.replace(one.name, two.name, 1))
    refuses(index, "differ in what is there")
    index.write_text(text)
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    refuses(index, "differ in what is there")
    index.unlink()
    refuses(index.parent, "holds what another shard does")
    one.write_bytes(held)
    (tmp_path / "x" / "own.pth").write_bytes(held)
    refuses(index.parent, r"holds 2 checkpoints .'model-\*-of-00002.safetensors', 'own.pth'.")
    (tmp_path / "x" / "own.pth").unlink()
    two.unlink()
    refuses(index.parent, f"lacks 1 of 2 shards .'{two.name}'.")


def hugging_face(name):
    """Of a file of Hugging Face's layout: our variant and its fields, and what the file holds."""
    path = HERE / "hugging_face" / f"{name}.npz"
    return *golden_features.hugging_face(path), *golden.load(path)


@pytest.mark.parametrize("file", sorted(p.stem for p in (HERE / "hugging_face").glob("*.npz")))
def test_weights_of_hugging_face_answer_as_there(file):
    variant, overrides, tensors, video, expected = hugging_face(file)
    variables, meta, report = checkpoints.convert_and_tell(variant, tensors, overrides=overrides)
    model = zoo.create_model(variant, 7, **overrides)
    views = jnp.asarray(video[0].transpose(0, 2, 3, 4, 1))
    logits = np.asarray(jax.jit(lambda v, x: model.apply(v, x)[0])(variables, views))
    assert np.abs(logits - expected["view_logits"]).max() <= 1e-4 * expected["logits"].std()
    back = converters.to_torch(variant, variables, json.loads(json.dumps(meta)))
    kept = {key: tensor for key, tensor in tensors.items() if "predictor." not in key}
    assert back.keys() == kept.keys()
    assert all(back[key].tobytes() == kept[key].tobytes() for key in kept)
    said = f"{len(tensors) - len(kept)} keys are no part of a network"
    assert (len(kept) < len(tensors)) == any(said in line for line in report.lines())


def test_what_hugging_face_has_otherwise_is_refused_by_name():
    variant, overrides, tensors, *_ = hugging_face("hf_videomae_tiny_cls_v4")
    overrides["mean_pooling"] = True
    with pytest.raises(JaxvidError, match="'backbone.norm.bias' has no place"):
        converters.convert(variant, tensors, overrides=overrides)
    variant, overrides, tensors, *_ = hugging_face("hf_videomae_tiny_v4")
    lone = "videomae.encoder.layer.1.attention.attention.key.weight"
    del tensors[lone]
    with pytest.raises(JaxvidError, match=r"backbone.blocks.1.attn.qkv.weight\[0/3\]' is unknown"):
        converters.convert(variant, tensors, overrides=overrides)


def test_a_damaged_way_back_is_refused():
    assert spellings.join({"a": np.ones(2), "b[1/2]": np.ones(2)}).keys() == {"a", "b[1/2]"}
    for key in ("a[3/3]", "a[0/2]", "b[0/3]"):
        with pytest.raises(JaxvidError, match="is damaged"):
            spellings.split({"a": np.ones(3)}, [key])


@pytest.mark.parametrize("form", ["whole keys", "no name", "wrapped"])
def test_a_trunk_is_for_training_to_start_from(tmp_path, form):
    forms = {"whole keys": str, "no name": WRAPPED["no name"], "wrapped": WRAPPED["net."]}
    tensors = {forms[form](key): tensor for key, tensor in TRUNK.items()}
    variables, meta, said = returns(tensors)
    assert "head" not in variables["params"]
    assert meta["new"] == ["params/head/fc/bias", "params/head/fc/kernel"]
    assert all(f"new, for training to fill: {path}" in said for path in meta["new"])
    for key in HEAD:
        refused(TENSORS | {key: np.ones((2, 2, 2), np.float32)}, "has shape")
        refused(
            {k: t for k, t in TENSORS.items() if k != key}, "1 problem: nothing fills params/head"
        )
    with pytest.raises(JaxvidError, match="no classifier"):
        changes.map_classes(variables, meta, "k400")
    with pytest.raises(JaxvidError, match="no classifier"):
        checkpoints.convert_and_tell(NAME, tensors, classes=["a", "b"])


def test_the_command_writes_a_trunk_that_gives_features_and_no_answers(tmp_path, capsys):
    torch_write.write(tmp_path / "a.pth", TRUNK, {})
    run(f"--model={NAME}", f"--checkpoint={tmp_path / 'a.pth'}", f"--out={tmp_path / 'w'}")
    assert "for init= to train from" in capsys.readouterr().out
    trunk = predictor.Predictor(tmp_path / "w", views="one")
    frames = np.zeros((16, 64, 64, 3), np.uint8)
    with pytest.raises(JaxvidError, match="a trunk without a classifier: train from it first"):
        trunk.predict(frames)
    found = trunk.extractor(["pre_logits"])(frames)
    assert np.isfinite(found["pre_logits"]).all()


def test_necks_and_heads_are_new_with_the_classifier_but_no_part_of_a_trunk_is():
    name = "tpn_test"
    whole = converters.to_torch(name, random_variables(name))
    trunk = {key: tensor for key, tensor in whole.items() if key.startswith("backbone.")}
    variables, meta, _ = returns(trunk, name)
    assert {path.split("/")[1] for path in meta["new"]} == {"aux", "head", "neck"}
    gone = next(iter(trunk))
    del trunk[gone]
    refused(trunk, f"1 problem: nothing fills .*{gone}", name)


def test_training_starts_from_a_trunk_and_says_what_is_new(tmp_path, capsys):
    torch_write.write(tmp_path / "a.pth", TRUNK, {})
    run(f"--model={NAME}", f"--checkpoint={tmp_path / 'a.pth'}", f"--out={tmp_path / 'w'}")
    capsys.readouterr()
    state = start.start_from(state_of(NAME, 2, 0.0), str(tmp_path / "w"), ["a", "b"])
    said = capsys.readouterr().out
    assert "new: params/head/fc/bias" in said and "2 new" in said
    taken = {"params": dict(state.params), "batch_stats": state.batch_stats}
    head = taken["params"].pop("head")
    assert equal(taken, converters.convert(NAME, TRUNK))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(head))
