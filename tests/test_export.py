"""Programs that run without this library: they answer as it does, from frames or from clips."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid import checkpoint, export, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.data import pipeline
from jaxvid.export import formats
from jaxvid.inference.predictor import Predictor
from jaxvid.layers.attention import attend, which
from jaxvid.layers.backend import backend, tracing_for
from jaxvid.layers.conv import Geometry, chosen
from jaxvid.rows import Protocol, Sampling
from tests.models.test_families import NAMES, network, video

CLASSES = ["jump", "run", "sit", "turn", "wave"]
TEST = {"short_side": 36, "crop": 32, "crops": "three"}

# What a user runs elsewhere: nothing but the file, and nothing of this library.
LOADERS = {
    "stablehlo": """
import jax
exported = jax.export.deserialize(bytearray(open(f"{folder}/model.jax", "rb").read()))
answers = {k: np.asarray(v) for k, v in exported.call(video).items()}
""",
    "savedmodel": """
import tensorflow as tf
loaded = tf.saved_model.load(folder)
answers = {k: v.numpy() for k, v in loaded.signatures["serving_default"](video=video).items()}
""",
}
LOAD = """
import sys
import numpy as np
folder, file, out = sys.argv[1:]
video = np.load(file)
{load}
assert not {absent} & set(sys.modules)
np.savez(out, **answers)
"""
ABSENT = {"stablehlo": {"jaxvid", "flax", "tensorflow"}, "savedmodel": {"jaxvid", "flax"}}


def run_elsewhere(folder, video, format):
    """The answers by name of a fresh process that loads what was exported."""
    file, out = folder.parent / "video.npy", folder.parent / "answers.npz"
    np.save(file, video)
    code = LOAD.format(load=LOADERS[format], absent=ABSENT[format])
    words = [sys.executable, "-I", "-c", code, str(folder), str(file), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder.parent, timeout=600)
    assert done.returncode == 0, done.stderr
    return np.load(out)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of the tiny TSM."""
    path = tmp_path_factory.mktemp("weights") / "tsm"
    row = zoo.starting_row("tsm_test")
    meta = {"row": row.name, "classes": CLASSES, "num_classes": 5, "test": TEST}
    checkpoint.save(path, network("tsm_test")[1], meta)
    return path


def test_frames_become_the_probabilities_that_predict_gives(weights, tmp_path, capsys):
    arguments = [f"--checkpoint={weights}", f"--out={tmp_path}/out", "--preprocess=50x41"]
    export.main(arguments)
    assert "video uint8 [any, 8, 50, 41, 3] -> probabilities [any, 5]" in capsys.readouterr().out
    card = json.loads((tmp_path / "out" / "model.json").read_text())
    assert card["classes"] == CLASSES and card["platforms"] == ["cpu", "cuda", "tpu"]
    assert card["input"] == {"name": "video", "shape": [None, 8, 50, 41, 3], "dtype": "uint8"}
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 50, 41, 3), np.uint8)
    predictor = Predictor(weights, views="one")
    wanted = [predictor.scores(clip) for clip in frames]
    given = run_elsewhere(tmp_path / "out", frames, "stablehlo")["probabilities"]
    np.testing.assert_allclose(given, wanted, rtol=1e-3, atol=1e-5)
    assert np.ptp(given) > 1e-3


def test_a_savedmodel_gives_the_logits_of_clips(weights, tmp_path):
    card = export.export(weights, tmp_path / "out", format="savedmodel", platforms=["cpu"])
    assert card["input"]["shape"] == [None, 8, 32, 32, 3]
    assert card["preprocessing"]["short_side"] == 36 and card["preprocessing"]["crop"] == 32
    clips = np.random.default_rng(0).normal(size=(2, 8, 32, 32, 3)).astype(np.float32)
    model, variables = network("tsm_test")
    wanted = jax.jit(model.apply)(variables, clips)[0]
    given = run_elsewhere(tmp_path / "out", clips, "savedmodel")
    assert list(given) == ["logits"]
    np.testing.assert_allclose(given["logits"], wanted, rtol=1e-4, atol=1e-4)


# What a user runs elsewhere of a video that comes bit by bit.
STREAMS = {
    "stablehlo": """
import jax
exported = jax.export.deserialize(bytearray(open(f"{folder}/model.jax", "rb").read()))
call = lambda frames, state: exported.call(frames, state)
""",
    "savedmodel": """
import tensorflow as tf
loaded = tf.saved_model.load(folder)
call = lambda frames, state: loaded.signatures["serving_default"](video=frames, **state)
""",
}
CARRY = """
import json
card = json.load(open(f"{folder}/model.json"))
state = {
    name: np.zeros((len(video), *leaf["shape"][1:]), leaf["dtype"])
    for name, leaf in card["state"].items()
}
step, answers = card["input"]["shape"][1], {}
for first in range(0, video.shape[1], step):
    answer = call(video[:, first : first + step], state)
    state = {name: answer.pop(name) for name in state}
    answers |= {f"{key}{first + step}": np.asarray(value) for key, value in answer.items()}
"""


@pytest.mark.parametrize(
    "name, format, frames",
    [
        ("movinet_stream_test", "stablehlo", 1),
        ("tsm_online_test", "stablehlo", 2),
        ("movinet_stream_test", "savedmodel", 1),
    ],
)
def test_a_state_goes_in_and_comes_out(tmp_path, monkeypatch, name, format, frames):
    model, variables = network(name)
    meta = {"row": name, "classes": CLASSES, "num_classes": 5, "test": TEST}
    checkpoint.save(tmp_path / "weights", variables, meta)
    card = export.export(
        tmp_path / "weights", tmp_path / "out", format=format, stream=frames, platforms=["cpu"]
    )
    assert card["input"]["shape"] == [None, frames, 32, 32, 3]
    assert all(leaf["shape"][0] is None for leaf in card["state"].values())
    monkeypatch.setitem(LOADERS, format, STREAMS[format] + CARRY)
    clips = video(name)
    given = run_elsewhere(tmp_path / "out", clips, format)
    assert list(given) == [f"logits{seen}" for seen in range(frames, 5, frames)]
    for seen in range(frames, 5, frames):
        wanted = jax.jit(model.apply)(variables, clips[:, :seen])[0]
        np.testing.assert_allclose(given[f"logits{seen}"], wanted, rtol=0, atol=1e-5)


