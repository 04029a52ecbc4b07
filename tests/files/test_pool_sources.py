"""What a pool takes in, and what it refuses."""

import keras
import numpy as np
import pytest
from cases import shake
from mixed_batch import adapted, batch, small

import keras_svd_adapters as ksa

WHERE = {"targets": ["heads", "square"]}
FITS = {
    "lower rank": ksa.LoRA(rank=2),
    "another alpha": ksa.LoRA(rank=3, alpha=12, rslora=True),
    "another start": ksa.LoRA(rank=2, start="orthogonal", alpha=5),
    "frozen factor": ksa.LoRA(rank=2, freeze="a"),
    "pissa": ksa.PiSSA(rank=2),
    "gated": ksa.methods.AdaLoRA(rank=3),
}
IN_FILES = [name for name in FITS if name != "pissa"]  # whose file lacks the singular vectors


def base():
    """The same model each time."""
    keras.utils.set_random_seed(3)
    return small()


def one(method, name="default", **where):
    """A model with one adapter, and its outputs."""
    model = base()
    ksa.enable(model, method, name=name, verbose=0, **(where or WHERE))
    shake(model, 0.3)
    return model, model.predict(batch(), verbose=0)


@pytest.mark.parametrize("name", FITS)
def test_products_fit_into_a_pool_of_lora(name, tmp_path):
    model, expected = one(FITS[name])
    served = base()
    pool = ksa.AdapterPool(served, ksa.LoRA(rank=4, alpha=2), slots=2, **WHERE)
    pool.add("from a model", model, adapter="default")
    ids = ["from a model"] * 5
    if name in IN_FILES:
        ksa.save_adapter(model, tmp_path / "one.keras")
        pool.add("from a file", tmp_path / "one.keras")
        ids[1::2] = ["from a file"] * 2
    found = ksa.predict(served, batch(), ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.abs(expected - served.predict(batch(), verbose=0)).max() > 0.05


def test_files_arrays_and_a_part_of_the_kernels(tmp_path):
    model, expected = one(ksa.SVFT(pattern="banded", d=1), targets="square")
    ksa.save_adapter(model, tmp_path / "one.keras")
    served = base()
    pool = ksa.AdapterPool(served, ksa.SVFT(pattern="banded", d=1), slots=2, **WHERE)
    pool.add("file", tmp_path / "one.keras")
    values = {w.name: keras.ops.convert_to_numpy(w) for w in model.trainable_weights}
    pool.add("arrays", {"square": values})
    found = ksa.predict(served, batch(), ["file", "arrays", "arrays", "file", "file"])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert pool.names == tuple(pool) == ("file", "arrays")
    assert "file" in pool
    assert "2 adapters" in repr(pool)
    pool.remove("file")
    with pytest.raises(ValueError, match="nearest: .*'arrays'.*Received: name='array'"):
        pool.remove("array")
    pool.add("file", tmp_path / "one.keras")
    assert len(pool) == 2


def two_pools(model):
    ksa.AdapterPool(model, ksa.LoRA(rank=2), **WHERE)


def of_biases(model):
    ksa.AdapterPool(base(), ksa.methods.BitFit())


def of_prompts(model):
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    reader = keras.Model(ids, keras.layers.Embedding(9, 4)(ids))
    ksa.AdapterPool(reader, ksa.methods.PromptTuning(length=2))


def of_prefixes(model):
    x = keras.Input((6, 8))
    ksa.AdapterPool(
        keras.Model(x, keras.layers.MultiHeadAttention(2, 4)(x, x)), ksa.methods.PrefixTuning(3)
    )


def with_head(model):
    model.pool.add("new", one_with_head())


def one_with_head():
    model = base()
    ksa.enable(model, ksa.LoRA(rank=2), name="new", train="head", **WHERE)
    shake(model)
    return model


def of_another_base(model):
    keras.utils.set_random_seed(4)
    ksa.enable(other := small(), ksa.LoRA(rank=2), name="new", **WHERE)
    model.pool.add("new", other)


def add(method, name="new", **where):
    return lambda model: model.pool.add(name, one(method, "new", **where)[0], adapter="new")


def arrays(**given):
    shape = {"lora_a": np.zeros((16, 3)), "lora_b": np.zeros((3, 16))}
    return lambda model: model.pool.add("new", {"square": shape | given})


def ids(*names):
    return lambda model: ksa.predict(model, batch(), list(names))


REFUSED = {
    "two pools": (two_pools, "one pool at a time"),
    "no slots": (lambda m: ksa.AdapterPool(base(), ksa.LoRA(), slots=0), "positive.*slots=0"),
    "biases": (of_biases, "is a bias.*Received: BitFit"),
    "prompts": (of_prompts, "would have prompts.*Received: PromptTuning"),
    "prefixes": (of_prefixes, "as the plain model needs.*Received: PrefixTuning"),
    "slots as an adapter": (lambda m: ksa.set_adapter(m, "pool"), "slots of a pool.*name='pool'"),
    "slots with a weight": (lambda m: ksa.set_adapter(m, {"pool": 1.0}), "slots of a pool"),
    "one to compare": (lambda m: ksa.similarity(m), "needs two.*Received: adapters .'own'.$"),
    "taken": (add(ksa.LoRA(rank=2), "user 1"), "remove.'user 1'.. first"),
    "no name": (add(ksa.LoRA(rank=2), ""), "is a text"),
    "rank": (add(ksa.LoRA(rank=5)), "rank 5, so the pool needs.*Received: 'new', on `"),
    "method": (add(ksa.DoRA(rank=2)), "not hold a product of two thin.*to_lora"),
    "kernels": (add(ksa.LoRA(rank=2), targets="*"), "pool does not have.*Received: '.*' of 'new'"),
    "head": (with_head, "its own values of another weight.*Received: values of `head/kernel`"),
    "base": (of_another_base, "another base model.*`heads`"),
    "source": (lambda m: m.pool.add("new", 3), "a model, a file.*source=3"),
    "file": (lambda m: m.pool.add("new", "none.keras"), "none.keras"),
    "shapes": (arrays(lora_a=np.zeros((16, 2))), "has the arrays.*method=.*Received"),
    "names": (arrays(lora_c=np.zeros(3)), "has the arrays"),
    "kernel": (lambda m: m.pool.add("new", {"squares": {}}), "'square': .*Received: 'squares'"),
    "unknown": (ids(*["user 3"] * 5), "Neither the pool.*Nearest: 'user [12]'.*name='user 3'"),
    "mixed": (ids("own", "user 1", *["own"] * 3), "all its adapters from the pool.*'own'"),
}


@pytest.fixture
def model():
    model = adapted(base(), ksa.LoRA(rank=3), **WHERE)
    for name in ("a", "b"):
        ksa.delete_adapter(model, name)
    ksa.enable(model, ksa.LoRA(rank=3), name="own", **WHERE)
    pool = ksa.AdapterPool(model, "own", slots=2)
    for name in ("user 1", "user 2"):
        pool.add(name, model, adapter="own")
    object.__setattr__(model, "pool", pool)
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_to_type(name, model):
    action, words = REFUSED[name]
    before = model.predict(batch(), verbose=0)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        action(model)
    assert model.pool.names == ("user 1", "user 2")
    np.testing.assert_array_equal(model.predict(batch(), verbose=0), before)


def test_the_slots_are_no_adapter_of_their_own(model, tmp_path):
    ksa.save_adapter(model, tmp_path / "a.keras")
    ksa.load_adapter(again := base(), tmp_path / "a.keras")
    np.testing.assert_array_equal(
        again.predict(batch(), verbose=0), model.predict(batch(), verbose=0)
    )
    ksa.delete_adapter(model, "own")
    with pytest.raises(ValueError, match="a pool and no other adapter.*Received: "):
        ksa.save_adapter(model, tmp_path / "b.keras")


def test_other_hyperparameters_are_named():
    ksa.AdapterPool(served := base(), ksa.DoRA(rank=3), name="slots", **WHERE)
    pool = served.get_layer("square").adapter_slots.slots.pool
    with pytest.raises(ValueError, match="rank=2, not 3, and these must be equal"):
        pool.add("new", one(ksa.DoRA(rank=2), "new")[0])
    with pytest.raises(ValueError, match="only pools of LoRA"):
        pool.add("new", one(ksa.LoRA(rank=3), "new")[0])
    of_two_starts = ksa.AdapterPool(base(), ksa.LoRA(rank=4, start="orthogonal"), **WHERE)
    with pytest.raises(ValueError, match="rank=2, not 4, start='kaiming'.*must be equal"):
        of_two_starts.add("new", one(ksa.LoRA(rank=2), "new")[0])


def test_weights_of_more_names_than_slots():
    source, _ = one(ksa.LoRA(rank=2))
    pool = ksa.AdapterPool(served := base(), ksa.LoRA(rank=2), slots=2, **WHERE)
    for name in "abc":
        pool.add(name, source, adapter="default")
    with pytest.raises(ValueError, match="needs 3 adapters at once.*2 slots"):
        ksa.predict(served, batch(), adapter_weights={"a": [1.0] * 5, "b": 0.5, "c": 0.5})
