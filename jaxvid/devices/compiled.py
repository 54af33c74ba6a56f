"""Compiled programs, kept from one command to the next in JAX's persistent cache.

JAX finds a program by what it computes, for which devices, and by which version and flags. The
folder is one for each kind of processor besides: the machines of a cluster may share a home.
"""

import concurrent.futures
import contextlib
import hashlib
import importlib
import os
import pathlib
import platform
import re
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxvid.base import paths
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say

MOST = 4 << 30
"""Bytes that are kept; beyond that the programs go first that were not used for longest."""
_FRESH = 60.0
"""Seconds in which a program may still be written by another process."""
_ZSTD = b"\x28\xb5\x2f\xfd"


def keep(environment: Mapping[str, str] = os.environ) -> pathlib.Path | None:
    """Lets JAX keep what it compiles, and says in which folder; to be called before it compiles.

    `JAXVID_COMPILE_CACHE` is that folder, or `off`; by default it is `compiled` in the cache
    folder. One that JAX was given, as by `JAX_COMPILATION_CACHE_DIR`, stays, and is not tidied.
    Where the folder cannot be written nothing is kept, which is said.

    Raises:
      JaxvidError: `JAXVID_COMPILE_CACHE` is no path.
    """
    told: Any = jax.config  # Its options are no attributes that a type checker knows.
    if not told.jax_enable_compilation_cache:
        return None
    if told.jax_compilation_cache_dir:
        return pathlib.Path(told.jax_compilation_cache_dir)
    given = environment.get("JAXVID_COMPILE_CACHE", "")
    if given == "off":
        return None
    root = paths.local(given, "JAXVID_COMPILE_CACHE") if given else None
    try:
        folder = (root or paths.cache() / "compiled").absolute() / _processor()
        # Who may write there could have this process run what he likes.
        with paths.writing(folder, "JAXVID_COMPILE_CACHE"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            paths.writable(folder, "JAXVID_COMPILE_CACHE")
            if jax.process_index() == 0:
                _tidy(folder, time.time())
    except JaxvidError as error:
        say(f"compiled programs are not kept: {error}", error=True)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Whatever becomes of the folder later, programs can always be compiled.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    return folder


def ahead(lowered: jax.stages.Lowered) -> concurrent.futures.Future[jax.stages.Compiled]:
    """Begins to compile in a thread of its own, which Python's lock does not hold up."""
    threads = concurrent.futures.ThreadPoolExecutor(1)
    compiling = threads.submit(lowered.compile)
    threads.shutdown(wait=False)
    return compiling


@contextlib.contextmanager
def kept_in(folder: pathlib.Path) -> Iterator[None]:
    """Keeps all that is compiled inside in `folder`, and finds only that again."""
    told: Any = jax.config
    settings = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(told, name) for name in settings}
    try:
        for name, value in settings.items():
            told.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            told.update(name, value)
        compilation_cache.reset_cache()


def _processor() -> str:
    """A name for what programs for this processor can rely on."""
    known = platform.processor()
    with contextlib.suppress(OSError):  # Only Linux has it.
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        known = "".join(re.findall(r"^(?:flags|Features)\s*:.*$", text, re.MULTILINE)[:1])
    return f"{platform.machine()}-{hashlib.sha256(known.encode()).hexdigest()[:8]}"


def _tidy(folder: pathlib.Path, now: float) -> None:
    """Removes programs that a killed process left cut short, and the oldest where all are too many.

    JAX would meet the former again and again, and never replace them. They are looked for among
    those that came since the last time, of which the file `checked` keeps the date.
    """
    stamp = folder / "checked"
    try:
        last = stamp.stat().st_mtime
    except FileNotFoundError:
        last = 0.0
    found = []
    for file, about in _entries(folder):
        if last <= about.st_mtime < now - _FRESH:
            whole = _is_whole(file.read_bytes())
            # To be looked at is not to be used.
            os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
            if not whole:
                file.unlink()
                continue
        found.append((max(about.st_atime, about.st_mtime), about.st_size, file))
    size = sum(size for _, size, _ in found)
    for _, each, file in sorted(found):
        if size <= MOST:
            break
        file.unlink(missing_ok=True)
        size -= each
    stamp.touch()
    os.utime(stamp, (now, now - _FRESH))


def _entries(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, os.stat_result]]:
    for file in folder.glob("*-cache"):
        try:
            yield file, file.stat()
        except FileNotFoundError:  # Another process tidies too.
            continue


def _is_whole(data: bytes) -> bool:
    """Whether a compressed program can be read to its end."""
    try:
        if data.startswith(_ZSTD):
            importlib.import_module("compression.zstd").decompress(data)
        else:
            zlib.decompress(data)
    except ImportError:  # JAX has read it by another library, which this does not know.
        return True
    except Exception:
        return False
    return True
