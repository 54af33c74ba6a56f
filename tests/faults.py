"""Drives every command through the same faults, and prints what became of each as a table.

    python tests/faults.py                   # all of it, minutes
    python tests/faults.py --command=export  # commands whose name begins so; --fault likewise

A command must end with one sentence or quietly, with the right exit code, and leave no torn file.
So that hundreds of runs take minutes, each is a fork of one process that has imported everything;
it computes nothing itself, as JAX's threads would not survive the fork. No fault needs privileges.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import pathlib
import re
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIELDS = {
    "data.crop": 32,
    "data.sampling.num_clips": 4,
    "test.crop": 32,
    "test.short_side": 32,
    "test.sampling.num_clips": 4,
    "test.batch_size": 2,
    "train.batch_size": 2,
    "train.log_steps": 1,
    "train.epochs": 0.5,
    "train.checkpoint_steps": 2,
}
RUN = [*(f"--config.{name}={value}" for name, value in FIELDS.items()), "--workdir={out}"]
CONFIG = f"--config={ROOT}/configs/tsm_r50.py:runlocal,dataset=mini,data_dir={{records}}"

# Each input may be named once, in braces: a fault puts another path in its place.
COMMANDS = {
    "zoo list": ["jaxvid.zoo", "list"],
    "zoo show": ["jaxvid.zoo", "show", "tsm_r50_1x1x8_k400"],
    "zoo_page": ["jaxvid.zoo.page", "--out={out}"],
    "fuse": ["jaxvid.fuse", "{scores}", "--out={out}"],
    "data.build": [
        *("jaxvid.data.build", "--videos={videos}", "--labels={labels}", "--out={out}"),
        "--workers=1",
    ],
    "data.prepare": [
        *("jaxvid.data.prepare", "pyslowfast", "--source={videos}", "--test={list}"),
        *("--out={out}", "--workers=1"),
    ],
    "data.bench": [
        *("jaxvid.data.bench", CONFIG, "--batch_size=2", "--batches=1"),
    ],
    "data.view": ["jaxvid.data.view", CONFIG, "--clips=2", "--out={out}"],
    "predict": [
        *("jaxvid.predict", "--checkpoint={checkpoint}", "--video={clip}", "--views=one"),
        "--out={out}",
    ],
    "predict features": [
        *("jaxvid.predict", "--checkpoint={checkpoint}", "--video={clip}", "--views=one"),
        *("--out={out}", "--features=stage1:full"),
    ],
    "predict explain": [
        *("jaxvid.predict", "--checkpoint={checkpoint}", "--video={clip}", "--views=one"),
        *("--json", "--explain={out}.gif"),
    ],
    "export": [
        *("jaxvid.export", "--checkpoint={checkpoint}", "--out={out}", "--platforms=cpu"),
    ],
    "export savedmodel": [
        *("jaxvid.export", "--checkpoint={checkpoint}", "--out={out}", "--platforms=cpu"),
        "--format=savedmodel",
    ],
    "converters": ["converters", "--model=tsm_test", "--checkpoint={pth}", "--out={out}"],
    "converters torch": ["converters", "--to=torch", "--checkpoint={checkpoint}", "--out={out}"],
    "converters all": ["converters", "--all={folder}", "--out={out}"],
    "bench": [
        *("jaxvid.bench", "--model=tsm_test", "--small", "--repeats=1", "--parts=forward"),
        "--chart={out}.png",
    ],
    "probe": [
        *("jaxvid.probe", CONFIG, *RUN, "--config.init={checkpoint}", "--probes=linear,knn"),
        *("--epochs=1", "--seeds=1", "--lr=1e-3", "--weight_decay=0"),
    ],
    "main train": ["jaxvid.main", CONFIG, *RUN],
    "main eval": ["jaxvid.main", CONFIG, *RUN, "--mode=eval", "--config.init={checkpoint}"],
}
SMALLEST = "tsm_mobilenetv2_1x1x8_k400"
IMPORTS = ["jaxvid.training.loop", "jaxvid.export", "jaxvid.data.bench", "jaxvid.data.toy"]
IMPORTS += ["jaxvid.zoo.page", "converters.__main__", "matplotlib", "PIL.Image", "av"]
IMPORTS += ["orbax.checkpoint", "jaxvid.predict", "jaxvid.fuse", "jaxvid.inference.stream"]
IMPORTS += ["jaxvid.bench.measure", "jaxvid.bench.report", "jaxvid.probe.study"]


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to a command, and the exit codes that are right then.

    `of` is what a command must have for the fault to concern it: `out`, an input or `config`.
    `how` names what the process does to itself before the command begins.
    """

    codes: tuple[int, ...]
    how: str = ""
    of: str = ""
    signal: int = 0
    when: float = 0.0  # of the time that the command takes undisturbed


