"""Speed on CPU beside the reference implementation in PyTorch, in one run. Not a test.

    python tests/bench_reference.py --torch-python=VENV/bin/python [--out=docs/speed.md] [NAME ...]

VENV holds torch, mmaction2==1.2.0, mmengine, mmcv-lite==2.1.0, importlib_metadata, and for VoV3D
fvcore, iopath, yacs, portalocker, tabulate, termcolor, tqdm and simplejson (this environment needs
none of them). Networks that MMAction2 does not have come from clones of their authors' repositories
`VoV3D`, `tea-action-recognition` and `dualformer` in `--sources`; without it they are left out.
Forwards, and whole training steps, of one clip take turns between the two, each on the same single
core; TIN's shift of frames, which MMCV can do on GPUs alone, is done there by slices. The figure is
the ratio of the medians of processor time, which other work on the machine stretches for both
alike.
"""

import argparse
import datetime
import importlib
import json
import os
import pathlib
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any

# One network of each family: the reference's config in MMAction2, or None where the authors' own
# repository is the reference; frames and side of the pictures.
REFERENCES = {
    "c2d_r50_pool": ("c2d/c2d_r50-in1k-pre_8xb32-8x8x1-100e_kinetics400-rgb", 8, 224),
    "c3d": ("c3d/c3d_sports1m-pretrained_8xb30-16x1x1-45e_ucf101-rgb", 16, 112),
    "csn_ir_r50": ("csn/ircsn_ig65m-pretrained-r50-bnfrozen_8xb12-32x2x1-58e_kinetics400-rgb",
                   32, 224),
    "dualformer_t": (None, 32, 224),
    "i3d_r50": ("i3d/i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb", 32, 224),
    "mvitv2_s": ("mvit/mvit-small-p244_32xb16-16x4x1-200e_kinetics400-rgb", 16, 224),
    "r2plus1d_r34_8f": ("r2plus1d/r2plus1d_r34_8xb8-8x8x1-180e_kinetics400-rgb", 8, 224),
    "slowfast_r50_4x16": ("slowfast/slowfast_r50_8xb8-4x16x1-256e_kinetics400-rgb", 32, 224),
    "slowonly_r50_4f": ("slowonly/slowonly_r50_8xb16-4x16x1-256e_kinetics400-rgb", 4, 224),
    "swin_t": ("swin/swin-tiny-p244-w877_in1k-pre_8xb8-amp-32x2x1-30e_kinetics400-rgb", 32, 224),
    "tanet_r50_8f": ("tanet/tanet_imagenet-pretrained-r50_8xb8-dense-1x1x8-100e_kinetics400-rgb",
                     8, 224),
    "tea_r50_8f": (None, 8, 224),
    "timesformer_divst": ("timesformer/timesformer_divST_8xb8-8x32x1-15e_kinetics400-rgb", 8, 224),
    "tin_r50": ("tin/tin_imagenet-pretrained-r50_8xb6-1x1x8-40e_sthv1-rgb", 8, 224),
    "tpn_slowonly_r50": ("tpn/tpn-slowonly_r50_8xb8-8x8x1-150e_kinetics400-rgb", 8, 224),
    "trn_r50": ("trn/trn_imagenet-pretrained-r50_8xb16-1x1x8-50e_sthv1-rgb", 8, 224),
    "tsm_r50_8f": ("tsm/tsm_imagenet-pretrained-r50_8xb16-1x1x8-50e_kinetics400-rgb", 8, 224),
    "tsn_r50": ("tsn/tsn_imagenet-pretrained-r50_8xb32-1x1x8-100e_kinetics400-rgb", 8, 224),
    "uniformer_s": ("uniformer/uniformer-small_imagenet1k-pre_16x4x1_kinetics400-rgb", 16, 224),
    "uniformerv2_b16_8f": (
        "uniformerv2/uniformerv2-base-p16-res224_clip_8xb32-u8_kinetics400-rgb", 8, 224),
    "videomae_vit_b": ("videomae/vit-base-p16_videomae-k400-pre_16x4x1_kinetics-400", 16, 224),
    "videomaev2_vit_s": (
        "videomaev2/vit-small-p16_videomaev2-vit-g-dist-k710-pre_16x4x1_kinetics-400", 16, 224),
    "vov3d_m_head": (None, 16, 224),
    "x3d_m": ("x3d/x3d_m_16x5x1_facebook-kinetics400-rgb", 16, 224),
}  # fmt: skip
Turn = Callable[[], float]
Turns = tuple[Callable[[], Any], Callable[[], Any]]
KINDS = ("forward", "train")


