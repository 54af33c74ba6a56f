"""Published datasets, in miniature and in their official layouts, to lists, records and reports."""

import csv
import hashlib
import json

import ml_collections
import pytest

from jaxvid import rows
from jaxvid.base.errors import JaxvidError
from jaxvid.data import datasets, records
from jaxvid.data.prepare import catalogue, counts, prepare, web
from jaxvid.data.prepare.command import main
from jaxvid.data.prepare.entries import plain
from jaxvid.data.prepare.options import Options
from tests.data import miniatures
from tests.data.miniatures import MINIATURES, names, text, video


@pytest.fixture(autouse=True)
def sports(monkeypatch):
    digest = hashlib.sha256("\n".join(miniatures.SPORTS).encode()).hexdigest()
    monkeypatch.setattr(web, "_SPORTS", digest)


@pytest.fixture
def source(tmp_path):
    """Makes the miniature of a name, and returns its folder."""

    def make(name):
        folder = tmp_path / name
        folder.mkdir()
        MINIATURES[name](folder)
        return folder

    return make


def prepared(folder, name=None, **how):
    """Writes lists only; returns the report."""
    report, _ = prepare(name or folder.name, folder, folder / "out", lists=True, **how)
    return report


def table(folder, split):
    """The rows of a list that was written."""
    with open(folder / "out" / f"{split}.csv", newline="") as file:
        return list(csv.DictReader(file))


def pairs(folder, split):
    return [(row["path"], row["label"]) for row in table(folder, split)]


def total(report, split):
    found = report.splits[split].total
    return found.listed, found.found, found.missing, found.broken


# ---- every dataset


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_every_dataset_becomes_records(name, source):
    folder = source(name)
    annotations = folder / "pretrain" if name == "videomae_pretrain" else None
    if name == "videomae":
        annotations = None
        (folder / "pretrain" / "train.csv").unlink()
    report, built = prepare(name, folder, folder / "out", annotations=annotations, workers=1)
    assert built, report.lines()
    for summary in built.values():
        split = records.Records(folder / "out", summary.split)
        listed = table(folder, summary.split)
        assert split.path.tolist() == [row["path"] for row in listed]
        texts = ["|".join(split.classes[n] for n in labels) for labels in split.labels]
        assert texts == [row["label"] for row in listed]
        assert report.splits[summary.split].total.found == len(split)
    pinned = [tag for stem in catalogue.DATASETS[name].labels for tag in names(stem)]
    if pinned:
        assert list(next(iter(built.values())).classes) == pinned
    said = json.loads((folder / "out" / "report.json").read_text())
    assert said["splits"].keys() == report.splits.keys()


def test_every_dataset_has_a_miniature():
    assert {*MINIATURES, "videomae_pretrain"} == set(catalogue.DATASETS)


def test_every_dataset_of_the_tables_can_be_prepared():
    assert {name.split("_")[0] for name in rows.CLASS_COUNTS} <= set(catalogue.DATASETS)
    for name in catalogue.DATASETS:
        if name in rows.CLASS_COUNTS:
            assert len(names(name)) == rows.CLASS_COUNTS[name]


def test_spellings_of_one_class_are_those_of_no_other():
    for name in rows.CLASS_COUNTS:
        assert len({plain(label) for label in names(name)}) == rows.CLASS_COUNTS[name]


def test_the_counts_of_copies_are_those_that_tests_name():
    for dataset, count in rows.TEST_VIDEOS.items():
        copies = (each for _, each in counts.COPIES.get(dataset, ()))
        official = (counts.OFFICIAL.get(name, {}) for name in (dataset, f"{dataset}-1"))
        split = rows.published_split(dataset)
        assert count in {each.get(split) for each in (*copies, *official)}


# ---- the traps


