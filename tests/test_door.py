"""No path of a command, a config or a public function goes round the one door."""

import argparse
import ast
import importlib
import inspect
import pathlib

import numpy as np
import pytest

from jaxvid import config, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields

ROOT = pathlib.Path(__file__).parent.parent
GIVEN = "az://bucket/x"
SAID = "is not a local folder or file: mount the bucket and give its path"

# Each command: the arguments that are texts and no paths, a line of arguments that is complete, and
# the paths, each with what has to be beside it where it is not on that line.
HERE = str(ROOT)
COMMANDS = {
    "jaxvid.predict": (
        {"model", "features"},
        {"checkpoint": HERE, "video": __file__},
        {"checkpoint": "", "video": "", "picture": "", "out": "", "explain": ""},
    ),
    "jaxvid.export": (
        {"model", "batch", "preprocess", "platforms"},
        {"checkpoint": HERE, "out": "new"},
        {"checkpoint": "", "out": ""},
    ),
    "jaxvid.fuse": (set(), {"files": __file__, "out": "new"}, {"files": "FILE", "out": ""}),
    "jaxvid.zoo.page": (set(), {"out": "new"}, {"out": ""}),
    "jaxvid.zoo": ({"command"}, {}, {}),
    "jaxvid.data.build": (
        {"split", "runner"},
        {"videos": HERE, "labels": __file__, "out": "new"},
        {"videos": "", "labels": "", "out": "", "classes": ""},
    ),
    "jaxvid.data.prepare": (
        {"name", "splits", "category"},
        {"name": "kinetics400", "source": HERE, "out": "new"},
        dict.fromkeys(("source", "out", "annotations", "train", "val", "test", "classes"), ""),
    ),
    "jaxvid.data.verify": (
        {"split"},
        {"records": HERE, "videos": HERE, "labels": __file__},
        {"records": "", "videos": "", "labels": ""},
    ),
    # The one path before a colon, which is looked for in more than one place.
    "jaxvid.data.bench": ({"config"}, {}, {}),
    "converters": (
        {"model", "mirror", "classes_to", "classes_from"},
        {"checkpoint": __file__, "out": "new", "model": "tsm_test"},
        {"checkpoint": "", "head": "", "out": "", "classes": "", "all": ""},
    ),
}
PATHS = [(module, name) for module, (_, _, paths) in COMMANDS.items() for name in paths]


def run(module, words=()):
    package = hasattr(importlib.import_module(module), "__path__")
    importlib.import_module(f"{module}.__main__" if package else module).main(list(words))


