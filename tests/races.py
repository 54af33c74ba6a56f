"""Two commands at once in one place, 50 times: both are right, or one is told who is there.

    python tests/races.py [--only='NAME;NAME'] [--each=N]

Each race forks two processes that do the same work or its like, the second a random moment after
the first. An end by anything but the one sentence, or a place that is neither what the one nor what
the other would have left, is a failure. What is printed is a table of how the races ended.
"""

import argparse
import collections
import multiprocessing
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable

import numpy as np

from converters import files as converted
from converters import torch_write
from jaxvid import checkpoint, config, export, fuse
from jaxvid.base import whole
from jaxvid.base.errors import JaxvidError
from jaxvid.data import build, files, records, toy
from jaxvid.inference import evaluate
from jaxvid.training import loop
from jaxvid.zoo import page

FORK = multiprocessing.get_context("fork")
RIGHT, TOLD, WRONG = "right", "told", "WRONG"
Place = pathlib.Path
"""An empty folder for each race; what all share is in `shared` beside it."""


def shared(place: Place) -> Place:
    return place.parent / "shared"


def prepare(folder: Place) -> None:
    toy.make(folder, toy.Settings(train=1, test=1, height=48, width=48, frames=(8, 10)))
    paths = sorted(path.name for path in (folder / "videos" / "train").iterdir())
    for name, labels in (("ab", "ab"), ("ac", "ac")):
        lines = [f"train/{path},{labels[i % 2]}\n" for i, path in enumerate(paths)]
        (folder / f"{name}.csv").write_text("path,label\n" + "".join(lines))
    for split in ("train", "test"):
        csv = folder / f"{split}.csv"
        build.build(folder / "videos", csv, folder / "records", workers=1)
    rng = np.random.default_rng(0)
    for number in range(2):
        scores = rng.dirichlet(np.ones(30), 60).astype(np.float32)
        names = {"paths": [f"{n}.mp4" for n in range(60)], "classes": list(map(str, range(30)))}
        labels = np.arange(60) % 30
        np.savez(folder / f"{number}.npz", scores=scores, labels=labels, **names)


# ---- what races: (place, number of the process 0 or 1)


def build_one(place, number):
    csv = shared(place) / "ab.csv"
    build.build(shared(place) / "videos", csv, place / "out", workers=1)


def built_one(place):
    found = records.Records(place / "out", "ab")
    assert list(found.classes) == ["a", "b"] and len(found) == 8
    for video in range(8):
        assert len(found.frames(video, np.arange(found.num_frames[video]))) >= 8


def build_other(place, number):
    csv = shared(place) / ("ab.csv", "ac.csv")[number]
    build.build(shared(place) / "videos", csv, place / "out", workers=1)


def built_other(place):
    """The names in labels.txt are those that each built split was numbered by."""
    for split in ("ab", "ac"):
        if (place / "out" / f"{split}.index.npz").exists():
            assert records.Records(place / "out", split).classes == tuple(split)


def rebuild_or_read(place, number):
    out = place / "out"
    if number:
        found = records.Records(out, "ab")
        for video in range(len(found)):
            found.frames(video, np.arange(found.num_frames[video]))
    else:
        csv = shared(place) / "ab.csv"
        build.build(shared(place) / "videos", csv, out, workers=1, shards=2, overwrite=True)


def save(place, number, overwrite=True):
    tree = {"params": {f"{i}": np.full((300, 300), number, np.float32) for i in range(6)}}
    checkpoint.save(place / "out", tree, {"number": number}, overwrite=overwrite)


def saved(place):
    number = checkpoint.load_meta(place / "out")["number"]
    for array in checkpoint.load(place / "out")["params"].values():
        assert (array == number).all()


def save_new(place, number):
    save(place, number, overwrite=False)


def to_torch(place, number):
    tensors = {f"{i}": np.full((300, 300), number, np.float32) for i in range(20)}
    torch_write.write(place / "out.pth", tensors, {"number": number}, overwrite=True)


def written_torch(place):
    arrays = list(converted.read(place / "out.pth").values())
    assert len(arrays) == 20 and all((array == arrays[0].flat[0]).all() for array in arrays)


