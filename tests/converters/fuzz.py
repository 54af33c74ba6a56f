"""Mutated and hostile checkpoint files of every format, under watch.

`python -m tests.converters.fuzz 2000` makes and reads that many. Each must give tensors or one
sentence of the program's own, run nothing, and stay within limits of time and memory; the first
that does not is kept and named, and the exit code is 1.
"""

import argparse
import codecs
import contextlib
import io
import os
import pickle
import pickletools
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flax import traverse_util

from converters import checkpoints, files, networks, torch_write
from converters.names import NameMap
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from tests.converters.pth import Call, File, Named, dump, safetensors

NETWORK = "tsm_test"
SECONDS = 20
MEMORY = 1 << 30
# All that reading needs of the interpreter and the system; any other event is a violation.
HARMLESS = {"open", "mmap.__new__"}
CALLS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "exec"),
    ("builtins", "eval"),
    ("builtins", "__import__"),
    ("builtins", "getattr"),
    ("__builtin__", "apply"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
    ("numpy.testing._private.utils", "runstring"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.optim.lr_scheduler", "LambdaLR"),
    ("mmengine.config.config", "Config"),
    ("converters.files", "read"),
    ("jaxvid.checkpoint", "_remove"),
    ("pickle", "loads"),
    ("runpy", "run_path"),
]
Target = tuple[bytes, Callable[[bytes], bytes]]


class _Late(BaseException):
    """Reading took too long."""


class _Watch:
    """Notes what the interpreter is asked to do while a file is read."""

    def __init__(self):
        self.path = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event, arguments):
        if self.path is None:
            return
        # What was opened by its path is opened once more by its number, to be a Python file.
        reading = event != "open" or (
            (isinstance(arguments[0], int) or str(arguments[0]) == str(self.path))
            and arguments[1] in ("rb", "r", None)
            and not arguments[2] & os.O_ACCMODE
        )
        if event not in HARMLESS or not reading:
            self.seen.append(f"{event} {arguments!r:.200}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="jaxvid-fuzz-"))
    draw = random.Random(args.seed)
    targets = _targets(folder)
    # A mutant is the same whatever the folder is called, so a relative name.
    os.chdir(folder)
    witness = Path("called")
    names = NameMap(zoo.names(NETWORK))
    leaves = networks.leaves_of(NETWORK, zoo.starting_row(NETWORK), 3, {})
    path, watch = folder / "file", _Watch()
    signal.signal(signal.SIGALRM, _raise_late)
    for _, (data, wrap) in targets.items():
        path.write_bytes(wrap(data))
        files.read(path)  # Sound as it is, and all that reading imports is imported now.
    for codec in ("cp437", "raw-unicode-escape", "unicode-escape"):
        codecs.lookup(codec)  # Of the names in zip files and of protocol 0's texts.
    _limit_memory()

    outcomes, slowest = Counter(), 0.0
    for number in range(args.count):
        name = draw.choice(list(targets))
        data, wrap = targets[name]
        path.write_bytes(wrap(_mutate(draw, data, targets, str(witness))))
        started, problem = time.perf_counter(), None
        watch.path = path
        try:
            signal.alarm(SECONDS)
            tensors = files.read(path, ema=number % 5 == 0)
            outcome = f"{name}: read"
            names.to_ours(tensors, leaves)
        except JaxvidError as error:
            outcome = f"{name}: refused" if "tensors are not those" not in str(error) else outcome
            if "\n" in str(error) or not str(error).strip():
                problem = f"more than a sentence: {error}"
        except BaseException as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
            watch.path = None
        outcomes[outcome] += 1
        slowest = max(slowest, time.perf_counter() - started)
        if watch.seen or witness.exists():
            problem = f"it acted: {watch.seen[:3]}"
        if problem:
            sys.exit(f"file {number} of seed {args.seed}, kept as {path}: {problem}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6} {outcome}")
    print(f"{args.count} files, slowest {slowest:.2f} s, process at most {peak} MiB")
    for entry in folder.iterdir():
        entry.unlink()
    folder.rmdir()


def _targets(folder: Path) -> dict[str, Target]:
    """Returns what is mutated, sound as yet, and how a file is made of it."""
    rng = np.random.default_rng(0)
    leaves = networks.leaves_of(NETWORK, zoo.starting_row(NETWORK), 3, {})
    variables = {p: rng.normal(size=x.shape).astype(x.dtype) for p, x in leaves.items()}
    tensors = checkpoints.to_torch(NETWORK, traverse_util.unflatten_dict(variables, sep="/"))
    arrays = dict(sorted(tensors.items(), key=lambda item: item[1].nbytes)[:12])
    arrays["ema_x_weight"] = arrays["x.weight"] = np.ones((2, 3), np.float16)

    file = File()
    content = {
        "state_dict": {key: file.tensor(array) for key, array in arrays.items()},
        "meta": {
            "args": Call(Named("argparse", "Namespace"), (), {"lr": 0.1}),
            "cfg": Call(Named("mmengine.config.config", "Config"), ({"a": 1},), {"b": [1, 2]}),
            "scalar": 1.5,
        },
        "state_dict_ema": {"a": file.tensor(np.ones(3, np.float32))},
    }
    part = Named("__torch__.net", "Part")
    one, two, *_ = content["state_dict"].values()
    modules = Call(part, (), {"a": Call(part, (), {"w": one}), "w": two, "training": False})
    described = dump(content)
    described_legacy = dump(content, view=(None,))
    plain = {"blobs": arrays, "lr": np.float64(3), "big": 1 << 100}
    packed, loose = io.BytesIO(), io.BytesIO()
    np.savez_compressed(packed, **arrays)
    np.savez(loose, **arrays)
    header, data = {}, b""
    for key, array in arrays.items():
        kind = {"f2": "F16", "f4": "F32", "i8": "I64"}[array.dtype.str[1:]]
        end = len(data) + array.nbytes
        header[key] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    header = safetensors(header)[8:]

    def through(write: Callable[..., Path]) -> Callable[[bytes], bytes]:
        return lambda pickled: write(folder / "made", None, pickled=pickled or b".").read_bytes()

    torch_write.write(folder / "ours", arrays, {"classes": ["a", "b"]})
    ours = (folder / "ours").read_bytes()
    return {
        "zip": (through(file.write)(described), bytes),
        "zip of ours": (ours, bytes),
        "description in a zip": (described, through(file.write)),
        "TorchScript": (dump(modules), through(file.write)),
        "legacy": (through(file.write_legacy)(described_legacy), bytes),
        "description in legacy": (described_legacy, through(file.write_legacy)),
        **{f"pickle {n}": (pickle.dumps(plain, protocol=n), bytes) for n in (2, 4, 5)},
        "npz": (loose.getvalue(), bytes),
        "packed npz": (packed.getvalue(), bytes),
        "member of npz": (zipfile.ZipFile(loose).read("x.weight.npy"), _npz),
        "safetensors": (safetensors(header, data), bytes),
        "header of safetensors": (header, lambda header: safetensors(header, data)),
    }


def _npz(member: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.npy"), member)
    return out.getvalue()


def _mutate(draw: random.Random, data: bytes, targets: dict[str, Target], witness: str) -> bytes:
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        data = data or bytearray(b"x")
        # Descriptions lie at the ends of most formats, and are the part that matters.
        reach = draw.choice((len(data), min(len(data), 600)))
        where = draw.randrange(reach)
        where = draw.choice((where, len(data) - 1 - where))
        match draw.randrange(11):
            case 0 | 1:
                data[where] = draw.randrange(256)
            case 2:
                del data[where : where + draw.randrange(1, 9)]
            case 3:
                data[where:where] = draw.randbytes(draw.randrange(1, 9))
            case 4:
                extreme = draw.choice((b"\xff" * 8, bytes(8), b"\x7f" * 4, b"\x80" + bytes(7)))
                data[where : where + len(extreme)] = extreme
            case 5:
                number = draw.choice((-1, 0, 1, 255, 1 << 16, 1 << 31, 1 << 40, (1 << 63) - 1))
                digits = draw.choice((str(number).encode(), struct.pack("<q", number)))
                data[where : where + len(digits)] = digits
            case 6:
                del data[where:]
            case 7:
                other = draw.choice(list(targets.values()))[0]
                start = draw.randrange(len(other))
                data[where:where] = other[start : start + draw.randrange(1, 400)]
            case 8:
                piece = bytes(data[where : where + draw.randrange(1, 40)])
                data[where:where] = piece * draw.choice((2, 100, 5000))
            case _:
                where = draw.choice(_boundaries(data) or [where])
                data[where:where] = _attack(draw, witness)
    return bytes(data)


def _boundaries(data: bytearray) -> list[int]:
    """Returns where the opcodes begin, as far as `data` is a pickle."""
    found = []
    with contextlib.suppress(Exception):
        for _, _, position in pickletools.genops(bytes(data)):
            found.append(position)
    return found


def _attack(draw: random.Random, witness: str) -> bytes:
    """Returns opcodes that would call something, in one of the ways that there are."""
    module, name = (word.encode() for word in draw.choice(CALLS))
    command = f"touch {witness}".encode()
    named = b"c" + module + b"\n" + name + b"\n"
    text = b"U" + bytes([len(command)]) + command
    stacked = b"".join(b"\x8c" + bytes([len(word)]) + word for word in (module, name)) + b"\x93"
    return draw.choice(
        (
            named + text + b"\x85R",
            named + b"(" + text + b"tR0",
            stacked + text + b"\x85R",
            b"(" + text + b"i" + module + b"\n" + name + b"\n",
            b"(" + named + text + b"o",
            named + text + b"\x85\x81",
            named + text + b"\x85}\x92",
            named + text + b"b",
            b"cbuiltins\ngetattr\n" + named + text + b"\x86R" + text + b"\x85R",
            b"\x82\x01",
            b"P" + command + b"\n",
            named + b"Q",
        )
    )


def _limit_memory() -> None:
    """Turns what would exhaust the machine into an error of this process."""
    status = Path("/proc/self/statm")
    if status.exists():
        now = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))


def _raise_late(*_) -> None:
    raise _Late(f"still reading after {SECONDS} s")


if __name__ == "__main__":
    main()
