"""Compiled programs that commands keep: where, for how long, and what becomes of broken ones."""

import os
import subprocess
import sys
import time
import zlib

import jax
import pytest

from jaxvid.base.errors import JaxvidError
from jaxvid.devices import compiled

COMPILES = """
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
from jaxvid.devices import compiled
print(compiled.keep())
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: x * 2)(1.0)
print(events.count("/jax/compilation_cache/cache_hits"))
"""


def compiles(cache, **environment):
    """What a process says that compiles: the folder, and how many programs it found there."""
    environ = {name: value for name, value in os.environ.items() if "COMPILE_CACHE" not in name}
    environ |= {"XDG_CACHE_HOME": str(cache)} | environment
    done = subprocess.run(
        [sys.executable, "-c", COMPILES], env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    folder, hits = done.stdout.split()
    return folder, int(hits), done.stderr


@pytest.fixture
def unset(monkeypatch):
    """JAX without a folder, as commands find it."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_a_program_is_compiled_once_for_all_processes(tmp_path):
    folder, hits, said = compiles(tmp_path)
    assert folder.startswith(f"{tmp_path}/jaxvid/compiled/") and hits == 0 and not said
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert compiles(tmp_path) == (folder, 1, "")
    # One cut short is compiled again, and kept when it is whole.
    [file] = [name for name in os.listdir(folder) if name.endswith("-cache")]
    file = os.path.join(folder, file)
    with open(file, "r+b") as program:
        program.truncate(100)
    now = time.time()  # A process was killed 61 seconds ago, after the last look.
    os.utime(file, (now - 61,) * 2)
    os.utime(os.path.join(folder, "checked"), (now - 99,) * 2)
    assert compiles(tmp_path)[1:] == (0, "")
    assert compiles(tmp_path)[1:] == (1, "")


def test_a_folder_that_breaks_while_a_program_runs_is_no_matter(tmp_path):
    folder, _, _ = compiles(tmp_path)
    for name in os.listdir(folder):
        if name.endswith("-cache"):  # Too young to be looked at: another process may write it.
            os.truncate(os.path.join(folder, name), 100)
    assert compiles(tmp_path)[1:] == (0, "")


def test_the_folder_may_be_another_or_none(tmp_path, unset):
    folder = compiled.keep({"JAXVID_COMPILE_CACHE": str(tmp_path / "mine")})
    assert folder.parent == tmp_path / "mine" and folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    # What JAX was told is left as it is.
    assert compiled.keep({"JAXVID_COMPILE_CACHE": "off"}) == folder
    jax.config.update("jax_compilation_cache_dir", None)
    assert compiled.keep({"JAXVID_COMPILE_CACHE": "off"}) is None
    assert jax.config.jax_compilation_cache_dir is None
    with pytest.raises(JaxvidError, match="JAXVID_COMPILE_CACHE=gs://b/c is not a local folder"):
        compiled.keep({"JAXVID_COMPILE_CACHE": "gs://b/c"})


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path, unset, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    assert compiled.keep({"JAXVID_COMPILE_CACHE": str(tmp_path / "file")}) is None
    said = capsys.readouterr().err
    assert said.startswith("compiled programs are not kept: cannot write JAXVID_COMPILE_CACHE=")
    assert said.count("\n") == 1
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    assert compiled.keep({}) is None
    assert "not kept: there is no home folder to keep a cache in" in capsys.readouterr().err
    assert jax.config.jax_compilation_cache_dir is None


def test_the_oldest_go_where_all_are_too_many_and_broken_ones(tmp_path, monkeypatch):
    now = time.time()
    sizes = []
    for age in range(4):
        file = tmp_path / f"program{age}-cache"
        file.write_bytes(zlib.compress(os.urandom(1000)))
        os.utime(file, (now - 1000 * age - 100,) * 2)
        sizes.append(file.stat().st_size)
    (tmp_path / "other").write_bytes(bytes(5000))
    broken = tmp_path / "broken-cache"
    broken.write_bytes(zlib.compress(os.urandom(1000))[:500])
    os.utime(broken, (now - 100,) * 2)
    compiled._tidy(tmp_path, now)
    assert not broken.exists() and len(list(tmp_path.iterdir())) == 6
    # Of those that were looked at, only the size counts.
    (tmp_path / "program1-cache").write_bytes(b"cut")
    os.utime(tmp_path / "program1-cache", (now - 1100,) * 2)
    monkeypatch.setattr(compiled, "MOST", sizes[0] + 3 + 1)
    compiled._tidy(tmp_path, now)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"program0-cache", "program1-cache", "other", "checked"}
