"""Pages of the Python interface: one for each room, of all its modules' docstrings."""

import importlib
import inspect
import pathlib
import pkgutil
import shutil
from types import ModuleType

# Room and title, in the order of the page that lists them.
ROOMS = {
    "jaxvid": "jaxvid: the public names",
    "jaxvid.zoo": "jaxvid.zoo: rows and networks by name",
    "jaxvid.rows": "jaxvid.rows: what a row is",
    "jaxvid.config": "jaxvid.config: from a row to a config",
    "jaxvid.predict": "jaxvid.predict: answers for videos",
    "jaxvid.inference": "jaxvid.inference: tests, features, explanations",
    "jaxvid.training": "jaxvid.training: the loop and its parts",
    "jaxvid.data": "jaxvid.data: from videos to batches",
    "jaxvid.checkpoint": "jaxvid.checkpoint: weights on disk",
    "jaxvid.export": "jaxvid.export: programs",
    "jaxvid.objectives": "jaxvid.objectives: losses and masks",
    "jaxvid.layers": "jaxvid.layers: what families share",
    "jaxvid.models": "jaxvid.models: the families",
    "converters": "converters: from PyTorch and back",
}

# Names that a room loads on first use; its own modules are of use to its command alone.
LAZY = {"jaxvid.predict": ("Predictor", "Prediction")}


def write(folder: pathlib.Path) -> None:
    """Writes the pages, and leaves alone those that would not change."""
    pages = {name.replace(".", "-"): page(name, title) for name, title in ROOMS.items()}
    pages["index"] = index(list(pages))
    if folder.is_dir() and {path.stem for path in folder.glob("*.rst")} - pages.keys():
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def index(names: list[str]) -> str:
    """The page that lists the others."""
    about = (
        "What each room of the house offers, from the docstrings of its modules. Names that begin\n"
        "with an underscore are private to their module. The public surface, which is kept, is\n"
        "that of :doc:`jaxvid <jaxvid>`, :doc:`jaxvid.predict <jaxvid-predict>` and\n"
        ":doc:`converters <converters>`; other rooms may change with the library.\n"
    )
    lines = [*heading("Python interface", "="), about, ".. toctree::", "   :maxdepth: 1", ""]
    return "\n".join([*lines, *(f"   {name}" for name in names), ""])


def page(name: str, title: str) -> str:
    """One room: its docstring and the names it offers, and then each of its modules."""
    room = importlib.import_module(name)
    lines = heading(title, "=")
    if name == "jaxvid":
        # Loaded on first use, each from the room that it stands in.
        lines += [f".. automodule:: {name}", "   :no-members:", ""]
        return "\n".join(lines + [f".. autofunction:: {name}.{each}\n" for each in room.__all__])
    brought = reexports(room) if hasattr(room, "__path__") else {}
    lines += automodule(name, list(brought))
    if name in LAZY:
        return "\n".join(lines)
    for inner in sorted(pkgutil.iter_modules(getattr(room, "__path__", ()))):
        if inner.name.startswith("__"):
            continue
        module = importlib.import_module(f"{name}.{inner.name}")
        rest = [each for each in own_names(module) if each not in brought]
        if rest:
            left_out = [each for each in own_names(module) if each in brought]
            lines += heading(f"{name}.{inner.name}", "-")
            lines += automodule(module.__name__, [], left_out)
    return "\n".join(lines)


def heading(title: str, rule: str) -> list[str]:
    """A title in reStructuredText."""
    return [title, rule * len(title), ""]


def automodule(name: str, brought: list[str], left_out: list[str] = ()) -> list[str]:
    """The directive for a module; `brought` are names that it has from another one."""
    lines = [f".. automodule:: {name}"]
    if left_out:
        lines.append(f"   :exclude-members: {', '.join(left_out)}")
    lines.append("")
    for each in brought:
        kind = (
            "class" if inspect.isclass(getattr(importlib.import_module(name), each)) else "function"
        )
        lines += [f".. auto{kind}:: {name}.{each}", ""]
    return lines


def reexports(package: ModuleType) -> dict[str, object]:
    """What a package offers under its own name from the modules in it."""
    lazy = {each: getattr(package, each) for each in LAZY.get(package.__name__, ())}
    return lazy | {
        name: value
        for name, value in vars(package).items()
        if not name.startswith("_")
        and getattr(value, "__module__", "").startswith(f"{package.__name__}.")
        and (inspect.isclass(value) or inspect.isroutine(value) or callable(value))
    }


def own_names(module: ModuleType) -> list[str]:
    """Functions and classes that a module defines for others."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and callable(value)
        and getattr(value, "__module__", None) == module.__name__
    ]
