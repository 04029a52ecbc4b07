"""Models that lie in parts on several devices: on JAX, by Keras's own distribution."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_svd_adapters as ksa
from keras_svd_adapters.kernel import KernelView
from keras_svd_adapters.layout import layout_beside

SCRIPT = Path(__file__).parent / "processes" / "sharded.py"
RUNS = [("llama", "2x4"), ("gemma3", "4x2"), ("llama", "8")]


def test_a_kernel_on_one_device_leaves_its_adapter_to_keras():
    layer = keras.layers.Dense(6)
    layer.build((None, 4))
    assert layout_beside(layer.kernel, KernelView.from_dense((4, 6)), "m.") is None
    ksa.enable(layer, ksa.LoRA(rank=2), targets=[layer.name])
    told = str(ksa.status(layer, layouts=True))
    assert "default: kernel (-, -), lora_a (-, -), lora_b (-, -)" in told
    assert "lora_a (-" not in str(ksa.status(layer))


if keras.backend.backend() == "jax":  # where alone Keras 3.15 spreads a model

    @pytest.mark.parametrize(("family", "mesh"), RUNS)
    def test_a_sharded_model_trains_and_saves_as_a_whole_one(family, mesh, tmp_path):
        command = [sys.executable, str(SCRIPT), str(tmp_path), family, mesh]
        path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
        run = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-3000:]
