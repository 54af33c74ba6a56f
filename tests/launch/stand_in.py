"""What takes the place of gcloud, git, srun and others in the tests of the launch scripts.

A stand-in writes down each call and answers as it is told: `answers` are (pattern, code, output),
and the first whose pattern is in the call is used, once.
"""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
SCRIPT = """#!{python} -SE
import json, os, pathlib, sys
me = pathlib.Path(__file__)
call = [me.name, *sys.argv[1:]]
with open(me.parent / "calls", "a") as file:
    file.write(json.dumps(call) + "\\n")
line = " ".join(call)
path = me.parent / "answers"
answers = json.loads(path.read_text())
for number, (pattern, code, output) in enumerate(answers):
    if pattern in line:
        del answers[number]
        # In one step, as others may read it at this moment.
        new = path.with_name(f"answers.{{os.getpid()}}")
        new.write_text(json.dumps(answers))
        new.replace(path)
        print(output)
        sys.exit(code)
if " describe " in line:
    print("ACTIVE" if "queued-resources" in line else "READY")
"""


@dataclasses.dataclass
class Stage:
    """A copy of `launch/` whose scripts find stand-ins in place of programs."""

    folder: pathlib.Path

    def __post_init__(self):
        shutil.copytree(LAUNCH, self.folder / "launch")
        self.bin.mkdir()
        self.answer()

    @property
    def bin(self) -> pathlib.Path:
        return self.folder / "bin"

    def stand_in(self, *names: str, script: str = "") -> None:
        """Puts stand-ins in place; `script` is what they run instead of answering."""
        for name in names:
            path = self.bin / name
            path.write_text(script or SCRIPT.format(python=sys.executable))
            path.chmod(0o755)

    def answer(self, *answers: tuple[str, int, str]) -> None:
        (self.bin / "answers").write_text(json.dumps(answers))

    @property
    def unused(self) -> list:
        """Answers that nobody asked for."""
        return json.loads((self.bin / "answers").read_text())

    @property
    def calls(self) -> list[list[str]]:
        path = self.bin / "calls"
        return [json.loads(line) for line in path.open()] if path.exists() else []

    def environment(self, **more: str) -> dict[str, str]:
        own = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "JAX", "XLA"))}
        return own | {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"} | more

    def run(self, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.folder / "launch" / script, *arguments],
            cwd=self.folder,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, script: str, *arguments: str, **more: str) -> subprocess.Popen:
        return subprocess.Popen(
            [self.folder / "launch" / script, *arguments],
            cwd=self.folder,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell cannot trap what it was started with ignored, as background jobs are.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
