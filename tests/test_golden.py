"""Every golden file in `--golden=DIR`: what the reference implementations answer.

A file that no test here knows is a failure, so nothing in the folder goes untested.
"""

import dataclasses
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import converters
from jaxvid import zoo
from jaxvid.layers import streaming
from jaxvid.layers.position import resize_clip
from jaxvid.objectives import masking
from jaxvid.training import optim
from jaxvid.training.state import TrainState
from jaxvid.training.step import make_update
from tests import golden_features

pytestmark = [pytest.mark.golden, pytest.mark.users_compiler]

HERE = pathlib.Path(__file__).parent


def _module(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_generate_tests(metafunc):
    folder = pathlib.Path(metafunc.config.getoption("--golden"))
    files = sorted(
        p.relative_to(folder) for p in folder.rglob("*") if p.suffix in (".npz", ".json")
    )
    metafunc.parametrize("golden", [folder / f for f in files], ids=[str(f) for f in files])


def test_golden(golden):
    if golden.parent.name == "train":
        check_training(golden)
    elif golden.name.startswith("sampling"):
        from tests.data.golden_data import check_sampling

        check_sampling(golden)
    elif golden.name.startswith("preprocess"):
        from tests.data.golden_data import check_preprocess

        check_preprocess(golden)
    elif golden.stem.endswith("_postable"):
        check_positions(golden)
    elif golden.stem.endswith("_mae"):
        check_filling_in(golden)
    elif golden.name.startswith("hf_"):
        check_hugging_face(golden)
    else:
        check_logits(golden)


def load(path: pathlib.Path):
    """(PyTorch-named weights, input as our networks take it, expected values, overrides)."""
    weights, video, expected = _module(HERE / "golden" / "weights.py").load(path)
    meta = json.loads(str(np.load(path)["meta"]))
    overrides = meta.get("small_overrides") or {}
    flat = {}
    for name, value in overrides.items():  # Of the net itself, or of a part of it.
        flat |= value if isinstance(value, dict) else {name: value}
    flat = {name: tuple(v) if isinstance(v, list) else v for name, v in flat.items()}
    if hasattr(zoo.family(path.stem).Model, "relation_seed"):
        # The reference draws even when it tests: the file's seed says what it drew.
        flat["relation_seed"] = meta["seed"]
    if video.ndim == 6:  # clips: [1, views, C, T, H, W]
        video = video[0].transpose(0, 2, 3, 4, 1)
    else:  # frames: [1, views * T, C, H, W]
        views = len(expected["view_logits"])
        video = video.reshape(views, -1, *video.shape[2:]).transpose(0, 1, 3, 4, 2)
    return weights, video, expected, flat


def check_hugging_face(path: pathlib.Path) -> None:
    """Weights in Hugging Face's layout give the logits that they give there."""
    weights, video, expected = _module(HERE / "golden" / "weights.py").load(path)
    variant, overrides = golden_features.hugging_face(path)
    variables = converters.convert(variant, weights, overrides=overrides)
    wanted = expected["view_logits"]
    model = zoo.create_model(variant, wanted.shape[1], **overrides)
    clips = video[0].transpose(0, 2, 3, 4, 1)
    if len(wanted) == clips.shape[0] * clips.shape[1]:  # One answer a frame.
        clips = clips.reshape(-1, 1, *clips.shape[2:])
    logits = jax.jit(lambda v, x: model.apply(v, x, train=False)[0])(variables, clips)
    difference, allowed = np.abs(logits - wanted).max(), 1e-4 * expected["logits"].std()
    print(f"{path.stem}: max |difference| {difference:.2e}, allowed {allowed:.2e}")
    assert difference <= allowed


def check_logits(path: pathlib.Path) -> None:
    """Converted weights give the reference's logits, view by view, and its features."""
    weights, video, expected, overrides = load(path)
    classes = overrides.pop("num_classes", None)
    variables = converters.convert(path.stem, weights, num_classes=classes, overrides=overrides)
    model = zoo.create_model(path.stem, classes, **overrides)
    if "view_logits" not in expected:
        golden_features.check(path, model, variables, video, expected)
        return
    allowed = 1e-4 * expected["logits"].std()
    if "logits_f64" in expected:
        noise = np.abs(expected["logits"] - expected["logits_f64"]).max()
        allowed = max(allowed, 10 * noise)

    def check(logits, wanted, what=""):
        difference = np.abs(np.asarray(logits) - wanted).max()
        print(f"{path.stem}{what}: max |difference| {difference:.2e}, allowed {allowed:.2e}")
        assert logits.shape == wanted.shape
        assert difference <= allowed

    def forward(model):
        return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, video)

    logits, out = forward(model)
    check(logits, expected["view_logits"])
    check_stages(out, expected)
    golden_features.check(path, model, variables, video, expected)
    if "logits_gate6" in expected:
        logits = forward(model.clone(gate="relu6"))[0].mean(0, keepdims=True)
        check(logits, expected["logits_gate6"], " with the other gate")
    if "frame_logits" in expected:
        check_frames(model, variables, video[:1], expected["frame_logits"], allowed)


