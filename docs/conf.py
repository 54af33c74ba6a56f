"""The site: the README, guides and notebooks, and a reference of the interface from the docstrings.

    sphinx-build -W --keep-going -q -c docs . build/site

It asks for nothing from the network, neither while it is built nor when it is read.
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from site_parts import markup, pages, reference, shell  # noqa: E402

project = "jaxvid"
html_title = "jaxvid"
copyright = "the authors of jaxvid"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]

root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**", "launch/README.md"]
exclude_patterns = [".*", "**/.ipynb_checkpoints", "build", "runs", "docs/site_parts"]

# Notebooks are shown with what their cells gave when they were written; see tests/notebooks.py.
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_fence_as_directive = {"mermaid"}
smartquotes_action = "D"  # Dashes, and no quotes: programs are read here.

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "special-members": "__call__", "no-value": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
# A name in single backticks becomes a link where it is one of the reference.
default_role = "py:obj"
add_module_names = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_static_path = ["site_parts/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
copybutton_exclude = ".linenos, .gp"


def setup(app):
    """Adds what Sphinx and its extensions do not bring."""
    app.add_directive("mermaid", pages.Map)
    app.add_lexer("sh", shell.ShellLexer)
    app.connect("builder-inited", lambda app: reference.write(ROOT / "docs" / "reference"))
    app.connect("source-read", pages.read)
    app.connect("build-finished", pages.finish)
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", markup.docstring, priority=400)
    app.connect("autodoc-process-signature", markup.signature)
    app.connect("autodoc-skip-member", markup.skip)
