"""Every command and every Python snippet of the documents, run in order or checked."""

import collections
import configparser
import os
import pathlib
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable

import pytest

from jaxvid import config, zoo
from tests.data.clips import encode

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("launch/*.md"))]
SHELL, PYTHON = ("sh", "bash", "console"), ("python",)

# What makes commands and snippets small, in this order: the tiny network of the family on small
# pictures, a few toy clips, weights that are random.
SMALLER = [
    (r"(--config=configs/\w+\.py:)", r"\1runlocal,"),
    (r"--model=tsm_r50_1x1x8_k400", "--model=tsm_test"),
    (r"(create_model|convert)\(\"tsm_r50_1x1x8_k400\"", r'\1("tsm_test"'),
    (r"\b8, 224, 224, 3\b", "8, 64, 64, 3"),
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
        elif word in ("-n", "--dist"):  # pytest-xdist's
            words.pop(0)
        else:
            assert f'"{word.split("=")[0]}"' in known


def check_ffmpeg(command: str) -> None:
    """Not run, as FFmpeg's program may be absent: what it pipes into must read the flags."""
    from jaxvid import predict

    _, _, ours = command.partition(" | python -m jaxvid.predict ")
    args = predict._parser().parse_args(shlex.split(ours))
    predict._check(args)
    assert predict._is_live(args.video)


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


# The first pattern that a command begins with says what becomes of it: flags to run it with, or a
# check in place of running it. A command that no pattern covers fails.
COMMANDS: list[tuple[str, str | Callable[[str], None]]] = [
    (r"python3 -m venv \.venv$", environment_of_this_test),
    (r"source \.venv/bin/activate$", environment_of_this_test),
    (r"pip install ", check_install),
    (r"launch/(local|tpu_pod)\.sh ", check_launch),
    (r"sbatch .* launch/slurm\.sh ", check_launch),
    (r"gcloud (services|storage|iam) ", check_gcloud),
    (r"ffmpeg ", check_ffmpeg),
    (r"python -m pytest", check_pytest),
    (r"python -m jaxvid\.main .*--mode=eval", "--config.test.batch_size=4"),
    (r"python -m jaxvid\.main ", FEW_STEPS),
    (r"python -m jaxvid\.data\.build ", "--workers=1"),
    (r"python -m jaxvid\.data\.bench ", "--batches=2 --batch_size=4"),
    (r"python -m jaxvid\.predict ", ""),
    (r"python -m jaxvid\.fuse ", ""),
    (r"python -m jaxvid\.export ", ""),
    (r"python -m jaxvid\.zoo (list|show)", ""),
    (r"python -m jaxvid\.zoo_page ", ""),
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


class Workshop:
    """A folder that holds what the documents take for granted, and runs what they say there."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        bin = folder / "bin"
        bin.mkdir()
        (bin / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (bin / "python").chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        }

    def shell(self, command: str) -> None:
        outcome = what_becomes_of(command)
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


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workshop")
    for name in ("configs", "jaxvid"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("clip.mp4", "new.mp4"):
        encode(folder / name)
    for label in ("point", "wave"):
        (folder / "clips" / label).mkdir(parents=True)
        for number in range(5):
            encode(folder / "clips" / label / f"{number:02d}.mp4")
    (folder / "kinetics400" / "val").mkdir(parents=True)
    for number in range(2):
        encode(folder / "kinetics400" / "val" / f"{number}.mp4")
    (folder / "val.csv").write_text("path,label\n0.mp4,abseiling\n1.mp4,zumba\n")
    write_published_weights(folder)
    return Workshop(folder)


def write_published_weights(folder: pathlib.Path) -> None:
    """Random weights of the tiny network, in place of those that the README downloads."""
    import jax
    import jax.numpy as jnp

    from converters import checkpoints, torch_write

    model = zoo.create_model("tsm_test", 400)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros([1, 8, 64, 64, 3]))
    tensors = checkpoints.to_torch("tsm_test", variables)
    torch_write.write(folder / PUBLISHED, tensors, {})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_of(document, workshop):
    text = document.read_text("utf-8")
    for language, content in blocks(text):
        assert language in SHELL + PYTHON, f"a block of {document.name} has language {language!r}"
        if language in PYTHON:
            workshop.python(content)
        else:
            for command in commands(content):
                workshop.shell(command)
    made = re.findall(r"`((?:runs|weights|data|predictions)/[\w./-]*)`", text)
    assert [name for name in made if not (workshop.folder / name).exists()] == []


@pytest.mark.parametrize("marker", ["run", "test"])
def test_the_marked_lines_are_one_line_each(marker):
    found = re.findall(rf"<!-- {marker} -->\n```sh\n(.*?)```\n", README.read_text("utf-8"), re.S)
    assert [len(block.splitlines()) for block in found] == [1]


def test_an_uncovered_command_is_seen():
    with pytest.raises(AssertionError, match="covers 'rm -r x'"):
        what_becomes_of("rm -r x")


def test_commands_are_cut_as_a_shell_would():
    assert commands("# why\na --b \\\n  --c\n.venv/bin/d && e\n") == ["a --b --c", "d", "e"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_names_in_running_text_exist(document):
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.M | re.S)
    files = re.findall(r"`((?:jaxvid|configs|converters|tests|launch|\.ci)/[\w./-]*)`", text)
    assert [name for name in files if not (ROOT / name).exists()] == []
    fields = config.from_row("tsm_r50_8f")
    for name in re.findall(r"`(?:--)?config\.([a-z_.]+)", text):
        assert has_field(fields, name), name


def test_the_table_of_families_is_complete():
    table = README.read_text("utf-8").partition("| family |")[2].partition("\n\n")[0]
    published = {zoo.get_row(name).variant for name in zoo.list_models()}
    assert set(re.findall(r"`(\w+)`", table)) == published


def test_the_numbers_of_rows_are_true():
    text = README.read_text("utf-8").partition("## The zoo")[2].partition("\n## ")[0]
    held = collections.Counter(zoo.summary(name)["weights"] for name in zoo.list_models())
    pattern = r"All (\d+) rows .* Of (\d+) the .* of (\d+) lie .*; (\d+) test .*; of (\d+) none"
    said = re.search(pattern, text.replace("\n", " "))
    assert list(map(int, said.groups())) == [
        held.total(), *(held[kind] for kind in ("file", "page", "members", "none"))
    ]  # fmt: skip


def has_field(fields, name: str) -> bool:
    for part in name.split("."):
        if part not in fields:
            return False
        fields = fields[part]
    return True
