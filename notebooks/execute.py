"""Executes notebooks in fresh kernels and writes them, with outputs, to another folder; or strips those in this one.

    python notebooks/execute.py --to build/notebooks [01_quickstart …]
    python notebooks/execute.py --strip

Charts come out as Plotly's own JSON (`application/vnd.plotly.v1+json`), without JavaScript: who shows the notebook
brings Plotly along. The notebooks in this folder stay as they are, without outputs.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
TIMEOUT = 300
"""Seconds that a cell may take."""

KEPT = ("jupytext", "kernelspec")
"""Metadata of a notebook that do not change with the machine."""

# Charts as JSON; no progress bars; W&B and the hub stay off the network; one thread, as the models are tiny.
ENVIRONMENT = {
    "PLOTLY_RENDERER": "plotly_mimetype",
    "WANDB_MODE": "offline",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm misses widgets, which no page would show
    "OMP_NUM_THREADS": "1",
}


def names() -> list[str]:
    """The notebooks, without their ending, in order."""
    return sorted(path.stem for path in HERE.glob("*.ipynb"))


def execute(name: str) -> nbformat.NotebookNode:
    """One notebook with its outputs.

    Args:
        name: without its ending.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
    """
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(HERE)}}
    with TemporaryDirectory() as sockets:  # no port of the machine's: nobody else can talk to the kernel
        config = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
        client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources, config=config)
        executed: nbformat.NotebookNode = client.execute(env={**os.environ, **ENVIRONMENT})
    return executed


def strip(path: Path) -> None:
    """Takes out what running a notebook has put in: outputs, counts, and what tells of the machine."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.metadata = {name: notebook.metadata[name] for name in KEPT if name in notebook.metadata}
    nbformat.write(notebook, path)


def main(argv: list[str] | None = None) -> None:
    """Reads the command line, executes, writes."""
    parser = argparse.ArgumentParser(description="Executes notebooks and writes them with outputs to a folder.")
    parser.add_argument("names", nargs="*", help="without ending (default: all)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--to", type=Path, metavar="DIR", help="where they go; made if need be")
    what.add_argument("--strip", action="store_true", help="take the outputs out of the notebooks in this folder")
    args = parser.parse_args(argv)
    if args.strip:
        for name in args.names or names():
            strip(HERE / f"{name}.ipynb")
        return
    args.to.mkdir(parents=True, exist_ok=True)
    for name in args.names or names():
        print(f"{name} …", flush=True)
        nbformat.write(execute(name), args.to / f"{name}.ipynb")


if __name__ == "__main__":
    main()
