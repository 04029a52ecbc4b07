"""One of two processes that hold a model together (JAX); as one process alone would train it."""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["KERAS_BACKEND"] = "jax"

import keras
import keras_hub
import numpy as np
import pytest
from keras.distribution import DeviceMesh, ModelParallel, set_distribution

import keras_svd_adapters as ksa
from keras_svd_adapters.kernels.svd import cache as svd_cache
from keras_svd_adapters.kernels.svd import service as svd_service
from keras_svd_adapters.runtime import processes
from keras_svd_adapters.runtime.host_values import to_float_array

METHODS = [ksa.LoRA(rank=2), ksa.SVF(), ksa.VeRA(rank=8)]
IDS = np.random.default_rng(0).integers(1, 64, size=(8, 12))
Y = np.arange(8) % 3
NOWHERE = Path("nowhere") / "at all"
svd_cache.LEAST_OPERATIONS = 0  # so that each keeps what it decomposed, in a folder of its own
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
    return {w.path: to_float_array(w) for w in backbone.weights}


def main():
    preset = FOLDER / f"preset {COUNT} {PLACE}"
    if COUNT > 1:
        keras.distribution.initialize(f"127.0.0.1:{PORT}", COUNT, PLACE)
        mesh = DeviceMesh((2, 4), ("batch", "model"))
        layout_map = keras_hub.models.LlamaBackbone.get_layout_map(mesh)
        layout_map[".*/lora_.*"] = ("batch", "model", None)  # of three axes: must not be asked
        set_distribution(
            ModelParallel(layout_map=layout_map, batch_dim_name="batch", auto_shard_dataset=False)
        )
        assert (processes.process_count(), processes.process_index()) == (COUNT, PLACE)
    results = {}
    for number, method in enumerate(METHODS):
        backbone, model = build()
        planned = ksa.plan(backbone, method)
        keras.utils.set_random_seed(1 + PLACE)  # that of the first process counts
        ksa.enable(backbone, method, verbose=0, cache=number < 2)
        assert planned.trainable_parameters == sum(
            int(np.prod(w.shape)) for w in backbone.trainable_weights
        )
        results |= {f"{number} start {k}": v for k, v in values(backbone).items()}
        results[f"{number} losses"] = np.array(trained(backbone, model))
        file = FOLDER / f"{COUNT} {number}.keras"
        ksa.save_adapter(backbone, file if PLACE == 0 else NOWHERE)
        expected = values(backbone)
        ksa.delete_adapter(backbone, "default")
        ksa.load_adapter(backbone, file if PLACE == 0 else NOWHERE, verbose=0)
        for path, value in values(backbone).items():
            np.testing.assert_array_equal(value, expected[path], err_msg=path)
    np.savez(FOLDER / f"{COUNT} {PLACE}.npz", **results)
    if COUNT > 1:
        errors_reach_every_process()
        each_reads_a_preset(preset)


def each_reads_a_preset(preset):
    backbone, _ = build()
    written = {w.path: to_float_array(w) for w in backbone.weights}
    spread = keras.distribution.distribution()
    set_distribution(None)
    backbone, _ = build()
    for weight in backbone.weights:
        weight.assign(written[weight.path])
    backbone.save_to_preset(preset)
    set_distribution(spread)
    loaded = ksa.from_preset(preset, ksa.LoRA(rank=2), verbose=0)
    for weight in loaded.weights:
        if "adapter_" not in weight.path:
            np.testing.assert_array_equal(to_float_array(weight), written[weight.path])
    if PLACE == 1:
        (preset / "model.weights.h5").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="do not fit the model"):
        ksa.from_preset(preset)


def errors_reach_every_process():
    backbone, _ = build()
    before = [w.path for w in backbone.weights]
    with pytest.raises(FileNotFoundError):
        ksa.load_adapter(backbone, NOWHERE if PLACE == 0 else FOLDER / "2 0.keras", verbose=0)
    plain, alone = svd_service.decompose, MemoryError("on the second alone")

    def failing(*args):
        if PLACE == 1:
            raise alone
        return plain(*args)

    svd_service.decompose = failing
    with pytest.raises(MemoryError, match="on the second alone"):
        ksa.enable(backbone, ksa.SVF(), verbose=0, cache=False)
    svd_service.decompose = plain
    assert [w.path for w in backbone.weights] == before
    ksa.enable(backbone, ksa.LoRA(rank=2), verbose=0)
    with pytest.raises(OSError):
        ksa.save_adapter(backbone, NOWHERE if PLACE == 0 else FOLDER / "second.keras")
    ksa.export_peft(backbone, FOLDER / "peft" if PLACE == 0 else FOLDER / "second.keras")
    expected = values(backbone)
    ksa.delete_adapter(backbone, "default")
    ksa.import_peft(backbone, FOLDER / "peft" if PLACE == 0 else NOWHERE)
    for path, value in values(backbone).items():
        np.testing.assert_array_equal(value, expected[path], err_msg=path)


main()
