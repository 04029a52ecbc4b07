"""A merged model is an ordinary one: it saves, loads and exports without this package."""

import subprocess
import sys

import keras
import models
import numpy as np
import pytest
from cases import numpy, shake
from fresh_process import fresh_process
from safetensors.numpy import load_file

import keras_svd_adapters as ksa

pytestmark = pytest.mark.optimized("compiled once more by other programs")


@pytest.fixture(scope="module")
def merged():
    keras.utils.set_random_seed(3)
    backbone, x = models.gemma3(num_layers=1)
    ksa.enable(backbone, ksa.SVFT(pattern="banded", d=2))
    shake(backbone)
    adapted = models.output(backbone(x))
    ksa.merge(backbone)
    y = models.output(backbone(x))
    np.testing.assert_allclose(y, adapted, atol=2e-5 * np.abs(adapted).max())
    return backbone, x, y


def test_without_this_package(merged, tmp_path):
    backbone, _, y = merged
    backbone.save(tmp_path / "merged.keras")
    backbone.save_weights(tmp_path / "merged.weights.h5")
    backbone.save_to_preset(tmp_path / "preset")
    assert fresh_process("plain_keras.py", tmp_path).wait() == 0
    with np.load(tmp_path / "plain.npz") as outputs:
        assert len(outputs) == 3
        for output in outputs.values():
            np.testing.assert_allclose(output, y, atol=1e-5)


class Experts(keras.layers.Layer):
    def build(self, shape):
        self.w = self.add_weight(shape=(3, shape[-1], 4), name="w")

    def call(self, x):
        return keras.ops.einsum("bm,smn->bn", x, self.w)


ksa.register_kernels(Experts, w="smn")
STACKED = [ksa.SVFT("random", d=1), ksa.SVFT("banded", d=1), ksa.LoRA(rank=2)]


@pytest.mark.parametrize("method", STACKED, ids=str)
def test_stacked_kernels_with_their_adapter(method, tmp_path):
    inputs = keras.Input((6,))
    model = keras.Model(inputs, Experts()(inputs))
    ksa.enable(model, method, targets=lambda site: True)
    shake(model)
    x = keras.ops.ones((2, 6))
    if keras.backend.backend() == "torch":
        served = __import__("torch").export.export(model, (x,), strict=False).module()(x)
    else:
        signature = [keras.InputSpec(shape=(2, 6), dtype="float32")]
        model.export(tmp_path / "served", "tf_saved_model", False, input_signature=signature)
        program = __import__("tensorflow").saved_model.load(tmp_path / "served")
        served = program.serve(np.ones((2, 6), "float32"))
    np.testing.assert_allclose(np.asarray(models.output(served)), numpy(model(x)), atol=1e-5)


def test_for_serving(merged, tmp_path):
    backbone, x, y = merged
    if keras.backend.backend() == "torch":  # there Keras makes a graph of PyTorch's own
        program = __import__("torch").export.export(
            backbone, (), {"inputs": {k: keras.ops.convert_to_tensor(v) for k, v in x.items()}}
        )
        served = program.module()(inputs={k: keras.ops.convert_to_tensor(v) for k, v in x.items()})
        np.testing.assert_allclose(models.output(served), y, atol=1e-4)
        return
    signature = [{k: keras.InputSpec(shape=v.shape, dtype="int32", name=k) for k, v in x.items()}]
    backbone.export(tmp_path / "served", "tf_saved_model", verbose=False, input_signature=signature)
    script = SERVE.format(folder=str(tmp_path))
    np.savez(tmp_path / "x.npz", **x)
    subprocess.run([sys.executable, "-c", script], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "served.npy"), y, atol=1e-4)


SERVE = """
import numpy as np, sys, tensorflow as tf
x = {{k: tf.constant(v) for k, v in np.load({folder!r} + "/x.npz").items()}}
artifact = tf.saved_model.load({folder!r} + "/served")
np.save({folder!r} + "/served.npy", artifact.serve(x))
assert "keras_svd_adapters" not in sys.modules
"""


def test_for_transformers(merged, tmp_path):
    backbone, _, _ = merged
    backbone.export_to_transformers(str(tmp_path / "hf"))
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    found = next(v for k, v in tensors.items() if k.endswith("layers.0.self_attn.q_proj.weight"))
    kernel = numpy(backbone.get_layer("decoder_block_0").attention.query_dense.kernel)
    expected = kernel.transpose(0, 2, 1).reshape(found.shape)  # (heads, d, h) to (heads h, d)
    np.testing.assert_array_equal(found, expected)
