"""Models that lie in parts on several devices: on JAX, by Keras's own distribution."""

import socket
import subprocess

import keras
import numpy as np
import pytest
from fresh_process import fresh_process

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.matrix_view import KernelView
from keras_svd_adapters.kernels.placement import array_layout

RUNS = [("llama", "2x4"), ("gemma3", "4x2"), ("llama", "8")]


def test_a_kernel_on_one_device_leaves_its_adapter_to_keras():
    layer = keras.layers.Dense(6)
    layer.build((None, 4))
    assert array_layout(layer.kernel, KernelView.from_dense((4, 6)), "m.") is None
    ksa.enable(layer, ksa.LoRA(rank=2), targets=[layer.name])
    told = str(ksa.status(layer, layouts=True))
    assert "default: kernel (-, -), lora_a (-, -), lora_b (-, -)" in told
    assert "lora_a (-" not in str(ksa.status(layer))


if keras.backend.backend() == "jax":  # where alone Keras 3.15 spreads a model

    @pytest.mark.parametrize(("family", "mesh"), RUNS)
    def test_a_sharded_model_trains_and_saves_as_a_whole_one(family, mesh, tmp_path):
        finish(start("sharded.py", tmp_path, family, mesh))

    def test_rules_and_schedules_on_two_devices(tmp_path):
        finish(start("sharded_rules.py", tmp_path))

    @pytest.mark.long("the slowest of all: two processes of four devices each")
    def test_two_processes_hold_a_model_together(tmp_path):
        several(tmp_path, "two_hosts.py")


if keras.backend.backend() == "torch":

    def test_data_parallelism_of_torch(tmp_path):
        several(tmp_path, "ddp.py")


if keras.backend.backend() == "tensorflow":

    def test_a_mirrored_strategy(tmp_path):
        finish(start("mirrored.py", tmp_path))


def start(script, folder, *arguments):
    """A process that runs a script, with a cache of its own."""
    cache = folder / " ".join(["cache", *map(str, arguments)])
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return fresh_process(
        script, folder, *arguments, pipes=pipes, KERAS_SVD_ADAPTERS_CACHE=str(cache)
    )


def finish(*running):
    for process in running:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors[-3000:]


def several(folder, script):
    """Two processes train as one does, and both end with the same values, bit for bit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    finish(*(start(script, folder, place, 2, port) for place in range(2)))
    finish(start(script, folder, 0, 1, port))
    first, second, alone = (dict(np.load(folder / f"{n}.npz")) for n in ("2 0", "2 1", "1 0"))
    assert first.keys() == second.keys() == alone.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
        near = {"atol": 0, "rtol": 0} if " start " in name else {"atol": 1e-5, "rtol": 0}
        np.testing.assert_allclose(value, alone[name], **near, err_msg=name)
