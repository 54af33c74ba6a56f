"""Datasets in their official layouts, of a handful of tiny videos: what their importers are run on.

Each function fills a folder with annotations, as they are shipped, and media, as they unpack.
"""

import json
import pathlib
from collections.abc import Callable

from PIL import Image

from jaxvid.base.text import read_names
from tests.data import clips

MINIATURES: dict[str, Callable[[pathlib.Path], None]] = {}


def miniature(make: Callable[[pathlib.Path], None]) -> Callable[[pathlib.Path], None]:
    """Registers a function under its name."""
    MINIATURES[make.__name__] = make
    return make


def names(dataset: str) -> tuple[str, ...]:
    """The classes of a dataset, in their order."""
    return read_names(pathlib.Path(dataset))


def text(folder: pathlib.Path, name: str, *lines: str) -> None:
    """Writes a text file of lines."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def write_json(folder: pathlib.Path, name: str, value: object) -> None:
    """Writes a JSON file."""
    text(folder, name, json.dumps(value))


_BYTES: dict[str, bytes] = {}


def video(folder: pathlib.Path, *paths: str) -> None:
    """Puts the same clip of 12 frames, 48x64, in several places."""
    for path in paths:
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        ending = place.suffix
        if ending not in _BYTES:
            codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(ending, "libx264")
            _BYTES[ending] = clips.encode(place, codec=codec).read_bytes()
        place.write_bytes(_BYTES[ending])


def frames(folder: pathlib.Path, template: str, count: int = 4, first: int = 1) -> None:
    """Writes frames of growing grey, called by a template, as JPEGs."""
    for number in range(count):
        place = folder / template.format(first + number)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(clips.pattern(number)).save(place, quality=95)


@miniature
def kinetics400(folder: pathlib.Path) -> None:
    """CVDF's layout, the crawler's columns: a class with spaces, one file replaced, two missing."""
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    rows = [
        "abseiling,aaaaaaaaaa0,417,427,train,0",
        '"air drumming",aaaaaaaaaa1,3.0,13.0,train,0',
        "air_drumming,aaaaaaaaaa2,0,10,train,0",
        "zumba,-aaaaaaaaa3,7,17,train,0",
    ]
    text(folder, "annotations/train.csv", header, *rows)
    rows = ["abseiling,bbbbbbbbbb0,1,11,val,0", "zumba,bbbbbbbbbb1,2,12,val,0"]
    rows += ["zumba,bbbbbbbbbb2,2,12,val,0"]
    text(folder, "annotations/val.csv", header, *rows)
    rows = ["cccccccccc0,5,15,test"]
    text(folder, "annotations/test.csv", "youtube_id,time_start,time_end,split", *rows)
    video(folder, "train/aaaaaaaaaa0_000417_000427.mp4", "train/aaaaaaaaaa1_000003_000013.mp4")
    video(folder, "train/-aaaaaaaaa3_000007_000017.mp4", "val/bbbbbbbbbb0_000001_000011.mp4")
    video(folder, "val/bbbbbbbbbb1_000002_000012.mp4", "test/cccccccccc0_000005_000015.mp4")
    (folder / "train/aaaaaaaaaa0_000417_000427.mp4").write_bytes(b"")
    video(folder, "replacement/replacement_for_corrupted_k400/aaaaaaaaaa0_000417_000427.mp4")


@miniature
def kinetics600(folder: pathlib.Path) -> None:
    """The crawler's folders of classes with spaces, and an id that is listed at two times."""
    header = "label,youtube_id,time_start,time_end,split"
    rows = ["acting in play,xnC3nngvLCo,1,11,val", "zumba,xnC3nngvLCo,70,80,val"]
    text(folder, "kinetics-600_val.csv", header, *rows)
    text(folder, "kinetics-600_train.csv", header, "zumba,ffffffffff0,1,11,train")
    video(folder, "train/zumba/ffffffffff0_000001_000011.mp4")
    video(folder, "val/acting in play/xnC3nngvLCo_000001_000011.mp4")
    video(folder, "val/zumba/xnC3nngvLCo_000070_000080.mp4")


