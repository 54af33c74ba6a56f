"""What a row of a results table is: everything needed to reproduce its number, as data."""

import dataclasses
from typing import Any

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
CROP_COUNTS = {"whole": 1, "center": 1, "left": 1, "three": 3, "ten": 10, "ten_unnegated": 10}
CLASS_COUNTS = {
    "activitynet": 200,
    "diving48": 48,
    "hmdb51": 51,
    "hvu_action": 739,
    "hvu_attribute": 117,
    "hvu_concept": 291,
    "hvu_event": 69,
    "hvu_object": 1678,
    "hvu_scene": 248,
    "jester": 27,
    "kinetics400": 400,
    "kinetics600": 600,
    "kinetics700": 700,
    "kinetics710": 710,
    "mit": 339,
    "mmit": 313,
    "sthv1": 174,
    "sthv2": 174,
    "ucf101": 101,
}
SHORT_NAMES = {
    "anet": "activitynet",
    "d48": "diving48",
    "hmdb": "hmdb51",
    "k400": "kinetics400",
    "k600": "kinetics600",
    "k700": "kinetics700",
    "k710": "kinetics710",
    "ssv1": "sthv1",
    "ssv2": "sthv2",
    "ucf": "ucf101",
}
# Videos that the published accuracies are over: the validation split, of UCF101 the first test
# split. Kinetics-400/600/700 by mmaction2's tools/data/kinetics/README.md (copies differ, as links
# die), Kinetics-710 and Something-Something v2 by VideoMAEv2's docs/DATASET.md, UCF101 by issue 271
# of kenshohara/3D-ResNets-PyTorch. Only where a source says it.
TEST_VIDEOS = {
    "kinetics400": 19_796,
    "kinetics600": 27_910,
    "kinetics700": 34_824,
    "kinetics710": 66_803,
    "sthv2": 24_777,
    "ucf101": 3_783,
}
_TEST_SPLITS = {"diving48": "test", "hmdb51": "test", "ucf101": "test"}
# The shorter side in pixels of the frames that records hold, unless a build says otherwise.
RECORD_SIDE = 320
# Pixels of the longest side of a picture, so that no plan of pictures takes all of the memory.
MAX_SIDE = 10_000
OPENMMLAB_V0 = "https://download.openmmlab.com/mmaction/recognition"
OPENMMLAB_V1 = "https://download.openmmlab.com/mmaction/v1.0/recognition"
# The words that fields of rows, and of the configs made of them, may be.
SAMPLERS = ("frames", "dense", "timed", "uniform", "untrimmed", "stacks", "segments")
CROP_MODES = ("random_resized", "multi_scale", "square", "whole", "center")
# Classes exclude one another, or each is there or not.
LOSSES = ("softmax", "sigmoid")
# At a class of which nobody said whether a video has it; others have 0 or 1.
UNKNOWN = 2
# How optical flow is computed: Zach et al. (DAGM 2007) and Farneback (SCIA 2003), by OpenCV.
FLOWS = ("tvl1", "farneback")
# Of four neighbours none to three are left out.
DECODER_RATIOS = (0.0, 0.25, 0.5, 0.75)
FREEZE_NORM = ("", "all", "partial", "statistics")
COSINE_FROM = ("warmup", "start")
EVERY = ("step", "epoch")
WARMUPS = ("scale", "line")
NORMS_UNKNOWN = (
    "how many GPUs shared a batch is not known: BatchNorm's statistics are the whole batch's"
)
# Labels of Something-Something that a mirror image swaps: left and right change places.
STHV1_MIRRORED = ((2, 4), (30, 41), (52, 66))
STHV2_MIRRORED = ((86, 87), (93, 94), (166, 167))


