"""Real clips by RGB, by optical flow and by both together, in cross-validation. Not a test.

    python tests/bench_flow.py --data=../shared/data/gestures --out=runs/flow

Computes the flow of all clips once. For each fold of `metadata.csv`: builds records of its clips,
trains the tiny networks of a two-stream row on the others from nothing, never mirroring them, and
tests the last parameters of each and both together once.
"""

import argparse
import pathlib
import time

import numpy as np
from PIL import Image

from jaxvid import config as configs
from jaxvid import fuse
from jaxvid.base.progress import Progress
from jaxvid.data import decode, flow
from jaxvid.data.building import build
from jaxvid.devices import compiled
from jaxvid.reports import metrics
from jaxvid.training import loop
from tests.bench_gestures import cpu_seconds, read_rows, write_lists

SHORT_SIDE = 96
ROW = "tsn_r50_1x1x8_k400_twostream"


def write_flow(data: pathlib.Path, method: str, out: pathlib.Path) -> None:
    """Writes pictures of the flow of all clips, in a folder called as each."""
    rows = read_rows(data)
    progress = Progress(len(rows), f"flow by {method}", "videos")
    for row in rows:
        folder = out / row["path"]
        if not (folder / "done").exists():
            folder.mkdir(parents=True, exist_ok=True)
            frames = decode.read_frames(data / row["path"])
            for number, pair in enumerate(flow.between(frames, method, SHORT_SIDE), 1):
                for axis, letter in enumerate("xy"):
                    picture = Image.fromarray(pair[..., axis])
                    picture.save(folder / f"flow_{letter}_{number:05d}.jpg", quality=95)
            (folder / "done").touch()
        progress.update()
    progress.close()


def get_config(records: pathlib.Path, epochs: float):
    """Both streams on the whole picture, squashed to 64 x 64."""
    config = configs.from_row(ROW, runlocal=True, dataset="gestures", data_dir=str(records))
    config.data.update(
        {
            "crop_mode": "whole",
            "area": (0.8, 1.0),
            "aspect": (0.95, 1.05),
            "trim": 0.12,
            "flip": 0.0,
        }
    )
    config.test.crops = "whole"
    config.train.update({"epochs": epochs, "eval_epochs": epochs, "label_smoothing": 0.1})
    config.train.checkpoint_steps = 100_000
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of the clips")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the runs")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--flow", default="farneback", help="how it is computed")
    parser.add_argument("--epochs", type=float, default=12.0)
    args = parser.parse_args()
    compiled.keep()
    pictures = args.out / f"pictures_{args.flow}"
    write_flow(args.data, args.flow, pictures)
    lines, found = [], []
    for fold in args.folds.split(","):
        records, workdir = args.out / f"records{fold}", args.out / f"fold{fold}"
        if not (records / "test.flow.index.npz").exists():
            write_lists(args.data, fold, records)
            for split in ("train", "test"):
                lists = records / f"{split}.csv"
                build(args.data, lists, records, short_side=SHORT_SIDE, workers=1)
                build(pictures, lists, records, short_side=SHORT_SIDE, flow="pictures", workers=1)
        config = get_config(records, args.epochs)
        begun = cpu_seconds()
        loop.train(config, workdir)
        minutes = (cpu_seconds() - begun) / 60
        tests = [fuse.read(workdir / name / "eval" / "scores.npz") for name in config.model.members]
        tests.append(fuse.read(workdir / "eval" / "scores.npz"))
        top1 = [metrics.accuracy(test.scores, test.labels).top1 for test in tests]
        found.append(top1)
        columns = " | ".join(f"{each:.3f}" for each in top1)
        lines.append(f"| {fold} | {len(tests[0].labels)} | {columns} | {minutes:.1f} |")
        print(f"{time.strftime('%H:%M')} {lines[-1]}", flush=True)
    print("\n| fold | videos | RGB | flow | both | CPU minutes |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    folds = np.array(found)
    errors = folds.std(0, ddof=1) / len(folds) ** 0.5 if len(folds) > 1 else np.zeros(3)
    for name, mean, error in zip(("RGB", "flow", "both"), folds.mean(0), errors, strict=True):
        print(f"{name}: mean over folds {mean:.3f}, standard error {error:.3f}")


if __name__ == "__main__":
    main()
