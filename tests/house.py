"""The rooms of the house and who may go where: the table, what the source says, and the map.

    python -m tests.house

writes the map into `docs/architecture.md`, between its two marks, and prints how many rooms and
arrows there are, and the longest files and functions.
"""

import ast
import functools
import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
PACKAGES = ("jaxvid", "converters", "configs")
PAGE = ROOT / "docs" / "architecture.md"
MARKS = ("<!-- the map: python -m tests.house -->", "<!-- end of the map -->")

# What every other room may import.
GROUND = {"jaxvid.base", "jaxvid.rows"}
# A room is a module, or a package with all that is in it. Each may import the rooms on its right,
# the ground and, where it is a package that names itself, its own modules.
ARROWS = {
    "jaxvid.base": {"jaxvid.base"},
    "jaxvid.rows": set(),
    "jaxvid.layers": {"jaxvid.layers"},
    "jaxvid.models": {"jaxvid.layers"},
    "jaxvid.zoo": {"jaxvid.zoo", "jaxvid.models"},
    "jaxvid.config": {"jaxvid.config", "jaxvid.zoo"},
    "jaxvid.objectives": {"jaxvid.objectives"},
    "jaxvid.reports": {"jaxvid.reports"},
    "jaxvid.devices": {"jaxvid.devices", "jaxvid.layers"},
    "jaxvid.checkpoint": {"jaxvid.checkpoint"},
    "jaxvid.data": {
        "jaxvid.data",
        "jaxvid.config",
        "jaxvid.objectives",
        "jaxvid.reports",
        "jaxvid.zoo",
    },
    # A command that may look at the step beside its input.
    "jaxvid.data.bench": {"jaxvid.bench", "jaxvid.config", "jaxvid.data", "jaxvid.devices"},
    "jaxvid.inference": {
        "jaxvid.inference",
        "jaxvid.checkpoint",
        "jaxvid.config",
        "jaxvid.data",
        "jaxvid.devices",
        "jaxvid.fuse",
        "jaxvid.layers",
        "jaxvid.objectives",
        "jaxvid.reports",
        "jaxvid.zoo",
    },
    "jaxvid.training": {
        "jaxvid.training",
        "jaxvid.checkpoint",
        "jaxvid.config",
        "jaxvid.data",
        "jaxvid.devices",
        "jaxvid.inference",
        "jaxvid.layers",
        "jaxvid.objectives",
        "jaxvid.reports",
        "jaxvid.zoo",
    },
    "jaxvid.main": {"jaxvid.config", "jaxvid.devices", "jaxvid.inference", "jaxvid.training"},
    "jaxvid.predict": {
        "jaxvid.predict",
        "jaxvid.data",
        "jaxvid.devices",
        "jaxvid.inference",
        "jaxvid.reports",
    },
    "jaxvid.probe": {
        "jaxvid.probe",
        "jaxvid.checkpoint",
        "jaxvid.config",
        "jaxvid.data",
        "jaxvid.devices",
        "jaxvid.inference",
        "jaxvid.layers",
        "jaxvid.reports",
        "jaxvid.training",
        "jaxvid.zoo",
    },
    "jaxvid.export": {
        "jaxvid.export",
        "jaxvid.checkpoint",
        "jaxvid.config",
        "jaxvid.data",
        "jaxvid.inference",
        "jaxvid.layers",
        "jaxvid.objectives",
        "jaxvid.zoo",
    },
    "jaxvid.fuse": {"jaxvid.reports"},
    "jaxvid.plan": {
        "jaxvid.plan",
        "jaxvid.config",
        "jaxvid.data",
        "jaxvid.devices",
        "jaxvid.inference",
        "jaxvid.layers",
        "jaxvid.reports",
        "jaxvid.training",
        "jaxvid.zoo",
    },
    "jaxvid.bench": {
        "jaxvid.bench",
        "jaxvid.checkpoint",
        "jaxvid.config",
        "jaxvid.data",
        "jaxvid.devices",
        "jaxvid.inference",
        "jaxvid.layers",
        "jaxvid.reports",
        "jaxvid.training",
        "jaxvid.zoo",
    },
    # The public names, loaded on first use.
    "jaxvid": {"jaxvid.checkpoint", "jaxvid.zoo"},
    "converters": {
        "converters",
        "jaxvid.checkpoint",
        "jaxvid.layers",
        "jaxvid.models",
        "jaxvid.zoo",
    },
    "configs": {"jaxvid.config"},
}


