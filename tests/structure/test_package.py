"""The wheel alone: keras, numpy, safetensors and one backend are enough."""

import inspect
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import pytest

import keras_svd_adapters as ksa

ROOT = Path(__file__).parents[2]
OTHERS = {"jax": "jax", "tensorflow": "tensorflow", "torch": "torch"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    subprocess.run([*command, str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def test_what_completion_shows():
    assert dir(ksa) == sorted(ksa.__all__)
    assert all(hasattr(ksa, name) for name in ksa.__all__)


def test_help_begins_with_every_verb():
    named = set(re.findall(r"`(\w+)`", ksa.__doc__))
    rest = {"SVFTDense", "help", "fit"}
    assert named - rest <= set(ksa.__all__)
    functions = {n for n in ksa.__all__ if inspect.isfunction(getattr(ksa, n))}
    assert functions <= named


@pytest.mark.backend_free("a zip of text")
def test_contents(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "keras_svd_adapters/py.typed" in names
    assert "keras_svd_adapters/methods/spectral/svft.py" in names
    assert not any(name.startswith(("tests", "examples")) for name in names)


def test_works_without_keras_hub_and_the_other_backends(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    backend = keras.backend.backend()
    absent = {"keras_hub", "matplotlib", "peft", *OTHERS} - {backend}
    absent -= {"tensorflow"} if backend == "torch" else set()  # keras imports it if it is there
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "ABSENT": ",".join(sorted(absent))}
    script = ROOT / "tests" / "processes" / "alone.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], env=environment, check=True)
