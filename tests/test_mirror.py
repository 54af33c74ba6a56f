"""Every module has a test: one of its name, one that imports it, or one that this table names."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
# What is reached through others only, and where. A folder's line stands for all of its modules.
THROUGH = {
    "configs": "tests/config/test_config.py",
    "converters/nestings.py": "tests/converters/test_files.py",
    "converters/pickles.py": "tests/converters/test_torch_file.py",
    "converters/report.py": "tests/converters/test_checkpoints.py",
    "converters/sources.py": "tests/converters/test_files.py",
    "jaxvid/base/interrupts.py": "tests/test_faults.py",
    "jaxvid/base/secrets.py": "tests/base/test_text.py",
    "jaxvid/bench": "tests/bench/test_measure.py",
    "jaxvid/checkpoint": "tests/checkpoint/test_checkpoint.py",
    "jaxvid/config": "tests/config/test_config.py",
    "jaxvid/data/batches.py": "tests/data/test_pipeline.py",
    "jaxvid/data/building/pipeline.py": "tests/data/test_beam.py",
    "jaxvid/data/building/repair.py": "tests/data/test_verify.py",
    "jaxvid/data/examples.py": "tests/data/test_pipeline.py",
    "jaxvid/data/info.py": "tests/data/test_decode.py",
    "jaxvid/data/prepare": "tests/data/test_prepare.py",
    "jaxvid/data/sources.py": "tests/data/test_datasets.py",
    "jaxvid/data/subset.py": "tests/data/test_categories.py",
    "jaxvid/data/view.py": "tests/data/test_viewing.py",
    "jaxvid/data/viewing": "tests/data/test_viewing.py",
    "jaxvid/data/views.py": "tests/data/test_pipeline.py",
    "jaxvid/export": "tests/test_export.py",
    "jaxvid/inference/reconstruct.py": "tests/training/test_pretrain.py",
    "jaxvid/layers/names.py": "tests/models/test_arch.py",
    "jaxvid/models": "tests/models/test_families.py",
    "jaxvid/plan": "tests/plan/test_measure.py",
    "jaxvid/predict": "tests/test_predict.py",
    "jaxvid/probe": "tests/probe/test_study.py",
    "jaxvid/training/profiling.py": "tests/training/test_loop.py",
    "jaxvid/training/window.py": "tests/training/test_loop.py",
    "jaxvid/zoo": "tests/zoo/test_zoo.py",
}


def imported(path: pathlib.Path) -> set[str]:
    """Full names of the modules that a file imports, and of what it imports from them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def modules() -> list[pathlib.Path]:
    """The library's modules, from the root; packages' own files have nothing to test."""
    found = [
        path for top in ("configs", "converters", "jaxvid") for path in ROOT.glob(f"{top}/**/*.py")
    ]
    return sorted(path.relative_to(ROOT) for path in found if path.name != "__init__.py")


def mirrored(module: pathlib.Path) -> pathlib.Path:
    """Where a module's own test lies."""
    below = module.relative_to("jaxvid") if module.parts[0] == "jaxvid" else module
    return ROOT / "tests" / below.with_name(f"test_{module.name}")


def test_every_module_has_a_test():
    tests = [imported(path) for path in ROOT.glob("tests/**/test_*.py")]
    reached = set().union(*tests)
    without = [
        str(module)
        for module in modules()
        if not mirrored(module).exists()
        and ".".join(module.with_suffix("").parts) not in reached
        and not {str(module), *map(str, module.parents)} & THROUGH.keys()
    ]
    assert without == []


def test_the_table_names_what_is_there():
    for place, test in THROUGH.items():
        assert (ROOT / place).exists(), place
        assert (ROOT / test).is_file(), test
