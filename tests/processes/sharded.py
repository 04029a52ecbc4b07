"""On eight simulated devices: a sharded model trains as one on a single device does (JAX)."""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["KERAS_BACKEND"] = "jax"

import keras
import keras_hub
import numpy as np
import pytest
from gathers import gathered_weights
from keras.distribution import DataParallel, DeviceMesh, ModelParallel, set_distribution

import keras_svd_adapters as ksa

FAMILIES = {
    "llama": (keras_hub.models.LlamaBackbone, {"num_query_heads": 8, "num_key_value_heads": 4}),
    "gemma3": (
        keras_hub.models.Gemma3Backbone,
        {"num_query_heads": 8, "num_key_value_heads": 4, "head_dim": 4, "image_size": None},
    ),
}
MAPS = {"llama": keras_hub.models.LlamaBackbone, "gemma3": keras_hub.models.GemmaBackbone}
METHODS = [
    ksa.LoRA(rank=2),
    ksa.DoRA(rank=2),
    ksa.PiSSA(rank=2),
    ksa.VeRA(rank=8),
    ksa.SVF(),
    ksa.SVFT(pattern="banded", d=2),
    ksa.SVFT(pattern="random", d=2),
]
IDS = np.random.default_rng(0).integers(1, 64, size=(8, 12))
X = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
Y = np.arange(8) % 3


def methods_of(family):
    """Each family has two of them, `EVERY=1` all."""
    if "EVERY" in os.environ:
        return METHODS
    return [METHODS[0], METHODS[5]] if family == "llama" else [METHODS[1], METHODS[3]]


def build(family, **larger):
    cls, sizes = FAMILIES[family]
    keras.utils.set_random_seed(0)
    common = {"vocabulary_size": 64, "num_layers": 1, "hidden_dim": 32, "intermediate_dim": 64}
    backbone = cls(**(common | sizes | larger))
    return backbone, keras.Model(
        backbone.input, keras.layers.Dense(3, name="head")(backbone.output[:, 0])
    )


def trained(family, method):
    """A backbone, and the losses of its training."""
    backbone, model = build(family)
    keras.utils.set_random_seed(1)
    ksa.enable(backbone, method, verbose=0, cache=False)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    inputs = {name: X[name] for name in X if name in backbone.input}
    history = model.fit(inputs, Y, epochs=3, batch_size=8, shuffle=False, verbose=0)
    return backbone, history.history["loss"]


def main(folder, family, shape):
    shape = tuple(map(int, shape.split("x")))
    mesh = DeviceMesh(shape, ("batch", "model")[: len(shape)])
    if len(shape) == 1:
        spread = DataParallel(mesh)
    else:
        layout_map = MAPS[family].get_layout_map(mesh)
        spread = ModelParallel(layout_map=layout_map, batch_dim_name="batch")
    for method in methods_of(family) if len(shape) == 2 else METHODS[:1]:
        set_distribution(None)
        alone, expected = trained(family, method)
        set_distribution(spread)
        backbone, _ = build(family)
        planned = ksa.plan(backbone, method, cache=False, distribution=spread).device
        assert planned.weights == held_by_one_device(backbone.weights)
        backbone, found = trained(family, method)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        everything = held_by_one_device(backbone.weights)
        trains = held_by_one_device(backbone.trainable_weights)
        assert planned.trained == trains
        assert planned.frozen == everything - trains - planned.weights
        for site in ksa.targets(backbone).sites:
            check_layouts(site)
        assert len(shape) == 1 or "model" in ksa.status(backbone, layouts=True).layouts
        ksa.save_adapter(backbone, folder / "adapter.keras")
        set_distribution(None)
        ksa.delete_adapter(alone, "default")
        ksa.load_adapter(alone, folder / "adapter.keras", verbose=0)
        inputs = {name: X[name] for name in X if name in backbone.input}
        y = np.asarray(alone(inputs))
        set_distribution(spread)
        np.testing.assert_allclose(np.asarray(backbone(inputs)), y, rtol=0, atol=1e-5)
        again, _ = build(family)
        ksa.load_adapter(again, folder / "adapter.keras", verbose=0)
        np.testing.assert_allclose(np.asarray(again(inputs)), y, rtol=0, atol=1e-5)
    refuses_a_model_of_one_device(family, spread)
    set_distribution(spread)
    loads_and_adapts(family, folder / "preset")
    lays_out_as_asked(family, folder / "laid_out.keras")
    if len(shape) == 2:
        gathers_no_kernel_more(family)