@miniature
def kinetics700(folder: pathlib.Path) -> None:
    """OpenDataLab's volumes; the validation list shares an id with training."""
    header = "label,youtube_id,time_start,time_end,split"
    text(
        folder, "train.csv", header, "zumba,dddddddddd0,1,11,train", "zumba,dddddddddd1,1,11,train"
    )
    text(folder, "val.csv", header, "zumba,dddddddddd1,40,50,val")
    video(folder, "videos/vol_00/dddddddddd0_000001_000011.mp4")
    video(folder, "videos/vol_00/dddddddddd1_000001_000011.mp4")
    video(folder, "videos/vol_63/dddddddddd1_000040_000050.mp4")


@miniature
def kinetics710(folder: pathlib.Path) -> None:
    """MMAction2's lists over OpenDataLab's copies, whose Kinetics-400 has no times in its names."""
    text(folder, "kinetics710/k400_train_list_videos.txt", "eeeeeeeeee0.mp4 0")
    text(folder, "kinetics710/k600_train_list_videos.txt", "vol_00/eeeeeeeeee1_000001_000011.mp4 1")
    text(folder, "kinetics710/k700_train_list_videos.txt", "vol_00/eeeeeeeeee2_000001_000011.mp4 2")
    text(folder, "kinetics710/k400_val_list_videos.txt", "eeeeeeeeee3.mp4 0")
    text(folder, "kinetics710/k700_val_list_videos.txt", "vol_01/eeeeeeeeee2_000050_000060.mp4 2")
    video(
        folder, "kinetics400/videos_train/eeeeeeeeee0.mp4", "kinetics400/videos_val/eeeeeeeeee3.mp4"
    )
    video(folder, "kinetics600/videos/vol_00/eeeeeeeeee1_000001_000011.mp4")
    video(folder, "kinetics700/videos/vol_00/eeeeeeeeee1_000001_000011.mp4")
    for number in (600, 700):
        video(folder, f"kinetics{number}/videos/vol_00/eeeeeeeeee2_000001_000011.mp4")
    video(folder, "kinetics700/videos/vol_01/eeeeeeeeee2_000050_000060.mp4")


@miniature
def sthv1(folder: pathlib.Path) -> None:
    """Folders of frames of five digits from 1, and lists with semicolons."""
    start = "something-something-v1"
    classes = names("sthv1")
    text(folder, f"{start}-labels.csv", *classes)
    text(folder, f"{start}-train.csv", f"100218;{classes[0]}", f"48032;{classes[1]}")
    text(folder, f"{start}-validation.csv", f"74225;{classes[1]}")
    text(folder, f"{start}-test.csv", "9")
    for number in (100218, 48032, 74225, 9):
        frames(folder, f"20bn-{start}/{number}/{{:05d}}.jpg", count=11 if number == 9 else 4)


@miniature
def jester(folder: pathlib.Path) -> None:
    """As version 1 of Something-Something."""
    classes = names("jester")
    text(folder, "annotations/jester-v1-labels.csv", *classes)
    text(folder, "annotations/jester-v1-train.csv", f"34870;{classes[2]}", f"56557;{classes[0]}")
    text(folder, "annotations/jester-v1-validation.csv", f"9223;{classes[0]}")
    text(folder, "annotations/jester-v1-test.csv", "109621")
    for number in (34870, 56557, 9223):
        frames(folder, f"20bn-jester-v1/{number}/{{:05d}}.jpg")


@miniature
def sthv2(folder: pathlib.Path) -> None:
    """JSON as re-released, with answers of the test, and WebM."""
    classes = names("sthv2")
    write_json(folder, "labels/labels.json", {name: str(n) for n, name in enumerate(classes)})

    def row(number: int, label: str) -> dict[str, object]:
        template = label.replace("something", "[something]")
        return {"id": str(number), "label": "a cup", "template": template, "placeholders": ["cup"]}

    write_json(folder, "labels/train.json", [row(78687, classes[1]), row(42326, classes[0])])
    write_json(folder, "labels/validation.json", [row(74225, classes[1])])
    write_json(folder, "labels/test.json", [{"id": "1420"}])
    text(folder, "labels/test-answers.csv", f"1420;{classes[5]}")
    for number in (78687, 42326, 74225, 1420):
        video(folder, f"20bn-something-something-v2/{number}.webm")


