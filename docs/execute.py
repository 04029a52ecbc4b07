"""Executes the source of a notebook and keeps what its reader wants to see: no logs, no warnings.

python docs/execute.py guides/notebooks/quickstart.py guides/quickstart.ipynb
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbconvert.preprocessors import ExecutePreprocessor


def execute(source: Path, target: Path) -> None:
    """Runs all cells in the folder of the target."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "language": "python",
        "display_name": "Python 3",
    }
    runner = ExecutePreprocessor(timeout=None, kernel_name="python3")
    runner.preprocess(notebook, {"metadata": {"path": str(target.parent)}})
    nbformat.write(quiet(notebook), target)


def quiet(notebook: Any) -> Any:
    """The notebook without what went to stderr, and without times of execution."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    start = time.perf_counter()
    execute(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{sys.argv[2]}: {time.perf_counter() - start:.0f} s")
