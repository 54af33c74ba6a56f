"""Probes of frozen encoders on real clips in cross-validation, and what many cost. Not a test.

    python tests/bench_probe.py --data=../shared/data/gestures --out=runs/probes
    python tests/bench_probe.py --cost --out=runs/probes

For each fold of `metadata.csv`: builds records of its clips, trains `configs/own_clips.py` on the
others for a while, and probes what it became and the same network with random weights. The probes
learn from the same clips as the encoder; of these a share is held out for the choice.

With `--cost`: the processor time of 20 probes in one pass beside that of 1, on features that are
drawn, each in a process of its own that compiles and reads as well.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import time

import numpy as np

from tests.bench_gestures import cpu_seconds, get_config, write_lists

ASKED = {
    "features": "",
    "views": "one",
    "choose": "0.2",
    "seeds": 3,
    "neighbours": (1, 5, 10),
}
VIDEOS, CLASSES, STEPS = 512, 10, 160


def folds(args: argparse.Namespace) -> None:
    """Prints the figures of all folds, and their means with standard errors."""
    from jaxvid.data.building import build
    from jaxvid.devices import compiled
    from jaxvid.probe import fit
    from jaxvid.probe.study import Asked, study
    from jaxvid.training import loop

    compiled.keep()
    probes = ("linear", "attentive", "knn", "retrieval", "clusters")
    asked = Asked(
        **ASKED,
        random=False,
        probes=probes,
        rates=(5e-3, 1e-3, 3e-4),
        decays=(0.01, 0.4),
        depth=1,
        plan=fit.Plan(args.epochs, 32, 0),
    )
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for fold in args.folds.split(","):
        records, workdir = args.out / f"records{fold}", args.out / f"fold{fold}"
        if not (records / "test.index.npz").exists():
            write_lists(args.data, fold, records)
            for split in ("train", "test"):
                build(args.data, records / f"{split}.csv", records, short_side=96, workers=1)
        arg = f"data_dir={records},dataset=gestures"
        config = get_config(arg, args.encoder_epochs)
        begun = cpu_seconds()
        trained = loop.train(config, workdir)
        print(f"fold {fold}: trained to {trained.top1:.3f} in {cpu_seconds() - begun:.0f} s")
        for kind in ("random", "trained"):
            init = "" if kind == "random" else str(workdir)
            config.init = init
            how = dataclasses.replace(asked, random=not init)
            result = study(config, args.out / f"{kind}{fold}", how)
            for each in result.figures:
                name = kind, f"{each.probe} {each.figure}"
                found.setdefault(name, []).append((each.value, each.processor_seconds))
        found.setdefault(("trained", "its own classifier"), []).append((trained.top1, 0.0))
    print("\n| encoder | figure | mean over folds | standard error | CPU seconds |")
    print("| --- | --- | --- | --- | --- |")
    for (kind, name), pairs in found.items():
        values, seconds = np.array(pairs).T
        error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0
        print(f"| {kind} | {name} | {values.mean():.3f} | {error:.3f} | {seconds.mean():.1f} |")


def one(kind: str, count: int) -> None:
    """Trains `count` probes, and prints the processor seconds of all and of the training."""
    from jaxvid.layers.probe import AttentiveProbe
    from jaxvid.probe import fit

    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, VIDEOS)
    if kind == "linear":
        probe, shape = fit.LinearProbe(CLASSES), (768,)
    else:
        probe, shape = AttentiveProbe(CLASSES, 1, 4), (16, 64)
    features = rng.normal(0, 1, (VIDEOS, *shape)).astype(np.float32)
    rates = [5e-3, 3e-3, 1e-3, 3e-4, 1e-4]
    settings = [fit.Setting(rate, decay, 0) for rate in rates for decay in (0.01, 0.1, 0.4, 0.8)]
    plan = fit.Plan(STEPS * 64 // VIDEOS, 64, 0)
    begun = cpu_seconds()
    params = fit.train(probe, settings[:count], features.__getitem__, labels, plan, kind)
    fit.right(probe, params, features.__getitem__, labels, 64)
    print(json.dumps({"all": cpu_seconds(), "training": cpu_seconds() - begun}))


def cost() -> None:
    """Prints what 20 probes in one pass cost in processor time beside one of them alone."""
    print(f"{time.strftime('%Y-%m-%d')}: {VIDEOS} videos, {STEPS} steps of 64")
    print("| probes | 1 alone | 20 in one pass | ratio | of the training alone |")
    print("| --- | --- | --- | --- | --- |")
    for kind in ("linear", "attentive"):
        seconds = {}
        for count in (1, 20):
            runs = []
            for _ in range(3):
                words = [sys.executable, __file__, f"--one={kind},{count}", "--out=."]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                runs.append(json.loads(done.stdout))
            seconds[count] = {key: min(run[key] for run in runs) for key in ("all", "training")}
        ratios = [seconds[20][key] / seconds[1][key] for key in ("all", "training")]
        print(
            f"| {kind} | {seconds[1]['all']:.1f} s | {seconds[20]['all']:.1f} s | "
            f"{ratios[0]:.2f} | {ratios[1]:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="folder of the clips")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the runs")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--epochs", type=int, default=30, help="of the probes")
    parser.add_argument("--encoder_epochs", type=float, default=6.0)
    parser.add_argument("--cost", action="store_true", help="measure what many probes cost instead")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        kind, count = args.one.split(",")
        one(kind, int(count))
    elif args.cost:
        cost()
    else:
        folds(args)


if __name__ == "__main__":
    main()