def test_kinetics_columns_go_by_name_and_a_test_may_have_no_label(source):
    folder = source("kinetics400")
    report = prepared(folder)
    assert total(report, "test") == (1, 1, 0, 0)
    assert table(folder, "test") == [{"path": "test/cccccccccc0_000005_000015.mp4"}]
    old = "youtube_id,label,time_start,time_end,split\ncccccccccc0,zumba,5,15,test\n"
    (folder / "annotations" / "test.csv").write_text(old)
    prepared(folder)
    assert pairs(folder, "test") == [("test/cccccccccc0_000005_000015.mp4", "zumba")]


def test_kinetics_times_may_have_a_point_and_classes_any_spelling(source):
    folder = source("kinetics400")
    report = prepared(folder)
    assert pairs(folder, "train")[1] == ("train/aaaaaaaaaa1_000003_000013.mp4", "air drumming")
    assert total(report, "train") == (4, 3, 1, 0)
    assert report.splits["train"].classes["air drumming"].missing == 1
    text(folder, "annotations/val.csv", "label,youtube_id,time_start,time_end", "juggling,b,1,2")
    with pytest.raises(JaxvidError, match=r"val.csv line 2: 'juggling' is none of the 400 classes"):
        prepared(folder)


def test_a_replacement_wins_over_the_damaged_file(source):
    folder = source("kinetics400")
    report = prepared(folder)
    place = "replacement/replacement_for_corrupted_k400/aaaaaaaaaa0_000417_000427.mp4"
    assert pairs(folder, "train")[0][0] == place
    (folder / place).unlink()
    report = prepared(folder)
    assert total(report, "train") == (4, 2, 1, 1)
    assert report.splits["train"].broken == {"train/aaaaaaaaaa0_000417_000427.mp4": "is empty"}


def test_kinetics_clips_go_by_id_and_time_and_else_by_id(source, tmp_path):
    folder = source("kinetics600")
    assert total(prepared(folder), "val") == (2, 2, 0, 0)
    assert pairs(folder, "val")[1] == ("val/zumba/xnC3nngvLCo_000070_000080.mp4", "zumba")
    for path in folder.rglob("*.mp4"):
        path.unlink()
    video(folder, "videos_val/xnC3nngvLCo.mp4")
    report = prepared(folder)
    # One file cannot be both; which it is nobody knows.
    assert total(report, "val") == (2, 1, 1, 0)
    assert "missing as their file is another row's: 1" in "".join(report.lines())


def test_a_row_that_is_listed_twice_is_built_once(source):
    folder = source("kinetics600")
    with open(folder / "kinetics-600_val.csv", "a") as file:
        file.write("zumba,xnC3nngvLCo,70,80,val\n")
    report, built = prepare("kinetics600", folder, folder / "out", workers=1)
    summary = built["val"]
    assert summary.num_videos == 2 and not summary.bad
    assert total(report, "val") == (3, 2, 1, 0)
    assert report.splits["val"].twice == ["xnC3nngvLCo_000070_000080"]


def test_the_complete_of_two_kinetics_lists_is_read(source):
    folder = source("kinetics600")
    (folder / "kinetics-600_val.csv").rename(folder / "val.txt")
    text(folder, "val.csv", "label,youtube_id,time_start,time_end,split")
    assert total(prepared(folder), "val") == (2, 2, 0, 0)


def test_ids_in_training_and_in_test_are_said(source):
    report = prepared(source("kinetics700"))
    assert report.overlaps == {"val": ["dddddddddd1"]}
    assert "1 ids stand both in train and in val (dddddddddd1)" in "".join(report.lines())
    assert prepared(source("kinetics710")).overlaps == {"val": ["eeeeeeeeee2"]}


def test_kinetics_710_takes_each_file_from_its_own_set(source):
    folder = source("kinetics710")
    prepared(folder)
    assert [path for path, _ in pairs(folder, "train")] == [
        "kinetics400/videos_train/eeeeeeeeee0.mp4",
        "kinetics600/videos/vol_00/eeeeeeeeee1_000001_000011.mp4",
        "kinetics700/videos/vol_00/eeeeeeeeee2_000001_000011.mp4",
    ]


