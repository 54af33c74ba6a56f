"""V-JEPA's encoder and its probe, which are published as two files: one network out of both."""

import json
import pickle

import numpy as np
import pytest

import converters
from converters import checkpoints
from jaxvid import checkpoint
from jaxvid.base.errors import JaxvidError
from tests.converters.pth import File
from tests.converters.test_checkpoints import equal, random_variables, run

NAME = "vjepa2_test"
VARIABLES = random_variables(NAME)
TENSORS = {k: np.array(t, order="C") for k, t in converters.to_torch(NAME, VARIABLES).items()}


def part(begin):
    return {k.removeprefix(begin): t for k, t in TENSORS.items() if k.startswith(begin)}


def files(folder, count=3, chosen=0):
    """An encoder's file and a probe's of `count` classifiers; all but the chosen are other ones."""
    encoder = {f"module.backbone.{key}": tensor for key, tensor in part("encoder.").items()}
    student = {key: tensor + 1 for key, tensor in encoder.items()}
    held = {"encoder": student, "predictor": {"module.x": np.ones(3)}, "target_encoder": encoder}
    file, probe = File(), part("classifier.")
    others = [
        {f"module.{key}": file.tensor(tensor + n) for key, tensor in probe.items()}
        for n in range(-chosen, count - chosen)
    ]
    beside = {
        "opt": [{"state": {0: file.tensor(np.ones(3))}}],
        "scaler": None,
        "epoch": 20,
        "batch_size": 4,
    }
    (folder / "vitl.pt").write_bytes(pickle.dumps(held))
    file.write(folder / "probe.pt", {"classifiers": others, **beside})
    return folder / "vitl.pt", folder / "probe.pt"


def test_the_command_joins_both_files_and_says_which_classifier_it_took(tmp_path, capsys):
    encoder, probe = files(tmp_path)
    out = tmp_path / "w"
    run(f"--model={NAME}", f"--checkpoint={encoder}", f"--head={probe}", f"--out={out}")
    said = capsys.readouterr().out
    assert "the probe is classifier 0 of 3 in probe.pt: --classifier=N takes another" in said
    assert "'target_encoder' holds the averaged weights" in said
    assert equal(checkpoint.load(out), VARIABLES)
    meta = checkpoint.load_meta(out)
    assert (meta["source"]["file"], meta["head"]["file"]) == ("vitl.pt", "probe.pt")
    assert meta["head"]["bytes"] == probe.stat().st_size and meta["new"] == []
    back = converters.to_torch(NAME, checkpoint.load(out), meta)
    assert back.keys() == TENSORS.keys()
    assert all(np.array_equal(back[key], TENSORS[key]) for key in back)
    run("--to=torch", f"--checkpoint={out}", f"--out={tmp_path / 'one.pth'}")
    assert equal(converters.convert(NAME, tmp_path / "one.pth"), VARIABLES)


def test_another_classifier_is_taken_where_it_is_asked_for(tmp_path):
    encoder, probe = files(tmp_path, chosen=2)
    assert equal(converters.convert(NAME, encoder, head=probe, classifier=2), VARIABLES)
    assert not equal(converters.convert(NAME, encoder, head=probe), VARIABLES)
    for number in (3, -1):
        with pytest.raises(
            JaxvidError, match=f"3 classifiers, from 0 on, and none of number {number}"
        ):
            converters.convert(NAME, encoder, head=probe, classifier=number)


def test_a_probe_saved_by_itself_goes_beside_an_encoder_from_elsewhere(tmp_path):
    (tmp_path / "probe.pt").write_bytes(pickle.dumps(part("classifier.")))
    encoder = part("encoder.") | {"total_ops": np.ones(1)}
    variables, meta, report = checkpoints.convert_and_tell(
        NAME, encoder, head=tmp_path / "probe.pt"
    )
    assert equal(variables, VARIABLES)
    back = converters.to_torch(NAME, variables, json.loads(json.dumps(meta)))
    assert back.keys() == TENSORS.keys() | {"encoder.total_ops"}
    assert "encoder.total_ops" in "\n".join(report.lines())
    with pytest.raises(JaxvidError, match="probe.pt holds no list of classifiers"):
        converters.convert(NAME, encoder, head=tmp_path / "probe.pt", classifier=1)


def test_what_is_in_the_wrong_place_is_said_with_file_key_and_way_out(tmp_path):
    encoder, probe = files(tmp_path)

    def refused(match, name=NAME, source=encoder, head=probe, **settings):
        with pytest.raises(JaxvidError, match=match) as error:
            converters.convert(name, source, head=head, **settings)
        assert "\n" not in str(error.value) and len(str(error.value)) < 2000

    refused("probe.pt holds probes .* give it as --head", source=probe, head=None)
    refused("probe.pt holds probes .* give it as --head", source=probe, head=encoder)
    refused(
        "vitl.pt should hold a probe, which --head gives, .*'module.backbone.*check", head=encoder
    )
    whole = tmp_path / "whole.pt"
    whole.write_bytes(pickle.dumps(TENSORS))
    refused("whole.pt should hold an encoder, .*'classifier.*check --checkpoint", source=whole)
    for name in ("tsm_test", "vjepa2_vitl"):
        refused(f"{name} is no encoder with a probe, as --head is for", name)
    refused("there is no file .*none.pt", head=tmp_path / "none.pt")
    for wrong, match in (
        ([], "holds 0 classifiers"),
        ([3], "'classifiers.0' of .*probe.pt is a int, not a dict of tensors"),
        ([{"module.linear.weight": "a"}], "'classifiers.0' of .* should hold tensors only"),
        (
            [{"module.linear.weight": np.ones((400, 8), np.float32)}],
            "shape .400, 8., not .400, 24.",
        ),
        ([{"module.fc.weight": np.ones(3)}], "1 of its 1 keys are of none .*.'module.fc.weight'."),
    ):
        probe.write_bytes(pickle.dumps({"classifiers": wrong}))
        refused(match)


def test_a_damaged_file_of_either_kind_is_seen(tmp_path):
    encoder, probe = files(tmp_path)
    data = bytearray(probe.read_bytes())
    place = data.find(np.ascontiguousarray(TENSORS["classifier.linear.weight"]).tobytes())
    data[place] ^= 1
    probe.write_bytes(data)
    with pytest.raises(JaxvidError, match="probe.pt is damaged .the sum of"):
        converters.convert(NAME, encoder, head=probe)


@pytest.mark.parametrize(
    "flags, match",
    [
        (["--head=probe.pt"], "--checkpoint is missing: .* beside which --head stands"),
        (["--checkpoint=vitl.pt", "--classifier=1"], "--classifier chooses within --head"),
        (["--checkpoint=vitl.pt", "--head=none.pt"], "--head=none.pt does not exist"),
        (["--checkpoint=vitl.pt", "--head=probe.pt", "--to=torch"], "--head has no use"),
        (["--checkpoint=vitl.pt", "--head=probe.pt", "--image-weights"], "--head has no use"),
        (["--all=.", "--head=probe.pt"], "--head has no use"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(tmp_path, monkeypatch, flags, match):
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JaxvidError, match=match):
        run(f"--model={NAME}", "--out=w", *flags)
    assert not (tmp_path / "w").exists()
