"""A folder of files: each row converted, or its reason, and the others all the same."""

import pytest

import converters
from converters import __main__ as cli
from converters import torch_write
from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.zoo import index
from tests.converters.test_checkpoints import equal, random_variables

# Rows of the same small network, for the time of these tests.
ROWS = ("tsm_r50_1x1x8_k400", "tsm_r50_1x1x8_k400_100e", "tsm_r50_1x1x16_k400")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three files of rows, the second of which is damaged, and one that is of none."""
    real = zoo.starting_row
    for module in (zoo, index):
        monkeypatch.setattr(module, "starting_row", lambda name: real("tsm_test"))
    folder = tmp_path / "files"
    tensors = converters.to_torch("tsm_test", random_variables("tsm_test"))
    files = [zoo.get_row(name).file for name in ROWS]
    torch_write.write(folder / "deep" / files[0], tensors, {})
    (folder / files[1]).write_bytes((folder / "deep" / files[0]).read_bytes()[:-100])
    torch_write.write(folder / f"{ROWS[2]}.pt", tensors, {})
    (folder / "notes.txt").write_text("x")
    return folder


def run(*arguments):
    cli.main([str(argument) for argument in arguments])


def test_a_folder_is_converted_and_what_fails_costs_no_other(folder, tmp_path, capsys):
    command = (f"--all={folder}", f"--out={tmp_path / 'out'}")
    with pytest.raises(JaxvidError, match=rf"1 of 3 failed \({ROWS[1]}\)"):
        run(*command)
    said = capsys.readouterr().out
    table = dict(line.split()[:2] for line in said.splitlines() if line.startswith("tsm_"))
    assert table == {ROWS[0]: "converted", ROWS[1]: "failed", ROWS[2]: "converted"}
    assert "is cut off or damaged" in said
    assert "of no row (1): notes.txt" in said
    assert f"no file ({len(zoo.list_models()) - 3}): " in said
    for name in (ROWS[0], ROWS[2]):
        assert equal(checkpoint.load(tmp_path / "out" / name), random_variables("tsm_test"))

    # Again with the file whole: only that one is left to do.
    file = zoo.get_row(ROWS[1]).file
    (folder / file).write_bytes(next(folder.glob("deep/*")).read_bytes())
    run(*command)
    said = capsys.readouterr().out
    table = dict(line.split()[:2] for line in said.splitlines() if line.startswith("tsm_"))
    assert table == {ROWS[0]: "was", ROWS[1]: "converted", ROWS[2]: "was"}
    run(*command, f"--model={ROWS[1]}", "--overwrite")
    assert "[1/1]" in capsys.readouterr().out


def test_a_checkpoint_of_another_file_is_not_replaced_unasked(folder, tmp_path):
    command = (f"--all={folder}", f"--out={tmp_path / 'out'}", f"--model={ROWS[2]}")
    run(*command)
    (folder / f"{ROWS[2]}.pt").rename(folder / f"{ROWS[2]}.pth")
    with pytest.raises(JaxvidError, match="1 of 1 failed"):
        run(*command)
    run(*command, "--overwrite")


def test_a_folder_without_files_of_rows_is_said(tmp_path):
    (tmp_path / "tsm.pth").write_bytes(b"x")
    with pytest.raises(JaxvidError, match="holds no file of any row"):
        run(f"--all={tmp_path}", f"--out={tmp_path / 'out'}")
    with pytest.raises(JaxvidError, match="there is no folder"):
        run(f"--all={tmp_path / 'none'}", f"--out={tmp_path / 'out'}")
    with pytest.raises(JaxvidError, match="no row matches --model=qqq"):
        run(f"--all={tmp_path}", f"--out={tmp_path / 'out'}", "--model=qqq")
    with pytest.raises(JaxvidError, match="--classes-to has no use with --all"):
        run(f"--all={tmp_path}", f"--out={tmp_path / 'out'}", "--classes-to=k400")
