"""How long it takes to the first answer and to the first step, beside an older state. Not a test.

    python -m tests.bench_first --before=DIR [--first answer step] [--rounds=3]

DIR is another checkout of this repository, as `git worktree add DIR COMMIT` makes. Both take turns,
each with nothing compiled (cold) and then with what it kept (warm): `python -m jaxvid.predict` for
a video of 10 seconds with random weights of NAME, one view of it, to the end of the command; and
`python -m jaxvid.main` on the toy clips to the line of the log that has the first step.
"""

import argparse
import itertools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from jaxvid.base.progress import Progress
from jaxvid.base.text import say
from jaxvid.bench.measure import write_video

ROOT = pathlib.Path(__file__).parent.parent


def write_checkpoint(name: str, folder: pathlib.Path) -> None:
    """Random weights of a row, in a process of their own."""
    code = f"""
import jax, jax.numpy as jnp
from jaxvid import checkpoint, zoo
row = zoo.get_row({name!r})
clip = jnp.zeros((1, *row.test.view), jnp.float32)
fast = {{"xla_backend_optimization_level": 0}}
variables = jax.jit(zoo.create_model(row.name).init, compiler_options=fast)(jax.random.key(0), clip)
checkpoint.save({str(folder)!r}, jax.device_get(dict(variables)), {{"row": row.name}})
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def seconds_of(tree: pathlib.Path, cache: pathlib.Path, words: list[str], until: str = "") -> float:
    """Seconds of a command of a tree, to its end or to the first line that holds `until`."""
    environment = os.environ | {"PYTHONPATH": str(tree), "JAXVID_COMPILE_CACHE": str(cache)}
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if until and until in line:
                process.kill()
                return time.perf_counter() - begun
    if until or process.returncode:
        raise SystemExit(f"error: {' '.join(words)} in {tree} ended so: {''.join(said)}")
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=pathlib.Path, required=True, help="the older checkout")
    parser.add_argument("--model", default="tsm_r50_1x1x8_k400", help="the row that predicts")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default 3)")
    parser.add_argument("--first", nargs="+", default=["answer", "step"], help="which of the two")
    args = parser.parse_args()
    trees = {"before": args.before.absolute(), "now": ROOT}
    times: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        write_checkpoint(args.model, work / "weights")
        predict = ["jaxvid.predict", f"--checkpoint={work / 'weights'}", "--views=one", "--json"]
        predict.append(f"--video={write_video(work)}")
        train = ["jaxvid.main", "--config=configs/tsm_r50.py:runlocal"]
        train += ["--config.train.log_steps=1", "--config.train.batch_size=4"]
        commands = {"answer": (predict, ""), "step": (train, "step 1/")}
        turns = itertools.product(range(args.rounds), args.first, trees, ("cold", "warm"))
        progress = Progress(args.rounds * len(args.first) * 4, "bench", "commands")
        for turn, what, name, state in turns:
            words, until = commands[what]
            if what == "step":
                words = [*words, f"--workdir={work / f'{name}{turn}{state}'}"]
            cache = work / f"{what}{name}{turn}"
            seconds = seconds_of(trees[name], cache, words, until)
            times.setdefault((what, state, name), []).append(seconds)
            progress.update(note=f"{what} {state} {name} {seconds:.1f} s")
        progress.close()
    say(
        "| to the first | compiled programs | before | now | ratio |",
        "| --- | --- | --- | --- | --- |",
    )
    for what in args.first:
        for state in ("cold", "warm"):
            before, now = (times[what, state, name] for name in trees)
            ratios = [b / a for a, b in zip(before, now, strict=True)]
            say(
                f"| {what} | {'kept' if state == 'warm' else 'none'} "
                f"| {statistics.median(before):.1f} s | {statistics.median(now):.1f} s "
                f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
            )


if __name__ == "__main__":
    main()