@miniature
def ucf101(folder: pathlib.Path) -> None:
    """Test lists without labels, lines that end in a carriage return, a name of another case."""
    lists = "ucfTrainTestlist"
    numbered = [f"{n} {name}\r" for n, name in enumerate(names("ucf101"), 1)]
    text(folder, f"{lists}/classInd.txt", *numbered)
    for fold in (1, 2, 3):
        train, test = f"ApplyEyeMakeup/v_ApplyEyeMakeup_g{fold:02d}_c01.avi", 5
        text(folder, f"{lists}/trainlist{fold:02d}.txt", f"{train} 1\r")
        train = f"HandstandPushups/v_HandStandPushups_g{test:02d}_c01.avi"
        text(folder, f"{lists}/testlist{fold:02d}.txt", f"{train}\r", "YoYo/v_YoYo_g01_c01.avi\r")
        video(folder, f"UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g{fold:02d}_c01.avi")
    video(folder, "UCF-101/HandstandPushups/v_HandstandPushups_g05_c01.avi")


@miniature
def hmdb51(folder: pathlib.Path) -> None:
    """A file for each class and fold, codes behind a name, a space at the end, names with signs."""
    for fold in (1, 2, 3):
        for label in names("hmdb51"):
            lines = [f"a_{label}_f_cm_np1_fr_med_{n}.avi {(n + fold) % 3} " for n in range(3)]
            if label == "brush_hair":
                lines += ["Her_Hair__[_NEW_]_UP!!!!_&#;-)_brush_hair_h_cm_np1_fr_goo_0.avi 2 "]
            text(folder, f"testTrainMulti_7030_splits/{label}_test_split{fold}.txt", *lines)
    for label in ("brush_hair", "wave"):
        video(folder, *(f"hmdb51_org/{label}/a_{label}_f_cm_np1_fr_med_{n}.avi" for n in range(3)))
    name = "Her_Hair__[_NEW_]_UP!!!!_&#;-)_brush_hair_h_cm_np1_fr_goo_0.avi"
    video(folder, f"hmdb51_org/brush_hair/{name}")


@miniature
def diving48(folder: pathlib.Path) -> None:
    """Names that begin with a minus; the frames that the list names are those of others."""
    words = [name.split("+") for name in names("diving48")]
    write_json(folder, "Diving48_vocab.json", words)
    rows = [
        {"vid_name": "-mmq0PT-u8k_00155", "label": 0, "start_frame": 0, "end_frame": 48},
        {"vid_name": "_8Vy3dlHg2w_00000", "label": 47, "start_frame": 0, "end_frame": 13},
    ]
    write_json(folder, "Diving48_V2_train.json", rows[:1])
    write_json(folder, "Diving48_V2_test.json", rows[1:])
    video(folder, *(f"rgb/{row['vid_name']}.mp4" for row in rows))


@miniature
def mit(folder: pathlib.Path) -> None:
    """Folders with `+`, and one file name in two classes, of which one lacks it."""
    classes = names("mit")
    numbered = [f"{name},{number}" for number, name in enumerate(classes)]
    text(folder, "moments_categories.txt", *numbered)
    singing = next(name for name in classes if "+singing" in name)
    rows = [f"{singing}/a_1.mp4,{singing},3,0", f"{classes[1]}/b_2.mp4,{classes[1]},4,1"]
    rows += [f"{classes[0]}/b_2.mp4,{classes[0]},4,1"]
    text(folder, "trainingSet.csv", *rows)
    text(folder, "validationSet.csv", f"{singing}/c_3.mp4,{singing},3,0")
    video(folder, f"training/{singing}/a_1.mp4", f"training/{classes[0]}/b_2.mp4")
    video(folder, f"validation/{singing}/c_3.mp4")


