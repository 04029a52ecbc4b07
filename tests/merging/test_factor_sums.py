"""Sums of the factors of LoRAs, by `combine` and in the search of LoRAHub."""

import keras
import numpy as np
import pytest
from cases import numpy
from mixed_batch import adapted, batch, small
from snapshots import bits, refused
from traces import watched

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.models.sites.search import adapted_sites

NAMES = ["a", "b"]
TARGETS = ["out", "square"]


def loras(other=None, **how):
    return adapted(small(), ksa.LoRA(rank=2, alpha=4), other, targets=TARGETS, **how)


def outputs(model, active):
    ksa.set_adapter(model, active)
    return model.predict(batch(), verbose=0)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)], ids=["a", "b", "base"])
def test_one_weight_is_that_adapter(weights):
    model = loras()
    expected = outputs(model, dict(zip(NAMES, weights, strict=True)))
    report = ksa.combine(model, dict(zip(NAMES, weights, strict=True)), "sum", how="factors")
    np.testing.assert_allclose(outputs(model, "sum"), expected, rtol=0, atol=1e-6)
    assert report.error < 1e-6


def test_products_mix():
    """The scale of each LoRA goes with its A; PiSSA has the factors of its start as well."""
    model = loras(ksa.LoRA(rank=2, alpha=1.0))
    ksa.enable(model, ksa.PiSSA(rank=1), targets="square", name="c")
    ksa.combine(model, {"a": 0.7, "b": -0.3, "c": 0.5}, "sum", how="factors")
    (site,) = [site for site in adapted_sites(model, "sum") if site.name == "square"]
    a, b, c, new = (adapters_of(site.layer)[name] for name in ("a", "b", "c", "sum"))
    (A, B), (C, D) = ((numpy(x.arrays["lora_a"]), numpy(x.arrays["lora_b"])) for x in (a, b))
    (found,) = [c.method.low_rank(v, c.view.m) for v in c.numpy_values()]
    left = 0.7 * 2.0 * A - 0.3 * 0.5 * C + 0.5 * found[0]
    right = 0.7 * B - 0.3 * D + 0.5 * found[1]
    kernel = numpy(site.layer.own_kernel)
    np.testing.assert_allclose(numpy(new.delta(kernel)), left @ right, atol=1e-5)


def test_a_search_of_factors():
    """The planted weights are found, from 0, and nothing is traced again."""
    model, traced = watched()
    adapted(model, ksa.LoRA(rank=2), targets="up")
    planted = {"a": 0.7, "b": -0.4}
    ksa.combine(model, planted, "best", how="factors")
    best = model.predict_on_batch(batch())
    ksa.delete_adapter(model, "best")
    counts = []

    def score(model):
        found = model.predict_on_batch(batch())
        counts.append(len(traced))
        return -float(np.mean((found - best) ** 2))

    how = {"bounds": (-1.5, 1.5), "population": 24, "elite": 0.25, "iterations": 20, "seed": 2}
    blend = ksa.search_blend(model, NAMES, score, "sum", how="factors", start=0.0, **how)
    sign = np.sign(blend.weights["a"])  # both signs have one product
    assert {n: w * sign for n, w in blend.weights.items()} == pytest.approx(planted, abs=3e-2)
    assert score(model) == pytest.approx(blend.score, abs=1e-6)
    assert blend.how == "factors"
    assert "sums of factors" in str(blend)
    assert blend.combined.error < 1e-6
    if keras.backend.backend() != "torch":
        assert len(set(counts[:-1])) == 1


SCORE = lambda model: 0.0  # noqa: E731
BAD = {
    "no name": ({"into": None}, "an adapter of its own"),
    "another sum": ({"how": "sum"}, "`how` must be one of"),
    "a start outside": ({"start": 2.0}, "within the bounds"),
    "other ranks": ({"names": ["a", "wide"]}, "all have one rank"),
    "no factors": ({"names": ["a", "dora"]}, "no factors A and B"),
}


@pytest.mark.backend_free("messages are made of names")
@pytest.mark.parametrize(("changed", "match"), BAD.values(), ids=BAD)
def test_what_is_refused(changed, match):
    model = loras()
    ksa.enable(model, ksa.LoRA(rank=3), "square", name="wide")
    ksa.enable(model, ksa.DoRA(rank=2), "square", name="dora")
    how = {"names": NAMES, "into": "sum", "how": "factors", "score": SCORE} | changed
    with refused(model, match):
        ksa.search_blend(model, **how)


@pytest.mark.backend_free("the model is put back by names and values")
def test_a_score_that_fails_leaves_the_model():
    model = loras()
    ksa.set_adapter(model, {"a": 0.5, "b": 0.5})
    values = bits(model)

    def score(model):
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        ksa.search_blend(model, NAMES, score, "sum", how="factors")
    assert bits(model) == values
    assert adapted_sites(model)[0].layer.adapter_weights().on_host() == {"a": 0.5, "b": 0.5}
