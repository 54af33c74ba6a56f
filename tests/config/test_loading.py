"""Where a config file is looked for, and what is said of one that gives no config."""

import pathlib

import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.config import loading


def test_the_librarys_own_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = loading.load("configs/tsm_r50.py:runlocal,classes=7")
    assert (config.model.name, config.model.num_classes) == ("tsm_test", 7)
    own = tmp_path / "configs" / "tsm_r50.py"
    own.parent.mkdir()
    own.write_text(own_config("tea_test"))
    assert loading.load("configs/tsm_r50.py").model.name == "tea_test"


def test_an_installed_package_brings_them(tmp_path, monkeypatch):
    (tmp_path / "here.py").write_text(own_config("tsm_test"))
    monkeypatch.setattr(loading, "_SHIPPED", (tmp_path / "nothing", tmp_path))
    assert loading.find("configs/here.py:a,b=c") == (tmp_path / "here.py", "a,b=c")


@pytest.mark.parametrize(
    "name", ["configs/tsm_50.py", "tsm_r50.py", "configs", "s3://b/c.py", "README.md"]
)
def test_what_is_no_config_file_is_said(name, tmp_path, monkeypatch):
    monkeypatch.chdir(pathlib.Path(__file__).parents[2])
    with pytest.raises(JaxvidError, match="--config=") as error:
        loading.load(name)
    assert "\n" not in str(error.value)
    if "//" not in name:
        assert "library's, configs/dualformer_tokens.py, configs/hiera_pretrain.py, " in str(
            error.value
        )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1\n", "has no function get_config: write one"),
        ("def get_config(arg=None):\n    return {}\n", "gives a dict: let it return a ConfigDict"),
        ("def get_config(:\n", "fails at its line 1 with SyntaxError (invalid syntax)"),
        ("\ndef get_config():\n    return {}[3]\n", "fails at its line 3 with KeyError (3)"),
        ("import nowhere\n", "fails at its line 1 with ModuleNotFoundError (No module named"),
        ("raise ValueError\n", "fails at its line 1 with ValueError (no reason given)"),
    ],
)
def test_a_config_that_fails_names_its_line(content, words, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(content)
    with pytest.raises(JaxvidError) as error:
        loading.load(str(file))
    assert str(error.value).startswith(
        f"--config={file} {words}"
    ) or f" of --config={file} {words}" in str(error.value)


def own_config(variant):
    return f"""
from jaxvid import config
def get_config(arg=None):
    return config.from_row({variant!r})
"""
