"""An embedding's table as a site of LoRA, DoRA and TokenRows."""

import keras
import models
import numpy as np
import pytest
from autodiff import gradients
from cases import DTYPES, METHODS, batch, close, combinations, numpy, shake

import keras_svd_adapters as ksa
from keras_svd_adapters.adapters.carried import adapters_of
from keras_svd_adapters.adapters.layer_kinds import base_kernel_variable
from keras_svd_adapters.models.sites.search import find_sites

ADAPTING = {name: METHODS[name] for name in ("lora", "lora_scaled", "dora", "dora_full")}


def table(kind, dtype="float32"):
    layer = {
        "Embedding": lambda: keras.layers.Embedding(20, 6, dtype=dtype, name="words"),
        "Untied": lambda: keras.layers.ReversibleEmbedding(
            20, 6, tie_weights=False, dtype=dtype, name="words"
        ),
    }[kind]()
    model = keras.Sequential([keras.Input((5,), dtype="int32"), layer])
    rng = np.random.default_rng(5)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    return model, layer


@pytest.fixture
def ids():
    return np.random.default_rng(1).integers(0, 20, (4, 5)).astype("int32")


@pytest.mark.parametrize(
    ("name", "kind", "dtype"), combinations(ADAPTING, ["Embedding", "Untied"], DTYPES)
)
def test_it_starts_at_the_table(name, kind, dtype, ids):
    model, layer = table(kind, dtype)
    expected = numpy(model(ids))
    ksa.enable(model, ADAPTING[name].method, targets="words")
    np.testing.assert_array_equal(numpy(model(ids)), expected)
    assert layer(ids).dtype == model(ids).dtype
    start = layer.adapter().arrays
    assert not np.any(numpy(start["lora_a"]))
    assert 0.5 < numpy(start["lora_b"]).std() < 1.6


@pytest.mark.parametrize("kind", ["Embedding", "Untied"])
@pytest.mark.parametrize("name", ADAPTING)
def test_against_closed_form(name, kind, ids):
    model, layer = table(kind)
    K = base_kernel_variable(layer).numpy().astype("float64")
    case = ADAPTING[name]
    ksa.enable(model, case.method, targets="words")
    shake(model)
    values = {key: numpy(v).astype("float64") for key, v in layer.adapter().arrays.items()}
    kernel, expected = case.reference(K, case.method, values)
    close(numpy(model(ids)), kernel[ids], 1e-5)
    g = batch((4, 5, 6))
    G = np.zeros_like(K)
    np.add.at(G, ids, g)
    for weight, found in zip(model.trainable_weights, gradients(model, ids, g), strict=True):
        close(found, expected(G)[weight.name], 1e-5)
    close(numpy(layer.embeddings), kernel, 1e-5)
    before = numpy(model(ids))
    ksa.merge(model)
    np.testing.assert_allclose(numpy(model(ids)), before, atol=1e-5)


def test_it_is_adapted_by_name_only():
    backbone, x = models.llama()
    everything = ksa.plan(backbone, ksa.LoRA(rank=2), targets="*")
    assert not any(site.site.host.is_lookup for site in everything.sites)
    before = models.output(backbone(x))
    ksa.enable(
        backbone, targets={"token_embedding": ksa.DoRA(rank=2), "query": ksa.SVF()}, verbose=0
    )
    np.testing.assert_array_equal(models.output(backbone(x)), before)
    shake(backbone)
    assert np.abs(models.output(backbone(x)) - before).max() > 1e-3


def test_save_load_and_reverse(tmp_path):
    backbone, x = models.llama()
    embedding = backbone.token_embedding
    hidden = batch((2, 3, 16))
    logits = numpy(embedding(hidden, reverse=True))
    ksa.enable(backbone, ksa.LoRA(rank=2), targets="token_embedding")
    shake(backbone)
    np.testing.assert_array_equal(numpy(embedding(hidden, reverse=True)), logits)
    expected = models.output(backbone(x))
    ksa.save_adapter(backbone, tmp_path / "a.keras")
    backbone.save(tmp_path / "m.keras")
    fresh, _ = models.llama()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(models.output(fresh(x)), expected)
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(models.output(again(x)), expected)


def test_a_tied_table_is_refused():
    backbone, _ = models.bert()
    with pytest.raises(ValueError, match="tie_weights=True"):
        ksa.enable(backbone, ksa.LoRA(rank=2), targets="token_embedding")
    assert "tied=True" in str(ksa.targets(backbone))


