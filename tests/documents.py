"""The documents, cut into commands, snippets and links, and a place to run what they say."""

import configparser
import contextlib
import importlib.util
import os
import pathlib
import pickle
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

from jaxvid import zoo
from tests import compiling, store
from tests.data.clips import encode

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
# Their commands are run by tests/data/test_dataset_pages.py, on miniatures.
DATASET_PAGES = [ROOT / "docs" / "datasets.md", *sorted(ROOT.glob("docs/datasets/*.md"))]
DOCUMENTS = [
    *sorted({*ROOT.glob("docs/*.md"), *DATASET_PAGES}),
    *sorted(ROOT.glob("launch/*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    # Last, as nearly all that it shows is a guide's, and has been run by then.
    README,
]
SHELL, PYTHON, DRAWN = ("sh", "bash", "console"), ("python",), ("mermaid",)
# Pages whose commands make what those of a page take for granted, besides the README's first line.
FOUNDATIONS = {
    "debugging.md": ["fine-tune.md"],
    "fine-tune.md": ["convert.md"],
    "flow.md": ["own-data.md"],
    "nnx.md": ["convert.md"],
    "own-data.md": ["fine-tune.md"],
    "stores.md": ["fine-tune.md"],
    "pretrain.md": ["fine-tune.md"],
    "probe.md": ["fine-tune.md"],
    "README.md": ["convert.md", "fine-tune.md"],
    "test-a-row.md": ["convert.md", "train.md"],
    "train.md": ["fine-tune.md"],
}

# Those whose commands are run, dealt to two files of tests: on one's own clips, and the others.
GUIDES_OF_CLIPS = [
    document
    for document in DOCUMENTS
    if document.name
    in ("debugging.md", "flow.md", "own-data.md", "pretrain.md", "probe.md", "stores.md")
    or document == README
]
GUIDES = [d for d in DOCUMENTS if d not in GUIDES_OF_CLIPS and d not in DATASET_PAGES]

# What makes commands and snippets small, in this order: the tiny network of the family on small
# pictures, a few toy clips, weights that are random.
SMALLER = [
    (r"(--config=configs/\w+\.py:)", r"\1runlocal,"),
    (r"(jaxvid\.plan --config=configs/\w+\.py) ", r"\1:runlocal "),
    (r"--model=tsm_r50_1x1x8_k400", "--model=tsm_test"),
    (r"--model=vjepa2_vitl_16x4_sthv2", "--model=vjepa2_test"),
    (r"(create_model|convert)\(\"tsm_r50_1x1x8_k400\"", r'\1("tsm_test"'),
    (r"\b8, 224, 224, 3\b", "8, 64, 64, 3"),
    (r"--topology=\S+", "--topology=cpu:8"),
    (r"runs/two/tsn_r50_flow_5x1x8_k400", "runs/two/tsn_r50_flow_test"),
    (r"--profile=\d+:\d+", "--profile=1:2"),
]
# In place of the file that a command would download.
PUBLISHED = "published.pth"
FEW_STEPS = "--config.train.stop_at_step=2 --config.train.batch_size=4 --config.test.batch_size=4"


def environment_of_this_test(command: str) -> None:
    """Not run: what runs this test is such an environment already."""


def check_install(command: str) -> None:
    """Not run, as `.ci/run` does just that; the extras must exist."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extras in re.findall(r"\[([\w,]+)\]", command):
        assert set(extras.split(",")) <= set(setup["options.extras_require"])


def check_pytest(command: str) -> None:
    """Not run inside itself; markers must be declared, and options known."""
    declared = re.findall(r'"(\w+): ', (ROOT / "pyproject.toml").read_text("utf-8"))
    known = (ROOT / "tests" / "conftest.py").read_text("utf-8")
    words = shlex.split(command)[3:]
    while words:
        word = words.pop(0)
        if word == "-m":
            assert words.pop(0) in declared
        elif word in ("-k", "-n", "--dist"):  # the latter two are pytest-xdist's
            words.pop(0)
        elif not word.startswith("-"):
            assert (ROOT / word).exists(), word
        else:
            assert f'"{word.split("=")[0]}"' in known, word


def check_module(command: str) -> None:
    """Not run, as it writes into the tree or takes long; there must be such a program."""
    name = shlex.split(command)[2]
    assert (ROOT / f"{name.replace('.', '/')}.py").is_file()


def check_ruff(command: str) -> None:
    """Not run, as `.ci/run` does just that."""
    assert command in (ROOT / ".ci" / "run").read_text("utf-8")


def check_site(command: str) -> None:
    """Not run, as `.ci/run` does just that."""
    assert (ROOT / "docs" / "conf.py").is_file()
    assert command in (ROOT / ".ci" / "run").read_text("utf-8")


def check_ffmpeg(command: str) -> None:
    """Not run, as FFmpeg's program may be absent: what it pipes into must read the flags."""
    from jaxvid.predict import flags

    _, _, ours = command.partition(" | python -m jaxvid.predict ")
    args = flags.parser().parse_args(shlex.split(ours))
    flags.check(args)
    assert flags.is_live(args.video)


def check_launch(command: str) -> None:
    """Run with --dry-run, as there is no cluster here; what it hands to `main` must exist."""
    words = shlex.split(command)
    if words[0] == "sbatch":
        words = words[words.index("launch/slurm.sh") :]
    words.insert(2 if words[0].endswith("tpu_pod.sh") else 1, "--dry-run")
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr
    handed = [word for word in words if word.startswith("--config")]
    for word in handed:
        name, _, value = word.removeprefix("--").partition("=")
        if name == "config":
            path, _, argument = value.partition(":")
            fields = runpy.run_path(str(ROOT / path))["get_config"](argument)
        else:
            assert has_field(fields, name.removeprefix("config.")), name


def check_gcloud(command: str) -> None:
    """Not run, as there is no cloud here; its names must be those that the page introduces."""
    assert set(re.findall(r"gs://([\w-]+)", command)) <= {"my-bucket"}
    assert set(re.findall(r"--project=([\w-]+)", command)) <= {"my-project"}


def check_docker(command: str) -> None:
    """Not run, as no daemon may be here; the recipe, its device and what it runs must exist."""
    words = shlex.split(command)
    options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
    if words[1] == "build":
        assert words[-1] == "." and (ROOT / options["--file"]).is_file()
        name, _, device = options["--build-arg"].partition("=")
        recipe = (ROOT / options["--file"]).read_text("utf-8")
        assert name == "DEVICE" and re.search(rf"^ +(\w+ \| )*{device}( \| \w+)*\) ", recipe, re.M)
    elif words[1] == "run":
        what_becomes_of(shlex.join(words[words.index("jaxvid") + 1 :]))
    assert set(re.findall(r"([\w.-]+)/jaxvid:", command)) <= {"my-registry"}


def check_hub(command: str) -> None:
    """Not run, as the hub is not here: `tests/converters/test_hub.py` does, against a server."""
    flags = dict(word.split("=", 1) for word in shlex.split(command) if word.startswith("--"))
    repository = zoo.get_row(flags["--model"]).source.split("/")[-2:]
    assert flags["--checkpoint"].startswith(f"hf:{'/'.join(repository)}/")


def check_beam(command: str) -> None:
    """Not run, as Beam does not go with TensorFlow: `tests/data/test_beam.py` does, where it is."""
    assert "--runner=DirectRunner" in command


# The first pattern that a command begins with says what becomes of it: flags to run it with, or a
# check in place of running it. A command that no pattern covers fails.
COMMANDS: list[tuple[str, str | Callable[[str], None]]] = [
    (r"python3 -m venv \.venv$", environment_of_this_test),
    (r"source \.venv/bin/activate$", environment_of_this_test),
    (r"pip install ", check_install),
    (r"launch/(local|tpu_pod|gke)\.sh ", check_launch),
    (r"sbatch .* launch/slurm\.sh ", check_launch),
    (r"gcloud (services|storage|iam) ", check_gcloud),
    (r"docker (build|run|push) ", check_docker),
    (r"ffmpeg ", check_ffmpeg),
    (r"python -m pytest", check_pytest),
    (r"python -m tests\.generate$", ""),
    (r"python -m tests\.", check_module),
    (r"ruff |mypy$", check_ruff),
    (r"sphinx-build ", check_site),
    (r"python -m jaxvid\.main .*--mode=eval", "--config.test.batch_size=4"),
    (r"python -m jaxvid\.main ", FEW_STEPS),
    (r"python -m jaxvid\.data\.build .*--runner", check_beam),
    (r"python -m jaxvid\.data\.build ", "--workers=1"),
    (r"python -m jaxvid\.data\.view ", "--clips=2"),
    (r"python -m jaxvid\.data\.verify ", ""),
    (r"python -m jaxvid\.data\.bench ", "--batches=2 --batch_size=4"),
    (r"python -m jaxvid\.plan ", ""),
    (r"python -m jaxvid\.bench ", "--small --repeats=1 --parts=forward,video"),
    (r"python -m jaxvid\.predict ", ""),
    (
        r"python -m jaxvid\.probe ",
        "--epochs=1 --depth=1 --seeds=1 --lr=1e-3 --config.test.batch_size=4",
    ),
    (r"python -m jaxvid\.fuse ", ""),
    (r"python -m jaxvid\.export ", ""),
    (r"python -m jaxvid\.zoo (list|show)", ""),
    (r"python -m jaxvid\.zoo\.page ", ""),
    (r"python -m converters .*=hf:", check_hub),
    (r"python -m converters --model=\S+ --out=\S+$", f"--checkpoint={PUBLISHED}"),
    (r"python -m converters ", ""),
]


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def commands(block: str) -> list[str]:
    """The single commands of a shell block, as typed in an activated environment."""
    lines = block.replace("\\\n", " ").splitlines()
    lines = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    parts = [part.strip() for line in lines for part in line.split(" && ")]
    return [re.sub(r"\s+", " ", part.removeprefix(".venv/bin/")) for part in parts]


def what_becomes_of(command: str) -> str | Callable[[str], None]:
    for pattern, outcome in COMMANDS:
        if re.match(pattern, command):
            return outcome
    raise AssertionError(f"no entry of COMMANDS covers {command!r}")


def smaller(text: str) -> str:
    for pattern, replacement in SMALLER:
        text = re.sub(pattern, replacement, text)
    return text


def file_of(snippet: str) -> str | None:
    """The file that a snippet is the content of, where its first line is a comment with a path."""
    named = re.match(r"# ([\w./-]+\.py)\n", snippet)
    return named and named[1]


class Workshop:
    """A folder that holds what the documents take for granted, and runs what they say there.

    What a page needs of other pages is run before it, and what was run is not run again: the same
    command stands in the README and in a guide.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._pages: set[pathlib.Path] = set()
        self._commands: set[str] = set()
        bin = folder / "bin"
        bin.mkdir()
        (bin / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (bin / "python").chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
            "XLA_FLAGS": compiling.quick_flags(),
        }

    def page(self, document: pathlib.Path) -> None:
        """Runs all of a page, after the pages that it stands on."""
        if document in self._pages:
            return
        self._pages.add(document)
        if not self._commands:
            self.block("sh", marked("run"))
        for name in FOUNDATIONS.get(document.name, ()):
            self.page(ROOT / "docs" / name)
        for language, content in blocks(document.read_text("utf-8")):
            self.block(language, content)

    def block(self, language: str, content: str) -> None:
        if language in SHELL:
            for command in commands(content):
                if command not in self._commands:
                    self._commands.add(command)
                    self.shell(command)
        elif language in PYTHON:
            if name := file_of(content):
                (self.folder / name).write_text(content, "utf-8")
            self.python(content)
        else:
            assert language in DRAWN, f"a block has the language {language!r}: {content[:80]}"

    def shell(self, command: str) -> None:
        outcome = what_becomes_of(command)
        if "s3://" in command and "AWS_ENDPOINT_URL" not in self.environment:
            print(f"not run, as s3fs is not here: {command}")
            return
        if isinstance(outcome, str):
            self._run(["bash", "-c", f"{smaller(command)} {outcome}"])
        else:
            outcome(command)

    def python(self, snippet: str) -> None:
        self._run([sys.executable, "-c", smaller(snippet)])

    def _run(self, words: list[str]) -> None:
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        said = f"{shlex.join(words)}\n{done.stdout}"
        print(said)
        assert done.returncode == 0, said


@contextlib.contextmanager
def workshop_in(folder: pathlib.Path) -> Iterator[Workshop]:
    """The folder, with all that the documents take for granted."""
    # Copies, to which a page may add files of its own.
    for name in ("configs", "converters", "jaxvid", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    for name in ("clip.mp4", "new.mp4"):
        encode(folder / name)
    for label in ("point", "wave"):
        (folder / "clips" / label).mkdir(parents=True)
        for number in range(5):
            encode(folder / "clips" / label / f"{number:02d}.mp4")
    for split, number in (("train", 0), ("test", 1)):
        rows = "".join(f"{label}/{number:02d}.mp4,{label}\n" for label in ("point", "wave"))
        (folder / f"{split}.csv").write_text(f"path,label\n{rows}")
    (folder / "kinetics400" / "val").mkdir(parents=True)
    for number in range(2):
        encode(folder / "kinetics400" / "val" / f"{number}.mp4")
    (folder / "val.csv").write_text("path,label\n0.mp4,abseiling\n1.mp4,zumba\n")
    write_published_weights(folder)
    made = Workshop(folder)
    if importlib.util.find_spec("s3fs") is None:
        yield made
        return
    with store.running() as address:
        made.environment |= store.environment(address)
        yield made


def run_page(document: pathlib.Path, workshop: Workshop) -> None:
    """Runs a document, and asks for the files that it says are made."""
    workshop.page(document)
    made = re.findall(
        r"`((?:runs|weights|data|predictions)/[\w./-]*)`", document.read_text("utf-8")
    )
    assert [name for name in made if not (workshop.folder / name).exists()] == []


def write_published_weights(folder: pathlib.Path) -> None:
    """Random weights of tiny networks, in place of the published files that documents name."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from converters import checkpoints, torch_write

    def tensors(name: str) -> dict:
        init = jax.jit(zoo.create_model(name, 400).init)
        variables = init(jax.random.key(0), jnp.zeros([1, 8, 64, 64, 3]))
        return checkpoints.to_torch(name, variables)

    torch_write.write(folder / PUBLISHED, tensors("tsm_test"), {})
    joined = {key: np.array(tensor) for key, tensor in tensors("vjepa2_test").items()}
    encoder, probe = (
        {key.removeprefix(begin): joined[key] for key in joined if key.startswith(begin)}
        for begin in ("encoder.", "classifier.")
    )
    (folder / "vitl.pt").write_bytes(pickle.dumps({"encoder": {}, "target_encoder": encoder}))
    (folder / "ssv2-vitl-16x2x3.pt").write_bytes(pickle.dumps({"classifiers": [probe]}))


def marked(marker: str) -> str:
    """The block of the README after `<!-- marker -->`, which scripts read, too."""
    [block] = re.findall(rf"<!-- {marker} -->\n```sh\n(.*?)```\n", README.read_text("utf-8"), re.S)
    return block


def title(document: pathlib.Path) -> str:
    """How a test of this document is called: by its name, or its folder's."""
    return str(document.relative_to(ROOT)).removeprefix("docs/")


def prose(document: pathlib.Path) -> str:
    """The text of a document without its blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.M | re.S)


def anchors(document: pathlib.Path) -> set[str]:
    """What links into a document may name: its headings, as GitHub and MyST spell them."""
    headings = re.findall(r"^#+ (.*)$", prose(document), re.M)
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w -]", "", heading).strip().replace(" ", "-") for heading in plain}


def links(text: str) -> list[str]:
    """Where the links and pictures of a document lead, inside of this repository."""
    found = re.findall(r"\]\(([^()\s]+)\)", text)
    return [target for target in found if not re.match(r"https?://", target)]


def has_field(fields, name: str) -> bool:
    name = re.sub(r"^model\.overrides\..*", "model.overrides", name)  # the network's own
    for part in name.split("."):
        if part not in fields:
            return False
        fields = fields[part]
    return True