def test_something_v2_goes_by_its_template_and_numbers_from_zero(source):
    folder = source("sthv2")
    prepared(folder)
    classes = names("sthv2")
    assert pairs(folder, "train")[0] == ("20bn-something-something-v2/78687.webm", classes[1])
    assert pairs(folder, "test") == [("20bn-something-something-v2/1420.webm", classes[5])]
    path = folder / "labels" / "labels.json"
    path.write_text(json.dumps({name: n + 1 for n, name in enumerate(classes)}))
    with pytest.raises(JaxvidError, match="does not number its 174 classes from 0 to 173"):
        prepared(folder)
    path.write_text(json.dumps({name: n for n, name in enumerate(sorted(classes)[::-1])}))
    with pytest.raises(JaxvidError, match="another order of classes than published networks"):
        prepared(folder)


def test_ucf101_takes_classes_from_folders_and_forgives_case(source):
    folder = source("ucf101")
    report = prepared(folder)
    path = "UCF-101/HandstandPushups/v_HandstandPushups_g05_c01.avi"
    assert pairs(folder, "test") == [(path, "HandstandPushups")]
    assert total(report, "test") == (2, 1, 1, 0)
    assert "found under another spelling: 1" in report.splits["test"].notes
    prepared(folder, options=Options(fold=3))
    assert pairs(folder, "train")[0][0] == "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g03_c01.avi"


def test_hmdb51_has_codes_and_signs_and_is_not_unpacked_here(source):
    folder = source("hmdb51")
    report = prepared(folder)
    assert [label for _, label in pairs(folder, "train")] == ["brush_hair", "wave"]
    name = "Her_Hair__[_NEW_]_UP!!!!_&#;-)_brush_hair_h_cm_np1_fr_goo_0.avi"
    assert (f"hmdb51_org/brush_hair/{name}", "brush_hair") in pairs(folder, "test")
    assert report.notes[0] == "used neither in training nor in test, as the lists say: 51"
    for path in folder.rglob("*.avi"):
        path.rename(path.with_suffix(".rar"))
    with pytest.raises(
        JaxvidError, match=r"holds 7 \.rar archives.*unpack the \.rar archives, with unrar"
    ):
        prepare("hmdb51", folder, folder / "records")


def test_diving48_names_begin_with_a_minus_and_its_frames_are_the_files_own(source):
    folder = source("diving48")
    prepare("diving48", folder, folder / "out", workers=1)
    train = records.Records(folder / "out", "train")
    assert train.path.tolist() == ["rgb/-mmq0PT-u8k_00155.mp4"]
    assert train.num_frames.tolist() == [12]


def test_moments_folders_have_a_plus_and_a_name_in_each_class_is_its_own(source):
    folder = source("mit")
    report = prepared(folder)
    first, second = names("mit")[:2]
    assert total(report, "train") == (3, 2, 1, 0)
    assert pairs(folder, "train")[0][1].endswith("+singing")
    assert report.splits["train"].classes[first].found == 1
    assert report.splits["train"].classes[second].missing == 1


def test_multi_moments_rows_are_as_long_as_they_are(source):
    folder = source("mmit")
    prepared(folder)
    classes = names("mmit")
    labels = [label for _, label in pairs(folder, "train")]
    assert labels == [f"{classes[3]}|{classes[17]}|{classes[120]}", classes[3]]


