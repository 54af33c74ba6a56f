"""Config arguments, and every front door with every published row behind it."""

import fnmatch
import importlib.util
import math
import pathlib

import pytest

from jaxvid import config as configs
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.data import sampling
from jaxvid.rows import CROP_COUNTS, Sampling
from jaxvid.training import optim

DOORS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))
DEFAULTS = {"text": "abc", "count": 3, "rate": 0.5, "flag": False, "other": True}


def get_config(path, arg=None):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


# ---- arguments


@pytest.mark.parametrize(
    "arg, changed",
    [
        (None, {}),
        ("", {}),
        ("text=x=y", {"text": "x=y"}),
        ("text=", {"text": ""}),
        ("count=-4,rate=2", {"count": -4, "rate": 2.0}),
        ("flag", {"flag": True}),
        ("flag=True,other=no", {"flag": True, "other": False}),
        ("other=0,,flag=1,", {"other": False, "flag": True}),
        ("count=1,count=2", {"count": 2}),
    ],
)
def test_arguments_take_the_type_of_their_default(arg, changed):
    values = configs.parse_arg(arg, **DEFAULTS)
    assert values == DEFAULTS | changed
    assert {name: type(value) for name, value in values.items()} == {
        name: type(value) for name, value in DEFAULTS.items()
    }


@pytest.mark.parametrize(
    "arg, words",
    [
        ("cuont=3", "'cuont' is unknown: did you mean count?"),
        ("zzz=3", "'zzz' is unknown: it takes text, count, rate, flag, other"),
        ("count=3.5", "count='3.5' must be of type int"),
        ("rate=fast", "rate='fast' must be of type float"),
        ("flag=maybe", "flag='maybe' must be true or false"),
        ("count", "count needs a value: count=..."),
        ("text", "text needs a value: text=..."),
    ],
)
def test_wrong_arguments_are_named(arg, words):
    with pytest.raises(JaxvidError) as caught:
        configs.parse_arg(arg, **DEFAULTS)
    assert words in str(caught.value)


# ---- front doors


@pytest.mark.parametrize("arg", [None, "runlocal"])
@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.stem)
def test_every_front_door_opens(path, arg):
    config = get_config(path, arg)
    zoo.create_model(config.model.name, 7, **config.model.overrides)
    assert config.data.dataset == "toy"
    assert config.model.name.endswith("_test") == (arg == "runlocal")


@pytest.mark.parametrize("path", DOORS, ids=lambda path: path.stem)
def test_every_front_door_takes_the_common_arguments(path):
    config = get_config(path, "dataset=mine,data_dir=/records,init=/weights,classes=12")
    assert (config.data.dataset, config.data.data_dir) == ("mine", "/records")
    assert (config.init, config.model.num_classes) == ("/weights", 12)


def test_the_front_doors_are_what_they_are_called():
    names = {path.stem: get_config(path).model.name for path in DOORS}
    behind = {stem: zoo.starting_row(name).variant for stem, name in names.items()}
    expected = {
        "tsn_r50": "tsn_r50",
        "tsm_r50": "tsm_r50_8f",
        "slowonly_r50": "slowonly_r50_8f",
        "mvit_s": "mvitv2_s",
        "own_clips": "c3d_small",
    }
    assert {name: behind.get(name) for name in expected} == expected


def test_any_row_has_a_door():
    path = next(path for path in DOORS if path.stem == "zoo_row")
    assert get_config(path, "name=tsm_r50_1x1x16_sthv2").model.name == "tsm_r50_1x1x16_sthv2"
    assert get_config(path, "name=tsm_test").model.name == "tsm_test"
    with pytest.raises(JaxvidError, match="nearest are"):
        get_config(path, "name=tsm_r5O")


# ---- rows


def types_of(config, path=""):
    """The type of every field; an empty override dict and None have none."""
    types = {}
    for name, value in config.items():
        if hasattr(value, "items"):
            types |= types_of(value, f"{path}{name}.")
        elif value is not None:
            types[path + name] = type(value)
    return types


def test_fields_have_one_type_whatever_the_row():
    # ConfigDict refuses --config.optim.lr=0.5 where a row's literal happened to be an int.
    expected = types_of(configs.from_row("tsm_r50_8f"))
    for name in zoo.list_models():
        for field, kind in types_of(configs.from_row(name)).items():
            if not field.startswith("model.overrides."):
                assert kind is expected.get(field, kind), f"{name}: {field} is {kind}"


def test_a_config_is_what_was_published():
    row = zoo.get_row("slowonly_r50_8x8_k400_in1k")
    config = configs.from_row(row.name)
    assert Sampling(**config.data.sampling) == row.train
    assert Sampling(**config.test.sampling) == row.test.sampling
    assert config.train.batch_size == row.recipe.batch_size
    assert config.optim.lr == row.recipe.lr and config.optim.clip_norm == row.recipe.clip_norm
    assert tuple(config.optim.milestones) == row.recipe.milestones
    assert tuple(config.optim.no_decay) == ()


