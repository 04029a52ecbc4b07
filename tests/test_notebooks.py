"""The notebooks run from their first cell to the last, on a small configuration."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "guides" / "notebooks").glob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook(source, monkeypatch, tmp_path):
    monkeypatch.setenv("SMALL", "1")
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for name in ("material", "classifier", "data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    exec(compile(source.read_text(), str(source), "exec"), vars(ModuleType("notebook")))
    assert sys.modules["material"].SMALL


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_notebook_is_of_this_source(source):
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(ROOT / "guides" / f"{source.stem}.ipynb", as_version=4)
    cells = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    text = source.read_text()
    assert all(line in text for line in cells.splitlines())
    assert all(cell.outputs for cell in notebook.cells if cell.source.rstrip().endswith("plot()"))
