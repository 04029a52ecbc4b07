"""The search for weights of adapters, on scores whose best weights are known."""

import keras
import numpy as np
import pytest
from cases import numpy
from mixed_batch import adapted, batch, small
from snapshots import bits, refused

import keras_svd_adapters as ksa
from keras_svd_adapters.merging.cross_entropy import cross_entropy_search
from keras_svd_adapters.models.sites.search import adapted_sites

PLANTED = {"a": 0.7, "b": -0.3}


def model_and_score(other=None):
    """A model, and the likeness of its outputs to those with the planted weights."""
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(8, name="square")])
    adapted(model, ksa.LoRA(rank=2), other, targets="square")
    x = batch()[:, 0]
    ksa.set_adapter(model, PLANTED)
    best = numpy(model(x))
    ksa.set_adapter(model, "a")
    return model, lambda model: -float(np.mean((numpy(model(x)) - best) ** 2))


def search(score, mean, bounds, iterations, seed=0):
    spread = np.ones(len(mean))
    found = cross_entropy_search(score, mean, spread, bounds, 32, 6, iterations, seed)
    return list(found)


@pytest.mark.backend_free("NumPy alone")
def test_a_planted_quadratic():
    best = np.array([0.7, -0.3, 1.1])
    every = []

    def score(point):
        every.append(point)
        return (-float(((point - best) ** 2).sum()),)

    found = search(score, np.zeros(3), (-1.5, 1.5), 30)
    np.testing.assert_allclose(found[-1].point, best, atol=1e-3)
    assert len(every) == 1 + 30 * 31, "the best so far is not scored again"
    scores = [each.score for each in found]
    assert scores == sorted(scores)
    again = search(score, np.zeros(3), (-1.5, 1.5), 30)
    assert all(np.array_equal(a.point, b.point) for a, b in zip(found, again, strict=True))
    other = search(score, np.zeros(3), (-1.5, 1.5), 2, seed=1)
    assert np.any(other[-1].point != found[1].point)
    every.clear()
    (last,) = search(score, np.zeros(3), (-0.2, 0.2), 20)[-1:]
    assert np.abs(every).max() <= 0.2
    np.testing.assert_allclose(last.point, [0.2, -0.2, 0.2], atol=1e-3)


@pytest.mark.backend_free("NumPy alone")
def test_later_numbers_decide_ties():
    score = lambda point: (0.0, -abs(float(point[0]) - 0.4))  # noqa: E731
    np.testing.assert_allclose(search(score, np.zeros(1), (0, 1), 20)[-1].point, 0.4, atol=1e-3)


@pytest.mark.backend_free("NumPy alone")
def test_no_result_is_worse_than_a_start():
    peaks = np.array([[1.0, 0.0], [0.0, 1.0]])
    every = []

    def score(point):  # a flat landscape with two narrow peaks, which a draw misses
        every.append(point)
        return (float((np.abs(point - peaks).max(axis=1) < 1e-9) @ [1.0, 2.0]),)

    spread = np.full(2, 0.5)
    for starts, best in ((peaks, 2.0), (peaks[:1], 1.0)):
        every.clear()
        args = (score, np.full(2, 0.5), spread, (0, 1), 5, 2, 3, 0)
        found = list(cross_entropy_search(*args, starts))
        assert [each.score[0] for each in found] == [best] * 3
        assert len(every) == 5 + 2 * 4, "starts are members of the first population"


@pytest.mark.parametrize("into", [None, "both"])
def test_weights_of_a_model(into):
    model, score = model_and_score(None if into else ksa.SVF())  # LoRAs combine exactly
    starts = {"population": 4, "elite": 0.5, "iterations": 1, "bounds": (-1, 1)}
    at = ksa.search_blend(model, ["a", "b"], score, **starts, candidates=[{"a": 1.0}, PLANTED])
    assert at.weights == PLANTED
    how = {"bounds": (-1.5, 1.5), "population": 20, "elite": 0.3, "iterations": 12}
    blend = ksa.search_blend(model, ["a", "b"], score, into, **how)
    assert blend.weights == pytest.approx(PLANTED, abs=0.1)
    assert score(model) == pytest.approx(blend.score, abs=1e-6)
    (site,) = adapted_sites(model)
    assert site.layer.active_adapters == (("both",) if into else ("a", "b"))
    assert f"{blend.weights['a']:.3g}" in str(blend)
    if not into:
        again = ksa.search_blend(model, ["a", "b"], score, **how)
        assert (again.weights, again.history) == (blend.weights, blend.history)


