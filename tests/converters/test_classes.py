"""A classifier for another dataset's classes: the same answers, under the same names."""

import numpy as np
import pytest

import converters
from converters import __main__ as cli
from converters import changes, checkpoints, torch_write
from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from tests.converters.test_checkpoints import random_variables

NAME = "tsm_test"


def joined(name=NAME, dataset="kinetics710"):
    """A checkpoint with the classes of a dataset."""
    labels = zoo.labels(dataset)
    tensors = converters.to_torch(name, random_variables(name, num_classes=len(labels)))
    return checkpoints.convert_and_tell(name, tensors, classes=labels)[:2]


def head(variables):
    return variables["params"]["head"]["fc"]


def test_every_class_keeps_its_weights():
    variables, meta = joined()
    mapped, about = changes.map_classes(variables, meta, "k400")
    assert (about["num_classes"], about["classes"]) == (400, zoo.labels("k400"))
    assert "the classes of kinetics400 out of those of kinetics710" in about["report"]
    for place in (0, 17, 399):
        label = zoo.labels("k400")[place]
        own = zoo.labels("k710").index(label)
        np.testing.assert_array_equal(
            head(mapped)["kernel"][:, place], head(variables)["kernel"][:, own]
        )
        assert head(mapped)["bias"][place] == head(variables)["bias"][own]
    kept = mapped["params"]["backbone"]["conv1"]["conv"]["kernel"]
    np.testing.assert_array_equal(kept, variables["params"]["backbone"]["conv1"]["conv"]["kernel"])
    assert head(mapped)["kernel"].shape == (head(variables)["kernel"].shape[0], 400)


def test_classes_that_are_not_there_are_named_or_zero():
    variables, meta = joined(dataset="kinetics400")
    with pytest.raises(
        JaxvidError, match=r"kinetics400 lacks 310 classes .*acting in play.*--missing"
    ):
        changes.map_classes(variables, meta, "k710")
    mapped, about = changes.map_classes(variables, meta, "k710", missing="zero")
    absent = [place is None for place in zoo.channel_map("k400", "k710")]
    assert (head(mapped)["bias"] == 0).tolist() == absent
    assert ((head(mapped)["kernel"] == 0).all(0)).tolist() == absent
    assert any("310 classes have weights of 0" in line for line in about["report"])


def test_all_classifiers_of_a_network_are_mapped():
    variables, meta = joined("tpn_tsm_test")
    mapped, _ = changes.map_classes(variables, meta, "k400")
    for part in ("main", "aux"):
        assert mapped["params"]["head"][part]["fc"]["bias"].shape == (400,)


def test_whose_classes_they_are_has_to_be_known():
    variables, meta = joined()
    unknown = {**meta, "classes": []}
    with pytest.raises(JaxvidError, match="say --classes-from"):
        changes.map_classes(variables, unknown, "k400")
    told, _ = changes.map_classes(variables, unknown, "k400", "k710")
    assert head(told)["bias"].shape == (400,)
    with pytest.raises(JaxvidError, match="has 710 classes, which are not those of k600"):
        changes.map_classes(variables, unknown, "k400", "k600")


def test_the_command_maps_a_file_and_a_folder_alike(tmp_path):
    variables, meta = joined()
    torch_write.write(tmp_path / "a.pth", converters.to_torch(NAME, variables), {})
    checkpoint.save(tmp_path / "a", variables, meta)
    flags = ["--classes-from=k710", "--classes-to=k600"]
    cli.main(
        [f"--model={NAME}", f"--checkpoint={tmp_path / 'a.pth'}", f"--out={tmp_path / 'b'}", *flags]
    )
    cli.main([f"--checkpoint={tmp_path / 'a'}", f"--out={tmp_path / 'c'}", flags[1]])
    one, other = (head(checkpoint.load(tmp_path / name)) for name in "bc")
    np.testing.assert_array_equal(one["kernel"], other["kernel"])
    assert checkpoint.load_meta(tmp_path / "c")["classes"] == zoo.labels("k600")
    with pytest.raises(JaxvidError, match="is a folder: give a file"):
        cli.main([f"--model={NAME}", f"--checkpoint={tmp_path / 'a'}", f"--out={tmp_path / 'd'}"])
