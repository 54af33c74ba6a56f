"""What several tests of training take: a few clips to learn from."""

import pytest

from jaxvid.data import build, toy


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of 32 toy clips to train on and 8 to test on."""
    folder = tmp_path_factory.mktemp("mini")
    toy.make(folder, toy.Settings(train=4, test=1, height=48, width=48, frames=(8, 10)))
    for split in ("train", "test"):
        build.build(folder / "videos", folder / f"{split}.csv", folder, workers=1)
    return folder