def test_a_penalty_pulls_to_the_base():
    model, score = model_and_score()
    how = {"bounds": (-1.5, 1.5), "population": 16, "elite": 0.3, "iterations": 10}
    blend = ksa.search_blend(model, ["a", "b"], score, penalty=1e3, **how)
    assert np.abs(list(blend.weights.values())).max() < 0.1
    assert blend.score == pytest.approx(score(model), rel=1e-3)


def test_nothing_is_traced_again():
    traced = []

    class Watch(keras.layers.Layer):
        def call(self, x):
            traced.append(1)
            return x

    model = keras.Sequential([keras.Input((6, 10)), Watch(), keras.layers.Dense(4)])
    adapted(model, ksa.LoRA(rank=1), targets="*")
    counts = []

    def score(model):
        y = model.predict(batch(), verbose=0)
        counts.append(len(traced))
        return float(np.mean(y))

    ksa.search_blend(model, ["a", "b"], score, population=4, elite=0.5, iterations=2)
    if keras.backend.backend() != "torch":
        assert len(set(counts)) == 1


SCORE = lambda model: 0.0  # noqa: E731
BAD = {
    "no names": (([], SCORE), {}, "`names` lists different adapters"),
    "one name": (("ab", SCORE), {}, "`names` lists different adapters"),
    "twice": ((["a", "a"], SCORE), {}, "`names` lists different adapters"),
    "unknown": ((["a", "bb"], SCORE), {}, "Did you mean 'b'"),
    "no score": ((["a"], 3), {}, "`score` is a function"),
    "no number": ((["a", "b"], str), {}, "`score` returns a number"),
    "taken": ((["a", "b"], SCORE), {"into": "b"}, "adapter of this name"),
    "no sum": ((["a", "c"], SCORE), {"into": "both"}, "how='svd'"),
    "bounds": ((["a", "b"], SCORE), {"bounds": (1, 0)}, "the smallest and the largest"),
    "elite": ((["a", "b"], SCORE), {"population": 4}, "at least 2 members"),
    "population": ((["a", "b"], SCORE), {"population": 0}, "`population` must be"),
    "penalty": ((["a", "b"], SCORE), {"penalty": -1.0}, "`penalty` must not"),
    "seed": ((["a", "b"], SCORE), {"seed": -1}, "`seed` must not"),
    "start": ((["a", "b"], SCORE), {"candidates": {"a": 1.0}}, "`candidates` lists weights"),
    "unknown start": (
        (["a", "b"], SCORE),
        {"candidates": [{"c": 1.0}]},
        "`candidates` lists weights",
    ),
    "far start": ((["a", "b"], SCORE), {"candidates": [{"a": 1.5}]}, "`candidates` lists weights"),
    "many starts": ((["a"], SCORE), {"candidates": [{"a": 1}] * 32}, "`population` to at least 33"),
}


@pytest.mark.parametrize("before", ["a", {"a": 0.5, "b": 0.5}], ids=["one", "weights"])
@pytest.mark.backend_free("messages are made of names")
@pytest.mark.parametrize(("args", "how", "match"), BAD.values(), ids=BAD)
def test_bad_requests(args, how, match, before):
    model = adapted(small(), ksa.LoRA(rank=2), targets="square")
    ksa.enable(model, ksa.DoRA(rank=2), "square", name="c")
    ksa.set_adapter(model, before)
    values = bits(model)
    with refused(model, match):
        ksa.search_blend(model, *args, **how)
    assert bits(model) == values