FAULTS = {
    "nothing": Fault((0,)),
    "read-only folder": Fault((1,), "without_privileges", of="out"),
    "full disk": Fault((1,), "full", of="out"),
    "disk fills up": Fault((0, 1), "nearly_full", of="out"),
    "file in the way": Fault((1,), of="out"),
    "missing input": Fault((1,), of="input"),
    "no HOME": Fault((1,), "homeless", of="out"),
    "closed stdout": Fault((0,), "closed"),
    "| head": Fault((0, 141), "unread"),
    "full stdout": Fault((0, 1), "unwritable"),
    "Ctrl-C at once": Fault((130,), signal=signal.SIGINT),
    # -2 is what Python's own end makes of it, after all is done.
    "Ctrl-C in the middle": Fault((130, -2, 0), signal=signal.SIGINT, when=0.5),
    "SIGTERM": Fault((143, -15, 0), signal=signal.SIGTERM, when=0.5),
    "output not UTF-8": Fault((0, 1), of="out"),
    "input not UTF-8": Fault((0, 1), of="input"),
    "az:// output": Fault((1,), of="out"),
    "~ output": Fault((0,), "home", of="out"),
    "no such config": Fault((1,), of="config"),
}


# ---- in the process that becomes the command


def without_privileges(job):
    """Lets root be refused by permissions as everybody is: drops what overrides them."""
    if os.geteuid():
        return
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    no_capabilities = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, no_capabilities):
        raise OSError(ctypes.get_errno(), "capset")


def full(job):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def nearly_full(job):
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))


def home(job):
    os.environ["HOME"] = job["home"]


def homeless(job):
    import pwd

    def nobody(uid):
        raise KeyError(uid)

    pwd.getpwuid = nobody
    for name in ("HOME", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)


def closed(job):
    os.close(1)
    sys.stdout = None


def unread(job):
    ours, theirs = os.pipe()
    os.dup2(theirs, 1)
    os.close(ours)
    os.close(theirs)