def check_frames(model, variables, video, wanted, allowed) -> None:
    """Frame by frame a stream's logits are the reference's, and in the end those of the clip."""
    clip = np.asarray(jax.jit(model.apply)(variables, video)[0])
    step = jax.jit(lambda *given: streaming.step(model, *given))
    state = streaming.begin(model, variables, video[:, :1])
    logits = []
    for number in range(video.shape[1]):
        (answer, _), state = step(variables, state, video[:, number : number + 1])
        logits.append(np.asarray(answer[0]))
    difference = np.abs(np.stack(logits) - wanted).max()
    print(f"frame by frame: max |difference| {difference:.2e}, allowed {allowed:.2e}")
    assert len(logits) == len(wanted) and difference <= allowed
    assert np.abs(logits[-1] - clip[0]).max() <= 1e-5


def check_stages(out, expected) -> None:
    """Where a file holds them: each stage's means, and a corner of its last frame."""
    for stage in range(sum(f"stage{i}_sample" in expected for i in range(8))):
        grid = np.asarray(out[f"stage{stage + 1}"])
        allowed = 1e-4 * grid.std()
        pooled, sample = grid.mean((1, 2, 3)), grid[0, -1, :3, :2, :16]
        for name, found in (("pooled", pooled), ("sample", sample)):
            np.testing.assert_allclose(
                found, expected[f"stage{stage}_{name}"], rtol=0, atol=allowed, err_msg=str(stage)
            )


def check_positions(path: pathlib.Path) -> None:
    """A table of 8 moments of 16 x 16 places, behind a row of its own, as other clips read it."""
    weights, _, expected = _module(HERE / "golden" / "weights.py").load(path)
    first, table = np.split(weights["pos_embed"][0], [1])
    table = jnp.asarray(table.reshape(8, 16, 16, -1))
    for name, wanted in expected.items():
        frames, side = (int(word.lstrip("Tgrid")) for word in name.split("_"))
        read = np.asarray(resize_clip(table, (frames, side, side))).reshape(-1, table.shape[-1])
        read = np.concatenate([first, read])
        read = read[:: 7 if len(read) > 1100 else 1]  # Of long ones a seventh is stored.
        np.testing.assert_allclose(read, wanted[0], rtol=0, atol=1e-5, err_msg=name)


