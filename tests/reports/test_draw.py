"""Pictures: what must be where, and that nothing is cut."""

import av
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from jaxvid.reports import draw

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
ANSWERS = [("waving", 0.75), ("a name of no end " * 30, 0.25), ("", 0.0)]


def strip(tmp_path, *args, **settings):
    path = tmp_path / "strip.png"
    draw.strip(*args, path, **settings)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def is_color(picture, color):
    return (picture == ImageColor.getrgb(color)).all(-1)


def test_bars_are_as_long_as_their_probabilities(tmp_path):
    picture = strip(tmp_path, FRAMES, [("", 0.75), ("", 0.25), ("", 1.0), ("", 0.0)])
    filled = is_color(picture, draw._FILL)
    width = (filled | is_color(picture, draw._TRACK)).sum(1).max()
    # Text covers part of a bar: only its first and last rows are whole.
    lengths = filled[np.flatnonzero(np.diff(filled.any(1).astype(int), prepend=0) == 1)].sum(1)
    np.testing.assert_allclose(lengths / width, [0.75, 0.25, 1.0], atol=0.01)


def test_frames_stand_in_order(tmp_path):
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[0, ..., 0] = frames[1, ..., 1] = frames[2, ..., 2] = 255
    picture = strip(tmp_path, frames, ANSWERS)
    places = [np.argwhere((picture == color).all(-1))[:, 1] for color in np.eye(3, dtype=int) * 255]
    assert all(place.size == draw._TILE**2 for place in places)
    assert places[0].max() < places[1].min() and places[1].max() < places[2].min()


@pytest.mark.parametrize("count", [1, 8])
def test_long_text_stays_inside_the_margins(tmp_path, count):
    frames = FRAMES[:1].repeat(count, 0)
    captions = ["a caption wider than its frame"] * count
    picture = strip(tmp_path, frames, ANSWERS, title="a title " * 50, captions=captions)
    ink = (picture < 200).all(-1)
    rows, columns = np.nonzero(ink)
    height, width = ink.shape
    assert columns.min() >= draw._MARGIN and columns.max() < width - draw._MARGIN
    assert rows.min() >= draw._MARGIN and rows.max() < height - draw._MARGIN


def test_a_long_label_leaves_room_for_its_percentage(tmp_path):
    short, long = (
        strip(tmp_path, FRAMES, [(label, 0.0)]) for label in ("wave", "name without end " * 40)
    )
    # The last 60 columns hold the percentage alone, whatever the label.
    np.testing.assert_array_equal(short[:, -60:], long[:, -60:])
    assert (short != long).any()


def test_titles_and_captions_are_drawn(tmp_path):
    plain = strip(tmp_path, FRAMES, ANSWERS)
    full = strip(tmp_path, FRAMES, ANSWERS, title="clip.mp4", captions=["a", "b", "c"])
    assert full.shape[0] > plain.shape[0] and full.shape[1] == plain.shape[1]


def test_the_typeface_has_other_letters_than_latin():
    font = draw._font(15)
    missing = font.getmask("\U0010ffff").getbbox()
    assert all(font.getmask(letter).getbbox() != missing for letter in "жλéß")


def test_fitted_keeps_what_fits():
    font = draw._font(15)
    assert draw._fitted("walking", 500, font) == "walking"
    assert draw._fitted("two\nlines  here", 500, font) == "two lines here"
    cut = draw._fitted("a very long name of a class", 100, font)
    assert cut.endswith("…") and font.getlength(cut) <= 100
    assert "a very long name".startswith(cut[:-1]) and len(cut) > 5


@pytest.mark.parametrize("classes", [1, 3, 60])
def test_confusion_matrix_is_a_picture(tmp_path, classes):
    counts = np.eye(classes, dtype=int) * 3
    names = [f"class {i}" for i in range(classes)]
    draw.confusion_matrix(counts, names, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert (pixels < 128).all(-1).any() and (pixels > 250).all(-1).any()


NAMES = [
    "$\\frac{$",
    "$1 to $2",
    "_x",
    "__",
    "a_b^c%&#",
    r"\alpha \$ {",
    "走る",
    "=1",
    "x\x1b\udcff",
]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))
    )
    return saved


