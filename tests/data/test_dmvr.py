"""The genuine DMVR, where it is installed: it reads our records, and we read what its factories do.

It is on no registry: `pip install 'jaxvid[dmvr]'` takes it from its source. Its tokenizers of text
ask for libraries that have nothing to do with videos, for which empty ones stand in.
"""

import sys
import types

import numpy as np
import pytest

from jaxvid.data import build, records
from jaxvid.data.cpu_tf import tf
from tests.data import clips
from tests.data.test_imports import open_split

FRAMES = (12, 9, 14)


@pytest.fixture(scope="module")
def dmvr():
    """The modules of DMVR that a factory is made of."""
    with pytest.MonkeyPatch.context() as m:
        for name in ("clip", "clip.simple_tokenizer", "sentencepiece", "tensorflow_text"):
            m.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["clip"].simple_tokenizer = sys.modules["clip.simple_tokenizer"]
        pytest.importorskip(
            "dmvr.video_dataset",
            reason="DMVR is not here: pip install 'jaxvid[dmvr]', which takes it from its source",
        )
        from dmvr import modalities, video_dataset

        yield types.SimpleNamespace(modalities=modalities, video_dataset=video_dataset)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Records of three clips of two classes."""
    folder = tmp_path_factory.mktemp("dmvr")
    lines = ["path,label"]
    for number, frames in enumerate(FRAMES):
        clips.encode(folder / f"{number}.mp4", frames)
        lines.append(f"{number}.mp4,{'ab'[number % 2]}")
    (folder / "train.csv").write_text("\n".join(lines))
    build.build(folder, folder / "train.csv", folder / "records", shards=1, workers=1)
    return records.Records(folder / "records", "train")


def factory_of(dmvr, built):
    """A factory of DMVR over our shards, as its users write one."""

    class Ours(dmvr.video_dataset.BaseVideoDatasetFactory):
        def __init__(self):
            super().__init__(shards=[str(path) for path in built.folder.glob("*.tfrecord")])

        def _build(self, num_frames, crop_size):
            dmvr.modalities.add_image(
                parser_builder=self.parser_builder,
                sampler_builder=self.sampler_builder,
                decoder_builder=self.decoder_builder,
                preprocessor_builder=self.preprocessor_builder,
                postprocessor_builder=self.postprocessor_builder,
                is_training=False,
                num_frames=num_frames,
                stride=1,
                min_resize=crop_size,
                crop_size=crop_size,
            )
            dmvr.modalities.add_label(
                parser_builder=self.parser_builder,
                decoder_builder=self.decoder_builder,
                preprocessor_builder=self.preprocessor_builder,
                num_classes=2,
                add_label_name=True,
            )

    return Ours()


def test_dmvr_reads_our_records(dmvr, built):
    factory = factory_of(dmvr, built).configure(num_frames=4, crop_size=48)
    made = list(factory.make_dataset(shuffle=False, num_epochs=1, batch_size=1))
    assert len(made) == len(built) == len(FRAMES)
    for number, example in enumerate(made):
        assert example["label"].numpy().tolist() == [np.eye(2)[number % 2].tolist()]
        assert example["label_name"].numpy().ravel().tolist() == [
            b"ab"[number % 2 : number % 2 + 1]
        ]
        start = (FRAMES[number] - 4) // 2
        jpegs = built.frames(number, range(start, start + 4))
        pixels = np.stack([tf.io.decode_jpeg(jpeg).numpy() for jpeg in jpegs])[:, :, 8:56]
        # Its decoder takes the faster of TensorFlow's two inverse transforms.
        assert np.abs(example["image"].numpy() * 255 - pixels).max() <= 3


def test_we_read_what_a_factory_of_dmvr_does(dmvr, built, tmp_path, monkeypatch):
    module = types.ModuleType("their_factories")
    module.ours = lambda split: factory_of(dmvr, built).configure(num_frames=4, crop_size=48)
    monkeypatch.setitem(sys.modules, "their_factories", module)
    split = open_split("their_factories:ours", tmp_path)
    assert split.source.num_frames.tolist() == list(FRAMES)
    assert split.source.labels == built.labels
    for number, frames in enumerate(FRAMES):
        assert split.source.frames(number, range(frames)) == built.frames(number, range(frames))