def unwritable(job):
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def become(job):
    """Turns this process into the command of a job."""
    from jaxvid.base.interrupts import leave_quietly_when_interrupted

    for stream, name in enumerate(("/dev/null", job["stdout"], job["stderr"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT), stream)
    os.chdir(job["cwd"])
    # As importing the package does where a command is started.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    leave_quietly_when_interrupted()
    warnings.filterwarnings("ignore", "'[^']*' found in sys.modules", RuntimeWarning)
    if job["how"]:
        globals()[job["how"]](job)
    module, *words = map(os.fsdecode, map(bytes.fromhex, job["argv"]))
    sys.argv = [module, *words]
    if os.path.exists(job["ready"]):
        os.unlink(job["ready"])
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def serve():
    """Runs jobs, lines of JSON on standard input, each in a fork; answers with exit codes."""
    sys.path.insert(0, str(ROOT))
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
    for name in IMPORTS:
        __import__(name)
    from orbax.checkpoint import v1  # noqa: F401

    from jaxvid.data import cpu_tf  # noqa: F401 - TensorFlow as it is used

    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            become(job)
            return
        if job["signal"]:
            while os.path.exists(job["ready"]):
                time.sleep(0.001)
            threading.Timer(job["after"], send, (pid, job["signal"])).start()
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def send(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


# ---- in the process that asks for it


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str
    seconds: float
    torn: list[str]


class House:
    """Inputs of every command, and the process that commands are forked from."""

    def __init__(self, folder):
        self.folder = folder
        self.inputs = prepare(folder)
        self.number = 0
        self.times = {}
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_PLATFORMS": "cpu",
        }
        self.server = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.server.stdout.readline() == "ready\n"

    def close(self):
        self.server.stdin.close()
        self.server.wait()
        self.server.stdout.close()

    def run(self, command, fault_name):
        """The outcome of a command under a fault, or None where that does not concern it."""
        fault = FAULTS[fault_name]
        words = COMMANDS[command]
        named = re.findall(r"\{(\w+)\}", " ".join(words))
        has = {"": True, "out": "out" in named, "input": set(named) - {"out"}}
        has["config"] = CONFIG in words
        if not has[fault.of]:
            return None
        if fault.when and command not in self.times:
            self.run(command, "nothing")
        self.number += 1
        place = self.folder / f"run-{self.number}"
        for name in ("cwd", "home", "parent"):
            (place / name).mkdir(parents=True)
        (place / "ready").touch()
        paths = {**self.inputs, "out": place / "parent/out"}
        self._disturb(fault_name, named, paths, place)
        words = [word.format_map(paths) for word in words]
        if fault.of == "config":
            words = [re.sub("tsm_r50.py", "nowhere.py", word) for word in words]
        job = {
            "argv": [os.fsencode(word).hex() for word in words],
            "how": fault.how,
            "signal": int(fault.signal),
            "after": fault.when * self.times.get(command, 0),
            **{name: str(place / name) for name in ("cwd", "home", "ready", "stdout", "stderr")},
        }
        began = time.monotonic()
        print(json.dumps(job), file=self.server.stdin, flush=True)
        code = int(self.server.stdout.readline())
        seconds = time.monotonic() - began
        if fault_name == "nothing":
            self.times[command] = seconds
        (place / "parent").chmod(0o755)
        said = [
            (place / name).read_text(encoding="utf-8", errors="backslashreplace")
            for name in ("stdout", "stderr")
        ]
        return Outcome(code, *said, seconds, torn(place))

    def _disturb(self, fault, named, paths, place):
        first = next((name for name in named if name != "out"), None)
        if fault == "read-only folder":
            (place / "parent").chmod(0o555)
        elif fault == "file in the way":
            # Of a file that is to be written, its folder.
            paths["out"].write_text("in the way")
            paths["out"] /= "x"
        elif fault == "missing input":
            paths[first] = place / "missing"
        elif fault in ("no HOME", "~ output"):
            paths["out"] = "~/out"
        elif fault == "output not UTF-8":
            paths["out"] = place / "parent/out\udcff"
        elif fault == "input not UTF-8":
            paths[first] = place / f"in\udcff{pathlib.Path(paths[first]).suffix}"
            paths[first].symlink_to(self.inputs[first])
        elif fault == "az:// output":
            paths["out"] = "az://bucket/out"


def prepare(folder):
    """Writes what the commands read; returns the paths by the names that `COMMANDS` has."""
    import jax
    import numpy as np

    from converters import checkpoints, torch_write
    from jaxvid import checkpoint, zoo
    from jaxvid.data import build, toy
    from jaxvid.reports import results

    classes = list(toy.CLASSES)
    videos = folder / "videos"
    tiny = toy.Settings(train=1, test=1, height=48, width=48, frames=(8, 10))
    toy.make(videos, tiny)
    records = folder / "records"
    for split in ("train", "test"):
        build.build(videos / "videos", videos / f"{split}.csv", records, workers=1)
    listed = (videos / "test.csv").read_text().split()[1:]
    lines = [f"{line.partition(',')[0]} {number}\n" for number, line in enumerate(listed)]
    (videos / "test.txt").write_text("".join(lines))
    rng = np.random.default_rng(0)

    def weights(name, count):
        network = zoo.create_model(name, count)
        clip = jax.ShapeDtypeStruct((1, 8, 32, 32, 3), np.float32)
        shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), clip)
        return jax.tree.map(
            lambda leaf: np.abs(rng.normal(0, 0.05, leaf.shape)).astype(leaf.dtype), shapes
        )

    variables = weights("tsm_test", len(classes))
    meta = {
        "row": "tsm_test",
        "variant": "tsm_test",
        "classes": classes,
        "num_classes": len(classes),
        "test": {"short_side": 36, "crop": 32, "crops": "center"},
    }
    checkpoint.save(folder / "checkpoint", variables, meta)
    write = torch_write.write
    write(folder / "plain.pth", checkpoints.to_torch("tsm_test", variables, meta), {})
    # Of those files that are of a row, the smallest.
    tensors = checkpoints.to_torch(SMALLEST, weights(SMALLEST, 400), {})
    write(folder / f"folder/{SMALLEST}.pth", tensors, {})
    scores = rng.dirichlet([1.0] * len(classes), 20).astype(np.float32)
    paths = [f"{number}.mp4" for number in range(20)]
    results.write_scores(folder / "eval", classes, paths, scores, np.arange(20) % 8, {})
    return {
        "videos": videos / "videos",
        "labels": videos / "test.csv",
        "list": videos / "test.txt",
        "clip": next((videos / "videos/test").glob("*.mp4")),
        "records": records,
        "checkpoint": folder / "checkpoint",
        "pth": folder / "plain.pth",
        "folder": folder / "folder",
        "scores": folder / "eval/scores.npz",
    }