def check_verbatim(texts):
    assert [text.get_text() for text in texts] == [*NAMES[:-1], r"x\x1b\xff"]
    assert not any(text.get_parse_math() or text.get_usetex() for text in texts)


def test_names_are_drawn_as_they_are(tmp_path, figures):
    draw.confusion_matrix(np.eye(len(NAMES), dtype=int), NAMES, tmp_path / "confusion.png")
    check_verbatim(figures[0].axes[0].get_xticklabels())
    check_verbatim(figures[0].axes[0].get_yticklabels())
    names = [*NAMES[:7], NAMES[8]]  # as many as there are colours
    scores = np.linspace(0.9, 0.1, len(names))[None]
    timeline(tmp_path, [(0, 1)], scores, names, title=r"$\frac{$ _\x1b")
    NAMES.remove("=1"), check_verbatim(figures[1].legends[0].get_texts()), NAMES.insert(7, "=1")
    strip(tmp_path, FRAMES, [(name, 0.5) for name in NAMES], title=NAMES[-1])


def test_long_names_leave_room_for_the_matrix(tmp_path, figures, recwarn):
    draw.confusion_matrix(np.eye(2, dtype=int), ["a name " * 140, "b" * 1000], tmp_path / "c.png")
    box = figures[0].axes[0].get_window_extent()
    assert box.width > 250 and box.height > 250
    assert not recwarn.list, "the layout was given up"


def timeline(tmp_path, times, scores, classes, **settings):
    path = tmp_path / "timeline.png"
    draw.timeline(np.array(times, float), np.array(scores), classes, path, **settings)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_timelines_band_has_the_colour_of_the_best_class_at_its_time(tmp_path):
    times = [(0, 2), (1, 3), (2, 4), (3, 5), (4, 6)]
    scores = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.2, 0.8]]
    picture = timeline(tmp_path, times, scores, ["left", "a $name_{ of no end" * 9])
    first, second = (is_color(picture, color) for color in draw._COLORS[:2])
    # The band's rows are those with the most colour.
    row = (first | second).sum(1).argmax()
    lengths = first[row].sum(), second[row].sum()
    # Best changes between the middles of the second window and the third: at 2.5 of 6 seconds.
    assert lengths[0] / sum(lengths) == pytest.approx(2.5 / 6, abs=0.02)
    assert np.flatnonzero(first[row]).max() < np.flatnonzero(second[row]).min()


def test_a_timeline_of_one_window_and_many_classes(tmp_path):
    scores = np.random.default_rng(0).dirichlet(np.ones(400), 1)
    picture = timeline(tmp_path, [(0, 1)], scores, [f"class {i}" for i in range(400)], title="x")
    assert is_color(picture, draw._COLORS[0]).sum() > 500


HEAT = np.zeros((5, 20, 30), np.float32)
HEAT[:, :10, :15] = 1


@pytest.mark.parametrize("name", ["heat.gif", "heat.mp4"])
def test_a_heat_movie_shows_every_frame_and_colours_what_is_hot(tmp_path, name):
    frames = np.full((5, 20, 30, 3), 120, np.uint8)
    frames += 20 * np.arange(5, dtype=np.uint8)[:, None, None, None]
    path = tmp_path / name
    draw.heat_movie(frames, HEAT, path, 5.0, "waving")
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == 5
        shown = [frame.to_ndarray(format="rgb24").astype(int) for frame in file.decode(stream)]
    assert len(shown) == 5 and shown[0].shape == (320 + draw._ROW, 480, 3)
    for number, frame in enumerate(shown):
        hot, cold = frame[40:100, 40:100], frame[200:300, 300:400]
        assert (hot[..., 0] - hot[..., 2]).min() > 40, "hot is not red"
        np.testing.assert_allclose(cold, 120 + 20 * number, atol=14)
    assert (shown[0][325:] < 100).any(), "no caption"
