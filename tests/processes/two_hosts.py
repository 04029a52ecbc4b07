"""One of two processes that hold a model together (JAX); as one process alone would train it."""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["KERAS_BACKEND"] = "jax"

import keras
import keras_hub
import numpy as np
import pytest
from keras.distribution import DeviceMesh, ModelParallel, set_distribution

import keras_svd_adapters as ksa
from keras_svd_adapters import processes
from keras_svd_adapters.values import to_numpy

METHODS = [ksa.LoRA(rank=2), ksa.SVF(), ksa.VeRA(rank=8)]
IDS = np.random.default_rng(0).integers(1, 64, size=(8, 12))
Y = np.arange(8) % 3
FOLDER, PLACE, COUNT, PORT = Path(sys.argv[1]), *map(int, sys.argv[2:])


def build():
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=64,
        num_layers=1,
        num_query_heads=8,
        num_key_value_heads=4,
        hidden_dim=32,
        intermediate_dim=64,
    )
    logits = keras.layers.Dense(3, name="head")(backbone.output[:, 0])
    return backbone, keras.Model(backbone.input, logits)


def trained(backbone, model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    part = slice(PLACE * 8 // COUNT, (PLACE + 1) * 8 // COUNT)
    x = {"token_ids": IDS[part], "padding_mask": np.ones_like(IDS[part])}
    fitted = model.fit(x, Y[part], epochs=3, batch_size=8 // COUNT, shuffle=False, verbose=0)
    return fitted.history["loss"]


def values(backbone):
    return {w.path: to_numpy(w) for w in backbone.weights}


def main():
    if COUNT > 1:
        keras.distribution.initialize(f"127.0.0.1:{PORT}", COUNT, PLACE)
        mesh = DeviceMesh((2, 4), ("batch", "model"))
        layout_map = keras_hub.models.LlamaBackbone.get_layout_map(mesh)
        layout_map[".*/lora_.*"] = ("batch", "model", None)  # of three axes: must not be asked
        set_distribution(
            ModelParallel(layout_map=layout_map, batch_dim_name="batch", auto_shard_dataset=False)
        )
        assert (processes.count(), processes.number()) == (COUNT, PLACE)
    results = {}
    for number, method in enumerate(METHODS):
        backbone, model = build()
        keras.utils.set_random_seed(1 + PLACE)  # other seeds, other caches: the first one's count
        ksa.enable(backbone, method, verbose=0, cache=number % 2 == 0)
        results |= {f"{number} start {k}": v for k, v in values(backbone).items()}
        results[f"{number} losses"] = np.array(trained(backbone, model))
        file = FOLDER / f"{COUNT} {number}.keras"
        ksa.save_adapter(backbone, file if PLACE == 0 else FOLDER / "nowhere" / "at all")
        expected = values(backbone)
        ksa.delete_adapter(backbone, "default")
        ksa.load_adapter(backbone, file, verbose=0)
        for path, value in values(backbone).items():
            np.testing.assert_array_equal(value, expected[path], err_msg=path)
    np.savez(FOLDER / f"{COUNT} {PLACE}.npz", **results)
    if COUNT > 1:
        errors_reach_every_process()


def errors_reach_every_process():
    backbone, _ = build()
    before = [w.path for w in backbone.weights]
    with pytest.raises(FileNotFoundError):
        ksa.load_adapter(backbone, FOLDER / "none.keras", verbose=0)
    kernel = ksa.targets(backbone).sites[1].layer.kernel
    kernel.assign(np.full(kernel.shape, np.inf))
    with pytest.raises(ValueError, match="NaN or infinity"):
        ksa.enable(backbone, ksa.SVF(), verbose=0)
    assert [w.path for w in backbone.weights] == before
    ksa.enable(backbone, ksa.LoRA(rank=2), verbose=0)
    with pytest.raises(OSError):
        ksa.save_adapter(backbone, FOLDER / "nowhere" / "at all")


main()
