"""Tests compile quickly, but where they ask for users' programs, and leave little behind."""

import functools
import types

import jax
import pytest
from jax._src import compiler

from tests import compiling, forgetting


@pytest.fixture
def given(monkeypatch):
    """The options that every program is compiled with."""
    seen = []
    original = compiler.get_compile_options

    def note(*args, **kwargs):
        options = original(*args, **kwargs)
        seen.append(dict(options.env_option_overrides))
        return options

    monkeypatch.setattr(compiler, "get_compile_options", note)
    return seen


def test_every_program_is_compiled_quickly(given):
    options = compiling.quick_options()
    assert options
    given.clear()
    assert jax.jit(lambda x: x * 3 + 1)(2.0) == 7
    assert given and all(each.keys() >= options.keys() for each in given)


def test_what_a_program_asks_for_itself_comes_first(given):
    name, value = "xla_backend_optimization_level", 2
    jax.jit(lambda x: x * 3 + 2, compiler_options={name: value})(2.0)
    assert given[-1][name] == value


def test_the_caches_of_a_modules_own_functions_are_emptied():
    module = types.ModuleType("tests.made_up")

    def keep(x):
        return x

    keep.__module__ = module.__name__
    module.own = functools.cache(keep)
    module.others = functools.cache(lambda x: x)
    for function in (module.own, module.others):
        function(1)
    forgetting.forget_results(module)
    forgetting.forget_results(None)
    assert module.own.cache_info().currsize == 0
    assert module.others.cache_info().currsize == 1