def seconds_of(work: Callable[[], object]) -> float:
    """Processor time that `work` takes in this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def stand_in(name: str, **contents: object) -> None:
    """Puts a module in the place of one that a reference imports and never uses here."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        parent = ".".join(parts[:i])
        sys.modules.setdefault(parent, types.ModuleType(parent))
        sys.modules[parent].__path__ = []
    vars(sys.modules[name]).update(contents)


def shift_groups(data: Any, shifts: Any) -> Any:
    """TIN's shift by whole frames, for which MMCV has a kernel on GPUs alone.

    `data` is [N, T, C, P], `shifts` [N, groups]; channel group g of n moves by shifts[n, g].
    """
    import torch

    moved = torch.zeros_like(data)
    length = data.shape[1]
    width = data.shape[2] // shifts.shape[1]
    for n, row in enumerate(shifts.tolist()):
        for g, shift in enumerate(row):
            if abs(shift) < length:
                to = slice(max(shift, 0), length + min(shift, 0))
                source = slice(max(-shift, 0), length - max(shift, 0))
                channels = slice(g * width, (g + 1) * width)
                moved[n, to, channels] = data[n, source, channels]
    return moved


def build_mmaction(config: str, frames: int, size: int) -> tuple[Any, Turns]:
    """MMAction2's recognizer, what runs its forward and what makes its loss."""
    import torch

    stand_in("mmaction.models.localizers.drn.drn", DRN=type("DRN", (), {}))
    for name in ("mmaction", "mmaction.models", "mmaction.models.localizers"):
        del sys.modules[name]  # Only what is missing is stood in for.
    import mmaction
    from mmaction.registry import MODELS
    from mmaction.structures import ActionDataSample
    from mmaction.utils import register_all_modules
    from mmengine import Config

    register_all_modules()
    stand_in("mmcv.ops", tin_shift=shift_groups)
    folder = pathlib.Path(mmaction.__file__).parent / ".mim/configs/recognition"
    settings = Config.fromfile(folder / f"{config}.py").model
    settings.backbone.pretrained = None
    model = MODELS.build(settings)
    flat = settings.type == "Recognizer2D"
    video = torch.randn((1, frames, 3, size, size) if flat else (1, 1, 3, frames, size, size))
    sample = ActionDataSample().set_gt_label(1)

    def loss():
        losses = model.loss(video.clone(), [sample])
        return sum(value for key, value in losses.items() if "loss" in key)

    return model, (lambda: model.extract_feat(video.clone(), stage="head"), loss)


def build_tea(sources: pathlib.Path) -> Any:
    """TEA-R50 on 8 frames, of Phoenix1327/tea-action-recognition: [8, 3, H, W] to scores."""
    from torch import nn

    # Its table of addresses lacks a comma, so that the file as it is cannot be imported.
    text = (sources / "tea-action-recognition/ops/tea50_8f.py").read_text()
    table = text.index("model_urls")
    scope = {"__name__": "tea"}
    exec(text[:table] + text[text.index("class MEModule") :], scope)
    model = scope["tea50_8f"]()
    model.fc = nn.Linear(model.fc.in_features, 174)
    return model