def published_split(dataset: str) -> str:
    """The split that published accuracies are over, as `python -m jaxvid.data.prepare` calls it."""
    return _TEST_SPLITS.get(dataset, "val")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How frame numbers are drawn from a video.

    `sampler` is one of `frames` (clips of `clip_len` frames, `frame_interval` apart, spread over
    the video; with `clip_len=1` the segments of a frame net), `dense` (segments inside one window
    of `sample_range` frames), `uniform` (one frame from each of `clip_len` equal parts), `timed`
    (PySlowFast's clips, as long in time as `clip_len` times `frame_interval` frames at
    `target_fps`), `untrimmed` (a clip every `clip_interval` frames of a video of any length),
    `stacks` (the clips of `frames`, of optical flow: each is one frame of the network, with x and y
    of its `clip_len` pairs side by side in channels) and `segments` (V-JEPA 2's: a clip in each of
    `num_clips` equal parts of the video, one behind another in one view).
    """

    sampler: str = "frames"
    clip_len: int = 1
    frame_interval: int = 1
    num_clips: int = 1
    twice_sample: bool = False
    out_of_bound: str = "loop"
    keep_tail_frames: bool = False
    target_fps: float | None = None
    sample_range: int = 64
    num_sample_positions: int = 10
    clip_interval: int = 16

    @property
    def clips(self) -> int:
        """Clips of one video: what a table prints before "clips x crops"."""
        return self.num_clips * (2 if self.twice_sample else 1)

    @property
    def views(self) -> int:
        """Views of one video before it is cropped; single frames make one view together."""
        together = self.clip_len == 1 or self.sampler in ("stacks", "segments")
        clips = 1 if together else self.num_clips
        clips *= 2 if self.twice_sample else 1
        return clips * (self.num_sample_positions if self.sampler == "dense" else 1)

    @property
    def frames(self) -> str:
        """The tables' short form: clip length x frame interval x number of clips."""
        if self.sampler == "uniform":
            return f"uniform {self.clip_len}"
        plain = self.sampler in ("frames", "stacks", "segments")
        prefix = "" if plain else f"{self.sampler} "
        return f"{prefix}{self.clip_len}x{self.frame_interval}x{self.clips}"

    @property
    def length(self) -> int:
        """Frames of a view as they enter the network: of a clip, or of single frames or stacks."""
        if self.sampler == "segments":
            return self.num_clips * self.clip_len
        single = self.clip_len == 1 or self.sampler == "stacks"
        return self.num_clips if single else self.clip_len

    @property
    def channels(self) -> int:
        """Channels of a frame that enters the network: of RGB, or x and y of a stack's pairs."""
        return 2 * self.clip_len if self.sampler == "stacks" else 3


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The published test: which frames, which crops, and how views become one score.

    `short_side` is the shorter side in pixels after resizing, `crops` one of `center`, `left` (of
    tall pictures the upper one), `three`, `ten` and `ten_unnegated`, `crop` their side; or `crops`
    is `whole`, and the whole picture is squashed to a square of side `crop`. Of ten crops five are
    mirrored, and with them the direction of optical flow, but for `ten_unnegated`, as MMAction2
    tests. `average` says whether probabilities (`prob`) or logits (`score`) are averaged over the
    views.
    """

    sampling: Sampling
    short_side: int = 256
    crops: str = "center"
    crop: int = 224
    average: str = "prob"

    @property
    def view(self) -> tuple[int, int, int, int]:
        """Shape [T, H, W, C] of one view."""
        return self.sampling.length, self.crop, self.crop, self.sampling.channels

    @property
    def views(self) -> str:
        """The tables' short form: clips (or frames of a frame net) x crops."""
        if self.sampling.sampler == "untrimmed":
            return f"every {self.sampling.clip_interval} frames x{CROP_COUNTS[self.crops]}"
        dense = self.sampling.sampler == "dense"
        clips = self.sampling.clips * (self.sampling.num_sample_positions if dense else 1)
        return f"{clips}x{CROP_COUNTS[self.crops]}"