@pytest.mark.parametrize("module", COMMANDS)
def test_every_argument_is_known_to_be_a_path_or_none(module, monkeypatch):
    class Seen(Exception):
        pass

    def parse(parser, args=None, namespace=None):
        raise Seen(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
    with pytest.raises(Seen) as seen:
        run(module)
    texts, _, paths = COMMANDS[module]
    given = {
        action.dest
        for action in seen.value.args[0]._actions
        if action.nargs != 0 and not action.choices and action.type is None
    }
    assert given - {"command"} == (texts | paths.keys()) - {"command"}


@pytest.mark.parametrize(("module", "name"), PATHS)
def test_every_path_of_a_command_enters_through_the_door(
    module, name, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    _, line, paths = COMMANDS[module]
    line = {**line, name: GIVEN}
    if name == "all":
        del line["checkpoint"]
    words = [
        value if argument in ("files", "name") else f"--{argument}={value}"
        for argument, value in line.items()
    ]
    with pytest.raises((JaxvidError, SystemExit)) as caught:
        run(module, words)
    said = str(caught.value) + capsys.readouterr().err
    assert f"{paths[name] or f'--{name}'}={GIVEN} {SAID}" in said
    assert list(tmp_path.iterdir()) == []


def test_no_parser_makes_paths_itself():
    """argparse's `type=Path` bends `az://` to `az:/`, and nobody expands `~` behind it."""
    for path in [*ROOT.glob("jaxvid/**/*.py"), *ROOT.glob("converters/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                of = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert not of.get("type", "").endswith("Path"), f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute) and path.name != "paths.py":
                said = f"{path}:{node.lineno}: {node.attr} belongs into paths.py"
                assert node.attr not in ("expanduser", "home"), said


# Texts in a config that are no paths; `data.train_split` may name one, which is tried below.
TEXTS = {
    *(
        "model.name",
        "model.dtype",
        "data.dataset",
        "data.flow",
        "data.train_split",
        "data.test_split",
    ),
    *(
        "data.category",
        "data.images",
        "data.crop_mode",
        "data.rand_augment",
        "data.channel_order",
        "data.sampling.sampler",
    ),
    *("data.sampling.out_of_bound", "train.loss", "train.freeze_norm", "train.sharding"),
    *("model.matmul_precision", "train.mesh", "train.reduce_dtype", "train.class_weights"),
    *("optim.name", "optim.schedule", "optim.schedule_every", "optim.cosine_from"),
    *("optim.warmup", "optim.warmup_every"),
    *("test.sampling.sampler", "test.sampling.out_of_bound"),
    *("test.crops", "test.average", "test.weights"),
}


def test_every_text_of_a_config_is_known_to_be_a_path_or_none():
    flat = fields.flat(config.from_row("tsm_r50_8f"))
    texts = {name for name, value in flat.items() if isinstance(value, str)}
    assert texts == (TEXTS & texts) | set(fields.PATHS)


WORK = {"train": "jaxvid.training.loop", "evaluate": "jaxvid.inference.evaluate"}


@pytest.mark.parametrize("field", fields.PATHS)
@pytest.mark.parametrize("mode", WORK)
def test_every_path_of_a_config_enters_through_the_door(field, mode, tmp_path):
    c = config.from_row("tsm_r50_8f", runlocal=True)
    with c.unlocked():
        c.update_from_flattened_dict({field: GIVEN})
    work = getattr(importlib.import_module(WORK[mode]), mode)
    with pytest.raises(JaxvidError, match=f"config.{field}={GIVEN} {SAID}"):
        work(c, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", WORK)
def test_the_workdir_enters_through_the_door(mode, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    work = getattr(importlib.import_module(WORK[mode]), mode)
    with pytest.raises(JaxvidError, match=f"--workdir={GIVEN} {SAID}"):
        work(config.from_row("tsm_r50_8f", runlocal=True), GIVEN)
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_is_not_there_is_said_before_the_data_is_opened(tmp_path, monkeypatch):
    from jaxvid.data import datasets
    from jaxvid.training import loop as training

    def never(*args, **kwargs):
        raise AssertionError("the data was opened first")

    monkeypatch.setattr(datasets, "open_split", never)
    for given in ({"init": str(tmp_path / "no")}, {"train.teacher": str(tmp_path / "no")}):
        c = config.from_row("dualformer_t_32x2_k400" if "init" not in given else "tsm_r50_8f")
        c.update_from_flattened_dict(given)
        with pytest.raises(JaxvidError, match="/no holds no finished checkpoint"):
            training.train(c, tmp_path / "run")


PUBLIC = {
    "jaxvid.checkpoint": {
        "load": (GIVEN,),
        "load_meta": (GIVEN,),
        "find": (GIVEN,),
        "save": (GIVEN, {}, {}),
        "check_free": (GIVEN, "--out"),
        "Checkpoints": (GIVEN,),
    },
    "converters": {"convert": ("tsm_test", GIVEN), "inflate": ("tsm_r50_8f", GIVEN)},
    "converters.files": {"read": (GIVEN,)},
    "converters.torch_write": {"write": (GIVEN, {"a": np.zeros(1)}, {})},
    "jaxvid.predict": {"Predictor": (GIVEN,), "find_videos": (GIVEN,)},
    "jaxvid.export": {"export": (GIVEN, "new")},
    "jaxvid.fuse": {"read": (GIVEN,)},
    "jaxvid.data.build": {"build": (GIVEN, __file__, "new")},
    "jaxvid.data.prepare": {"prepare": ("kinetics400", GIVEN, "new")},
    "jaxvid.data.records": {"Records": (GIVEN, "train")},
    "jaxvid.data.toy": {"make": (GIVEN,), "ensure": (GIVEN,)},
    "jaxvid.data.imports": {"import_split": ("tfds:x", "train", GIVEN)},
}


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module in PUBLIC for name in PUBLIC[module]]
)
def test_every_path_of_a_public_function_enters_through_the_door(
    module, name, bent, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    arguments = [
        pathlib.Path(value) if bent and value == GIVEN else value for value in PUBLIC[module][name]
    ]
    with pytest.raises(JaxvidError, match=SAID):
        getattr(importlib.import_module(module), name)(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_public_functions_with_a_path_are_all_there():
    """What the package offers and takes a path is in the table above."""
    known = {name for names in PUBLIC.values() for name in names}
    for function in (zoo.create_model, zoo.get_row, zoo.list_models):
        assert "path" not in inspect.signature(function).parameters
    import jaxvid

    assert set(jaxvid.__all__) - {"load_checkpoint"} == {"create_model", "get_row", "list_models"}
    assert {"load", "Predictor", "convert", "inflate"} <= known