def exported(name, platforms):
    """The program of a family's tiny network, on any number of clips."""
    model, variables = network(name)
    program = export.for_platforms(
        lambda variables, video: model.apply(variables, video)[0], platforms
    )
    (batch,) = jax.export.symbolic_shape("batch")
    clips = jax.ShapeDtypeStruct((batch, *video(name).shape[1:]), jnp.float32)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), variables)
    return jax.export.export(jax.jit(program), platforms=platforms)(shapes, clips)


@pytest.mark.parametrize("name", NAMES)
def test_every_family_takes_any_number_of_clips(name):
    program = exported(name, ("cpu",))
    count, classes = program.out_avals[0].shape
    assert str(count) == "batch" and classes == 5


@pytest.mark.slow("answers")
@pytest.mark.parametrize("name", NAMES)
def test_every_family_answers_the_same_when_it_is_for_all_platforms(name):
    program = exported(name, ("cpu", "cuda", "tpu"))
    again = jax.export.deserialize(program.serialize())
    model, variables = network(name)
    wanted = jax.jit(model.apply)(variables, video(name))[0]
    np.testing.assert_allclose(again.call(variables, video(name)), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("crops", ["center", "left", "whole"])
@pytest.mark.parametrize("size", [(50, 41), (33, 90), (36, 48), (20, 24)])
def test_pixels_are_those_of_the_test(crops, size):
    frames = np.random.default_rng(1).integers(0, 256, (3, *size, 3), np.uint8)
    protocol = Protocol(Sampling(3, 1), short_side=36, crops=crops, crop=32)
    wanted = pipeline.make_views(frames, np.arange(3)[None], protocol)
    given = export.central_crop(jnp.asarray(frames[None]), protocol)
    differences = np.abs(np.asarray(given) - wanted)
    assert differences.max() <= 1 and (differences > 0).mean() < 1e-3


def test_flow_enters_as_normalised_clips_only(tmp_path):
    overrides = {"blocks": (1, 1, 1, 1), "width": 8}
    model = zoo.create_model("tsn_r50_flow_5x1x8_k400", 5, **overrides)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 32, 32, 10)))
    variables = jax.tree.map(lambda a: np.ones(a.shape, a.dtype), shapes)
    meta = {"row": "tsn_r50_flow_5x1x8_k400", "classes": CLASSES, "overrides": overrides}
    checkpoint.save(tmp_path / "flow", variables, meta | {"num_classes": 5})
    card = export.export(tmp_path / "flow", tmp_path / "out", batch=1, platforms=["cpu"])
    assert card["input"]["shape"] == [1, 25, 224, 224, 10]
    with pytest.raises(JaxvidError, match="takes flow: leave --preprocess out"):
        export.export(tmp_path / "flow", tmp_path / "more", preprocess=(240, 320))


def test_a_program_for_elsewhere_is_computed_as_there():
    half = jax.ShapeDtypeStruct((2, 256, 2, 64), jnp.bfloat16)
    spatial = Geometry((3, 3, 3), (1, 1, 1), (1, 1, 1), 1, 16, 16)
    assert backend() == "cpu" and chosen(spatial) == "planes"
    with tracing_for("any"):
        assert chosen(spatial) == "native" and which(half, half, half).implementation == "xla"
    assert backend() == "cpu"


@pytest.mark.parametrize(
    "platform, kernel", [("tpu", "tpu_custom_call"), ("cuda", "__cudnn$fmhaSoftmax"), ("cpu", None)]
)
def test_what_is_for_one_kind_of_chip_carries_its_kernels(platform, kernel):
    def answer(variables, video):
        return attend(video, video, video)

    program = export.for_platforms(answer, [platform])
    half = jax.ShapeDtypeStruct((2, 256, 2, 64), jnp.bfloat16)
    exported = jax.export.export(
        jax.jit(lambda video: program({}, video)),
        platforms=[platform],
        disabled_checks=formats.UNPROMISED,
    )(half)
    assert exported.serialize()
    assert kernel is None or kernel in exported.mlir_module()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--preprocess=240"], "--preprocess=240 is no size"),
        (["--batch=0"], "--batch=0 holds no clip"),
        (["--batch=many"], "--batch=many is no number"),
        (["--stream=0"], "--stream=0 holds no frame"),
        (["--stream=1"], "sees frames that are still to come"),
        (["--platforms=cpu,npu"], "--platforms=cpu,npu: choose among cpu, cuda"),
        (["--model=x3d_s"], "contradicts"),
    ],
)
def test_what_is_wrong_with_the_flags_is_said(weights, tmp_path, flags, words):
    with pytest.raises(JaxvidError, match=words):
        export.main([f"--checkpoint={weights}", f"--out={tmp_path}/out", *flags])
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_nothing_left_behind(weights, tmp_path, monkeypatch):
    with pytest.raises(JaxvidError, match="exists: choose a new folder"):
        export.export(weights, tmp_path)
    monkeypatch.setattr(formats, "_LARGEST", 1000)
    with pytest.raises(JaxvidError, match="take --format=savedmodel"):
        export.export(weights, tmp_path / "out")
    assert not list(tmp_path.iterdir())
