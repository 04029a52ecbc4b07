"""Token-level mixing: the data of an adapter says how much of it each token gets."""

import keras
import numpy as np
import pytest
from cases import numpy, shake

import keras_svd_adapters as ksa

RNG = np.random.default_rng(0)
DATA = {"a": RNG.integers(0, 5, (6, 4)), "b": RNG.integers(5, 10, (3, 4))}
X = np.concatenate([DATA["a"][:2], DATA["b"][:2], [[1, 7, 2, 9]]])
TABLE = RNG.normal(size=(10, 6)) + np.repeat(np.eye(2, 6), 5, axis=0)  # two groups of tokens
METHODS = {"a": ksa.LoRA(rank=2), "b": ksa.DoRA(rank=2)}


def network(mask=False):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), dtype="int32", name="token_ids")
    padding = keras.Input((4,), dtype="int32", name="padding_mask")
    embedding = keras.layers.Embedding(10, 6)
    embedded = embedding(inputs)
    embedding.set_weights([TABLE])
    hidden = keras.layers.Dense(6, activation="tanh", name="dense_1")(embedded)
    given = {"token_ids": inputs, "padding_mask": padding} if mask else inputs
    model = keras.Model(given, keras.layers.Dense(3, name="dense_2")(hidden))
    for seed, (name, method) in enumerate(METHODS.items()):
        ksa.enable(model, method, targets="*dense*", name=name)
        shake(model, seed=seed)
    return model, keras.Model(given, embedded)


def alone(model, name, x=X):
    ksa.set_adapter(model, name)
    return model.predict(x, verbose=0)


def test_a_context_at_a_center_has_that_adapter():
    model, features = network()
    mixed = ksa.TokenMixing(model, DATA, features, temperature=1e-3)
    embedded = features.predict(X, verbose=0)[[0, 2]]
    exact = ksa.Prototypes({n: e.mean(axis=0)[None] for n, e in zip("ab", embedded, strict=True)})
    at_centers = ksa.TokenMixing(model, exact, features, temperature=1e-3)
    found = at_centers.predict(X[[0, 2]], verbose=0)
    for row, name in enumerate("ab"):
        wanted = alone(model, name, X[[0, 2]])[row, -1]
        np.testing.assert_allclose(found[row, -1], wanted, atol=1e-5)
    weights = numpy(mixed.token_weights(X))
    assert weights[:2, -1, 0].min() > 0.99
    assert weights[2:4, -1, 1].min() > 0.99


def test_weights_follow_the_mean_of_the_context():
    model, features = network()
    mixed = ksa.TokenMixing(model, DATA, features, temperature=0.3)
    table = numpy(model.layers[1].embeddings).astype("float64")
    centers = np.stack([table[DATA[name]].mean(axis=(0, 1)) for name in "ab"])
    means = np.cumsum(table[X], axis=1) / np.arange(1, 5)[:, None]
    unit = [each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (means, centers)]
    powers = np.exp(unit[0] @ unit[1].T / 0.3)
    expected = powers / powers.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(numpy(mixed.token_weights(X)), expected, atol=1e-5)
    again = ksa.TokenMixing(model, mixed.prototypes, features, temperature=0.3, every=2)
    held = numpy(again.token_weights(X))
    np.testing.assert_allclose(held, expected[:, [0, 0, 2, 2]], atol=1e-5)


def test_a_token_sees_no_later_ones():
    model, features = network()
    mixed = ksa.TokenMixing(model, DATA, features)
    other = X.copy()
    other[:, 2:] = (other[:, 2:] + 5) % 10
    found, changed = (mixed.predict(x, verbose=0) for x in (X, other))
    np.testing.assert_allclose(found[:, :2], changed[:, :2], atol=1e-6)
    assert np.abs(found[:, 2:] - changed[:, 2:]).max() > 0.01


def test_equal_centers_give_the_mean():
    model, features = network()
    mixed = ksa.TokenMixing(model, {"a": DATA["a"], "b": DATA["a"]}, features, temperature=0.01)
    np.testing.assert_allclose(numpy(mixed.token_weights(X)), 0.5, atol=1e-5)
    wanted = alone(model, {"a": 0.5, "b": 0.5})
    np.testing.assert_allclose(mixed.predict(X, verbose=0), wanted, atol=1e-5)
    assert not mixed.trainable_variables


def test_padding_is_no_context():
    """Neither of the data nor of the inputs, whose first token is padding."""
    model, features = network(mask=True)
    mask = np.ones_like(X)
    mask[:, 0] = 0
    other = X.copy()
    other[:, 0] = (X[:, 0] + 5) % 10
    weights = []
    for x in (X, other):
        data = {name: {"token_ids": x[rows], "padding_mask": mask[rows]} for name, rows in PARTS}
        mixed = ksa.TokenMixing(model, data, features)
        weights.append(numpy(mixed.token_weights({"token_ids": x, "padding_mask": mask})))
    np.testing.assert_allclose(weights[0][:, 1:], weights[1][:, 1:], atol=1e-6)
    np.testing.assert_allclose(weights[0][:, 0], 0.5, atol=1e-6)


PARTS = (("a", slice(0, 2)), ("b", slice(2, 5)))
REFUSED = {
    "one name": ({"data": {"a": DATA["a"]}}, "two adapters or more"),
    "an unknown name": ({"data": {"a": DATA["a"], "c": DATA["b"]}}, "no such adapter"),
    "no features": ({"features": None}, "`features` is a model"),
    "other features": (
        {"data": ksa.Prototypes({n: np.ones((1, 5)) for n in "ab"})},
        "other features than",
    ),
    "a cold one": ({"temperature": 0}, "`temperature`"),
    "too many": ({"top_k": 3}, "`top_k`"),
    "never": ({"every": 0}, "`every` must be"),
}


@pytest.mark.backend_free("messages are made of names")
@pytest.mark.parametrize(("changed", "match"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(changed, match):
    model, features = network()
    with pytest.raises(ValueError, match=rf"(?s){match}.*Received: "):
        ksa.TokenMixing(**({"model": model, "data": DATA, "features": features} | changed))