def records_of(place):
    return (place.parent if place.parent.name == "shared" else shared(place)) / "records"


def tiny(place, epochs):
    c = config.from_row(
        "tsm_r50_8f", dataset="mini", data_dir=str(records_of(place)), runlocal=True
    )
    c.model.overrides = {"blocks": (1, 1, 1), "width": 8}
    c.data.update({"crop": 32})
    c.data.sampling.num_clips = 2
    c.test.update({"crop": 32, "short_side": 32, "batch_size": 8})
    c.test.sampling.num_clips = 2
    c.train.update({"batch_size": 8, "epochs": epochs, "log_steps": 1, "checkpoint_steps": 1})
    return c


def train_one(place, number):
    loop.train(tiny(place, 3.0), place / "out")


def trained(place):
    assert checkpoint.Checkpoints(place / "out" / "checkpoints").latest_step() == 3
    checkpoint.load(place / "out")
    scores = fuse.read(place / "out" / "eval" / "scores.npz")
    assert len(scores.scores) == 8 and (place / "out" / "eval" / "result.json").exists()


def test_one(place, number):
    c = tiny(place, 3.0)
    c.init = str(shared(place) / "run")
    evaluate.evaluate(c, place / "out")


def tested(place):
    assert (place / "out" / "eval" / "result.json").exists()
    assert len(fuse.read(place / "out" / "eval" / "scores.npz").scores) == 8


def export_one(place, number):
    export.export(shared(place) / "run", place / "out", batch=1, platforms=["cpu"])


def exported(place):
    assert sorted(path.name for path in (place / "out").iterdir()) == ["model.jax", "model.json"]
    import jax

    jax.export.deserialize((place / "out" / "model.jax").read_bytes())


def features(place, number):
    (place / "out").mkdir(exist_ok=True)
    for _ in range(20):
        whole.arrays(place / "out" / "clip.npz", stage4=np.full(200_000, number))


def with_features(place):
    with np.load(place / "out" / "clip.npz") as found:
        assert len(np.unique(found["stage4"])) == 1


def fuse_two(place, number):
    first, second = shared(place) / "0.npz", shared(place) / "1.npz"
    weights = [f"{first}=1", f"{second}={number}"]
    fuse.main([*weights, f"--out={place / 'out'}"])


def fused(place):
    import json

    said = json.loads((place / "out" / "result.json").read_text())
    weights = list(said["fused"].values())
    tests = [fuse.read(shared(place) / f"{number}.npz") for number in (0, 1)]
    expected = fuse.fuse(tests, weights).scores
    np.testing.assert_array_equal(fuse.read(place / "out" / "scores.npz").scores, expected)


def pages(place, number):
    page.main([f"--out={place / 'out'}"])


def with_pages(place):
    assert (place / "out" / "zoo.md").read_text("utf-8") == page.markdown()
    assert (place / "out" / "zoo.html").read_text("utf-8") == page.page()


SMALL = toy.Settings(train=1, test=1, height=48, width=48, frames=(8, 10))


def draw_toy(place, number):
    toy.ensure(place / "out", SMALL)


def drawn(place):
    (folder,) = (place / "out").iterdir()
    assert len(records.Records(folder, "train")) == len(records.Records(folder, "test")) == 8


def probe(place, number):
    csv = place / "ab.csv"
    files.Files(shared(place) / "videos", csv, csv, 1)


def probed(place):
    before = (place / "ab.csv.probed").read_bytes()
    probe(place, 0)
    assert (place / "ab.csv.probed").read_bytes() == before


# Name: how often, how long the first takes, what is raced, what must be true, what is there before.
RACES: dict[str, tuple] = {
    "build, the same": (6, 0.6, build_one, built_one),
    "build, other classes": (6, 0.6, build_other, built_other),
    "build and read": (4, 0.5, rebuild_or_read, built_one, build_one),
    "checkpoint, replaced": (6, 0.8, save, saved),
    "checkpoint, new": (4, 0.8, save_new, saved),
    "--to=torch": (5, 0.2, to_torch, written_torch),
    "train": (3, 6.0, train_one, trained),
    "test": (2, 6.0, test_one, tested),
    "export": (2, 3.0, export_one, exported),
    "features": (4, 0.3, features, with_features),
    "fuse": (5, 1.0, fuse_two, fused),
    "zoo_page": (2, 1.0, pages, with_pages),
    "toy": (2, 1.0, draw_toy, drawn),
    "probe": (2, 0.3, probe, probed),
}


