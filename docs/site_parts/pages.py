"""What pages of the repository need beyond their text to be pages of a site."""

import pathlib
import re
import shutil

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from site_parts import floors

# The site's table of contents, which the README ends with there.
CONTENTS = {
    "Guides": [
        "predict",
        "convert",
        "test-a-row",
        "fine-tune",
        "train",
        "pretrain",
        "probe",
        "own-data",
        "flow",
        "stores",
        "many-devices",
        "accelerators",
        "export",
        "nnx",
        "debugging",
    ],
    "Datasets": [
        "datasets",
        "datasets/activitynet",
        "datasets/diving48",
        "datasets/hmdb51",
        "datasets/hvu",
        "datasets/jester",
        "datasets/kinetics",
        "datasets/moments-in-time",
        "datasets/omnisource",
        "datasets/something-something",
        "datasets/sports1m",
        "datasets/ucf101",
        "datasets/lists",
        "rows",
    ],
    "Notebooks": ["notebooks/first-prediction", "notebooks/features-and-attention"],
    "The zoo": ["families", "zoo", "deviations"],
    "Measured": ["results", "parity", "speed", "compile"],
    "The source": ["architecture", "add-a-family", "reference/index"],
    "Project": ["/CONTRIBUTING", "dependencies", "slow", "/CHANGELOG"],
}
# `docs/zoo.md` becomes `docs/zoo.html`: the page of that name that is there already moves aside.
INTERACTIVE = "zoo-interactive.html"
_LOADED = re.compile(
    r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["']?(?:https?:)?//[^>]*>"""
)


class Map(SphinxDirective):
    """A `mermaid` block."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        picture = floors.draw("\n".join(self.content))
        return [nodes.raw("", f'<div class="floors">{picture}</div>', format="html")]


def contents(docs: pathlib.Path) -> str:
    """The table of contents in MyST; pages that it does not name come last, so none is lost."""
    named = {name for names in CONTENTS.values() for name in names}
    others = sorted(page.stem for page in docs.glob("*.md") if page.stem not in named)
    parts = {**CONTENTS, **({"More": others} if others else {})}
    blocks = []
    for caption, names in parts.items():
        lines = [name[1:] if name.startswith("/") else f"docs/{name}" for name in names]
        options = [":hidden:", f":caption: {caption}", ""]
        blocks.append("\n".join(["```{toctree}", *options, *lines, "```", ""]))
    return "\n".join(blocks)


def read(app, name: str, source: list[str]) -> None:
    """Adds to a page's text, before it is parsed."""
    if name == "README":
        source[0] += "\n" + contents(pathlib.Path(app.confdir))
    elif name == "launch/README":
        source[0] = "---\norphan: true\n---\n" + source[0]
    link = f'<a class="reference external" href="{INTERACTIVE}">zoo.html</a>'
    source[0] = source[0].replace("[zoo.html](zoo.html)", link)


def finish(app, error: Exception | None) -> None:
    """Puts the front page where a browser looks for it, and refuses pages that load from afar."""
    if error is not None or app.builder.format != "html":
        return
    out = pathlib.Path(app.outdir)
    shutil.copyfile(out / "README.html", out / "index.html")
    shutil.copyfile(pathlib.Path(app.confdir) / "zoo.html", out / "docs" / INTERACTIVE)
    for page in sorted(out.rglob("*.html")):
        if found := _LOADED.search(page.read_text("utf-8")):
            logging.getLogger(__name__).warning(f"{page} loads from the network: {found[0]}")
