"""Optimizers and schedules against PyTorch's update rules, transcribed to numpy."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.training import optim

SHAPES = {"conv": {"kernel": (3, 4), "bias": (4,)}, "bn": {"scale": (4,), "bias": (4,)}}
STEPS = 6


def make_config(**settings):
    """Optimizer and schedule fields as a config has them."""
    return ml_collections.ConfigDict(
        {
            "name": "sgd",
            "lr": 0.1,
            "momentum": 0.9,
            "nesterov": False,
            "betas": (0.9, 0.999),
            "weight_decay": 0.0,
            "no_decay": (),
            "clip_norm": 0.0,
            "schedule": "constant",
            "milestones": (),
            "gamma": 0.1,
            "final_lr": 0.0,
            "cosine_epochs": 0.0,
            "cosine_from": "warmup",
            "schedule_every": "step",
            "warmup": "scale",
            "warmup_every": "step",
            "lr_scales": (),
            "warmup_epochs": 0.0,
            "warmup_factor": 0.1,
        }
        | settings
    )


def arrays(rng):
    return jax.tree.map(
        lambda shape: rng.normal(size=shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
    )


def torch_sgd(p, gradients, rates, decay, momentum, nesterov):
    buffer = None
    for g, lr in zip(gradients, rates, strict=True):
        g = g + decay * p
        if momentum:
            buffer = g if buffer is None else momentum * buffer + g
            g = g + momentum * buffer if nesterov else buffer
        p = p - lr * g
    return p


def torch_adamw(p, gradients, rates, decay, betas, epsilon=1e-8):
    m = v = 0.0
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), 1):
        p = p * (1 - lr * decay)
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + epsilon)
    return p


def torch_clip(gradients, most):
    """The gradients of one step scaled to a global norm of at most `most`."""
    norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradients)))
    return jax.tree.map(lambda g: g * min(1.0, most / (norm + 1e-6)), gradients)


def check(config, update, decays, rtol=1e-12):
    """Compares `STEPS` steps on changing gradients and rates, in float64.

    `update` takes a parameter, its gradients, the rates and its decay.
    """
    rng = np.random.default_rng(0)
    params, gradients = arrays(rng), [arrays(rng) for _ in range(STEPS)]
    rates = np.linspace(0.1, 0.02, STEPS)
    with jax.enable_x64(True):
        optimizer = optim.make_optimizer(config, lambda step: jnp.asarray(rates)[step])
        ours = jax.tree.map(jnp.asarray, params)
        state = optimizer.init(ours)
        for g in gradients:
            updates, state = optimizer.update(jax.tree.map(jnp.asarray, g), state, ours)
            ours = optax.apply_updates(ours, updates)
        ours = jax.tree.map(np.asarray, ours)
    if config.clip_norm:
        gradients = [torch_clip(g, config.clip_norm) for g in gradients]
    for path in (("conv", "kernel"), ("conv", "bias"), ("bn", "scale"), ("bn", "bias")):
        decay = config.weight_decay if "/".join(path) in decays else 0.0
        expected = update(
            params[path[0]][path[1]], [g[path[0]][path[1]] for g in gradients], rates, decay
        )
        np.testing.assert_allclose(
            ours[path[0]][path[1]], expected, rtol, rtol, err_msg="/".join(path)
        )


ALL = ("conv/kernel", "conv/bias", "bn/scale", "bn/bias")
MASKS = {(): ALL, ("ndim<2",): ("conv/kernel",), ("*/bias",): ("conv/kernel", "bn/scale")}


@pytest.mark.parametrize("no_decay", MASKS)
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum, nesterov, no_decay):
    config = make_config(momentum=momentum, nesterov=nesterov, weight_decay=0.3, no_decay=no_decay)

    def update(p, gradients, rates, decay):
        return torch_sgd(p, gradients, rates, decay, momentum, nesterov)

    check(config, update, MASKS[no_decay])


@pytest.mark.parametrize("no_decay", MASKS)
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.95)])
def test_adamw(betas, no_decay):
    config = make_config(name="adamw", betas=betas, weight_decay=0.3, no_decay=no_decay)

    def update(p, gradients, rates, decay):
        return torch_adamw(p, gradients, rates, decay, betas)

    check(config, update, MASKS[no_decay])


@pytest.mark.parametrize("clip_norm", [1.0, 4.5, 100.0])
def test_gradients_are_clipped_before_the_decay_is_added(clip_norm):
    config = make_config(clip_norm=clip_norm, weight_decay=0.3)

    def update(p, gradients, rates, decay):
        return torch_sgd(p, gradients, rates, decay, 0.9, False)

    # PyTorch adds 1e-6 to the norm, optax does not.
    check(config, update, ALL, rtol=3e-6)


def rates_of(steps, epochs, **settings):
    schedule = optim.make_schedule(make_config(**settings), steps, epochs)
    return np.array([float(schedule(step)) for step in range(steps + 1)])


def test_steps_fall_at_the_first_step_of_their_epoch():
    rates = rates_of(30, 10.0, schedule="step", milestones=(4, 8), lr=0.5)
    expected = [0.5] * 12 + [0.05] * 12 + [0.005] * 7
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


def test_milestones_may_be_fractions_of_an_epoch():
    rates = rates_of(40, 4.0, schedule="step", milestones=(1.5, 2.25), gamma=0.5, lr=1.0)
    np.testing.assert_allclose(rates[[14, 15, 21, 22, 40]], [1, 0.5, 0.5, 0.25, 0.25], rtol=1e-6)


def test_milestones_in_one_step_all_count():
    rates = rates_of(4, 8.0, schedule="step", milestones=(4, 4.1), lr=1.0)
    np.testing.assert_allclose(rates[[1, 2]], [1.0, 0.01], rtol=1e-6)


def test_cosine_starts_where_the_warm_up_ends():
    rates = rates_of(100, 10.0, schedule="cosine", warmup_epochs=2, final_lr=0.01, lr=0.2)
    np.testing.assert_allclose(rates[:21], 0.2 * np.linspace(0.1, 1, 21), rtol=1e-6)
    steps = np.arange(20, 101)
    cosine = 0.01 + 0.19 * (1 + np.cos(np.pi * (steps - 20) / 80)) / 2
    np.testing.assert_allclose(rates[20:], cosine, rtol=1e-5)


def test_a_cosine_longer_than_the_run_is_cut():
    rates = rates_of(100, 10.0, schedule="cosine", warmup_epochs=2, cosine_epochs=16, lr=0.2)
    steps = np.arange(20, 101)
    cosine = 0.1 * (1 + np.cos(np.pi * (steps - 20) / 160))
    np.testing.assert_allclose(rates[20:], cosine, rtol=1e-5)


def test_rates_scale_by_path():
    config = make_config(name="sgd", momentum=0.0, weight_decay=0.0, clip_norm=0.0)
    config.lr_scales = (("head/*", 5.0), ("head/*/bias", 2.0))
    optimizer = optim.make_optimizer(config, lambda step: 0.1)
    one = np.ones(2, np.float32)
    ones = {"head": {"fc": {"kernel": one, "bias": one}}, "conv": one}
    updates, _ = optimizer.update(ones, optimizer.init(ones), ones)
    np.testing.assert_allclose(updates["conv"], -0.1)
    np.testing.assert_allclose(updates["head"]["fc"]["kernel"], -0.5)
    np.testing.assert_allclose(updates["head"]["fc"]["bias"], -1.0)


def test_constant_with_warm_up():
    rates = rates_of(10, 5.0, warmup_epochs=2.5, warmup_factor=0.0, lr=1.0)
    np.testing.assert_allclose(rates, [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1], atol=1e-6)


def test_warm_up_and_steps_multiply():
    rates = rates_of(20, 10.0, schedule="step", milestones=(1,), warmup_epochs=2, lr=1.0)
    np.testing.assert_allclose(rates[:5], [0.1, 0.325, 0.055, 0.0775, 0.1], rtol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_a_warm_up_longer_than_the_run_only_rises(schedule):
    rates = rates_of(6, 1.0, schedule=schedule, warmup_epochs=9, lr=0.3, milestones=(50,))
    assert (np.diff(rates) > 0).all()
    np.testing.assert_allclose(rates[-1], 0.3, rtol=1e-6)


def test_schedules_work_in_a_compiled_step():
    for schedule in ("cosine", "step", "constant"):
        config = make_config(schedule=schedule, milestones=(1,), warmup_epochs=0.5)
        made = optim.make_schedule(config, 20, 2.0)
        traced = jax.jit(made)
        for step in (0, 5, 9, 10, 20):
            np.testing.assert_allclose(traced(jnp.int32(step)), made(step), rtol=1e-6)


def test_masks_match_paths():
    params = {
        "backbone": {"conv1": {"kernel": np.zeros((3, 3)), "bias": np.zeros(3)}},
        "head": {"pos": np.zeros((1, 4)), "scale": np.zeros(())},
    }
    mask = optim.decay_mask(params, ("ndim<2", "*/pos"))
    assert mask == {
        "backbone": {"conv1": {"kernel": True, "bias": False}},
        "head": {"pos": False, "scale": False},
    }


@pytest.mark.parametrize("field, call", [("name", "make_optimizer"), ("schedule", "make_schedule")])
def test_unknown_names_are_refused(field, call):
    config = make_config(**{field: "magic"})
    arguments = (config, 10, 1.0) if call == "make_schedule" else (config, lambda step: 0.1)
    with pytest.raises(JaxvidError, match=f"config.optim.{field}='magic' is unknown: take "):
        getattr(optim, call)(*arguments)


def test_layers_below_the_top_learn_more_slowly_and_decay_more_slowly():
    config = make_config(name="adamw", weight_decay=0.5, no_decay=(), layer_decay=0.5)
    layer_of = {"stem/kernel": 0, "block0/kernel": 1, "block1/kernel": 2, "head/kernel": 3}
    params = {path.split("/")[0]: {"kernel": np.ones(2, np.float32)} for path in layer_of}
    optimizer = optim.make_optimizer(config, lambda step: 0.1, layer_of)
    gradients = jax.tree.map(lambda x: 3 * x, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    # Adam's first step is as long as the rate; the decay is a half of the parameter times the rate.
    for path, layer in layer_of.items():
        update = updates[path.split("/")[0]]["kernel"]
        np.testing.assert_allclose(update, -0.1 * 1.5 * 0.5 ** (3 - layer), rtol=1e-4)
    plain = optim.make_optimizer(config, lambda step: 0.1, {})
    updates, _ = plain.update(gradients, plain.init(params), params)
    np.testing.assert_allclose(updates["stem"]["kernel"], -0.15, rtol=1e-4)
