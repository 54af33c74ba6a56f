"""Speed on CPU beside the reference implementation in PyTorch, in one run. Not a test.

    python tests/bench_reference.py --torch-python=VENV/bin/python [NAME ...]

VENV holds torch, mmaction2==1.2.0, mmengine, mmcv-lite==2.1.0 and importlib_metadata (this
environment needs none of them). Forwards of one view alternate between the two in short turns,
so that whatever else the machine does falls on both; the figure is the ratio of the medians.
"""

import argparse
import json
import os
import subprocess
import sys
import time

# name: (config of the reference, shape of one view there)
REFERENCES = {
    "tsn_r50": ("tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x8-100e", (1, 8, 3, 224, 224)),
    "tsm_r50_8f": ("tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e", (1, 8, 3, 224, 224)),
    "slowonly_r50_4f": ("slowonly/slowonly_r50_8xb16-4x16x1-256e", (1, 1, 3, 4, 256, 256)),
    "slowonly_r50_8f": ("slowonly/slowonly_r50_8xb16-8x8x1-256e", (1, 1, 3, 8, 256, 256)),
    "mvitv2_s": ("mvit/mvit-small-p244_32xb16-16x4x1-200e", (1, 1, 3, 16, 224, 224)),
}


def serve_reference(name: str, threads: int) -> None:
    """Runs in the other Python: one forward, and its seconds, per line of standard input."""
    import pathlib
    import types

    import torch

    for missing in ("mmaction.models.localizers.drn", "mmaction.models.localizers.drn.drn"):
        sys.modules[missing] = types.ModuleType(missing)
    sys.modules["mmaction.models.localizers.drn.drn"].DRN = type("DRN", (), {})
    import mmaction
    from mmaction.registry import MODELS
    from mmaction.utils import register_all_modules
    from mmengine import Config

    register_all_modules()
    torch.set_num_threads(threads)
    config, shape = REFERENCES[name]
    folder = pathlib.Path(mmaction.__file__).parent / ".mim/configs/recognition"
    model = Config.fromfile(folder / f"{config}_kinetics400-rgb.py").model
    model.backbone.pretrained = None
    model = MODELS.build(model).eval()
    video = torch.randn(shape)
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters())}), flush=True)
    with torch.inference_mode():
        for _ in sys.stdin:
            start = time.perf_counter()
            features, extra = model.extract_feat(video.clone(), stage="head")
            seconds = time.perf_counter() - start
            del features, extra
            print(json.dumps(seconds), flush=True)


def forward(name: str):
    """A function that runs our forward once and returns its seconds."""
    import jax
    import numpy as np

    from jaxvid import zoo

    shape = REFERENCES[name][1]
    frames, size = (shape[1] if len(shape) == 5 else shape[3]), shape[-1]
    model = zoo.create_model(name)
    video = np.random.default_rng(0).normal(size=(1, frames, size, size, 3)).astype(np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), video)
    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: abs(rng.normal(0.1, 0.02, leaf.shape)).astype(np.float32), abstract
    )
    variables = jax.device_put(variables)
    run = jax.jit(lambda v, x: model.apply(v, x)[0])
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract["params"]))

    def once() -> float:
        start = time.perf_counter()
        jax.block_until_ready(run(variables, video))
        return time.perf_counter() - start

    return once, count


def compare(name: str, torch_python: str, seconds: float) -> tuple[float, float, int]:
    """Median seconds of ours and of the reference, and how often each ran."""
    threads = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
    command = [torch_python, __file__, "--serve", name, "--threads", str(threads)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:

        def reference() -> float:
            other.stdin.write("\n")
            other.stdin.flush()
            return json.loads(other.stdout.readline())

        line = other.stdout.readline()
        if not line:
            raise SystemExit(f"error: the reference of {name} did not start in {torch_python}")
        ours, count = forward(name)
        if json.loads(line)["parameters"] != count:
            raise SystemExit(f"error: {name}: {line.strip()} there, {count} here")
        ours(), reference()  # compile, warm up
        times = ([], [])
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(times[0]) < 5:
            times[0].append(ours())
            times[1].append(reference())
        other.stdin.close()
    median = [sorted(t)[len(t) // 2] for t in times]
    return *median, len(times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(REFERENCES), metavar="NAME")
    parser.add_argument("--torch-python", default=sys.executable, help="Python with mmaction2")
    parser.add_argument("--seconds", type=float, default=30.0, help="time for each name")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve_reference(args.serve, args.threads)
        return
    print("| network | jaxvid / PyTorch (time of a forward) | turns |\n| --- | --- | --- |")
    for name in args.names:
        ours, theirs, turns = compare(name, args.torch_python, args.seconds)
        print(f"| {name} | {ours / theirs:.2f} | {turns} |", flush=True)


if __name__ == "__main__":
    main()