def module_name(path: pathlib.Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports(name: str, source: str, is_package: bool) -> set[str]:
    """Full names of all that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in SOURCES else base)
    return found


@functools.cache
def imports_of(name: str) -> set[str]:
    """What the module `name` of the house imports."""
    path = SOURCES[name]
    return imports(name, path.read_text("utf-8"), path.name == "__init__.py")


def without_type_checking(source: str) -> str:
    """The source without what only a checker of types reads."""

    class Without(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            self.generic_visit(node)
            only_types = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            return (node.orelse or ast.Pass()) if only_types else node

    return ast.unparse(Without().visit(ast.parse(source)))


def needs() -> dict[str, set[str]]:
    """For each module the others of the house that it imports when it runs, in functions too."""
    found = {}
    for name, path in SOURCES.items():
        source = without_type_checking(path.read_text("utf-8"))
        found[name] = imports(name, source, path.name == "__init__.py") & SOURCES.keys() - {name}
    return found


def circles(needs: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left of a graph without the modules that lie on no way from one back to itself."""
    left = {name: set(others) for name, others in needs.items()}
    while True:
        needed = set().union(*left.values())
        inside = {name for name, others in left.items() if others and name in needed}
        if len(inside) == len(left):
            return left
        left = {name: left[name] & inside for name in inside}


def room_of(name: str) -> str | None:
    """The room that a module stands in: the longest name of the table that it begins with."""
    if name == "jaxvid":
        return name
    fitting = [r for r in ARROWS if r != "jaxvid" and (name == r or name.startswith(r + "."))]
    return max(fitting, key=len, default=None)


def arrows() -> dict[str, set[str]]:
    """For each room the other rooms that its modules do import."""
    found = {room: set() for room in ARROWS}
    for name in SOURCES:
        room = room_of(name)
        targets = {room_of(other) for other in imports_of(name)} - {None, room, "jaxvid"}
        if room is not None:
            found[room] |= targets
    return found


def levels() -> dict[str, int]:
    """Floors of the rooms: 0 stands on nothing, others one above the highest they stand on."""
    found = arrows()

    @functools.cache
    def level(room: str) -> int:
        return max((level(below) + 1 for below in found[room]), default=0)

    return {room: level(room) for room in found}


def summary(room: str) -> str:
    """The first sentence of a room's docstring."""
    if room == "configs":  # A folder of files, each of its own.
        return "A short file for each popular model, and one that reaches any row."
    text = ast.get_docstring(ast.parse(SOURCES[room].read_text("utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ").strip()


def page_map() -> str:
    """The map in Markdown: a drawing of the rooms by floors, and what each is and stands on."""
    found, floors = arrows(), levels()
    short = {room: room.removeprefix("jaxvid.") for room in found}
    lines = ["```mermaid", "flowchart TD"]
    for floor in sorted(set(floors.values()), reverse=True):
        lines.append(f"  subgraph floor{floor} [floor {floor}]")
        lines += [f"    {short[room]}" for room in found if floors[room] == floor]
        lines.append("  end")
    for room, others in found.items():
        # What all stand on would hide the rest.
        lines += [f"  {short[room]} --> {short[other]}" for other in sorted(others - GROUND)]
    lines += ["```", "", "| room | what it is | stands on |", "| --- | --- | --- |"]
    for room in sorted(found, key=lambda room: (-floors[room], room)):
        others = ", ".join(f"`{short[other]}`" for other in sorted(found[room])) or "nothing"
        lines.append(f"| `{short[room]}` | {summary(room)} | {others} |")
    return "\n".join(lines)


def written_map() -> str:
    """The map as it stands in the page."""
    _, _, rest = PAGE.read_text("utf-8").partition(MARKS[0])
    return rest.partition(MARKS[1])[0].strip()


def longest() -> tuple[tuple[int, str], tuple[int, str]]:
    """Lines and names of the longest file and of the longest function."""
    files, functions = [], []
    for name, path in SOURCES.items():
        text = path.read_text("utf-8")
        files.append((len(text.splitlines()), name))
        functions += [
            (node.end_lineno - node.lineno + 1, f"{name}.{node.name}")
            for node in ast.walk(ast.parse(text))
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        ]
    return max(files), max(functions)


def main() -> None:
    text = PAGE.read_text("utf-8")
    before, _, rest = text.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(f"{before}{MARKS[0]}\n{page_map()}\n{MARKS[1]}{after}", "utf-8")
    found = arrows()
    file, function = longest()
    sys.stdout.write(
        f"{len(found)} rooms, {sum(map(len, found.values()))} arrows; longest file {file[1]}: "
        f"{file[0]} lines; longest function {function[1]}: {function[0]} lines\n"
    )


if __name__ == "__main__":
    main()