def loads_and_adapts(family, folder):
    backbone, _ = build(family)
    backbone.save_to_preset(folder)
    loaded = ksa.from_preset(folder, ksa.LoRA(rank=2), verbose=0)
    ksa.enable(backbone, ksa.LoRA(rank=2), verbose=0)
    for ours, theirs in zip(loaded.weights, backbone.weights, strict=True):
        assert ours.value.sharding.is_equivalent_to(theirs.value.sharding, len(ours.shape))
        if "adapter_" not in ours.path:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def lays_out_as_asked(family, path):
    backbone, _ = build(family)
    weights = len(backbone.weights)
    bad = [
        ({"lora_a": ("batch", None)}, "matches no variable"),
        ({".*lora_a": ("batch",)}, "each of its"),
        ({".*lora_b": ("batch", None)}, "cannot be cut into"),
        ({".*lora_a": ("batch", "batch")}, "same axis of the mesh"),
        ({"(": ("batch", None)}, "regular expressions"),
        (("batch", None), "regular expressions"),
        ({".*lora_b": (None, "rows")}, "regular expressions"),
        ({".*lora_b": "batch"}, "regular expressions"),
    ]
    for layout, told in bad:
        with pytest.raises(ValueError, match=rf"{told}[\s\S]*Received"):
            ksa.enable(backbone, ksa.LoRA(rank=1), verbose=0, layout=layout)
        assert len(backbone.weights) == weights
    asked = {".*lora_b": (None, "batch"), ".*lora_a": (None, None)}
    ksa.enable(backbone, ksa.LoRA(rank=2), verbose=0, layout=asked)
    ksa.save_adapter(backbone, path)
    again, _ = build(family)
    ksa.load_adapter(again, path, verbose=0, layout=asked)
    for site in [*ksa.targets(backbone).sites, *ksa.targets(again).sites]:
        adapter = site.layer.adapter()
        assert [*adapter.lora_b.value.sharding.spec] == [None, "batch"]
        assert not any(adapter.lora_a.value.sharding.spec)


def gathers_no_kernel_more(family):
    """Than the unadapted step: shapes as of a larger model, since XLA chooses by size."""
    larger = {"hidden_dim": 96, "intermediate_dim": 384}
    backbone, _ = build(family, **larger)
    x = {name: keras.ops.convert_to_tensor(X[name]) for name in X if name in backbone.input}
    kernels = {w.path for w in backbone.weights if len(w.shape) > 1}
    plain = gathered_weights(backbone, x)
    for method in methods_of(family):
        backbone, _ = build(family, **larger)
        ksa.enable(backbone, method, verbose=0, cache=False)
        more = gathered_weights(backbone, x) - plain
        assert not kernels & more.keys(), (method, more)


def held_by_one_device(weights):
    return sum(w.value.addressable_shards[0].data.nbytes for w in weights)


def refuses_a_model_of_one_device(family, spread):
    set_distribution(None)
    backbone, _ = build(family)
    set_distribution(spread)
    before = len(backbone.weights)
    with pytest.raises(ValueError, match="set the distribution first"):
        ksa.enable(backbone, ksa.SVF(), verbose=0)
    assert len(backbone.weights) == before


def check_layouts(site):
    """Along the inputs and outputs of a kernel, its adapter is cut as the kernel is."""
    kernel = site.layer.base_kernel
    spec = [*kernel.value.sharding.spec, None, None, None]
    cut = {"m": spec[site.view.rows[0]], "n": spec[site.view.columns[0]]}
    adapter = site.layer.adapter()
    for name, array in adapter.declared.items():
        if not array.shared:
            wanted = [cut.get(axis) for axis in array.axes.ljust(len(array.shape), ".")]
            value = getattr(adapter, name).value
            ours = [*value.sharding.spec] + [None] * (len(array.shape) - len(value.sharding.spec))
            assert ours == wanted, (site.path, name, ours, wanted)


main(Path(sys.argv[1]), *sys.argv[2:])