def test_a_config_augments_as_was_published():
    recipe = zoo.get_row("mvitv2_s_16x4_k400").recipe
    config = configs.from_row("mvitv2_s_16x4_k400")
    assert (config.data.rand_augment, config.data.random_erasing) == ("m7-n4", 0.25)
    assert (config.train.mixup, config.train.cutmix) == (0.8, 1.0)
    assert config.data.repeats == 2 and recipe.batch_size == 256
    assert config.train.batch_size == 512  # clips: the rate is for 256 videos
    mit = configs.from_row("tsn_r50_1x1x6_mit").data
    assert (tuple(mit.crop_scales), mit.crop_scale_gap, mit.fixed_crops) == ((1.0, 0.8), 0, 5)
    assert configs.from_row("tsm_r50_1x1x8_k400").data.fixed_crops == 13


def test_training_data_are_fed_as_was_published():
    fed = {name: configs.from_row(name).data for name in zoo.list_models()}

    def where(field, value):
        return {name for name, data in fed.items() if data[field] == value}

    black = where("rand_augment_fill", 0)
    assert black == {name for name in fed if name.startswith(("mvitv2_", "uniformerv2_"))}
    assert all(fed[name].rand_augment for name in black)
    something = {name for name in fed if name.startswith("mvitv2_") and "_sthv2" in name}
    assert len(something) == 4 and where("rand_augment_after_crop", True) == something
    assert where("repeats_share_frames", False) == {"mvitv2_s_maskfeat_16x4_k400"}
    assert where("hue_bytes", True) == {
        *("tpn_slowonly_r50_8x8_k400", "tpn_slowonly_r50_8x8_k400_in1k"),
        "tpn_tsm_r50_1x1x8_sthv1",
    }
    kinetics = {n for n in fed if "_k400" in n and n.startswith(("x3d", "pyslowfast_x3d", "vov3d"))}
    timesformer = {name for name in fed if name.startswith("timesformer_")}
    large = {f"pyslowfast_x3d_l_u16_sthv{i}" for i in (1, 2)}
    assert where("even_sides", True) == kinetics | timesformer | large
    sides = {
        (data.crop, *(round(data.crop / scale) for scale in sorted(data.crop_scales)))
        for data in (fed[name] for name in where("even_sides", True))
    }
    assert sides == {(224, 320, 256), (160, 228, 182), (312, 446, 356)}


def test_one_row_tests_the_left_crop():
    crops = {name: zoo.get_row(name).test.crops for name in zoo.list_models()}
    assert [name for name in crops if crops[name] == "left"] == ["slowfast_r50_16x8_sthv2"]
    assert configs.from_row("slowfast_r50_16x8_sthv2").test.crops == "left"


def test_views_are_those_that_the_sampler_makes():
    for name in zoo.list_models():
        for runlocal in (False, True):
            config = configs.from_row(name, runlocal=runlocal)
            how = Sampling(**config.test.sampling)
            clips = len(sampling.sample_views(how, 300, 30.0, test=True))
            assert configs.views(config) == clips * CROP_COUNTS[config.test.crops], name


def test_a_local_run_is_small_never_flips_and_ends_with_a_small_rate():
    for name in zoo.list_models():
        config = configs.from_row(name, runlocal=True)
        assert configs.views(config) == 1, name
        how = Sampling(**config.data.sampling)
        assert how.length <= 8, name
        assert (config.test.crop, config.data.crop, config.data.flip) == (64, 64, 0.0), name
        assert (config.data.rand_augment, config.data.repeats) == ("", 1), name
        assert config.train.mixup == config.train.cutmix == config.data.random_erasing == 0, name
        rate = optim.make_schedule(config.optim, 600, config.train.epochs)
        assert rate(599) < 1e-4 * config.optim.lr and not config.optim.lr_scales, name


@pytest.mark.parametrize("name", ["tin_r50_1x1x8_sthv1", "tanet_r50_1x1x8_sthv1"])
def test_rates_of_the_head_and_of_biases_but_not_those_of_norms(name):
    scales = configs.from_row(name).optim.lr_scales

    def rate(path):
        return math.prod(scale for pattern, scale in scales if fnmatch.fnmatch(path, pattern))

    assert rate("backbone/conv1/conv/kernel") == rate("backbone/layer1_0/conv1/bn/bias") == 1
    assert rate("backbone/layer1_0/tam/kernel_bn/bias") == 1
    assert rate("backbone/layer1_0/interlace/distances_fc1/bias") == 2
    assert rate("head/fc/kernel") == 5 and rate("head/fc/bias") == 10


def test_every_row_has_a_local_run():
    """Whose fields are of their types, though its family's tiny network may sample otherwise."""
    for name in zoo.list_models("*"):
        fields.freeze(configs.from_row(name, runlocal=True))


def test_sampling_by_time_takes_a_rate():
    config = configs.from_row("vov3d_l_u16_sthv1")
    config.data.sampling.sampler = "timed"
    with pytest.raises(JaxvidError, match="data.sampling.target_fps=None must be a number where"):
        fields.freeze(config)