@pytest.mark.parametrize("method", [ksa.LoRA(rank=2), ksa.DoRA(rank=2)], ids=str)
@pytest.mark.parametrize("cap", [None, 2.0])
def test_a_tied_table_on_request(method, cap, ids, tmp_path):
    """Look-up and logits are those of the changed table; both give it gradients."""

    def tied():
        table = keras.layers.ReversibleEmbedding(20, 6, logit_soft_cap=cap, name="words")
        inputs = keras.Input((5,), dtype="int32")
        model = keras.Model(inputs, table(keras.ops.tanh(table(inputs)), reverse=True))
        table.embeddings.assign(np.random.default_rng(5).normal(size=(20, 6)))
        return model, table

    (model, table), (plain, plain_table) = tied(), tied()
    before = numpy(model(ids))
    plan = ksa.plan(model, method, targets="words", tied=True)
    status = ksa.enable(model, method, targets="words", tied=True)
    assert status.trainable_parameters == plan.trainable_parameters
    np.testing.assert_array_equal(numpy(model(ids)), before)
    shake(model, 0.3)
    plain_table.embeddings.assign(table.merged_kernel())
    close(numpy(model(ids)), numpy(plain(ids)), 1e-5)
    assert np.abs(numpy(model(ids)) - before).max() > 0.1
    found = gradients(model, ids, batch(before.shape))
    (G,) = gradients(plain, ids, batch(before.shape))
    if type(method) is ksa.LoRA:
        A, B = (numpy(v) for v in table.adapter().trained.values())
        for gradient, expected in zip(found, (G @ B.T, A.T @ G), strict=True):
            close(gradient, method.scale * expected, 1e-5)
    y = numpy(model(ids))
    ksa.save_adapter(model, tmp_path / "a.keras")
    fresh, _ = tied()
    ksa.load_adapter(fresh, tmp_path / "a.keras")
    np.testing.assert_array_equal(numpy(fresh(ids)), y)
    ksa.merge(model)
    close(numpy(model(ids)), y, 1e-5)


@pytest.mark.parametrize("method", [ksa.SVF(), ksa.PiSSA(rank=2), ksa.VeRA(rank=2)])
def test_methods_that_adapt_no_table(method):
    model, _ = table("Embedding")
    with pytest.raises(ValueError, match="LoRA, DoRA and TokenRows adapt"):
        ksa.enable(model, method, targets="words")
    assert len(find_sites(model)) == 1


def test_nothing_but_a_table():
    model, _ = table("Embedding")
    with pytest.raises(ValueError, match="words"):
        ksa.enable(model, ksa.LoRA(rank=2))


@pytest.mark.parametrize("rows", [(), [3, 3], [-1], ["cat"], 5, [1.5]])
def test_bad_rows(rows):
    with pytest.raises(ValueError, match="Received: rows="):
        ksa.TokenRows(rows)


def test_rows_beyond_the_table():
    model, _ = table("Embedding")
    with pytest.raises(ValueError, match="0 to 19"):
        ksa.enable(model, ksa.TokenRows([3, 20]), targets="words")


def test_only_the_chosen_rows_move(ids, tmp_path):
    """And they leave, in the adapter file, as their own few values."""
    model, layer = table("Embedding")
    before = base_kernel_variable(layer).numpy()
    rows = [int(ids[0, 0]), 19]
    ksa.enable(model, ksa.TokenRows(np.array(rows)), targets="words")
    model.compile(keras.optimizers.AdamW(1e-1), "mse")
    model.fit(ids, np.zeros((*ids.shape, 6)), epochs=2, verbose=0)
    merged = numpy(layer.merged_kernel())
    moved = {row for row in range(20) if np.any(merged[row] != before[row])}
    assert rows[0] in moved <= set(rows)
    np.testing.assert_allclose(numpy(model(ids)), merged[ids], atol=1e-6)
    ksa.save_adapter(model, tmp_path / "rows.keras")
    fresh, other = table("Embedding")
    ksa.load_adapter(fresh, tmp_path / "rows.keras")
    np.testing.assert_array_equal(numpy(other.merged_kernel()), merged)


def test_rows_of_a_table_become_a_lora_and_add(ids):
    model, layer = table("Embedding")
    for seed, rows in enumerate(([3, 19], [19, 5])):
        ksa.enable(model, ksa.TokenRows(rows), targets="words", name=f"rows_{seed}")
        shake(model, seed=seed)
    y = numpy(model(ids))
    assert ksa.to_lora(model, "rows_1").error < 1e-6
    close(numpy(model(ids)), y, 1e-5)
    ksa.combine(model, {"rows_0": 1, "rows_1": -2}, into="both")
    both, *parts = (
        numpy(adapters_of(layer)[name].delta(base_kernel_variable(layer)))
        for name in ("both", "rows_0", "rows_1")
    )
    close(both, parts[0] - 2 * parts[1], 1e-5)
