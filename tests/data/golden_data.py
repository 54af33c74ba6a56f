"""Checks of sampling and test preprocessing against files of reference answers."""

import dataclasses
import json

import numpy as np

from jaxvid.data import augment, sampling
from jaxvid.rows import Protocol, Sampling

SAMPLERS = {
    "SampleFrames": "frames",
    "DenseSampleFrames": "dense",
    "UniformSample": "uniform",
    "UntrimmedSampleFrames": "untrimmed",
}
RENAMED = {"out_of_bound_opt": "out_of_bound"}
SIGMAS = 5.0
"""How far mean and spread of random frame numbers may lie apart, in standard errors."""


def settings_of(entry):
    """Turns the reference's settings into ours; one that has no field here is an error."""
    settings = {RENAMED.get(key, key): value for key, value in entry["settings"].items()}
    settings["sampler"] = SAMPLERS[settings["sampler"]]
    test = settings.pop("mode") == "test"
    unknown = settings.keys() - {field.name for field in dataclasses.fields(Sampling)}
    assert not unknown, f"settings without a field in Sampling: {sorted(unknown)}"
    return Sampling(**settings), test


def check_sampling(path):
    """Compares every sampler and mode in `path` with ours; returns how many entries there were.

    Test modes agree exactly. Training modes agree in range exactly and in mean and spread within
    `SIGMAS` standard errors of the two samples (plus the file's rounding).
    """
    with open(path) as file:
        entries = json.load(file)
    assert entries, f"{path} holds no entries"
    for number, entry in enumerate(entries):
        settings, test = settings_of(entry)
        total, fps = entry["total_frames"], entry["fps"]
        where = f"{path}, entry {number}: {entry['settings']}, {total} frames, fps {fps}"
        if test:
            ours = sampling.sample(settings, total, fps, test=True)
            assert ours.shape[1] == settings.clip_len, where
            np.testing.assert_array_equal(ours.reshape(-1), entry["frame_inds"], where)
        else:
            _check_draws(settings, total, fps, entry, where)
    return len(entries)


def _check_draws(settings, total, fps, entry, where):
    rng = np.random.default_rng(0)
    count = entry["draws"]
    draws = np.stack(
        [
            sampling.sample(settings, total, fps, test=False, rng=rng).reshape(-1)
            for _ in range(count)
        ]
    )
    np.testing.assert_array_equal(draws.min(0), entry["min"], f"{where}: lowest")
    np.testing.assert_array_equal(draws.max(0), entry["max"], f"{where}: highest")
    mean, std = draws.mean(0), draws.std(0)
    errors = np.sqrt(2 / count) * std
    _check_within(mean, entry["mean"], SIGMAS * errors, f"{where}: mean")
    fourth = ((draws - mean) ** 4).mean(0) / np.maximum(std, 1e-9) ** 4
    errors = np.sqrt(np.maximum(fourth - 1, 0) / 4 * 2 / count) * std
    _check_within(std, entry["std"], SIGMAS * errors, f"{where}: spread")


def _check_within(ours, theirs, bound, where):
    difference = np.abs(ours - np.asarray(theirs))
    rounding = 1e-3
    assert (difference <= bound + rounding).all(), (
        f"{where}: {difference.max():.4g} apart where at most {bound.max():.4g} is chance"
    )


CROPS = {"CenterCrop": "center", "ThreeCrop": "three", "TenCrop": "ten"}


def check_preprocess(path):
    """Compares resizing and test crops in `path` with ours; returns how many there were.

    Fixed-point and float arithmetic round differently, so one grey level is allowed.
    """
    count = 0
    with np.load(path) as golden:
        for key in golden.files:
            name, _, rest = key.partition("/")
            if rest == "frames":
                continue
            frames, want = golden[f"{name}/frames"], golden[key]
            short, _, what = rest.partition("/")
            side = int(short.removeprefix("short"))
            if what == "resized":
                ours = augment.resize_short_side(frames, side).numpy()
            else:
                protocol = Protocol(Sampling(), side, CROPS[what], want.shape[1])
                clip = np.arange(len(frames))[None]
                ours = augment.make_views(frames, clip, protocol).numpy()
                ours = ours.reshape(-1, *ours.shape[2:])
            assert ours.shape == want.shape, f"{path}, {key}: {ours.shape} is not {want.shape}"
            apart = np.abs(ours.astype(int) - want.astype(int)).max()
            assert apart <= 1, f"{path}, {key}: {apart} grey levels apart, at most 1 is rounding"
            count += 1
    assert count, f"{path} holds no answers"
    return count