def test_activitynet_parts_end_with_their_video(source):
    folder = source("activitynet")
    first, second = names("activitynet")[:2]
    report = prepared(folder)
    assert pairs(folder, "train") == [("videos/v_5n7NCViB5TU.mp4", first)]
    assert report.notes[0] == "videos of several classes, of which the first is taken: 1"
    assert table(folder, "test") == [{"path": "videos/v_abcdefghijk.mp4"}]
    report = prepared(folder, options=Options(clips=True))
    found = [(row["label"], row["start"], row["end"]) for row in table(folder, "train")]
    assert found == [(first, "0", "0.2"), (second, "0.24", "0.44")]
    assert report.notes[0] == "parts that ended after their video, and were cut there: 1"
    assert "test" not in report.splits
    report, _ = prepare(
        "activitynet", folder, folder / "out", options=Options(clips=True), workers=1
    )
    train = records.Records(folder / "out", "train")
    assert train.path[0] == "videos/v_5n7NCViB5TU.mp4@0-0.2"
    assert train.num_frames.tolist() == [5, 5] and total(report, "train") == (2, 2, 0, 0)
    (folder / "videos" / "v_5n7NCViB5TU.mp4").write_bytes(b"no video")
    out = folder / "again"
    with pytest.raises(JaxvidError, match=r"none of the 2 videos of .*train\.csv can be read"):
        prepare("activitynet", folder, out, options=Options(clips=True), workers=1)
    # What was matched is written before anything is decoded.
    assert "train: 2 listed, 2 found" in (out / "report.txt").read_text()


def test_hvu_leaves_out_what_has_no_tag_of_a_category(source):
    folder = source("hvu")
    prepared(folder)
    *some, every = [(row["label"], row["annotated"]) for row in table(folder, "train")]
    assert some == [
        ("abseiling|afro|zoo", "action|attribute|scene"),
        ("zoo|yolk", "object|scene"),
    ]
    assert every[1] == "action|attribute|concept|event|object|scene"
    (folder / "out" / "labels.txt").unlink()
    report = prepared(folder, options=Options(category="action"))
    assert pairs(folder, "train")[0] == ("train/gD_G1b0wV5I_001015_001035.mp4", "abseiling")
    assert len(pairs(folder, "train")) == 2
    assert report.notes[0] == "train: without a tag of action, and left out: 1"


@pytest.mark.parametrize(("name", "first"), [("sthv1", 1), ("jester", 1), ("sthv1", 0)])
def test_frames_are_counted_from_one_or_from_zero(name, first, source):
    folder = source(name)
    for path in sorted(folder.rglob("*.jpg")) if not first else ():
        path.rename(path.with_name(f"img_{int(path.stem) - 1:05d}.jpg"))
    prepare(name, folder, folder / "out", workers=1)
    train = records.Records(folder / "out", "train")
    assert train.num_frames.tolist() == [4, 4] and train.fps.tolist() == [12, 12]
    file = sorted((folder / train.path[0]).iterdir())[0]
    assert train.frames(0, [0]) == [file.read_bytes()]


def test_webm_is_decoded_to_be_counted(source):
    folder = source("sthv2")
    prepare("sthv2", folder, folder / "out", workers=1)
    assert records.Records(folder / "out", "train").num_frames.tolist() == [12, 12]