def build_dualformer(sources: pathlib.Path) -> Any:
    """DualFormer-T of sail-sg/dualformer with a linear layer on its mean feature."""
    import mmcv  # noqa: F401, before its part that is gone is stood in for
    from mmengine import Config
    from torch import nn

    class DropPath(nn.Module):
        def __init__(self, rate: float = 0.0):
            super().__init__()
            self.rate = rate

        def forward(self, x):
            if not self.training or not self.rate:
                return x
            keep = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
            return x * keep / (1 - self.rate)

    class Registry:
        def register_module(self):
            return lambda module: module

    folder = sources / "dualformer"
    stand_in("timm.models.layers", DropPath=DropPath, trunc_normal_=nn.init.trunc_normal_)
    sys.modules["mmcv.runner"] = types.ModuleType("mmcv.runner")
    sys.modules["mmcv.runner"].load_checkpoint = None
    stand_in("mmaction.utils", get_root_logger=None)
    stand_in("dual.builder", BACKBONES=Registry())
    stand_in("dual.backbones")
    sys.modules["dual.backbones"].__path__ = [str(folder / "mmaction/models/backbones")]
    module = importlib.import_module("dual.backbones.dualformer")
    config = folder / "configs/_base_/models/dualformer/dualformer_tiny.py"
    settings = Config.fromfile(config).model.backbone
    settings.pop("type")
    settings.drop_path_rate = 0.1
    trunk = module.DualFormer(**settings)
    return nn.Sequential(
        trunk, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(512, 400)
    )


def build_vov3d(sources: pathlib.Path) -> Any:
    """VoV3D-M as youngwanLEE/VoV3D builds it now: [[B, 3, T, H, W]] to scores."""
    sys.path.insert(0, str(sources / "VoV3D"))
    stand_in("detectron2.layers", ROIAlign=None)
    stand_in("slowfast")  # The parts of it that are meant are copied in here.
    sys.modules["slowfast"].__path__ = [str(sources / "VoV3D/vov3d")]
    from vov3d.config.defaults import get_cfg
    from vov3d.models import build_model

    config = get_cfg()
    config.merge_from_file(str(sources / "VoV3D/configs/Kinetics/vov3d/vov3d_M.yaml"))
    config.NUM_GPUS = 0
    return build_model(config)


def build_other(name: str, sources: pathlib.Path, frames: int, size: int) -> tuple[Any, Turns]:
    """A network of its authors' own repository, its forward and its loss."""
    import torch

    build = {
        "dualformer_t": build_dualformer,
        "tea_r50_8f": build_tea,
        "vov3d_m_head": build_vov3d,
    }[name]
    model = build(sources)
    if name == "tea_r50_8f":
        video = torch.randn(frames, 3, size, size)

        def forward():
            return model(video).mean(0, keepdim=True)

    else:
        video = torch.randn(1, 3, frames, size, size)

        def forward():
            return model([video.clone()] if name == "vov3d_m_head" else video)

    return model, (
        forward,
        lambda: torch.nn.functional.cross_entropy(forward(), torch.tensor([1])),
    )


def serve_reference(name: str, sources: pathlib.Path) -> None:
    """Runs in the other Python: answers each line, which names a kind, with its seconds."""
    import torch

    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # What a reference prints is no answer.
    config, frames, size = REFERENCES[name]
    if config is None:
        model, (answer, loss) = build_other(name, sources, frames, size)
    else:
        model, (answer, loss) = build_mmaction(config, frames, size)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def forward():
        model.eval()
        with torch.inference_mode():
            answer()

    def train():
        model.train()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    def say(answer: object) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    say({"parameters": sum(p.numel() for p in model.parameters())})
    for line in sys.stdin:
        say(seconds_of({"forward": forward, "train": train}[line.strip()]))