def run(work: Callable, place: Place, *number: int) -> tuple[str, str]:
    """Does the work in a process of its own; returns how it ended, and what it said."""
    return collect(*start(work, place, *number))


def start(work: Callable, place: Place, *number: int):
    ours, theirs = FORK.Pipe()

    def child():
        with open(os.devnull, "w") as nowhere:
            sys.stdout = sys.stderr = nowhere
            try:
                work(place, *number)
                theirs.send((RIGHT, ""))
            except JaxvidError as error:
                theirs.send((TOLD, str(error)))
            except BaseException:
                theirs.send((WRONG, traceback.format_exc()))
        os._exit(0)  # No thread is waited for.

    process = FORK.Process(target=child)
    process.start()
    theirs.close()
    return process, ours


def collect(process, pipe) -> tuple[str, str]:
    try:
        answer = pipe.recv() if pipe.poll(300) else (WRONG, "it hangs")
    except EOFError:
        answer = WRONG, "it died"
    process.kill()
    process.join()
    return answer


def leftovers(place: Place) -> list[str]:
    return [str(path) for path in place.rglob(".*") if path.name != ".shared"]


def race(name: str, place: Place, rng: random.Random) -> tuple[str, list[str]]:
    """Returns how a race ended, and what was wrong with it."""
    _, seconds, work, check, *before = RACES[name]
    if name == "probe":
        shutil.copy(shared(place) / "ab.csv", place / "ab.csv")
    for each in before:
        run(each, place, 0)
    racing = [start(work, place, 0)]
    time.sleep(rng.choice([0.0, rng.uniform(0, 0.05), rng.uniform(0, seconds)]))
    racing.append(start(work, place, 1))
    ends = [collect(*each) for each in racing]
    wrong = [said for end, said in ends if end == WRONG]
    if all(end == TOLD for end, _ in ends):
        wrong.append(f"both are told: {ends}")
    end, said = run(check, place)
    if end != RIGHT:
        wrong.append(f"the place is torn: {said}")
    wrong += [f"{path} is left over" for path in leftovers(place)]
    return "both right" if all(end == RIGHT for end, _ in ends) else "one told", wrong


def main() -> int:
    """Runs the races; returns how many went wrong."""
    parser = argparse.ArgumentParser(description="Races of two commands in one place.")
    parser.add_argument("--only", help="names of races, with semicolons between")
    parser.add_argument("--each", type=int, help="how many of each")
    args = parser.parse_args()
    names = [
        n for n in RACES if not args.only or any(n.startswith(o) for o in args.only.split(";"))
    ]
    rng = random.Random(50)
    total = failed = 0
    with tempfile.TemporaryDirectory() as root:
        os.mkdir(os.path.join(root, "shared"))
        end, said = run(prepare, Place(root, "shared"))
        assert end == RIGHT, said
        if {"test", "export"} & set(names):
            end, said = run(
                lambda place: loop.train(tiny(place, 1.0), place), Place(root, "shared", "run")
            )
            assert end == RIGHT, said
        print(f"{'two at once':24} races  both right  one told  torn or wrong")
        for name in names:
            counts = collections.Counter()
            for number in range(args.each or RACES[name][0]):
                place = Place(root, f"{name.replace(' ', '-')}-{number}")
                place.mkdir()
                ended, wrong = race(name, place, rng)
                counts["wrong" if wrong else ended] += 1
                for said in wrong:
                    print(f"{name}: {said}", file=sys.stderr)
                shutil.rmtree(place)
            total, failed = total + counts.total(), failed + counts["wrong"]
            print(
                f"{name:24} {counts.total():5}  {counts['both right']:10}  {counts['one told']:8}"
                f"  {counts['wrong']:13}",
                flush=True,
            )
    print(f"{total} races, {failed} of them wrong")
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())
