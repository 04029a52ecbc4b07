"""The notebooks run from their first cell to the last, on a small configuration."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import keras
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "guides" / "notebooks").glob("*.py"))
SHARDED = ROOT / "examples" / "notebooks" / "kaggle_tpu.py"


@pytest.mark.long("each cell is tested elsewhere")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook(source, monkeypatch, tmp_path):
    monkeypatch.setenv("SMALL", "1")
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for name in ("lesson", "classifier", "data", "comparison"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    exec(compile(source.read_text(), str(source), "exec"), vars(ModuleType("notebook")))
    assert sys.modules["lesson"].SMALL


if keras.backend.backend() == "jax":

    @pytest.mark.long("as the sharded models of test_distribution")
    def test_the_notebook_of_sharded_models(tmp_path):
        environment = os.environ | {"KERAS_SVD_ADAPTERS_CACHE": str(tmp_path / "svd")}
        command = [sys.executable, str(SHARDED)]
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert "cpu:7" in run.stdout
        assert (tmp_path / "zen.keras").exists()


@pytest.mark.backend_free("text")
@pytest.mark.parametrize("source", [*SOURCES, SHARDED], ids=lambda path: path.stem)
def test_the_notebook_is_of_this_source(source):
    notebook = json.loads((source.parents[1] / f"{source.stem}.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    blocks = source.read_text().split("# %%")
    code = [block.strip() for block in blocks[1:] if not block.startswith(" [markdown]")]
    assert ["".join(cell["source"]).strip() for cell in cells] == code
    for cell in cells:
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        assert cell["outputs"] or not "".join(cell["source"]).endswith("plot()")


@pytest.mark.backend_free("text")
def test_the_page_has_the_table_of_the_comparison(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    comparison = importlib.import_module("comparison")
    assert comparison.load().markdown() in (ROOT / "guides" / "methods.md").read_text()
