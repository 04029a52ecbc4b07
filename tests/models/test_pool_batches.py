"""The slots of a pool: which adapters are in them, in several threads and for generated text."""

import threading

import keras
import models
import numpy as np
import pytest
from mixed_batch import IDS, adapted, alone, batch, small
from traces import watched

import keras_svd_adapters as ksa
from keras_svd_adapters.models.pool.residency import Residency

NAMES = ("a", "b", "c", "d")


def served(model, slots, names=NAMES, **targets):
    """The outputs of each adapter alone, and a pool of the adapters."""
    x, expected = batch(), {}
    ksa.enable(model, ksa.LoRA(rank=2), name="own", **targets)
    start = {w.path: keras.ops.convert_to_numpy(w) for w in model.trainable_weights}
    pool = ksa.AdapterPool(model, "own", slots=slots)
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        for weight in model.trainable_weights:
            weight.assign(start[weight.path] + 0.2 * rng.normal(size=weight.shape))
        pool.add(name, model, adapter="own")
        expected[name] = model.predict(x, verbose=0)
    expected[None] = alone(model, x, [None] * len(x))
    ksa.set_adapter(model, "own")
    return pool, x, expected


def rows(expected, ids):
    return np.stack([expected[name][row] for row, name in enumerate(ids)])


@pytest.mark.backend_free("no tensor is involved")
def test_the_least_recently_used_makes_room():
    residency, filled = Residency(3), []

    def use(*names):
        with residency.pinned(names, lambda slot, name: filled.append((slot, name))) as places:
            assert len(set(places.values())) == len(names)
        return places

    use("a"), use("b"), use("c"), use("a")
    assert residency.names == ("b", "c", "a")
    assert use("d") == {"d": filled[1][0]}  # the slot of b
    use("c", "e")
    assert residency.names == ("d", "c", "e")
    residency.discard("c")
    use("a")
    assert residency.names == ("d", "e", "a")
    assert [name for _, name in filled] == ["a", "b", "c", "d", "e", "a"]
    assert residency.loads == len(filled)


@pytest.mark.backend_free("no tensor is involved")
def test_a_batch_keeps_its_slots():
    residency, waits, went_on = Residency(2), threading.Event(), []

    def another():
        waits.set()
        with residency.pinned(["c", "d"], lambda slot, name: None) as places:
            went_on.append(places)

    with residency.pinned(["a", "b"], lambda slot, name: None) as places:
        thread = threading.Thread(target=another)
        thread.start()
        waits.wait(60)
        residency.discard("a")  # its slot is in use all the same
        thread.join(0.1)
        assert not went_on
    thread.join(60)
    assert set(went_on[0].values()) == set(places.values())


@pytest.mark.backend_free("no tensor is involved")
def test_a_load_that_fails_leaves_the_slot_free():
    residency = Residency(1)

    def fail(slot, name):
        raise MemoryError

    for _ in range(2):
        with pytest.raises(MemoryError), residency.pinned(["a"], fail):
            pass
    with residency.pinned(["b"], lambda slot, name: None) as places:
        assert places == {"b": 0}


def test_other_names_trace_nothing():
    model, traced = watched()
    pool, x, expected = served(model, slots=3, targets="up")
    ksa.predict(model, x, ["a"] * 5)
    ksa.predict(model, x, adapter_weights={"a": 1.0, "b": [0.0] * 5})
    traced.clear()
    for ids in (["b", "a", "c", "a", None], ["d", None, "a", "d", "d"], list("abcda")):
        found = ksa.predict(model, x, ids)  # the last has more names than there are slots
        np.testing.assert_allclose(found, rows(expected, ids), rtol=0, atol=2e-5)
    weights = {"c": [1.0, 0.0, 0.0, 1.0, 0.0], "d": [0.0, 1.0, 0.0, 0.0, 1.0]}
    found = ksa.predict(model, x, adapter_weights=weights)
    ids = ["c", "d", None, "c", "d"]
    np.testing.assert_allclose(found, rows(expected, ids), rtol=0, atol=2e-5)
    assert keras.backend.backend() == "torch" or not traced
    before = pool.loads
    ksa.predict(model, x, ["c", "d", "d", "c", "c"])
    assert pool.loads == before


def test_threads_do_not_take_each_others_slots():
    pool, x, expected = served(small(), slots=2, targets="*")
    ksa.predict(pool.model, x, list("abbab"))
    errors = []

    def work(names):
        draw = np.random.default_rng(ord(names[0]))
        try:
            for _ in range(12):
                ids = list(draw.choice(names, len(x)))
                found = ksa.predict(pool.model, x, ids)
                np.testing.assert_allclose(found, rows(expected, ids), rtol=0, atol=2e-5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(list(pair),)) for pair in ("ab", "cd", "bd")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    assert not errors
    assert pool.loads > 4


def test_text_is_generated_with_names_of_a_pool():
    model = models.gemma(num_layers=1, num_key_value_heads=2)
    model.compile(sampler="greedy")
    adapted(model, ksa.LoRA(rank=2))
    tokens = np.random.default_rng(2).integers(1, models.TOKENS, size=(2, 6)).astype("int32")
    prompts = {"token_ids": tokens, "padding_mask": np.array([[1, 1, 1, 0, 0, 0]] * 2)}

    def generate(*args, **kwargs):
        return ksa.generate(model, prompts, *args, stop_token_ids=None, **kwargs)["token_ids"]

    expected = generate(["a", "b"])
    pool = ksa.AdapterPool(model, "a", slots=2)
    for name in "ab":
        pool.add(name, model)
        ksa.delete_adapter(model, name)
    np.testing.assert_array_equal(generate(["a", "b"]), expected)
    np.testing.assert_array_equal(generate(["b", "a"])[0], generate(["b", "b"])[0])
    weights = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    np.testing.assert_array_equal(generate(adapter_weights=weights), expected)


def test_a_closed_pool_leaves_nothing():
    model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    model.compile(keras.optimizers.Adam(1e-3), "mse")

    def state():
        weights = [(w.path, w.trainable, keras.ops.convert_to_numpy(w)) for w in model.weights]
        return [*weights, model.predict(batch(), verbose=0), str(ksa.status(model))]

    before = state()
    with ksa.AdapterPool(model, "a", slots=2) as pool:
        pool.add("a", model)
        ksa.predict(model, batch(), ["a", None, "a", "a", None])
        with pytest.raises(ValueError, match="without its pool.*Received: .*'pool'"):
            model.get_config()
    for found, expected in zip(state(), before, strict=True):
        np.testing.assert_equal(found, expected)
    assert not pool.is_open
    assert len(pool) == len(pool.resident) == 0
    with pytest.raises(ValueError, match="was closed"):
        pool.add("a", model)
    plain = small()
    ksa.AdapterPool(plain, ksa.LoRA(rank=2), targets="*").close()
    assert type(plain) is type(small())
    assert all(weight.trainable for weight in plain.weights)
    assert ksa.predict(model, batch(), IDS).shape == (5, 6, 7)  # of the attached ones


def test_a_merge_under_the_slots_is_refused():
    pool, x, expected = served(small(), slots=2, targets="*")
    ksa.merge(pool.model)
    with pytest.raises(ValueError, match="call `unmerge.*Received: name='pool'"):
        ksa.predict(pool.model, x, ["a"] * 5)
    ksa.unmerge(pool.model)
    np.testing.assert_allclose(ksa.predict(pool.model, x, ["a"] * 5), expected["a"], atol=2e-5)