@miniature
def mmit(folder: pathlib.Path) -> None:
    """Rows of one label and of several."""
    classes = names("mmit")
    numbered = [f"{name},{number}" for number, name in enumerate(classes)]
    text(folder, "moments_categories.txt", *numbered)
    text(folder, "trainingSet.csv", "a.mp4,3,17,120", "b.mp4,3")
    text(folder, "validationSet.csv", "c.mp4,17")
    video(folder, "videos/a.mp4", f"videos/{classes[3]}/b.mp4", "videos/c.mp4")


@miniature
def activitynet(folder: pathlib.Path) -> None:
    """Several parts of several classes, one of which ends after its video; a test without any."""
    first, second = names("activitynet")[:2]

    def entry(subset: str, *parts: tuple[str, float, float]) -> dict[str, object]:
        annotations = [{"label": label, "segment": [a, b]} for label, a, b in parts]
        return {"duration": 0.44, "subset": subset, "resolution": "64x48", "url": "",
                "annotations": annotations}  # fmt: skip

    database = {
        "5n7NCViB5TU": entry("training", (first, 0.0, 0.2), (second, 0.24, 0.6)),
        "sJzSxsMDXLE": entry("validation", (second, 0.04, 0.4)),
        "abcdefghijk": entry("testing"),
    }
    value = {"database": database, "taxonomy": [], "version": "VERSION 1.3"}
    write_json(folder, "activity_net.v1-3.min.json", value)
    video(folder, *(f"videos/v_{name}.mp4" for name in database))


@miniature
def hvu(folder: pathlib.Path) -> None:
    """Times in halves of a second, which files have in tenths; a video without an action."""
    kinds = ("action", "attribute", "concept", "event", "object", "scene")
    tags = [f"{tag},{kind}" for kind in kinds for tag in names(f"hvu_{kind}")]
    text(folder, "HVU_Tags_Categories_V1.0.csv", "Tag,Category", *tags)
    header = "Tags,youtube_id,time_start,time_end"
    rows = ["abseiling|afro|zoo,gD_G1b0wV5I,101.5,103.5", "zoo|yolk,eeEC-oWWAM0,90,92.5"]
    every = "|".join(names(f"hvu_{kind}")[1] for kind in kinds)
    rows.append(f"{every},gD_G1b0wV5K,1,3")
    text(folder, "HVU_Train_V1.0.csv", header, *rows)
    rows = ["zumba|winter,gD_G1b0wV5J,0.5,2.5", f"{every},gD_G1b0wV5L,1,3"]
    text(folder, "HVU_Val_V1.0.csv", header, *rows)
    video(folder, "train/gD_G1b0wV5I_001015_001035.mp4", "train/eeEC-oWWAM0_000900_000925.mp4")
    video(folder, "train/gD_G1b0wV5K_000010_000030.mp4", "val/gD_G1b0wV5L_000010_000030.mp4")
    video(folder, "val/gD_G1b0wV5J_000005_000025.mp4")