def test_nothing_is_downloaded_and_what_is_missing_is_named(source, monkeypatch):
    import socket

    def refuse(*given):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    folder = source("jester")
    report = prepared(folder)
    assert total(report, "test") == (1, 0, 1, 0)
    with open(folder / "out" / "missing.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [["test", "109621", "", "109621"]]
    assert not (folder / "out" / "test.csv").exists()
    for path in folder.rglob("*.csv"):
        path.unlink()
    looked = r"looked for jester-v1-labels.csv; jester-v1-train.csv; .*found no .csv"
    with pytest.raises(JaxvidError, match=looked):
        prepared(folder)


# ---- the web, and others' lists


def test_omnisource_lists_pictures_and_videos_of_the_web(source):
    folder = source("omnisource")
    report = prepared(folder)
    assert {split: total(report, split)[:2] for split in report.splits} == {
        "train": (1, 1),
        "val": (1, 1),
        "webimage": (3, 3),
        "googleimage": (2, 2),
        "insvideo": (1, 1),
        "rawclips": (2, 2),
    }
    assert [path for path, _ in pairs(folder, "webimage")] == [
        "googleimage_200/000/00/000001.jpg",
        "googleimage_200/199/00/000001.jpg",
        "insimage_200/000/abseil it/1J9tKWCNgV_0.jpg",
    ]


def test_sports1m_has_one_label_or_more_in_its_own_order(source):
    folder = source("sports1m")
    prepared(folder)
    assert pairs(folder, "train") == [
        ("videos/UDqivjS-lpI.mp4", "sport 168|sport 169"),
        ("videos/-aaaaaaaaaa.mp4", "sport 0"),
    ]
    text(folder, "labels.txt", *sorted(miniatures.SPORTS))
    with pytest.raises(JaxvidError, match="not the official list of 487 names"):
        prepared(folder)


def test_lists_of_mmaction2_may_be_of_folders_and_of_another_machine(source):
    folder = source("mmaction2")
    report = prepared(folder)
    assert pairs(folder, "train") == [("train/abseiling/a b.mp4", "0"), ("train/c.mp4", "2|1")]
    assert pairs(folder, "val") == [("rawframes/d", "1")]
    assert report.splits["val"].broken == {"rawframes/e": "has 4 frames, the list says 9"}
    (folder / "out" / "labels.txt").unlink()
    prepared(folder, options=Options(classes=("run", "jump", "sit")), fps=25)
    assert table(folder, "val") == [{"path": "rawframes/d", "label": "jump", "fps": "25"}]


def test_a_missing_file_does_not_find_that_of_another_folder(source):
    folder = source("omnisource")
    (folder / "googleimage_200" / "000" / "00" / "000001.jpg").unlink()
    (folder / "kinetics_raw_200_train" / "pref_" / "___dTOdxzXY" / "part_0.mp4").unlink()
    video(folder, "kinetics_raw_200_train/pref_/another/part_0.mp4")
    report = prepared(folder)
    assert total(report, "webimage") == (3, 2, 1, 0) and total(report, "rawclips") == (2, 1, 1, 0)
    assert pairs(folder, "webimage")[0][0] == "googleimage_200/199/00/000001.jpg"
    assert pairs(folder, "rawclips")[0][0].endswith("___dTOdxzXY/part_2.mp4")
    folder = source("mmaction2")
    (folder / "train" / "c.mp4").rename(folder / "c.mp4")
    assert total(prepared(folder), "train") == (2, 1, 1, 0)


def test_lists_to_pretrain_have_no_labels(source):
    folder = source("videomae")
    prepared(folder, "videomae_pretrain", annotations=folder / "pretrain")
    assert table(folder, "train") == [{"path": "videos/a.mp4"}, {"path": "frames/b"}]


def test_lists_of_vjepa_may_hold_spaces(source):
    folder = source("vjepa")
    prepared(folder)
    assert pairs(folder, "train") == [("videos/a 1.mp4", "0"), ("videos/b.mp4", "1")]


def test_lists_do_for_video_files_without_records(source):
    folder = source("ucf101")
    prepared(folder)
    lists = {f"{split}_split": str(folder / "out" / f"{split}.csv") for split in ("train", "test")}
    data = {"dataset": "files", "data_dir": str(folder), "max_bad_records": 0}
    data |= {"workers": 1, "category": "", "mixture": (), "flow": ""}
    split = datasets.open_split(ml_collections.ConfigDict(data | lists), lists["test_split"])
    assert split.classes == names("ucf101") and split.source.labels == [(36,)]


# ---- the command


def test_the_report_names_the_copies_of_published_figures(source, monkeypatch, capsys):
    copies = (("MMAction2", {"val": 2}), ("Scenic", {"val": 1}))
    monkeypatch.setitem(counts.COPIES, "kinetics400", copies)
    folder = source("kinetics400")
    (folder / "val" / "bbbbbbbbbb0_000001_000011.mp4").write_bytes(b"no video at all")
    main(["kinetics400", f"--source={folder}", f"--out={folder / 'out'}", "--workers=1"])
    said = capsys.readouterr().out
    assert "2 of 3: as many as the copy of MMAction2" in said  # before it is decoded
    assert "val: 3 listed, 1 found, 1 missing, 1 broken" in said
    written = (folder / "out" / "report.txt").read_text()
    for line in (
        "val: 3 listed, 1 found, 1 missing, 1 broken",
        "  official list: 19,906, 3 are listed here",
        "  1 of 3: as many as the copy of Scenic",
        "  the copy of MMAction2 has 2",
        "    val/bbbbbbbbbb0_000001_000011.mp4: cannot be opened as a video",
        "  abseiling: 1 listed, 0 found, 0 missing, 1 broken",
    ):
        assert f"\n{line}" in written
    # Without labels the test is listed, and not built.
    assert not list((folder / "out").glob("test-*")) and (folder / "out" / "test.csv").is_file()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["kinetics401"], "no dataset is called 'kinetics401'"),
        (["kinetics400", "--fold=2"], "--fold is not for kinetics400"),
        (["kinetics400", "--splits=holdout"], "has train, val, test here, no holdout"),
        (["kinetics400", "--fps=0"], "--fps=0 must be above 0"),
        (["ucf101", "--fold=4"], "--fold=4 must be 1, 2 or 3"),
    ],
)
def test_what_a_dataset_does_not_have_is_refused(flags, said, source):
    folder = source("kinetics400")
    with pytest.raises(JaxvidError, match=said):
        main([*flags, f"--source={folder}", f"--out={folder / 'out'}"])


