"""The rate of rows at every step beside the formulas of their references, written out in numpy."""

import fnmatch

import jax
import numpy as np
import pytest

from jaxvid import config, zoo
from jaxvid.training import optim

STEPS = 24  # of an epoch


def mmaction(step, peak, epochs, warmup):
    """Half a cosine that falls once an epoch, times a warm-up that rises at each step."""
    falling = (1 + np.cos(np.pi * (step // STEPS) / epochs)) / 2
    return peak * falling * np.minimum(0.1 + 0.9 * step / (warmup * STEPS), 1)


def pyslowfast(step, peak, epochs, warmup, first=0.01):
    """Half a cosine of the fraction of the run, and first a line to where it then is."""

    def falling(epoch):
        return peak * (1 + np.cos(np.pi * epoch / epochs)) / 2

    epoch = step / STEPS
    line = first + (falling(warmup) - first) * epoch / warmup
    return np.where(epoch < warmup, line, falling(epoch))


# Peak of the trunk's rate, epochs, and epochs of warm-up, as the configs have them.
PUBLISHED = {
    "slowfast_r50_4x16_k400": (mmaction, 0.1, 256, 34),
    "slowfast_r50_8x8_k400": (mmaction, 0.1, 256, 34),
    "slowfast_r101_8x8_k400": (mmaction, 0.1, 256, 34),
    "slowfast_r101_r50_4x16_k400": (mmaction, 0.4, 256, 34),
    "csn_ip_r152_32x2_k400": (mmaction, 0.08, 180, 40),
    "csn_ir_r152_32x2_k400": (mmaction, 0.08, 180, 40),
    "swin_?_32x2_k400": (mmaction, 1e-4, 30, 2.5),
    "swin_l_32x2_k700": (mmaction, 2e-4, 30, 2.5),
    "swin_s_32x2_k710": (mmaction, 2e-4, 30, 2.5),
    "dualformer_t_32x2_k400": (mmaction, 1e-4, 30, 3),
    "dualformer_[sb]_32x2_k400": (mmaction, 1e-4, 30, 2.5),
    "dualformer_b_32x2_k600": (mmaction, 5e-5, 30, 2.5),
    "dualformer_s_32x4_diving48": (mmaction, 1e-4, 30, 1),
    "dualformer_s_32x4_hmdb51": (mmaction, 1e-4, 16, 1),
    "dualformer_s_32x4_ucf101": (mmaction, 1e-4, 16, 1),
    "x3d_[sm]_*_k400": (pyslowfast, 0.1, 300, 35),
    "pyslowfast_x3d_m_16x5_k400": (pyslowfast, 0.1, 300, 35),
    "pyslowfast_x3d_m_16x5_k400_256e": (pyslowfast, 0.1, 256, 35),
    "pyslowfast_x3d_l_16x5_k400": (pyslowfast, 0.05, 256, 35),
    "pyslowfast_x3d_?_u16_sthv?": (pyslowfast, 0.1, 100, 1),
    "vov3d_?_16x5_k400": (pyslowfast, 0.1, 256, 35),
    "vov3d_?_u??_sthv?": (pyslowfast, 0.1, 100, 1),
}


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_the_rate_is_that_of_the_reference(pattern):
    formula, peak, epochs, warmup = PUBLISHED[pattern]
    names = fnmatch.filter(zoo.list_models(), pattern)
    assert names
    steps = np.arange(epochs * STEPS)
    expected = formula(steps, peak, epochs, warmup)
    for name in names:
        c = config.from_row(name)
        assert c.train.epochs == epochs, name
        schedule = optim.make_schedule(c.optim, len(steps), c.train.epochs)
        rates = jax.jit(jax.vmap(schedule))(steps)
        np.testing.assert_allclose(rates, expected, rtol=1e-5, err_msg=name)


def test_batches_and_rates_are_those_of_a_step():
    found = {
        name: (zoo.get_row(name).recipe.batch_size, zoo.get_row(name).recipe.lr)
        for name in zoo.list_models("dualformer*") + ["tsm_mobileone_s4_1x1x16_k400"]
    }
    assert found == {
        "dualformer_t_32x2_k400": (64, 1e-4),
        "dualformer_s_32x2_k400": (128, 1e-4),
        "dualformer_b_32x2_k400": (128, 1e-4),
        "dualformer_b_32x2_k600": (128, 5e-5),
        "dualformer_s_32x4_diving48": (64, 1e-4),
        "dualformer_s_32x4_hmdb51": (512, 1e-4),
        "dualformer_s_32x4_ucf101": (512, 1e-4),
        "tsm_mobileone_s4_1x1x16_k400": (64, 0.01),
    }


@pytest.mark.parametrize(
    "name, group",
    [
        ("tsm_r50_1x1x8_k400", 16),
        ("slowonly_r50_8x8_k710", 8),
        ("slowfast_r101_r50_4x16_k400", 8),
        ("dualformer_s_32x4_hmdb51", 16),
        ("slowfast_r50_16x8_sthv2", 8),
        ("vov3d_m_u32_sthv1_tuned", 32),
        ("r2plus1d_r34_8x8_k400", 0),
        ("tsn_swin_b_1x1x3_k400", 0),
    ],
)
def test_clips_that_share_statistics_are_those_of_a_gpu(name, group):
    assert config.from_row(name).train.norm_group == group
    assert config.from_row(name, runlocal=True).train.norm_group == 0


def test_a_warm_up_by_epochs_has_the_whole_rate_in_its_last():
    c = config.from_row("tsm_r50_1x1x8_k400")
    schedule = optim.make_schedule(c.optim, 50 * STEPS, 50.0)
    rates = [float(schedule(epoch * STEPS + STEPS // 2)) for epoch in range(6)]
    np.testing.assert_allclose(rates, 0.02 * np.array([0.1, 0.325, 0.55, 0.775, 1, 1]), rtol=1e-6)
