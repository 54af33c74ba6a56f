"""A family that is added as `docs/add-a-family.md` says: two files, one command, and all holds.

The page's example joins a copy of this repository, where the tests that know all families run.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxvid import zoo
from tests.documents import ROOT, blocks, file_of
from tests.golden import weights

PAGE = ROOT / "docs" / "add-a-family.md"
MODULE, GOLDEN = "jaxvid/models/diffnet.py", "tests/golden/diffnet.npz"
GENERATED = {
    "docs/families.md",
    "docs/zoo.html",
    "docs/zoo.md",
    "jaxvid/models/costs.csv",
    "tests/training/traces.json",
}
# Not the blocks of documents, which take long and are run elsewhere, nor other families' networks.
TESTS = [
    *("tests/zoo", "tests/test_golden.py", "tests/test_mirror.py", "tests/test_deviations.py"),
    *("tests/models/test_families.py", "tests/models/test_arch.py", "tests/test_arrows.py"),
    *("tests/test_docs.py", "tests/training/test_traces.py", "tests/converters/test_download.py"),
]
CHOSEN = (
    "diffnet or test_zoo or (test_page and (fresh or every_row or rows_of)) or test_mirror "
    "or test_deviations or every_row_was_counted or held_to_its_reference or has_a_trace "
    "or names_with or numbers_of_rows or in_the_readme or map_is_fresh or follows_an_arrow"
)


def files(tree: pathlib.Path) -> dict[str, bytes]:
    """Of all files of a tree their content."""
    return {
        path.relative_to(tree).as_posix(): path.read_bytes()
        for path in tree.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".pytest_cache" not in path.parts
    }


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository without the family."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("configs", "converters", "docs", "jaxvid", "launch", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "reference")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, tree)
    return tree


def run(tree: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )


def test_two_files_and_one_command_add_a_family(tree):
    before = files(tree)
    snippets = [content for language, content in blocks(PAGE.read_text("utf-8"))]
    # The page's config stays out: a family can do without.
    [module] = [content for content in snippets if file_of(content) == MODULE]
    (tree / MODULE).write_text(module, "utf-8")
    reference = "tests/models/test_arch.py", "-k", "held_to_its_reference and diffnet"
    done = run(tree, "-m", "pytest", "-p", "no:cacheprovider", *reference)
    assert done.returncode == 1 and f"no golden file, {GOLDEN}: docs/add-a-family.md" in done.stdout

    [golden] = [content for content in snippets if "golden.save(" in content]
    done = run(tree, "-c", golden)
    assert done.returncode == 0, done.stdout
    by_hand = files(tree)
    assert by_hand.keys() - before.keys() == {MODULE, GOLDEN}

    done = run(tree, "-m", "jaxvid.zoo", "list", "diffnet*")
    assert done.returncode == 1 and "`python -m tests.generate`" in done.stdout, done.stdout

    done = run(tree, "-m", "tests.generate")
    assert done.returncode == 0, done.stdout
    after = files(tree)
    changed = {name for name in after if after[name] != by_hand.get(name)}
    assert changed | {"tests/training/traces.json"} == GENERATED
    assert "diffnet_test" in done.stdout  # traced, or why not

    done = run(tree, "-m", "pytest", "-p", "no:cacheprovider", "-vv", *TESTS, "-k", CHOSEN)
    assert done.returncode == 0, done.stdout
    for test in ("test_golden[diffnet.npz]", "test_every_row_of[diffnet]", "fresh[zoo.md]"):
        assert f"{test} PASSED" in done.stdout, test


def test_a_golden_is_drawn_as_its_entries_say(tmp_path):
    state = {
        "a.weight": np.zeros([4, 3], np.float32),
        "b.weight": np.zeros([4, 3], np.float32),
        "norm.weight": np.zeros(3, np.float32),
        "index": np.arange(6).reshape(2, 3),
        "count": np.array(7),
    }
    entries = weights.entries(state)
    kinds = [entry["kind"] for entry in entries]
    assert kinds == ["normal", "normal", "uniform", "stored", "zero"]
    entries[0]["times"] = 0.5
    entries[1] |= {"kind": "same", "as": "a.weight"}

    def answer(given, x):
        return x.mean((0, 3, 4, 5))[:, : given["a.weight"].shape[1]] @ given["a.weight"].T

    path = tmp_path / "net.npz"
    weights.save(path, state, answer, [1, 2, 3, 2, 4, 4], weights=entries, seed=3)
    drawn, x, expected = weights.load(path)
    full = weights.draw("a.weight", 3, "normal", 0.0, entries[0]["b"], [4, 3])
    np.testing.assert_array_equal(drawn["a.weight"], full * np.float32(0.5))
    np.testing.assert_array_equal(drawn["b.weight"], drawn["a.weight"])
    np.testing.assert_array_equal(drawn["index"], state["index"])
    assert drawn["count"] == 0 and drawn["norm.weight"].min() >= 0.5
    np.testing.assert_array_equal(expected["view_logits"], answer(drawn, x))
    assert expected["view_logits"].shape == (2, 4) and expected["logits"].shape == (1, 4)
    assert expected["logits_f64"].dtype == np.float64


@pytest.mark.parametrize(
    "answer",
    [
        lambda given, x: np.zeros([2, 4], x.dtype),
        lambda given, x: np.arange(4, dtype=x.dtype),
        lambda given, x: np.arange(8, dtype=np.float32).reshape(2, 4),
    ],
    ids=["all the same", "no views", "never float64"],
)
def test_a_golden_of_no_use_is_not_written(answer, tmp_path):
    state = {"a.weight": np.zeros([4, 3], np.float32)}
    with pytest.raises(ValueError, match="must give finite logits"):
        weights.save(tmp_path / "net.npz", state, answer, [1, 2, 3, 2, 4, 4])
    assert list(tmp_path.iterdir()) == []


def test_the_example_is_no_family_here():
    assert "diffnet" not in zoo.variants()