def torn(place):
    """What lies below a folder under a final name and is no whole file of its kind."""
    wrong = []
    for path in sorted((place / "parent").rglob("*")) + sorted((place / "home").rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
        reader = READERS.get(path.name) or READERS.get(path.suffix)
        if path.is_file() and reader and not hidden:
            try:
                reader(path)
            except Exception as error:
                wrong.append(f"{path.name}: {type(error).__name__}")
    return wrong


def _read_arrays(path):
    import numpy as np

    with np.load(path) as file:
        for name in file:
            file[name]


def _read_picture(path):
    import PIL.Image

    with PIL.Image.open(path) as picture:
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            picture.load()


def _read_text(path):
    assert path.read_bytes().endswith(b"\n")


def _read_weights(path):
    from converters import files

    files.read(path)


READERS = {
    ".npz": _read_arrays,
    ".png": _read_picture,
    ".gif": _read_picture,
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": _read_text,
    "labels.txt": _read_text,
    ".md": _read_text,
    ".html": _read_text,
    ".pth": _read_weights,
}
# Lines on standard error that come with work, not of a fault.
_PROGRESS = re.compile(
    r"[\w .]+: +\d+% \d+/\d+ \[.*|walking .*: \d+ files \[.*|step \d+/\d+ .*left"
    r"|(warning|note): .*|SIG(INT|TERM): saving first.*"
    # Of the compilations that all runs here share, some of which are killed.
    r"|.*persistent compilation cache entry.*|warnings\.warn\("
)


def verdict(fault_name, outcome):
    """Says in a few words what became of it; what begins with WRONG should not be."""
    fault = FAULTS[fault_name]
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    lines = [line for line in lines if not _PROGRESS.fullmatch(line.strip())]
    if "Traceback" in outcome.out + outcome.err:
        return "WRONG: a traceback"
    if outcome.code not in fault.codes:
        return f"WRONG: exit code {outcome.code}"
    if outcome.torn:
        return f"WRONG: torn {', '.join(outcome.torn)}"
    if outcome.code == 1:
        if len(lines) != 1 or not lines[0].startswith("error: "):
            return f"WRONG: {len(lines)} lines"
        return "one sentence"
    if outcome.code in (130, 143) and lines in ([], ["interrupted"]):
        return "interrupted"
    if lines:
        return f"WRONG: {len(lines)} lines and exit code {outcome.code}"
    return "done" if not outcome.code else "quiet"


def main():
    parser = argparse.ArgumentParser(description="Prints the table of commands by faults.")
    parser.add_argument("--command", default="", help="only those whose name begins so")
    parser.add_argument("--fault", default="", help="only those whose name begins so")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        house = House(pathlib.Path(folder))
        faults = [name for name in FAULTS if name.startswith(args.fault)]
        print("| command | " + " | ".join(faults) + " |")
        print("|" + " --- |" * (len(faults) + 1))
        for command in COMMANDS:
            if command.startswith(args.command):
                cells = []
                for fault in faults:
                    outcome = house.run(command, fault)
                    cells.append("-" if outcome is None else verdict(fault, outcome))
                    if cells[-1].startswith("WRONG"):
                        said = outcome.err[-1500:]
                        print(f"{command}, {fault}: {cells[-1]}\n{said}", file=sys.stderr)
                print(f"| {command} | " + " | ".join(cells) + " |", flush=True)
        house.close()


if __name__ == "__main__":
    main()
