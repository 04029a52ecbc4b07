"""The notebooks run from their first cell to the last, on a small configuration."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import keras
import pytest

ROOT = Path(__file__).parents[2]
REWARDS = ROOT / "examples" / "notebooks" / "transformer_squared.py"
SOURCES = [*sorted((ROOT / "guides" / "notebooks").glob("*.py")), REWARDS]
SHARDED = ROOT / "examples" / "notebooks" / "kaggle_tpu.py"
STAND_INS = ROOT / "tests" / "support" / "stand_ins"
TAG = re.compile(r'^ tags=\["(\w+)"\]$')
IMPORT = re.compile(r"^ *(?:import|from) (\w+)", re.MULTILINE)
PLAIN = {"keras", "keras_hub", "keras_svd_adapters", "matplotlib", "numpy"}
INSTALLED = {*PLAIN, "gguf", "safetensors", "sentencepiece"}


def cells(source):
    """The code cells of a source: the tag of each, or none, and its lines."""
    blocks = source.read_text().split("# %%")[1:]
    code = [block.partition("\n") for block in blocks if not block.startswith(" [markdown]")]
    return [(TAG.findall(head), lines.strip()) for head, _, lines in code]


def small(source):
    """The notebook with stand-ins for its cells of real models and data, which have a tag."""
    return "\n\n".join(
        (STAND_INS / f"{tag[0]}.py").read_text() if tag else lines for tag, lines in cells(source)
    )


@pytest.mark.long("each cell is tested elsewhere")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook(source, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_SVD_ADAPTERS_CACHE", str(tmp_path / "svd"))
    monkeypatch.chdir(tmp_path)
    namespace = vars(ModuleType("notebook"))
    exec(compile(small(source), str(source), "exec"), namespace)
    assert namespace["ksa"].__name__ == "keras_svd_adapters"


@pytest.mark.backend_free("text")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_notebook_is_all_that_a_hosted_runtime_needs(source):
    first, (install, *others) = source.read_text().split("# %%")[1], cells(source)
    assert first.startswith(" [markdown]")
    assert re.search(r"It takes \d+ minutes", first)
    assert install[1].startswith('# %pip install -q "keras-svd-adapters[jax,hub,plots]"')
    assert all(line.startswith("# %pip ") for line in install[1].splitlines())
    assert sum(bool(tag) for tag, _ in others) == 1
    imported = {name for _, lines in others for name in IMPORT.findall(lines)}
    assert imported <= {*sys.stdlib_module_names, *INSTALLED}


@pytest.mark.backend_free("text")
def test_notebooks_share_the_cell_of_a_model():
    shared = {}
    for source in SOURCES:
        for tag, lines in cells(source):
            if tag:
                assert shared.setdefault(tag[0], lines) == lines, source
    assert {f"{tag}.py" for tag in shared} == {path.name for path in STAND_INS.glob("*.py")}


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
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    expected = [lines.replace("# %pip ", "%pip ") for _, lines in cells(source)]
    assert ["".join(cell["source"]).strip() for cell in code] == expected
    for cell in code:
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        assert cell["outputs"] or not "".join(cell["source"]).endswith(("plot()", "plt.show()"))


@pytest.mark.backend_free("text")
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_notebook_ends_with_a_plot_or_a_table(source):
    notebook = json.loads((source.parents[1] / f"{source.stem}.ipynb").read_text())
    last = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"][-1]
    assert {"image/png", "text/html"} & set(last["outputs"][-1]["data"])
