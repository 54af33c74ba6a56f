"""Folders of frames and single pictures as videos: in builds, as files, and in predictions."""

import io
import pathlib

import ml_collections
import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxvid.base.errors import JaxvidError
from jaxvid.data import datasets, decode, pictures, records
from jaxvid.data.building import build
from jaxvid.predict import files, find_videos
from tests.data import clips


def frame(number: int, size=(48, 64)) -> Image.Image:
    return Image.fromarray(clips.pattern(number, *size))


def folder_of(folder: pathlib.Path, *names: str, **settings) -> pathlib.Path:
    """A folder of frames of growing grey in the order of the names."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        frame(number).save(folder / name, **settings)
    return folder


def greys(path) -> list[int]:
    """The number of each frame, by its grey."""
    return [round((int(image[-1, -1, 0]) - 16) / 8) for image in decode.read_frames(path)]


@pytest.mark.parametrize(
    "names",
    [
        ("img_00000.jpg", "img_00001.jpg", "img_00002.jpg"),
        ("00001.jpg", "00002.JPG", "00003.jpeg"),
        ("f9.png", "f10.png", "f11.png"),
        ("5.jpg", "10.jpg", "15.jpg"),
        ("clip2_0_x.jpg", "clip2_1_x.jpg", "clip2_2_x.jpg"),
    ],
)
def test_frames_come_in_the_order_of_their_numbers(names, tmp_path):
    folder = folder_of(tmp_path / "a", *names)
    frame(9).save(folder / "flow_x_00001.jpg")
    (folder / ".00007.jpg").write_bytes(b"a system's note")
    (folder / "notes.txt").write_text("no picture")
    assert greys(folder) == [0, 1, 2]
    info = decode.probe(folder)
    assert (info.num_frames, info.height, info.width, info.damaged) == (3, 48, 64, 0)
    assert np.isnan(info.fps)
    assert decode.frames_at(folder, [2, 0, 2]).shape == (3, 48, 64, 3)


def test_frames_that_are_not_asked_for_are_not_read(tmp_path):
    folder = folder_of(tmp_path / "a", "1.jpg", "2.jpg", "3.jpg")
    (folder / "2.jpg").write_bytes(b"no picture")
    assert len(decode.frames_at(folder, [0, 2])) == 2
    for read in (decode.probe, lambda path: decode.frames_at(path, [1]), greys):
        with pytest.raises(JaxvidError, match=r"2\.jpg cannot be read as a picture: is no JPEG"):
            read(folder)


def test_a_gap_is_said(tmp_path):
    folder = folder_of(tmp_path / "a", "1.jpg", "2.jpg", "6.jpg")
    assert decode.probe(folder).damaged == 3


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: frame(0).save(a / "0001.png"), "two pictures of one number: '0001.png' and"),
        (lambda a: frame(0).save(a / "cover.jpg"), "a picture without a number .'cover.jpg'"),
        (lambda a: frame(0).save(a / "b_1.jpg"), "names begin differently .'', 'b_'"),
        (lambda a: frame(0, (64, 48)).save(a / "3.jpg"), "is 48x64, and the first frame .* 64x48"),
        (lambda a: cut(a / "2.jpg"), "(?i)truncated"),
        (lambda a: Image.new("I;16", (64, 48)).save(a / "3.png"), "more than 8 bits a colour"),
        (lambda a: [file.unlink() for file in a.iterdir()], "is a folder without pictures"),
        (
            lambda a: frame(0).save(a / "3.png", save_all=True, append_images=[frame(1)]),
            "animated: call it .apng",
        ),
    ],
)
def test_what_is_no_folder_of_frames_is_refused(change, said, tmp_path):
    folder = folder_of(tmp_path / "a", "1.jpg", "2.jpg")
    change(folder)
    with pytest.raises(JaxvidError, match=said):
        decode.probe(folder)


@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_a_video_of_one_frame_and_upright(orientation, tmp_path):
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = orientation
    frame(3).save(path, exif=exif)
    turned = ImageOps.exif_transpose(Image.open(path))
    info = decode.probe(path)
    assert (info.num_frames, info.height, info.width) == (1, turned.height, turned.width)
    [image] = decode.read_frames(path)
    np.testing.assert_array_equal(image, np.asarray(turned))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_damaged_exif_data_say_nothing(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    frame(3).save(path, exif=exif)
    whole = path.read_bytes()
    start = whole.index(b"Exif")
    for place in range(start + 6, start + 50):
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        assert decode.probe(path).num_frames == 1


@pytest.fixture
def source(tmp_path):
    """Frames that may stay, that are too large, turned, grey and PNG, a picture and a video."""
    folder = tmp_path / "source"
    folder_of(folder / "kept", "1.jpg", "2.jpg", quality=60)
    for name, size in (("large", (400, 640)), ("small", (48, 64))):
        (folder / name).mkdir()
        for number in (1, 2):
            frame(number, size).save(folder / name / f"{number}.jpg")
    Image.fromarray(clips.pattern(0)).convert("L").save(folder / "small" / "2.jpg")
    folder_of(folder / "png", "1.png")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    folder_of(folder / "turned", "1.jpg", exif=exif)
    frame(5).save(folder / "one.jpg")
    clips.encode(folder / "clip.mp4", rate=25)
    lines = [
        "kept,a,12",
        "large,a,",
        "small,b,12.5",
        "png,b,",
        "one.jpg,a,",
        "clip.mp4,b,",
        "turned,a,",
    ]
    (folder / "train.csv").write_text("\n".join(["path,label,fps", *lines]) + "\n")
    return folder


def test_a_build_copies_frames_that_are_small_enough(source, tmp_path):
    build(source, source / "train.csv", tmp_path / "out", workers=1)
    built = records.Records(tmp_path / "out", "train")
    assert built.num_frames.tolist() == [2, 2, 2, 1, 1, 12, 1]
    np.testing.assert_array_equal(built.fps, [12, np.nan, 12.5, np.nan, np.nan, 25, np.nan])
    sizes = np.stack([built.height, built.width], 1).tolist()
    assert sizes == [[48, 64], [320, 512], *[[48, 64]] * 5]

    def same(number, frame, path):
        return built.frames(number, [frame])[0] == (source / path).read_bytes()

    assert same(0, 0, "kept/1.jpg") and same(0, 1, "kept/2.jpg") and same(4, 0, "one.jpg")
    assert not same(1, 0, "large/1.jpg") and not same(6, 0, "turned/1.jpg")
    assert same(2, 0, "small/1.jpg") and not same(2, 1, "small/2.jpg")
    image = Image.open(io.BytesIO(built.frames(3, [0])[0]))
    assert image.format == "JPEG" and abs(int(np.asarray(image)[-1, -1, 0]) - clips.grey(0)) < 3


def test_files_have_the_frames_of_records(source, tmp_path):
    build(source, source / "train.csv", tmp_path / "out", workers=1)
    built = records.Records(tmp_path / "out", "train")
    data = {"dataset": "files", "data_dir": str(source), "max_bad_records": 0}
    data |= {"train_split": "train", "test_split": "test", "workers": 1}
    data |= {"category": "", "mixture": (), "flow": ""}
    split = datasets.open_split(ml_collections.ConfigDict(data), "train")
    np.testing.assert_array_equal(split.source.fps, built.fps)
    np.testing.assert_array_equal(split.source.num_frames, built.num_frames)
    for number in range(len(split)):
        pixels = split.source.frames(number, np.array([0]))
        image = np.asarray(Image.open(io.BytesIO(built.frames(number, [0])[0])).convert("RGB"))
        assert pixels.shape == (1, *image.shape)
        assert np.abs(pixels[0].astype(int) - image).mean() < 1.5


@pytest.mark.parametrize("fps", ["fast", "-1", "0", "inf", "nan", "20000"])
def test_a_rate_that_is_none_is_refused(fps, source, tmp_path):
    (source / "train.csv").write_text(f"path,label,fps\nkept,a,{fps}\n")
    with pytest.raises(JaxvidError, match=r"train\.csv line 2: .* is no fps"):
        build(source, source / "train.csv", tmp_path / "out", workers=1)


def test_pictures_have_no_times_to_cut_them_at(source, tmp_path):
    (source / "train.csv").write_text("path,label,fps,start\nkept,a,12,1\nclip.mp4,a,,0.1\n")
    summary = build(source, source / "train.csv", tmp_path / "out", workers=1)
    assert summary.num_videos == 1
    [reason] = summary.bad.values()
    assert reason == "does not tell when its pictures are shown: list it without start and end"


def test_a_prediction_takes_a_folder_of_frames_for_one_video(source):
    assert find_videos(source / "kept") == ([source / "kept"], 0)
    assert find_videos(source) == ([source / "clip.mp4"], 10)
    place = files.inner_places(source / "kept", [source / "kept"], ".png")
    assert place == [pathlib.Path("kept.png")]


def test_what_may_stay_has_passed_every_check(source):
    with pictures.Pictures(source / "kept") as video:
        assert list(video.jpegs(95)) == [
            (source / "kept" / f"{n}.jpg").read_bytes() for n in (1, 2)
        ]
    cut(source / "kept" / "2.jpg")
    with (
        pytest.raises(JaxvidError, match="(?i)truncated"),
        pictures.Pictures(source / "kept") as video,
    ):
        list(video.jpegs(95))