def our_turns(name: str) -> tuple[dict[str, Turn], int]:
    """What runs our forward and our training step once, and the number of parameters."""
    import jax
    import jax.numpy as jnp
    import ml_collections
    import numpy as np

    from jaxvid import zoo
    from jaxvid.training import optim, step
    from jaxvid.training.state import TrainState

    _, frames, size = REFERENCES[name]
    model = zoo.create_model(name)
    rng = np.random.default_rng(0)
    video = rng.normal(size=(1, frames, size, size, 3)).astype(np.float32)
    # Weights as training starts from them: others may make numbers that processors are slow at.
    fast = {"xla_backend_optimization_level": 0}  # to compile
    variables = jax.jit(model.init, compiler_options=fast)(jax.random.key(0), video)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    forward = jax.jit(lambda v, x: model.apply(v, x)[0])
    settings = {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
    config = ml_collections.ConfigDict(
        {**settings, "no_decay": (), "lr_scales": (), "clip_norm": 0.0}
    )
    optimizer = optim.make_optimizer(config, lambda step: 1e-6)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )
    update = jax.jit(step.make_update(model, optimizer), donate_argnums=0)
    variables = jax.tree.map(jnp.copy, variables)  # The state's own are given away.

    def train_once():
        nonlocal state
        state, measured = update(state, video, jnp.array([1]), jax.random.key(0))
        jax.block_until_ready(measured)

    turns = {
        "forward": lambda: seconds_of(lambda: jax.block_until_ready(forward(variables, video))),
        "train": lambda: seconds_of(train_once),
    }
    return turns, count


def compare(
    name: str, torch_python: str, sources: pathlib.Path | None, seconds: float
) -> dict[str, float]:
    """Our processor time over the reference's, for each of `KINDS`."""
    command = [torch_python, __file__, "--serve", name, f"--sources={sources}"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["OMP_NUM_THREADS"] = "1"
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as other:

        def reference(kind: str) -> float:
            other.stdin.write(kind + "\n")
            other.stdin.flush()
            return json.loads(other.stdout.readline())

        line = other.stdout.readline()
        if not line:
            raise SystemExit(f"error: the reference of {name} did not start in {torch_python}")
        turns, count = our_turns(name)
        if json.loads(line)["parameters"] != count:
            raise SystemExit(f"error: {name}: {line.strip()} there, {count} here")
        ratios = {}
        for kind in KINDS:
            turns[kind](), reference(kind)  # compile, warm up
            times = []
            end = time.monotonic() + seconds
            while time.monotonic() < end or len(times) < 3:
                times.append((turns[kind](), reference(kind)))
            ours, theirs = (sorted(column)[len(times) // 2] for column in zip(*times, strict=True))
            ratios[kind] = ours / theirs
        other.stdin.close()
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(REFERENCES), metavar="NAME")
    parser.add_argument("--torch-python", default=sys.executable, help="Python with mmaction2")
    parser.add_argument("--sources", type=pathlib.Path, help="folder of the authors' clones")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each figure")
    parser.add_argument("--out", type=pathlib.Path, help="write the table there, too")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # One core for both; what is started inherits it.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if args.serve:
        serve_reference(args.serve, args.sources)
        return
    lines = ["| network | clip | forward | training step |", "| --- | --- | --- | --- |"]
    print("\n".join(lines))
    for name in args.names:
        config, frames, size = REFERENCES[name]
        if config is None and args.sources is None:
            print(f"{name}: left out, its reference is in none of --sources", file=sys.stderr)
            continue
        ratios = compare(name, args.torch_python, args.sources, args.seconds)
        lines.append(
            f"| {name} | {frames} x {size} | {ratios['forward']:.2f} | {ratios['train']:.2f} |"
        )
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text(PAGE.format(table="\n".join(lines), date=datetime.date.today()))


PAGE = """# Speed on CPU beside the reference in PyTorch

Processor time of jaxvid over that of MMAction2 1.2.0 on PyTorch, batch 1, float32, both on the same
single core, taking turns in one run; below 1 jaxvid is faster. A training step is forward, backward
and SGD's update. Made by `python tests/bench_reference.py --torch-python=... --out=docs/speed.md`
on {date}.

{table}
"""


if __name__ == "__main__":
    main()
