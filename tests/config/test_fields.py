"""Every field of a config: what is refused, and in which words."""

import pathlib
import re

import ml_collections
import pytest

from jaxvid import config as configs
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields


def make_config():
    return configs.from_row("tsm_test")


def refusal(config) -> str:
    with pytest.raises(JaxvidError) as caught:
        fields.check(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_published_recipe_is_right():
    for name in zoo.list_models():
        fields.check(configs.from_row(name))
    fields.check(configs.from_row("tsm_r50_8f", runlocal=True))


def test_every_rule_is_of_a_field_and_nearly_every_field_has_one():
    known = fields.names(make_config())
    assert set(fields.RULES) <= set(known)
    free = {name for name in known if name not in fields.RULES}
    kinds = {name: type(dict(flat(make_config()))[name]) for name in free}
    numbers = {name for name, kind in kinds.items() if kind in (int, float)}
    assert numbers == set(), "give each of these its range in fields.RULES"


def flat(config, prefix=""):
    for name, value in config.items():
        if hasattr(value, "items"):
            yield from flat(value, f"{prefix}{name}.")
        yield prefix + name, value


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("optim.lr", -0.1, "config.optim.lr=-0.1 must be at least 0"),
        ("optim.lr", float("nan"), "config.optim.lr=nan must be a finite number"),
        ("optim.layer_decay", 1.5, "must be above 0 and at most 1"),
        ("optim.betas", (0.9,), "config.optim.betas=(0.9,) must be 2 numbers, at least 0 and bel"),
        ("optim.name", "lion", "config.optim.name='lion' must be 'sgd' or 'adamw'"),
        ("optim.lr_scales", ("head/*", 5.0), "must be a tuple of (pattern, number) pairs"),
        ("optim.freeze", (1,), "config.optim.freeze=(1,) must be a tuple of texts"),
        ("train.epochs", 0.0, "config.train.epochs=0.0 must be above 0"),
        ("train.ema_decay", 1.0, "config.train.ema_decay=1.0 must be at least 0 and below 1"),
        ("train.accumulate_steps", 0, "config.train.accumulate_steps=0 must be at least 1"),
        ("train.freeze_norm", "some", "must be '', 'all', 'partial' or 'statistics'"),
        ("train.log_steps", 0, "config.train.log_steps=0 must be at least 1"),
        ("train.stop_at_step", -1, "config.train.stop_at_step=-1 must be at least 0"),
        ("data.area", (0.5, 0.1), "config.data.area=(0.5, 0.1) must be 2 numbers, above 0, rising"),
        ("data.mirrored_labels", (1, 2), "must be a tuple of pairs of classes"),
        ("data.crop_mode", "middle", "config.data.crop_mode='middle' must be 'random_resized', "),
        ("data.sampling.sampler", "sparse", "config.data.sampling.sampler='sparse' must be 'fra"),
        ("test.sampling.clip_len", 0, "config.test.sampling.clip_len=0 must be at least 1"),
        (
            "test.crops",
            "five",
            "config.test.crops='five' must be 'whole', 'center', 'left', 'three'",
        ),
        ("test.weights", "best", "config.test.weights='best' must be 'ema' or 'last'"),
        ("model.dtype", "float16", "config.model.dtype='float16' must be 'float32' or 'bfloat16'"),
    ],
)
def test_values_that_make_no_sense_are_refused(field, value, words):
    config = make_config()
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    assert words in refusal(config)


@pytest.mark.parametrize(
    "field, value, kind",
    [
        ("optim.lr", "0.1", "a finite number"),
        ("optim.nesterov", 1, "True or False"),
        ("train.batch_size", 8.0, "a whole number"),
        ("train.batch_size", True, "a whole number"),
        ("data.dataset", 5, "text"),
        ("data.mean", 128.0, "a tuple"),
        ("data.sampling.target_fps", "fast", "a number or None"),
    ],
)
def test_values_of_another_type_are_refused(field, value, kind):
    config = make_config()
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    assert refusal(config) == f"config.{field}={value!r} must be {kind}"


@pytest.mark.parametrize(
    "field, words",
    [
        ("optim.lrr", "config.optim.lrr is unknown: did you mean config.optim.lr?"),
        ("train.lr", "config.train.lr is unknown: did you mean config.optim.lr?"),
        (
            "batch_size",
            "config.batch_size is unknown: did you mean config.test.batch_size or config.tr",
        ),
        ("optim.xyzzy", "config.optim.xyzzy is unknown: there are betas, clip_norm, cosine_epo"),
        ("qqqq", "config.qqqq is unknown: there are data, init, model, optim, seed, test, train"),
        ("qqqq.zzzz", "config.qqqq is unknown: there are data, init, model, optim, seed, test, tr"),
    ],
)
def test_unknown_fields_are_refused_with_the_nearest(field, words):
    config = make_config()
    *groups, last = field.split(".")
    inside = config
    for group in groups:
        if group not in inside:
            inside[group] = ml_collections.ConfigDict()
        inside = inside[group]
    inside[last] = 1.0
    assert refusal(config).startswith(words)


def test_missing_fields_are_refused():
    config = make_config()
    del config.optim.lr
    assert refusal(config).startswith("config.optim.lr is missing")
    assert refusal(ml_collections.ConfigDict()).startswith("config.model.name is missing")


def test_overrides_are_the_networks_own_affair():
    config = make_config()
    config.model.overrides = {"width": 8, "blocks": (1, 1, 1, 1)}
    fields.check(config)


def test_the_documents_name_fields_that_exist():
    root = pathlib.Path(__file__).parents[2]
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    named = re.findall(r"(?:`|config\.)((?:model|data|train|optim|test)\.[a-z_.]+)", text)
    others = (".build", ".bench", ".json", ".safetensors", "model.apply")
    files = {name for name in named if ".csv" in name or name.endswith(others)}
    known = fields.names(make_config())
    assert len(set(named) - files) > 15
    # Fields of a network are not the config's.
    named = [name for name in named if not name.startswith("model.overrides.")]
    assert [name for name in named if name not in known and name not in files] == []
