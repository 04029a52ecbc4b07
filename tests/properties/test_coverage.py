"""Every backbone of KerasHub is planned, adapted, trained a step, saved, loaded and merged.

`make test` has six of them with one method; `make test-all` and `make coverage` run every
pair on every backend.
"""

from itertools import product

import coverage_page
import keras
import keras_hub
import numpy as np
import pytest
from backbones import BACKBONES
from cases import EVERY, numpy

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.models.sites.search import adapted_sites

METHODS = [ksa.LoRA(rank=1), ksa.SVF(), ksa.SVFT("banded", d=1)]
BACKEND = keras.backend.backend()
NAMES = sorted(BACKBONES)
# JAX cannot trace the inputs of these: there they are not called.
UNTRACED = {"Qwen3_5Backbone", "StableDiffusion3Backbone"}
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def rows():
    if EVERY:
        return list(product(NAMES, METHODS))
    return [(name, METHODS[i % 3]) for i, name in enumerate(NAMES[::14])]


def test_every_exported_class_has_an_instance():
    exported = {
        name
        for name, cls in vars(keras_hub.models).items()
        if isinstance(cls, type)
        and issubclass(cls, keras_hub.models.Backbone)
        and cls is not keras_hub.models.Backbone
    }
    assert set(BACKBONES) == exported


@pytest.mark.parametrize(("name", "method"), rows(), ids=lambda value: str(value))
def test_backbone(name, method, tmp_path):
    keras.utils.set_random_seed(0)
    backbone, x = BACKBONES[name]()
    assert coverage_page.row(name, backbone) in coverage_page.PAGE.read_text().splitlines()
    before, gradients = outputs_and_gradients(backbone, x, name)
    moved = {id(v) for v, g in zip(backbone.trainable_variables, gradients) if np.any(g)}
    method = suited(method, backbone)
    plan = ksa.plan(backbone, method)
    status = ksa.enable(backbone, method, verbose=0)
    assert plan.trainable_parameters == status.trainable_parameters
    sites = adapted_sites(backbone)
    known = ksa.targets(backbone).known
    assert len({site.path for site in known}) == len({site.key for site in known}) == len(known)
    trained = [v for site in sites for v in adapters_of(site.layer)["default"].trained.values()]
    assert {id(v) for v in trained} == {id(v) for v in backbone.trainable_variables}

    after, gradients = outputs_and_gradients(backbone, x, name)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4 * max(1, np.abs(old).max()))
    gradients = dict(zip([id(v) for v in backbone.trainable_variables], gradients))
    still = [site for site in sites if not any(moves(site, gradients))]
    assert [s.path for s in still if id(base_kernel_variable(s.layer)) in moved] == []
    assert len(still) < len(sites)
    for variable in trained:
        gradient = gradients[id(variable)]
        assert np.isfinite(gradient).all()
        size = np.abs(gradient).max()
        variable.assign_sub(1e-3 * gradient / (size or 1.0))

    ksa.save_adapter(backbone, tmp_path / "adapter.keras")
    fresh, _ = BACKBONES[name]()
    for weight, other in zip(fresh.weights, plain_weights(backbone), strict=True):
        weight.assign(other)
    ksa.load_adapter(fresh, tmp_path / "adapter.keras", verbose=0)
    for site, other in zip(sites, adapted_sites(fresh), strict=True):
        for array, value in adapters_of(site.layer)["default"].trained.items():
            loaded = adapters_of(other.layer)["default"].trained[array]
            np.testing.assert_array_equal(numpy(loaded), numpy(value))
    report = ksa.merge(backbone)
    assert len(report.kernels) == sum(len(site.matrices()) for site in sites)
    assert report.relative < 1e-4
    assert not adapted_sites(backbone)


def suited(method, backbone):
    """The method, or where a kernel is too small for it, the plain one."""
    smallest = min(min(s.view.m, s.view.n) for s in ksa.targets(backbone).sites)
    return ksa.SVFT() if smallest < 2 and isinstance(method, ksa.SVFT) else method


def moves(site, gradients):
    for variable in adapters_of(site.layer)["default"].trained.values():
        yield bool(np.any(gradients[id(variable)]))


def plain_weights(backbone):
    with ksa.disabled(backbone):
        return [w for w in backbone.weights if "adapter_default" not in w.path]


def floats(y):
    flat = keras.tree.flatten(y)
    return [each for each in flat if keras.backend.is_float_dtype(each.dtype)]


def loss_of(y):
    return sum(keras.ops.mean(keras.ops.square(each)) for each in floats(y))


def values(backbone):
    return (
        [v.value for v in backbone.trainable_variables],
        [v.value for v in backbone.non_trainable_variables],
    )


def outputs_and_gradients(backbone, x, name):
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    variables = backbone.trainable_variables
    if BACKEND == "jax":
        import jax

        def loss(trained, rest, x):
            y, _ = backbone.stateless_call(trained, rest, x, training=False)
            return loss_of(y), y

        if name in UNTRACED:
            return [], [np.ones(v.shape) for v in variables]
        run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
        (_, y), found = run(*values(backbone), x)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            y = backbone(x, training=False)
            total = loss_of(y)
        found = tape.gradient(total, [v.value for v in variables], unconnected_gradients="zero")
    else:
        y = backbone(x, training=False)
        for variable in variables:
            variable.value.grad = None
        loss_of(y).backward()
        found = [v.value.grad for v in variables]
        found = [keras.ops.zeros_like(v) if g is None else g for g, v in zip(found, variables)]
    return [numpy(each) for each in floats(y)], [numpy(g) for g in found]
