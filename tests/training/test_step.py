"""One step of training: what each knob changes, and what it must leave as it is."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from jaxvid import config as configs
from jaxvid import zoo
from jaxvid.layers.drop import DropPath
from jaxvid.layers.norm import BatchNorm
from jaxvid.layers.preprocess import normalizer
from jaxvid.training import parts, step
from jaxvid.training.descent import Descent
from jaxvid.training.norms import Norms, make_precise_norms
from jaxvid.training.state import make_state
from tests import handed

CLIP = (4, 32, 32, 3)
CLASSES = 5
RNGS = {"dropout": jax.random.key(0)}
RNGS = {"dropout": jax.random.key(0)}


# Nearly all the time that these tests take is compiling.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def network(name, **overrides):
    """A network, drawn variables of it, and its parts."""
    model = zoo.create_model(name, CLASSES, **overrides)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *CLIP)))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: (
            rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
            if leaf.ndim < 2
            else rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32)
        ),
        shapes,
    )
    return model, variables, parts.find(model, CLIP)


def batch(size=4, seed=0):
    rng = np.random.default_rng(seed)
    video = rng.normal(size=(size, *CLIP)).astype(np.float32)
    return video, rng.integers(0, CLASSES, size)


class Small(nn.Module):
    """A network with two BatchNorms that compiles in no time."""

    num_classes: int = CLASSES
    dropout: float = 0.0

    @nn.compact
    def __call__(self, video, train=False):
        x = nn.Dense(8, name="conv1")(video.mean((1, 2)))
        x = nn.Dense(8, name="block0")(nn.relu(BatchNorm(name="bn1")(x, train)))
        x = nn.relu(BatchNorm(name="bn2")(x, train)).mean(1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x), {}


@functools.cache
def start(dropout=0.0):
    """The small network and its variables."""
    model = Small(dropout=dropout)
    return model, jit(model.init)(jax.random.key(0), jnp.zeros((1, *CLIP)))


def small(optimizer, steps=3, averaged=False, norms=Norms(), **settings):
    """The states of a run of the small network from first to last, and what was measured last."""
    model, variables = start()
    descent = Descent(**settings)
    states = [make_state(variables, optimizer, descent.frozen, averaged)]
    update = jit(step.make_update(model, optimizer, descent=descent, norms=norms))
    for number in range(steps):
        state, measured = update(states[-1], *batch(8, number), jax.random.key(number))
        states.append(state)
    return states, measured


def flat(tree):
    return {path: np.asarray(value) for path, value in flatten_dict(tree, sep="/").items()}


# ---- freezing


def test_frozen_parameters_stay_bit_for_bit_and_cost_no_optimizer_memory():
    frozen = frozenset({"conv1/kernel", "conv1/bias", "bn1/scale", "bn1/bias", "head/bias"})
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.trace(0.9), optax.scale(-0.1))
    states, measured = small(optimizer, frozen=frozen)
    before, after = flat(states[0].params), flat(states[-1].params)
    for path in before:
        assert (before[path].tobytes() == after[path].tobytes()) == (path in frozen), path
    momenta = [leaf.shape for leaf in jax.tree.leaves(states[-1].opt_state)]
    assert sorted(momenta) == sorted(before[path].shape for path in before if path not in frozen)
    assert measured["grad_norm"] > 0


def test_a_frozen_norm_uses_its_running_statistics_and_leaves_them():
    model, variables = start()
    found = parts.find(model, CLIP)
    video, _ = batch(3)

    def run(video, frozen):
        def apply(video):
            with parts.holding_norms(frozen):
                return model.apply(variables, video, train=True, mutable=["batch_stats"])

        (logits, _), updated = jit(apply)(video)
        before, after = flat(variables["batch_stats"]), flat(updated["batch_stats"])
        assert before.keys() == after.keys()
        return logits, {path for path in before if (before[path] != after[path]).any()}

    logits, moved = run(video, parts.frozen(found, (), "all"))
    assert moved == set()
    np.testing.assert_allclose(logits, model.apply(variables, video)[0], rtol=1e-5)
    assert run(video, parts.frozen(found, (), "partial"))[1] == {"bn1/mean", "bn1/var"}
    # With only a scale frozen, a norm is as it was.
    batch_logits, moved = run(video, frozenset({"bn1/scale"}))
    assert len(moved) == 4 and not np.allclose(batch_logits, logits)


# ---- the averaged copy


def test_the_averaged_copy_follows_parameters_and_statistics():
    states, _ = small(optax.sgd(0.5), averaged=True, ema_decay=0.15)
    expected = flat(states[0].variables)
    for number, state in enumerate(states[1:]):
        decay = min(0.15, (1 + number) / (10 + number))  # 0.1, then 0.15
        now = flat(state.variables)
        expected = {path: decay * expected[path] + (1 - decay) * now[path] for path in now}
    average = flat(states[-1].ema)
    assert average.keys() == expected.keys() and "batch_stats/bn2/var" in average
    for path, value in average.items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-5, atol=1e-7, err_msg=path)
    assert states[-1].tested("ema") is states[-1].ema
    assert flat(states[-1].tested("last")).keys() == average.keys()
    assert (
        flat(states[-1].tested("last"))["params/head/kernel"] != average["params/head/kernel"]
    ).any()


def test_the_average_changes_nothing_else_and_is_not_there_unless_asked_for():
    plain, _ = small(optax.sgd(0.5))
    averaged, _ = small(optax.sgd(0.5), averaged=True, ema_decay=0.9)
    assert jax.tree.leaves(plain[-1].ema) == []
    assert plain[-1].tested("ema") == plain[-1].variables
    for path, value in flat(plain[-1].variables).items():
        np.testing.assert_array_equal(flat(averaged[-1].variables)[path], value)


def test_a_state_that_starts_from_weights_averages_from_them_in_memory_of_its_own():
    model, variables = start()
    state = make_state(variables, optax.sgd(0.1), averaged=True)
    given = jax.tree.map(lambda x: x + 1, variables)
    state = state.started_from(given)
    for path, value in flat(state.ema).items():
        np.testing.assert_array_equal(value, flat(given)[path])
    # A step gives this memory away, which it could not if something was in it twice.
    update = step.make_update(model, optax.sgd(0.1), descent=Descent(ema_decay=0.9))
    jax.jit(update, donate_argnums=0)(state, *batch(), jax.random.key(0))


# ---- accumulation


def test_accumulated_gradients_are_those_of_the_whole_batch():
    model, variables, found = network("mvit_test", depth=1, downscale=())
    assert not found.norms
    optimizer = optax.sgd(0.1, 0.9)
    (whole, measured), (cut, of_parts) = (
        jit(step.make_update(model, optimizer, descent=Descent(accumulate=accumulate)))(
            make_state(variables, optimizer), *batch(4), jax.random.key(0)
        )
        for accumulate in (1, 2)
    )
    assert cut.step == 1
    for name in measured:
        np.testing.assert_allclose(of_parts[name], measured[name], rtol=1e-4)
    whole, cut = flat(whole.opt_state[0].trace), flat(cut.opt_state[0].trace)
    largest = max(np.abs(leaf).max() for leaf in whole.values())
    for path, expected in whole.items():
        np.testing.assert_allclose(cut[path], expected, atol=1e-5 * largest, err_msg=path)


def test_each_part_of_an_accumulated_batch_moves_the_statistics():
    model, variables = start()
    video, labels = batch(8)
    nothing = optax.sgd(0.0)
    state = make_state(variables, nothing)
    descent = Descent(accumulate=2)
    update = step.make_update(model, nothing, descent=descent, prepare=lambda x: x + 1)
    new, measured = jit(update)(state, video, labels, jax.random.key(0))
    # At a rate of zero, two plain steps on the parts of the batch leave the same.
    plain = jit(step.make_update(model, nothing))
    expected, losses = state, []
    for part in (0, 1):
        expected, seen = plain(expected, video[part::2] + 1, labels[part::2], jax.random.key(0))
        losses.append(seen["loss"])
    for path, value in flat(new.batch_stats).items():
        np.testing.assert_allclose(value, flat(expected.batch_stats)[path], rtol=1e-5)
    np.testing.assert_allclose(measured["loss"], np.mean(losses), rtol=1e-6)


def test_parts_of_a_batch_draw_their_own_dropout():
    model, variables = start(dropout=0.5)
    frozen = parts.frozen(parts.find(model, CLIP), (), "all")
    same = np.repeat(batch(1)[0], 4, 0), np.zeros(4, np.int64)

    def gradients(accumulate, rows):
        descent = Descent(frozen, accumulate)
        update = step.make_update(model, optax.sgd(1.0), descent=descent)
        state = make_state(variables, optax.sgd(1.0), frozen)
        return jit(update)(state, same[0][:rows], same[1][:rows], jax.random.key(3))[0].params

    # Were both halves of four equal clips to lose the same features, this would be their half's.
    four, two = flat(gradients(2, 4)), flat(gradients(1, 2))
    assert not np.allclose(four["head/kernel"], two["head/kernel"])


# ---- statistics of BatchNorm


def test_groups_are_normalised_and_differentiated_by_themselves():
    """A step on four groups is the mean of the steps on each."""
    model, variables = start()
    optimizer = optax.sgd(0.5)
    state = make_state(variables, optimizer)
    (video, labels), key = batch(8), jax.random.key(0)
    grouped, measured = jit(step.make_update(model, optimizer, norms=Norms(group=2)))(
        state, video, labels, key
    )
    alone = jit(step.make_update(model, optimizer))
    parts_of = [alone(state, video[i : i + 2], labels[i : i + 2], key) for i in (0, 2, 4, 6)]
    whole, _ = alone(state, video, labels, key)
    np.testing.assert_allclose(
        measured["loss"], np.mean([found["loss"] for _, found in parts_of]), rtol=1e-6
    )
    means = [flat(new.variables) for new, _ in parts_of]
    for path, value in flat(grouped.variables).items():
        expected = np.mean([mean[path] for mean in means], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6, err_msg=path)
    for path in ("params/bn1/scale", "params/conv1/kernel", "batch_stats/bn2/var"):
        other = flat(whole.variables)[path]
        assert not np.allclose(other, flat(grouped.variables)[path], 1e-5, 0), path


@pytest.mark.parametrize("size", [0, 8, 32])
def test_a_group_no_smaller_than_the_batch_is_the_batch(size):
    (*_, plain), _ = small(optax.sgd(0.5), steps=1)
    (*_, grouped), _ = small(optax.sgd(0.5), steps=1, norms=Norms(group=size))
    for path, value in flat(plain.variables).items():
        np.testing.assert_array_equal(flat(grouped.variables)[path], value)


def test_groups_lie_within_the_parts_of_an_accumulated_batch():
    model, variables = start()
    optimizer = optax.sgd(0.5)
    state = make_state(variables, optimizer)
    video, labels = batch(8)
    cut, _ = jit(
        step.make_update(model, optimizer, descent=Descent(accumulate=2), norms=Norms(group=2))
    )(state, video, labels, jax.random.key(0))
    order = np.array([0, 2, 4, 6, 1, 3, 5, 7])  # Every second clip is in the same part.
    whole, _ = jit(step.make_update(model, optimizer, norms=Norms(group=2)))(
        state, video[order], labels[order], jax.random.key(0)
    )
    for path, value in flat(whole.params).items():
        np.testing.assert_allclose(flat(cut.params)[path], value, rtol=1e-4, atol=1e-6)


# Every tiny network with a BatchNorm.
NORMED = [
    "c2d",
    "csn",
    "csn_ip",
    "dualformer",
    "i3d",
    "i3d_nl",
    "omnisource",
    "pyslowfast_slowfast",
]
NORMED += [
    "pyslowfast_x3d",
    "r2plus1d",
    "slowfast",
    "slowonly",
    "slowonly_nl",
    "tanet",
    "tea",
    "tin",
]
NORMED += ["tpn", "tpn_tsm", "trn", "tsm", "tsm_mobilenet", "tsm_mobileone", "tsm_nl", "tsn"]
NORMED += ["tsn_densenet", "tsn_mobileone", "tsn_resnext", "uniformer", "vov3d", "x3d"]


@pytest.mark.slow("training")
@pytest.mark.parametrize("family", NORMED)
def test_clips_lead_whatever_enters_a_norm(family):
    """Two groups in one batch answer what each answers alone, in every family with BatchNorm."""
    model = zoo.create_model(f"{family}_test", CLASSES)
    rng = np.random.default_rng(0)
    video = np.repeat(batch(4)[0], 2 if "i3d" in family else 1, axis=1)  # I3D halves time thrice.
    shapes = jax.eval_shape(model.init, jax.random.key(0), video)
    variables = jax.tree.map(lambda leaf: rng.normal(1, 0.3, leaf.shape).astype("f"), shapes)

    def keep(call, args, kwargs, context):
        drops = isinstance(context.module, (nn.Dropout, DropPath))
        return args[0] if drops and context.method_name == "__call__" else call(*args, **kwargs)

    def run(video, groups):
        with parts.grouping_norms(groups), nn.intercept_methods(keep):
            (logits, _), updated = model.apply(
                variables, video, train=True, mutable=["batch_stats"], rngs=RNGS
            )
        return logits, updated["batch_stats"]

    logits, stats = jit(run, static_argnums=1)(video, 2)
    first, second = (jit(run, static_argnums=1)(video[i : i + 2], 1) for i in (0, 2))
    np.testing.assert_allclose(logits, np.concatenate([first[0], second[0]]), rtol=1e-3, atol=1e-3)
    for path, value in flat(stats).items():
        expected = (flat(first[1])[path] + flat(second[1])[path]) / 2
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4, err_msg=path)


def test_norms_that_use_running_statistics_are_trained_and_keep_these():
    states, _ = small(optax.sgd(0.5), norms=Norms(held=True))
    before, after = flat(states[0].variables), flat(states[-1].variables)
    for path in before:
        assert (before[path] != after[path]).any() == path.startswith("params/"), path


def precise(states, batches, config=None, frozen=frozenset()):
    model, _ = start()
    config = config or configs.from_row("tsm_test", runlocal=True)
    measure = make_precise_norms(model, handed.frozen(config), frozen)
    return measure(states, [{"video": video} for video in batches])


def test_precise_statistics_are_those_of_all_clips():
    config = configs.from_row("tsm_test", runlocal=True)
    config.train.update({"batch_size": 4, "norm_group": 2})
    rng = np.random.default_rng(5)
    # The brightness of batches differs, so that the mean of their variances is not the variance.
    batches = [rng.integers(60 * i, 60 * i + 80, (4, *CLIP)).astype(np.uint8) for i in range(3)]
    states, _ = small(optax.sgd(0.5), steps=1, averaged=True, ema_decay=0.5)
    state = precise(states[-1], batches, config)
    clips = normalizer(config.data, jnp.float32)(np.concatenate(batches)).mean((1, 2))
    for copy in (state.variables, state.ema):
        conv = copy["params"]["conv1"]
        x = np.asarray(clips @ conv["kernel"] + conv["bias"], np.float64)
        stats = copy["batch_stats"]["bn1"]
        np.testing.assert_allclose(stats["mean"], x.mean((0, 1)), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["var"], x.var((0, 1)), rtol=1e-4)
    # What they were before says nothing, what is beside them stays.
    other = states[-1].replace(batch_stats=jax.tree.map(lambda x: x + 7, states[-1].batch_stats))
    again = precise(other, batches, config)
    for path, value in flat(state.variables).items():
        np.testing.assert_array_equal(flat(again.variables)[path], value)
    for path, value in flat(states[-1].params).items():
        np.testing.assert_array_equal(flat(state.params)[path], value)
    # Each group of two is normalised by itself on the way.
    config.train.norm_group = 0
    whole = precise(states[-1], batches, config)
    assert not np.allclose(whole.batch_stats["bn2"]["mean"], state.batch_stats["bn2"]["mean"], 1e-3)


def test_a_frozen_norm_keeps_its_statistics_where_others_are_measured():
    model, variables = start()
    frozen = frozenset({"bn1/scale", "bn1/bias"})
    state = make_state(variables, optax.sgd(0.5), frozen)
    kept = flat(state.batch_stats)
    video = np.random.default_rng(0).integers(0, 256, (16, *CLIP), np.uint8)
    found = flat(precise(state, [video] * 3, frozen=frozen).batch_stats)
    assert {path for path in found if (found[path] != kept[path]).any()} == {"bn2/mean", "bn2/var"}


# ---- recomputation


@pytest.mark.parametrize(
    "name, settings",
    [("tsm_test", {}), ("slowonly_test", {"dropout": 0.0}), ("mvit_test", {})],
)
def test_recomputing_blocks_keeps_less(name, settings):
    model, variables, found = network(name, **settings)
    video, _ = batch(2)
    kept = []
    for recomputed in (frozenset(), parts.blocks(found.params)):

        def run(params, recomputed=recomputed):
            with parts.recomputing(recomputed):
                (logits, _), updated = model.apply(
                    {**variables, "params": params}, video, train=True, mutable=["batch_stats"]
                )
            return logits, updated

        # What a forward pass keeps for the backward one is what its `vjp` closes over.
        closed = jax.eval_shape(
            lambda params, run=run: jax.vjp(run, params, has_aux=True)[1], variables["params"]
        )
        kept.append(sum(leaf.size for leaf in jax.tree.leaves(closed)))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert kept[1] - count < 0.6 * (kept[0] - count)


@pytest.mark.parametrize(
    "name, settings",
    [("tsm_test", {}), ("mvit_test", {"depth": 1, "downscale": (), "drop_path": 0.4})],
)
def test_recomputing_blocks_changes_no_number(name, settings):
    model, variables, found = network(name, dropout=0.2, **settings)
    optimizer = optax.sgd(0.1, 0.9)
    one, other = (
        jit(step.make_update(model, optimizer, blocks=step.Blocks(recomputed, True)))(
            make_state(variables, optimizer), *batch(2), jax.random.key(1)
        )
        for recomputed in (frozenset(), parts.blocks(found.params))
    )
    np.testing.assert_allclose(one[1]["loss"], other[1]["loss"], rtol=1e-5)
    for field in ("params", "batch_stats"):
        expected, again = flat(getattr(one[0], field)), flat(getattr(other[0], field))
        for path, value in expected.items():
            np.testing.assert_allclose(again[path], value, rtol=1e-5, atol=1e-5, err_msg=path)


# ---- half precision


def test_steps_in_half_precision_lower_the_loss_of_float32_parameters():
    model, variables, _ = network("mvit_test", depth=1, downscale=(), dtype=jnp.bfloat16)
    optimizer = optax.adam(1e-2)
    update = jit(step.make_update(model, optimizer, prepare=lambda x: x.astype(jnp.bfloat16)))
    state, losses = make_state(variables, optimizer), []
    for _ in range(8):
        state, measured = update(state, *batch(5), jax.random.key(0))
        losses.append(float(measured["loss"]))
    assert losses[-1] < 0.5 * losses[0] and measured["loss"].dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.variables))