@miniature
def omnisource(folder: pathlib.Path) -> None:
    """Clips, pictures of two searches, a video of the web, and parts of an untrimmed one."""
    lists = "annotations"
    text(folder, f"{lists}/k200_actions.txt", *names("kinetics400")[:200])
    text(folder, f"{lists}/kinetics_200/k200_train.txt", "0074cdXclLU.mp4 7")
    text(folder, f"{lists}/kinetics_200/k200_val.txt", "01fAWEHzudA.mp4 7")
    rows = ["000/00/000001.jpg 0", "199/00/000001.jpg 199"]
    text(folder, f"{lists}/googleimage_200/googleimage_200.txt", *rows, "000/00/000002.jpg 0")
    text(folder, f"{lists}/googleimage_200/tsn_8seg_googleimage_200_wodup.txt", *rows)
    rows += ["000/abseil it/1J9tKWCNgV_0.jpg 0"]
    text(folder, f"{lists}/webimage_200/tsn_8seg_webimage_200_wodup.txt", *rows)
    rows = ["000/abseil it/B00arxogubl.mp4 0"]
    text(folder, f"{lists}/insvideo_200/slowonly_8x8_insvideo_200_wodup.txt", *rows)
    rows = [{"video_dir": "pref_/___dTOdxzXY", "label": 3, "num_clips": 3,
             "positive_clip_inds": [0, 2]}]  # fmt: skip
    write_json(folder, f"{lists}/kinetics_raw_200/slowonly_8x8_kinetics_raw_200.json", rows)
    frames(folder, "googleimage_200/000/00/{:06d}.jpg", count=2)
    frames(folder, "googleimage_200/199/00/{:06d}.jpg", count=1)
    frames(folder, "insimage_200/000/abseil it/1J9tKWCNgV_{}.jpg", count=1, first=0)
    video(folder, "insvideo_200/000/abseil it/B00arxogubl.mp4")
    video(folder, "kinetics_200_train/0074cdXclLU.mp4", "kinetics_200_val/01fAWEHzudA.mp4")
    raw = "kinetics_raw_200_train/pref_/___dTOdxzXY"
    video(folder, *(f"{raw}/part_{number}.mp4" for number in range(3)))


@miniature
def mmaction2(folder: pathlib.Path) -> None:
    """Lists of videos, one of another machine, and of folders of frames counted from 0."""
    rows = ["/data/k400/train/abseiling/a b.mp4 0", "/data/k400/train/c.mp4 2 1"]
    text(folder, "mine_train_list_videos.txt", *rows)
    text(folder, "mine_val_list_rawframes.txt", "rawframes/d 4 1", "rawframes/e 9 1")
    video(folder, "train/abseiling/a b.mp4", "train/c.mp4")
    frames(folder, "rawframes/d/img_{:05d}.jpg", first=0)
    frames(folder, "rawframes/d/flow_x_{:05d}.jpg", first=0)
    frames(folder, "rawframes/e/img_{:05d}.jpg")


@miniature
def pyslowfast(folder: pathlib.Path) -> None:
    """A list with spaces, one with commas."""
    text(folder, "train.csv", "videos/a.mp4 0", "videos/b.mp4 1")
    text(folder, "val.csv", "videos/c.mp4,1")
    video(folder, *(f"videos/{name}.mp4" for name in "abc"))


@miniature
def videomae(folder: pathlib.Path) -> None:
    """Videos, and folders of frames."""
    text(folder, "train.csv", "videos/a.mp4 0", "frames/b 4 1")
    text(folder, "val.csv", "videos/c.mp4 1")
    text(folder, "pretrain/train.csv", "videos/a.mp4 0 -1", "frames/b 1 4")
    video(folder, "videos/a.mp4", "videos/c.mp4")
    frames(folder, "frames/b/img_{:05d}.jpg")


@miniature
def vjepa(folder: pathlib.Path) -> None:
    """Paths that hold spaces and numbers."""
    text(folder, "train.csv", "videos/a 1.mp4::0", "videos/b.mp4::1")
    text(folder, "val.csv", "videos/c.mp4 1")
    video(folder, "videos/a 1.mp4", "videos/b.mp4", "videos/c.mp4")


@miniature
def sports1m(folder: pathlib.Path) -> None:
    """Addresses with one class or two. The names stand in for the official 487."""
    text(folder, "labels.txt", *SPORTS)
    address = "http://www.youtube.com/watch?v="
    rows = [f"{address}UDqivjS-lpI 168,169", f"{address}-aaaaaaaaaa 0"]
    text(folder, "original/train_partition.txt", *rows)
    text(folder, "original/test_partition.txt", "https://www.youtube.com/watch?v=bbbbbbbbbbb 486")
    video(folder, *(f"videos/{name}.mp4" for name in ("UDqivjS-lpI", "-aaaaaaaaaa", "bbbbbbbbbbb")))


SPORTS = tuple(f"sport {number}" for number in range(487))
