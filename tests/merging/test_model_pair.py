"""Pairs of models that have no LoRA, or one that holds a part of their difference."""

import warnings

import keras
import models
import numpy as np
import pytest
from two_models import pair

import keras_svd_adapters as ksa
from keras_svd_adapters.models.sites.search import adapted_sites

backend_free = pytest.mark.backend_free("computed by NumPy, of kernels that are read as elsewhere")


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The LoRA does not hold")
        yield


@backend_free
def test_what_it_cannot_hold_is_named():
    base, tuned, _ = pair()
    bias = ksa.targets(tuned, "query").sites[0].layer.bias
    bias.assign_add(np.ones(bias.shape, "float32"))
    key = ksa.targets(base, "key").sites[0].path
    message = (
        rf"3 other weights differ: `{key}`, .*query/bias`.*with `assign`.*Received: targets=None"
    )
    with pytest.warns(UserWarning, match=message):
        ksa.extract_lora(base, tuned, rank=1, exclude="key")
    assert "key" not in {site.name for site in adapted_sites(base)}


@backend_free
def test_nothing_is_touched_where_the_warning_is_an_error():
    base, tuned, _ = pair()
    with pytest.raises(UserWarning, match="does not hold every difference"):
        ksa.extract_lora(base, tuned, rank=1, targets="query")
    assert not adapted_sites(base)


def dense(*sizes):
    return keras.Sequential([keras.Input((4,)), *map(keras.layers.Dense, sizes)])


MISMATCHES = {
    "fewer": ((4, 5, 6), (4, 5), r"dense_\w+` \(5, 6\) in the base and none in the tuned model"),
    "more": ((4,), (4, 5), r"none in the base and `dense_\w+` \(4, 5\) in the tuned model"),
    "wider": ((4, 5, 6), (4, 7, 6), r"\(4, 5\) in the base and `dense_\w+` \(4, 7\) in the tuned"),
}


@backend_free
@pytest.mark.parametrize(("ours", "theirs", "message"), MISMATCHES.values(), ids=MISMATCHES)
def test_models_of_other_kernels(ours, theirs, message):
    base = dense(*ours)
    with pytest.raises(ValueError, match=rf"same kernels.*Received: .*{message}"):
        ksa.extract_lora(base, dense(*theirs), rank=1)
    assert not adapted_sites(base)


@backend_free
def test_no_model():
    with pytest.raises(ValueError, match="Received: 5"):
        ksa.extract_lora(models.bert()[0], 5, rank=1)


@backend_free
def test_kernels_that_are_not_finite():
    base, tuned, _ = pair()
    layer = ksa.targets(tuned, "query").sites[0].layer
    layer.kernel.assign(np.full(layer.kernel.shape, np.nan))
    with pytest.raises(ValueError, match=r"NaN or infinite.*Received: .*query"):
        ksa.extract_lora(base, tuned, rank=1)
    assert not adapted_sites(base)


@backend_free
def test_a_tuned_model_that_is_quantized_or_has_the_lora_of_keras():
    base, tuned = dense(4, 4), dense(4, 4)
    tuned.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match=r"of the tuned model: Keras's own LoRA.*Received: "):
        ksa.extract_lora(base, tuned, rank=1)
    tuned = dense(4, 4)
    tuned.quantize("float8")
    with pytest.raises(ValueError, match=r"of the tuned model: it is quantized"):
        ksa.extract_lora(base, tuned, rank=1)


@backend_free
def test_a_tuned_model_without_values_is_refused():
    base, tuned, _ = pair()
    ksa.enable(tuned, ksa.SVF())
    empty = type(tuned).from_config(tuned.get_config())
    before = [w.path for w in base.weights]
    with pytest.raises(ValueError, match="holds no values yet"):
        ksa.extract_lora(base, empty, rank=2)
    assert [w.path for w in base.weights] == before
