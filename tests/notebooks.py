"""Runs the notebooks of `docs/notebooks`, each in a kernel and a folder of its own.

    python -m tests.notebooks --write

writes into them what their cells gave, which is what readers see on the site; names of notebooks
choose among them. The notebook then holds a sum of its cells, by which a test sees that one was
changed and not run again.
"""

import argparse
import hashlib
import os
import pathlib
import tempfile
from unittest import mock

import nbclient
import nbformat
from traitlets.config import Config

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "notebooks"
# Of a cell; all cells of a notebook take a minute.
TIMEOUT = 300


def run(path: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook with what its cells give here.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as place:
        # Neither files nor settings of whoever runs this, and no network to ask.
        environment = {
            "HOME": place,
            "IPYTHONDIR": f"{place}/ipython",
            "JUPYTER_DATA_DIR": f"{place}/jupyter",
            "JUPYTER_RUNTIME_DIR": f"{place}/runtime",
            "JUPYTER_CONFIG_DIR": f"{place}/config",
            "MPLCONFIGDIR": f"{place}/matplotlib",
            "TMPDIR": place,
            "PYTHONPATH": str(ROOT),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            "JAX_PLATFORMS": "cpu",
        }
        with mock.patch.dict(os.environ, environment):
            client = nbclient.NotebookClient(
                notebook,
                # Sockets in the folder, not on the network.
                config=Config(KernelManager={"transport": "ipc", "ip": f"{place}/kernel"}),
                timeout=TIMEOUT,
                kernel_name="python3",
                resources={"metadata": {"path": place}},
                coalesce_streams=True,
                record_timing=False,
            )
            client.execute()
    return notebook


def sources(notebook: nbformat.NotebookNode) -> str:
    """A sum of all code cells, as they were when a notebook was written."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def write(path: pathlib.Path) -> None:
    """Runs a notebook and writes it with what its cells gave."""
    notebook = run(path)
    notebook.metadata = {
        "jaxvid": {"sources": sources(notebook)},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="notebooks, without .ipynb; all of them if none")
    parser.add_argument("--write", action="store_true", help="write what the cells gave into them")
    args = parser.parse_args()
    paths = [FOLDER / f"{name}.ipynb" for name in args.names] or sorted(FOLDER.glob("*.ipynb"))
    for path in paths:
        (write if args.write else run)(path)


if __name__ == "__main__":
    main()