@dataclasses.dataclass(frozen=True)
class Cubes:
    """How a network that pretrains cuts clips: what is hidden of them, and what it is asked for.

    Both are cubes of frames, rows and columns. Those of the shape `hidden` are seen or not as a
    whole: in `tubes`, which are the same places at all times, or each by itself. Answers are about
    cubes of the shape `asked` in a clip of which the first of each `every` frames is left, and lie
    within the hidden ones. Where nothing else scales them, an asked cube's channels are normalised
    each by itself, or all together where `joint`.
    """

    hidden: tuple[int, int, int]
    asked: tuple[int, int, int]
    every: int = 1
    tubes: bool = True
    joint: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the row was trained: global batch, rate, schedule and augmentation.

    Rates are for the global batch `batch_size`, which counts videos: with `repeated_augmentation`
    each gives that many clips. Epochs may be fractions. `schedule` is `step` (multiplied by `gamma`
    at each of `milestones`) or `cosine` (to `final_lr`, reached `cosine_epochs` after the warm-up;
    None means at the end); see `jaxvid.training.optim.make_schedule` for `cosine_from`,
    `schedule_every`, `warmup` and `warmup_every`. The rate of the head is multiplied by
    `head_lr_scale`, that of every bias by `bias_lr_scale`, that of the k-th layer from the top by
    `layer_decay` ** k; `lr_scales` are further pairs of a pattern of parameters' paths and what
    multiplies their rates, `no_decay` patterns of what does not decay, and `freeze` of what is not
    trained; `trunk` stands for all but the head.
    `freeze_norm` says which BatchNorms are frozen: `all`, or all but the first (`partial`); with
    `statistics` all use their running statistics, and scale and bias are trained. `norm_groups` are
    the parts of the batch of which each has BatchNorm statistics of its own, as many as there were
    GPUs where these did not share them. `precise_norm_batches` are the batches that the running
    statistics are computed from before each test, 0 where the moving averages do.

    `crop_mode` is `random_resized`, `multi_scale` (a crop whose sides are `crop_scales` of the
    short side, at most `crop_scale_gap` places of that list apart, at one of `fixed_crops`, 5 or
    13, positions) or `square` (of a side between the extreme `crop_scales`, anywhere; with
    `even_sides` the side of the picture that it is cut from is drawn evenly, not its own).
    `mirrored_labels` are pairs that change places when a clip is flipped. `color_jitter` is how far
    brightness, contrast and saturation factors may lie from 1, and hue from 0; with `hue_bytes`
    that is in whole 255ths of which 180 make a circle.
    `loss` is `softmax`, or `sigmoid` where a video may have several labels, a mean over classes;
    `loss_weight` is what it is multiplied by, and `aux_weight` what the loss of the network's
    auxiliary classifier is multiplied by before it is added.
    A network that pretrains has the loss `pixels`: `mask_ratio` is the share of cubes that the
    encoder does not see, `decoder_mask_ratio` the share that the decoder is not asked for.
    `rand_augment` is `m<magnitude>-n<operations>`, `rand_augment_fill` the grey level of what it
    uncovers. Clips of one video under `repeated_augmentation` are of the same frames where
    `repeats_share_frames` says so. `initial_weights` names the row that training
    starts from, where it is one of ours.

    Fields say what was published, not what we would choose.
    """

    epochs: float = 100
    batch_size: int = 64
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    clip_norm: float | None = None
    schedule: str = "step"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    final_lr: float = 0.0
    cosine_epochs: float | None = None
    cosine_from: str = "warmup"
    schedule_every: str = "step"
    warmup_epochs: float = 0.0
    warmup_factor: float = 0.1
    warmup: str = "scale"
    warmup_every: str = "step"
    head_lr_scale: float = 1.0
    bias_lr_scale: float = 1.0
    layer_decay: float = 1.0
    lr_scales: tuple[tuple[str, float], ...] = ()
    no_decay: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    freeze_norm: str = ""
    norm_groups: int = 1
    precise_norm_batches: int = 0
    crop_mode: str = "random_resized"
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    even_sides: bool = False
    crop_scale_gap: int = 1
    fixed_crops: int = 5
    flip: float = 0.5
    mirrored_labels: tuple[tuple[int, int], ...] = ()
    color_jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    hue_bytes: bool = False
    loss: str = "softmax"
    loss_weight: float = 1.0
    aux_weight: float = 0.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    rand_augment: str = ""
    rand_augment_fill: int = 128
    rand_augment_after_crop: bool = False
    random_erasing: float = 0.0
    repeated_augmentation: int = 1
    repeats_share_frames: bool = True
    mask_ratio: float = 0.0
    decoder_mask_ratio: float = 0.0
    initial_weights: str = ""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a results table.

    `dataset` is the stem of a file in `jaxvid/labels`. `mean` and `std` are per channel on 0..255
    RGB pixels; `channel_order` is that of the network's input, `rgb` or `bgr`. `top1`, `top5` and
    `mean_ap` are the printed percentages, `source` the address of the published checkpoint or None,
    `upstream` the table's own name and `section` its table. `config` is the original config's path,
    `pretrained` the table's word on what training started from, `note` what the printed figures or
    the original config leave unsaid or get wrong. `overrides` are fields of the family's `Model` in
    which the row differs from its variant. `prepare` is a flag for `python -m jaxvid.data.prepare`,
    as `--clips`. `licence` is that of the published weights where their page states one of their
    own.

    A row without weights of its own names in `members` the rows that it is made of: the two streams
    whose scores it adds, or the one whose weights it tests otherwise. `train_short_side` is what
    pictures are resized to before `train_crop` is cut. Of a network that pretrains, `new` are the
    paths of the parameters that the one fine-tuned from it has beyond it.
    """

    name: str
    variant: str
    dataset: str
    num_classes: int
    train: Sampling
    test: Protocol
    recipe: Recipe | None = None
    train_crop: int = 224
    train_short_side: int = 256
    modality: str = "rgb"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: str = "rgb"
    top1: float | None = None
    top5: float | None = None
    mean_ap: float | None = None
    source: str | None = None
    licence: str = ""
    upstream: str = ""
    section: str = ""
    config: str = ""
    pretrained: str = ""
    note: str = ""
    members: tuple[str, ...] = ()
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    new: tuple[str, ...] = ()
    prepare: str = ""

    @property
    def file(self) -> str | None:
        """Name of the published checkpoint; None if there is none, or only a page to click on."""
        name = (self.source or "").rsplit("/", 1)[-1]
        return name if name.endswith((".pth", ".pyth", ".pkl")) else None

    @property
    def view(self) -> tuple[int, int, int, int]:
        """Shape [T, H, W, C] of one view of the test."""
        return self.test.view

    @property
    def num_views(self) -> int:
        """Views of one video in the test: how often the network runs."""
        return self.test.sampling.views * CROP_COUNTS[self.test.crops]

    @property
    def short_side(self) -> int:
        """The shorter side in pixels that frames need for training and test not to enlarge them."""
        return max(self.train_short_side, self.test.short_side)

    @property
    def weights(self) -> str:
        """How `source` is to be had: `file` by an address, from a `page` by hand, or `none`."""
        if self.source is None:
            return "none"
        return "file" if self.file else "page"
