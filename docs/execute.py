"""Executes the source of a notebook and keeps what its reader wants to see: no logs, no warnings.

python docs/execute.py guides/notebooks/quickstart.py guides/quickstart.ipynb
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbconvert.preprocessors import ExecutePreprocessor


def execute(source: Path, target: Path) -> None:
    """Run all cells in an empty folder, as a hosted runtime has it."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "language": "python",
        "display_name": "Python 3",
    }
    runner = ExecutePreprocessor(timeout=None, kernel_name="python3")
    with tempfile.TemporaryDirectory() as folder:
        runner.preprocess(notebook, {"metadata": {"path": folder}})
    nbformat.write(quiet(notebook), target)


def quiet(notebook: Any) -> Any:
    """The notebook without logs of pip, without stderr, and without times of execution."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            kept = [out for out in cell.outputs if out.get("name") != "stderr"]
            cell.outputs = [] if cell.source.startswith("%pip") else kept
    return notebook


if __name__ == "__main__":
    start = time.perf_counter()
    execute(Path(sys.argv[1]), Path(sys.argv[2]))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the kernel
    print(f"{sys.argv[2]}: {time.perf_counter() - start:.0f} s, ", end="")
    print(f"{used.ru_utime + used.ru_stime:.0f} s of a CPU core")
