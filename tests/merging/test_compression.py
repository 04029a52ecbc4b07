"""`compress` keeps the signs of the largest changes, in a small file."""

import keras
import models
import numpy as np
import pytest
from cases import numpy, shake
from two_adapters import deltas

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

METHODS = {
    "svf": (ksa.SVF(), {"z": 1.0}),
    "svft": (ksa.SVFT("banded", d=2), {"m": 0.0}),
    "lora": (ksa.LoRA(rank=4), {"lora_b": 0.0}),
}


def adapted(method):
    model = models.bert()[0]
    ksa.enable(model, method, name="whole", cache=False)
    shake(model, seed=1)
    return model


@pytest.mark.parametrize(("method", "starts"), METHODS.values(), ids=METHODS)
def test_signs_of_one_size(method, starts):
    model = adapted(method)
    report = ksa.compress(model, "whole", into="small", density=0.25, alpha=2.0)
    assert 0 < report.error < 2
    for site in adapted_sites(model):
        whole, small = (adapters_of(site.layer)[name].arrays for name in ("whole", "small"))
        for name, variable in small.items():
            before, after = numpy(whole[name]).astype("float64"), numpy(variable)
            if name not in starts:
                np.testing.assert_array_equal(after, before)
                continue
            change = before - starts[name]
            order = np.argsort(-np.abs(change.ravel()))[: int(0.25 * change.size)]
            wanted = np.zeros(change.size)
            wanted[order] = 2.0 * change.std() * np.sign(change.ravel()[order])
            np.testing.assert_allclose(
                after, starts[name] + wanted.reshape(change.shape), rtol=1e-6
            )


def test_all_signs():
    model = adapted(ksa.SVFT())
    ksa.compress(model, "whole", into="small", density=1.0)
    for whole, small in zip(deltas(model, "whole"), deltas(model, "small"), strict=True):
        assert np.linalg.norm(small - whole) < np.linalg.norm(whole)


def test_the_file_is_small_and_exact(tmp_path):
    model = adapted(ksa.SVFT("banded", d=8))
    ksa.compress(model, "whole", into="small", density=0.05)
    for name in ("whole", "small"):
        ksa.save_adapter(model, tmp_path / f"{name}.keras", name=name)
    sizes = [(tmp_path / f"{name}.keras").stat().st_size for name in ("whole", "small")]
    assert sizes[1] < 0.6 * sizes[0]
    fresh = models.bert()[0]
    ksa.load_adapter(fresh, tmp_path / "small.keras", name="small", cache=False)
    for mine, theirs in zip(deltas(model, "small"), deltas(fresh, "small"), strict=True):
        np.testing.assert_array_equal(theirs, mine)


REFUSED = {
    "no such adapter": (("hole", "small"), {}, "no such adapter"),
    "a taken name": (("whole", "whole"), {}, "has an adapter of this name"),
    "a density of 0": (("whole", "small"), {"density": 0}, "`density`"),
    "a negative size": (("whole", "small"), {"alpha": -1.0}, "`alpha`"),
}


@pytest.mark.parametrize(("names", "how", "match"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(names, how, match):
    model = adapted(ksa.SVF())
    with pytest.raises(ValueError, match=rf"(?s){match}.*Received: "):
        ksa.compress(model, *names, **how)
    assert {site.layer.active_adapter for site in adapted_sites(model)} == {"whole"}


def test_arrays_of_unknown_starts():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    ksa.enable(model, ksa.PiSSA(rank=2), name="whole")
    with pytest.raises(ValueError, match=r"starts at one number.*Received: "):
        ksa.compress(model, "whole", into="small")
