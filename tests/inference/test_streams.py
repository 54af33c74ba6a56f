"""Networks of optical flow, and those that answer together with one of RGB, from records on."""

import json

import numpy as np
import pytest

from jaxvid import checkpoint, fuse, zoo
from jaxvid import config as configs
from jaxvid.base.errors import JaxvidError
from jaxvid.config import fields
from jaxvid.data import bench, toy
from jaxvid.data.building import build
from jaxvid.inference import evaluate, streams
from jaxvid.inference.predictor import Predictor
from jaxvid.training import loop

FLOW_ROWS = zoo.list_models("tsn_r50_flow_*")
STREAMS = "tsn_r50_1x1x3_k400_twostream"
RGB, FLOW = "tsn_test", "tsn_r50_flow_test"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Toy clips, their lists, and records of their pictures and flow."""
    folder = tmp_path_factory.mktemp("toy")
    settings = toy.Settings(train=1, test=1, height=48, width=64, frames=(9, 12))
    toy.make(folder, settings)
    for split in ("train", "test"):
        for flow in ("", "farneback"):
            build(folder / "videos", folder / f"{split}.csv", folder, workers=1, flow=flow)
    return folder


def small(name: str, data, **arguments):
    """A run of one step on 32-pixel pictures and two segments or stacks."""
    config = configs.from_row(name, runlocal=True, dataset="mine", data_dir=str(data), **arguments)
    config.data.update({"crop": 32, "flow": config.data.flow and "farneback"})
    config.data.sampling.num_clips = config.test.sampling.num_clips = 2
    config.train.update({"batch_size": 8, "epochs": 1.0, "eval_epochs": 1.0})
    config.test.update({"short_side": 32, "crop": 32, "batch_size": 8})
    return config


def test_there_are_four_rows_of_flow_and_two_that_add_one_to_rgb():
    assert len(FLOW_ROWS) == 4
    added = [name for name in zoo.list_models() if zoo.streams(name)]
    assert added == ["tsn_r50_1x1x3_k400_twostream", "tsn_r50_1x1x8_k400_twostream"]
    assert zoo.starting_row(FLOW).modality == "flow"


@pytest.mark.parametrize("name", FLOW_ROWS)
def test_rows_of_flow_train_and_are_tested(name, data, tmp_path):
    config = small(name, data)
    row = zoo.get_row(name)
    published = fields.freeze(configs.from_row(name))
    assert published.data.flow == "tvl1" and published.test.protocol == row.test
    assert published.data.mean == published.data.std == (128.0,) * 10
    assert published.test.views == 10 and row.view == (25, 224, 224, 10)
    assert config.model.name == FLOW and config.data.sampling.sampler == "stacks"
    trained = loop.train(config, tmp_path)
    assert trained.count == 8
    assert checkpoint.load_meta(tmp_path)["flow"] == "farneback"
    assert evaluate.evaluate(config, tmp_path).top1 == trained.top1


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The workdir of a two-stream row's training, by one command."""
    workdir = tmp_path_factory.mktemp("streams") / "run"
    result = loop.train(small(STREAMS, data), workdir)
    return workdir, result


def test_two_streams_are_trained_tested_and_fused_by_one_command(data, trained):
    workdir, result = trained
    config = small(STREAMS, data)
    assert config.model.members == (RGB, FLOW)
    members = [fuse.read(workdir / name / "eval" / "scores.npz") for name in (RGB, FLOW)]
    assert not np.allclose(members[0].scores, members[1].scores)
    logits = sum(np.log(member.scores) for member in members) / 2
    want = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    fused = fuse.read(workdir / "eval" / "scores.npz")
    np.testing.assert_allclose(fused.scores, want, rtol=1e-5)
    said = json.loads((workdir / "eval" / "result.json").read_text())
    assert said["members"] == [RGB, FLOW] and said["videos"] == result.count == 8
    assert {path.name for path in (workdir / "eval").iterdir()} == {
        "classes.csv", "confusion.png", "predictions.csv", "result.json", "scores.npz"
    }  # fmt: skip


def test_members_are_found_below_init(data, trained, tmp_path):
    workdir, result = trained
    again = evaluate.evaluate(small(STREAMS, data, init=str(workdir)), tmp_path / "again")
    assert again.top1 == result.top1
    fused = [fuse.read(each / "eval" / "scores.npz") for each in (workdir, tmp_path / "again")]
    np.testing.assert_array_equal(fused[0].scores, fused[1].scores)
    with pytest.raises(JaxvidError, match=RGB):
        evaluate.evaluate(small(STREAMS, data, init=str(tmp_path)), tmp_path / "none")


def test_each_member_has_its_own_test_and_what_is_changed_holds_for_all(data):
    config = configs.from_row(STREAMS, dataset="mine", data_dir=str(data), init="weights")
    config.data.update({"flow": "farneback", "test_split": "other"})
    config.test.batch_size = 2
    members = streams.members(fields.freeze(config))
    assert list(members) == list(zoo.get_row(STREAMS).members)
    for name, member in members.items():
        assert member.test.protocol == zoo.get_row(name).test
        assert member.init == f"weights/{name}" and member.data.data_dir == str(data)
        assert member.test.batch_size == 2 and member.data.test_split == "other"
        assert member.model.members == () and member.model.name == name
    assert [member.data.flow for member in members.values()] == ["", "farneback"]


def test_prediction_is_the_test_of_the_file(data, trained):
    workdir, _ = trained
    files = small(FLOW, data / "videos")
    files.data.update({"dataset": "files", "test_split": str(data / "test.csv")})
    files.data.train_split = files.data.test_split
    evaluate.evaluate(files, workdir / FLOW)
    tested = fuse.read(workdir / FLOW / "eval" / "scores.npz")
    predictor = Predictor(workdir / FLOW)
    for number in (0, 5):
        seen = predictor.predict(data / "videos" / tested.paths[number])
        np.testing.assert_allclose(seen.scores, tested.scores[number], atol=1e-6)
    assert seen.view.shape == (2, 32, 32, 10) and seen.pictures.shape == (2, 32, 32, 3)
    assert seen.numbers.tolist() == [0, seen.num_frames - 6]
    heat, _ = predictor.explain(seen)
    assert heat.shape == (2, 32, 32)
    other = Predictor(workdir / FLOW, flow="tvl1").scores(data / "videos" / tested.paths[5])
    assert not np.allclose(other, tested.scores[5], atol=1e-6)
    with pytest.raises(JaxvidError, match="has 1 frames, and optical flow is between two"):
        predictor.predict(np.zeros((1, 48, 64, 3), np.uint8))
    with pytest.raises(JaxvidError, match="takes RGB: leave the flow tvl1 out"):
        Predictor(workdir / RGB, flow="tvl1")


def test_the_pipeline_alone_is_measured_of_one_network(data, capsys):
    with pytest.raises(SystemExit):
        bench.main([f"--config=configs/zoo_row.py:name={STREAMS},runlocal,data_dir={data}"])
    assert f"several networks: measure {RGB}" in capsys.readouterr().err
