"""At step 0 the adapted model is the base model, bit for bit."""

import keras
import models
import numpy as np
import pytest
from cases import (
    DTYPES,
    EVERY,
    EVERY_METHOD,
    adapted,
    batch,
    build_layer,
    combinations,
    method_kernel_pairs,
    numpy,
    shake,
)

import keras_svd_adapters as ksa

pytestmark = pytest.mark.optimized("equal in every bit")

METHODS = [
    ksa.LoRA(rank=4),
    ksa.SVF(),
    ksa.SVFT(pattern="banded", d=2),
    ksa.SVFT(pattern="random", nnz=30),
]


@pytest.mark.parametrize(
    ("case", "build", "shape", "dtype"), method_kernel_pairs(dtypes=DTYPES, table=EVERY_METHOD)
)
def test_layer_equals_its_base(case, build, shape, dtype):
    layer = build_layer(build, dtype)
    x = batch(shape)
    before = layer(x)
    after = adapted(case, layer)(x)
    assert after.dtype == before.dtype
    if case.exact_at_start:
        np.testing.assert_array_equal(numpy(after), numpy(before))
    else:
        rtol = 1e-5 if dtype == "float32" else 3e-2
        np.testing.assert_allclose(numpy(after), numpy(before), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (8, 8)])
@pytest.mark.parametrize("method", METHODS[:3])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_kernel_of_low_rank(shape, method, rank):
    layer = keras.layers.Dense(shape[1])
    layer.build((None, shape[0]))
    rng = np.random.default_rng(0)
    layer.kernel.assign(rng.normal(size=(shape[0], rank)) @ rng.normal(size=(rank, shape[1])))
    x = batch((4, shape[0]))
    before = numpy(layer(x))
    ksa.enable(layer, method)
    np.testing.assert_array_equal(numpy(layer(x)), before)
    shake(layer)
    assert np.isfinite(numpy(layer(x))).all()


@pytest.mark.parametrize(
    ("family", "dtype"), combinations(models.FAMILIES, ["float32", "bfloat16"])
)
def test_backbone_equals_its_base(family, dtype):
    backbone, x = models.FAMILIES[family](dtype, num_layers=2 if EVERY else 1)
    eager = models.output(backbone(x))
    compiled = models.output(backbone.predict(x, verbose=0))
    paths = [site.path for site in ksa.targets(backbone).sites]
    dealt = {path: METHODS[place % len(METHODS)] for place, path in enumerate(paths)}
    for number, targets in enumerate([{"*": method} for method in METHODS] if EVERY else [dealt]):
        ksa.enable(backbone, targets=targets, name=f"adapter{number}")
        assert np.abs(models.output(backbone(x)) - eager).max() == 0, targets
        assert np.abs(models.output(backbone.predict(x, verbose=0)) - compiled).max() == 0, targets