def test_the_dataset_itself_is_not_written_over(source):
    folder = source("kinetics700")
    with pytest.raises(JaxvidError, match="holds the dataset itself"):
        prepare("kinetics700", folder, folder, lists=True)


@pytest.mark.parametrize(
    ("name", "path", "content", "said"),
    [
        ("kinetics400", "annotations/val.csv", "a,b\n1,2\n", "line 1 has no column youtube_id and"),
        ("kinetics400", "annotations/val.csv", "\xff", "cannot be read"),
        ("ucf101", "ucfTrainTestlist/classInd.txt", "one ApplyEyeMakeup\n", "no number and class"),
        (
            "hmdb51",
            "testTrainMulti_7030_splits/wave_test_split1.txt",
            "a.avi 3\n",
            "code 0, 1 or 2",
        ),
        ("diving48", "Diving48_vocab.json", "[1]", "no list of lists of words"),
        ("diving48", "Diving48_V2_test.json", '[{"vid_name": "a"}]', "entry 0 has no label"),
        ("mit", "moments_categories.txt", "clapping,0\npraying,1\n", "another version"),
        ("sthv2", "labels/train.json", "{", "cannot be read"),
        ("activitynet", "activity_net.v1-3.min.json", '{"database": 3}', "has no database"),
        ("hvu", "HVU_Val_V1.0.csv", "Tags,youtube_id,time_start,time_end\nzoo,a,x,2", "no time in"),
        ("pyslowfast", "train.csv", f"a.mp4 {'9' * 5000}\n", "is no class number"),
    ],
)
def test_annotations_that_are_none_are_one_sentence(name, path, content, said, source):
    folder = source(name)
    (folder / path).write_bytes(content.encode("latin-1"))
    with pytest.raises(JaxvidError, match=said) as caught:
        prepared(folder)
    assert str(folder / path) in str(caught.value) and "\n" not in str(caught.value)


def test_several_files_of_one_name_are_not_guessed(source):
    folder = source("kinetics400")
    text(folder, "k600/train.csv", "label,youtube_id,time_start,time_end")
    with pytest.raises(JaxvidError, match="several files train.csv: .*--annotations, or --train"):
        prepared(folder)
    given = {"train": folder / "annotations" / "train.csv"}
    assert total(prepared(folder, given=given), "train") == (4, 3, 1, 0)
