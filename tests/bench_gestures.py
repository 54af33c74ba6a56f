"""Accuracy on real clips by cross-validation, beside the same clips played backwards. Not a test.

    python tests/bench_gestures.py --data=../shared/data/gestures --out=runs/gestures

For each fold of `metadata.csv`: builds records of its clips, trains `configs/own_clips.py` on the
others from nothing, tests the last parameters once, and once more with time reversed.
"""

import argparse
import csv
import importlib.util
import pathlib
import resource
import time

import jax
import numpy as np

from jaxvid import checkpoint, zoo
from jaxvid.data import build, datasets
from jaxvid.devices import placement
from jaxvid.inference import scoring
from jaxvid.reports import metrics
from jaxvid.training import loop
from tests import handed

HERE = pathlib.Path(__file__).parent


def read_rows(data: pathlib.Path) -> list[dict[str, str]]:
    """Rows of the clips that have a class; the others are not of the task."""
    with open(data / "metadata.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["split"] in ("train", "test")]


def write_lists(data: pathlib.Path, fold: str, out: pathlib.Path) -> None:
    """Writes train.csv and test.csv of a fold."""
    rows = read_rows(data)
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        with open(out / f"{split}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label"])
            for row in rows:
                if (row["fold"] == fold) == (split == "test"):
                    writer.writerow([row["path"], row["label"]])


def get_config(arg: str, epochs: float | None):
    spec = importlib.util.spec_from_file_location("own", HERE.parent / "configs" / "own_clips.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(arg)
    if epochs:
        config.train.epochs = epochs
    config.train.eval_epochs = config.train.epochs  # The last epoch counts: no looking between.
    return config


def backwards(batches):
    """The same test batches with every view's frames in reverse order."""
    for batch in batches:
        yield {**batch, "video": batch["video"][:, :, ::-1]}


def test_reversed(config, workdir: pathlib.Path) -> float:
    """Top-1 of the last parameters on the test clips played backwards."""
    split = datasets.open_split(config.data, "test")
    mesh = placement.make_mesh()
    model = zoo.create_model(config.model.name, len(split.classes))
    variables = jax.device_put(checkpoint.load(workdir / "checkpoints"), placement.replicated(mesh))
    scores, labels = scoring.score_batches(
        handed.make_scorer(model, config),
        variables,
        backwards(handed.test_batches(split, config)),
        len(split),
        mesh,
        "backwards",
    )
    return metrics.accuracy(scores, labels).top1


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the clips")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the runs")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--init", default="", help="checkpoint to start from (default: nothing)")
    parser.add_argument("--epochs", type=float, help="instead of the config's")
    args = parser.parse_args()
    print(f"{jax.device_count()} {jax.default_backend()} device(s)")
    lines, right, count = [], 0.0, 0
    for fold in args.folds.split(","):
        records, workdir = args.out / f"records{fold}", args.out / f"fold{fold}"
        if not (records / "test.index.npz").exists():
            write_lists(args.data, fold, records)
            for split in ("train", "test"):
                build.build(args.data, records / f"{split}.csv", records, short_side=96)
        arg = f"data_dir={records},dataset=gestures" + (f",init={args.init}" if args.init else "")
        config = get_config(arg, args.epochs)
        wall, cpu = time.monotonic(), cpu_seconds()
        result = loop.train(config, workdir)
        wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu
        other = test_reversed(config, workdir)
        right, count = right + result.top1 * result.count, count + result.count
        lines.append(
            f"| {fold} | {result.count} | {result.top1:.3f} | {other:.3f} | {wall / 60:.1f} | "
            f"{cpu / 60:.1f} |"
        )
        print(lines[-1], flush=True)
    print("\n| fold | videos | top-1 | backwards | minutes | CPU minutes |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    folds = [float(np.float64(line.split("|")[3])) for line in lines]
    print(f"mean over folds {np.mean(folds):.3f}, over videos {right / count:.3f}")


if __name__ == "__main__":
    main()
