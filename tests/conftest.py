"""Shared by all tests: options, and a compilation cache that lasts one run."""

import os
import pathlib

import pytest

from tests import costs, forgetting, slow

HERE = pathlib.Path(__file__).parent
# The longest files, as `--costs` says, begin, so that no worker is left alone with one in the end.
LONGEST = ("test_guides_of_clips.py", "test_guides.py", "test_families.py", "test_spread.py")


def pytest_addoption(parser):
    parser.addoption(
        "--golden",
        default=str(HERE / "golden"),
        help="folder of golden files to test against (default: the small ones in tests/golden)",
    )
    parser.addoption(
        "--costs",
        action="store_true",
        help="say in the end what time and memory each file of tests took",
    )
    parser.addoption("--parts", action="store_true", help="name the parts of the slow tests")
    parser.addoption("--part", choices=list(slow.PARTS), help="run this part of the slow tests")
    parser.addoption(
        "--record",
        action="store_true",
        help="write in docs/slow.md when the part that ran did so, and how it ended",
    )


def pytest_configure(config):
    # Commands that tests run keep nothing in the user's folder.
    os.environ["JAXVID_COMPILE_CACHE"] = "off"
    config.option.loadscopereorder = False  # pytest-xdist's, which begins with the most tests
    config.pluginmanager.register(slow.Slow(config), "slow parts")
    config.pluginmanager.register(forgetting.Forgetting(), "forgetting")
    if config.getoption("--costs"):
        config.pluginmanager.register(costs.Costs(), "costs")


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_cmdline_main(config):
    if config.getoption("--parts"):
        slow.tell()
        return pytest.ExitCode.OK
    return None


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Keeps compiled programs for the length of the run: many tests build the same ones."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="module", autouse=True)
def quick_compiler(request):
    """Compiles with few optimizations: most of the time that tests take is compiling.

    A module that is marked `users_compiler` asks what users' programs answer or take.
    """
    from tests import compiling

    if request.node.get_closest_marker("users_compiler"):
        yield
    else:
        with compiling.quickly():
            yield
