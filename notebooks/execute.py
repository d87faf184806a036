"""Makes the notebooks from their text: converts it, executes it and keeps what it shows.

    python -m notebooks.execute [NAME ...]

The text beside each notebook is what people edit; without a name all are made. Their kernel is this
Python, whatever kernels are installed, and runs in the repository's root.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
# The programs are small and run for moments: compiling them is what takes time.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def texts() -> list[Path]:
    """Returns the text forms, sorted."""
    return sorted(path for path in FOLDER.glob("*.py") if path.name != Path(__file__).name)


def read(text: Path) -> NotebookNode:
    """Returns the notebook of a text form, without outputs; the same text makes the same bytes."""
    notebook = jupytext.read(text, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", NotebookNode()
    return notebook


def execute(notebook: NotebookNode, timeout: int = 600) -> None:
    """Runs all cells in a fresh kernel and puts their outputs into the notebook.

    Args:
      notebook: what `read` returns; changed in place.
      timeout: the most seconds that a cell may take.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        manager = AsyncKernelManager(
            # With no folder to look in, python3 is the Python that runs here.
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            connection_file=f"{folder}/kernel.json",
            transport="tcp" if sys.platform == "win32" else "ipc",
        )
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=timeout,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(FOLDER.parent)}},
        )
        # The root comes before an installed copy of the packages.
        path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
        flags = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}"
        environment = os.environ | {"PYTHONPATH": path, "XLA_FLAGS": flags}
        client.execute(cleanup_kc=True, env=environment)
    notebook.metadata = nbformat.from_dict(METADATA)  # the kernel adds its version


def main(names: list[str]) -> None:
    """Makes the notebooks of these names, or all."""
    known = {text.stem: text for text in texts()}
    if unknown := sorted(set(names) - known.keys()):
        sys.exit(f"error: no notebook is called {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names or known:
        start = time.perf_counter()
        notebook = read(known[name])
        execute(notebook)
        nbformat.validate(notebook)
        out = known[name].with_suffix(".ipynb")
        nbformat.write(notebook, out)
        seconds = time.perf_counter() - start
        print(f"{out.name}: {seconds:.0f} s, {out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
