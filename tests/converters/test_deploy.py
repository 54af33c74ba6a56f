"""MobileOne's form to deploy, through the command and back to PyTorch's keys."""

import jax
import numpy as np
import pytest

import converters
from converters.__main__ import main
from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.layers.mobileone import deploy
from tests.converters import pth
from tests.models.test_families import network


def write(path, variant: str) -> dict:
    """A checkpoint of a tiny network in a .pth file; returns its variables."""
    variables = jax.tree.map(np.asarray, network(variant)[1])
    file = pth.File()
    tensors = converters.to_torch(variant, variables)
    content = {key: file.tensor(np.ascontiguousarray(array)) for key, array in tensors.items()}
    file.write(path, {"state_dict": content})
    return variables


def test_a_training_checkpoint_becomes_the_deployed_one_and_returns(tmp_path, capsys):
    variables = write(tmp_path / "train.pth", "tsn_mobileone_test")
    classes = tmp_path / "labels.txt"
    classes.write_text("a\nb\nc\nd\ne\n")
    main(
        ["--model=tsn_mobileone_test", f"--checkpoint={tmp_path / 'train.pth'}", "--deploy"]
        + [f"--classes={classes}", f"--out={tmp_path / 'out'}"]
    )
    assert "(tsn_mobileone_test_deploy, 5 classes)" in capsys.readouterr().out
    deployed, meta = checkpoint.load(tmp_path / "out"), checkpoint.load_meta(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, deployed["params"], deploy(variables)["params"])
    assert meta["classes"] == list("abcde")
    main(["--to=torch", f"--checkpoint={tmp_path / 'out'}", f"--out={tmp_path / 'deployed.pth'}"])
    again = converters.convert("tsn_mobileone_test_deploy", tmp_path / "deployed.pth")
    jax.tree.map(np.testing.assert_array_equal, again["params"], deployed["params"])
    keys = converters.to_torch(meta["row"], deployed, meta).keys()
    assert {key.split(".")[-2] for key in keys if key.startswith("backbone.")} == {
        "branch_reparam",
        "conv",
    }


def test_a_checkpoint_of_ours_is_deployed_too(tmp_path):
    variables = jax.tree.map(np.asarray, network("tsn_mobileone_test")[1])
    about = {"row": "tsn_mobileone_test", "variant": "tsn_mobileone_test", "num_classes": 5}
    checkpoint.save(tmp_path / "trained", variables, about | {"short_side": 64})
    main([f"--checkpoint={tmp_path / 'trained'}", "--deploy", f"--out={tmp_path / 'out'}"])
    meta = checkpoint.load_meta(tmp_path / "out")
    assert (meta["row"], meta["short_side"]) == ("tsn_mobileone_test_deploy", 64)
    loaded = checkpoint.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, loaded["params"], deploy(variables)["params"])


def test_other_networks_have_no_such_form(tmp_path):
    variables = {"params": {"head": {"kernel": np.zeros(1)}}}
    checkpoint.save(tmp_path / "other", variables, {"row": "tsn_test", "variant": "tsn_test"})
    with pytest.raises(JaxvidError, match="tsn_test has no other form to deploy"):
        main([f"--checkpoint={tmp_path / 'other'}", "--deploy", f"--out={tmp_path / 'out'}"])


def test_a_deployed_variant_is_tested_as_the_form_it_was_made_of():
    row = zoo.starting_row("tsm_mobileone_s4_deploy")
    trained = zoo.get_row("tsm_mobileone_s4")
    assert (row.test, row.train, row.name) == (trained.test, trained.train, row.variant)
    assert row.train.num_clips == 16 and row.top1 is None