def check_filling_in(path: pathlib.Path) -> None:
    """Converted weights fill in the cubes that a mask hides, at the reference's loss."""
    weights, video, expected, overrides = load(path)
    variables = converters.convert(path.stem, weights, overrides=overrides)
    model = zoo.create_model(path.stem, **overrides)
    kept = expected["mask"]
    grid = masking.grid_of(video.shape[1:], model.cubes.hidden)
    asked = masking.grid_of(video[:, :: model.cubes.every].shape[1:], model.cubes.asked)
    hidden = ~kept.reshape(grid)
    for axis in range(3):
        hidden = hidden.repeat(asked[axis] // grid[axis], axis)
    decoded = np.flatnonzero(hidden)[None]
    masks = masking.Masks(np.flatnonzero(kept)[None], decoded, np.ones(decoded.shape, bool))
    pixels, out = jax.jit(model.apply)(
        variables, video, visible=masks.visible, decoded=masks.decoded
    )
    latent = np.asarray(out["latent"])
    latent = latent.reshape(-1, latent.shape[-1])
    for found, name in ((latent[:6], "latent_sample"), (latent.mean(0)[None], "latent_pooled")):
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-4 * latent.std())
    answers = expected["pred"]  # In half precision.
    found = np.asarray(pixels).reshape(answers.shape)
    np.testing.assert_allclose(found, answers, rtol=2**-11, atol=1e-4 * found.std())
    # The reference takes its targets of what enters it, here 255ths.
    wanted = masking.targets(255 * video, masks, model.cubes)[0, :8].reshape(8, -1)
    np.testing.assert_allclose(wanted, expected["label_sample"], rtol=0, atol=1e-5)
    sums, counts = masking.errors(255 * video, pixels, masks, model.cubes)
    np.testing.assert_allclose(sums / counts, expected["loss"], rtol=1e-5)


def check_training(path: pathlib.Path) -> None:
    """A short training run in float64: every loss, gradient norm and final norm."""
    meta = json.loads(str(np.load(path)["meta"]))
    settings = meta["settings"]
    weights = load(path.parent.parent / f"{meta['name']}.npz")[0]
    fields = {field.name for field in dataclasses.fields(zoo.family(meta["name"]).Model)}
    off = fields & {"dropout", "drop_path"}
    model = zoo.create_model(meta["name"], **dict.fromkeys(off, 0.0))
    config = ml_collections.ConfigDict(
        {
            "name": settings["optimizer"],
            "momentum": settings.get("momentum", 0.0),
            "nesterov": False,
            "betas": settings.get("betas", (0.9, 0.999)),
            "weight_decay": settings["weight_decay"],
            "no_decay": () if meta["no_weight_decay"].startswith("none") else ("ndim<2",),
            "lr_scales": (),
            "clip_norm": settings["clip"],
        }
    )
    optimizer = optim.make_optimizer(config, lambda step: settings["lr"])
    with jax.enable_x64(True):
        variables = jax.tree.map(
            lambda a: jnp.asarray(a, jnp.float64), converters.convert(meta["name"], weights)
        )
        state = TrainState(
            jnp.zeros((), jnp.int32),
            variables["params"],
            variables["batch_stats"],
            optimizer.init(variables["params"]),
        )
        update = jax.jit(make_update(model, optimizer))
        shape = meta["input_shape"]
        for step in range(meta["steps"]):
            draw = np.random.RandomState(1000 + step)
            x = draw.normal(0, 1, shape) + draw.normal(0, 0.7, [*shape[:-2], 1, 1])
            labels = draw.randint(0, meta["classes"], meta["batch"])
            video = x.astype(np.float32).astype(np.float64)
            if video.ndim == 6:  # clips: [B, 1, C, T, H, W]
                video = video[:, 0].transpose(0, 2, 3, 4, 1)
            else:  # frames: [B, T, C, H, W]
                video = video.transpose(0, 1, 3, 4, 2)
            state, measured = update(state, video, labels, jax.random.key(0))
            np.testing.assert_allclose(measured["loss"], meta["losses_f64"][step], rtol=1e-6)
            np.testing.assert_allclose(
                measured["grad_norm"], meta["grad_norms_f64"][step], rtol=1e-6
            )
        back = converters.to_torch(meta["name"], jax.tree.map(np.asarray, state.variables))
    for key, norm in meta["param_norms_f64"].items():
        np.testing.assert_allclose(np.linalg.norm(back[key]), norm, rtol=1e-6, err_msg=key)
