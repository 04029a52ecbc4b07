"""X-LoRA: a classifier weighs the adapters for each token, and it alone trains."""

import keras
import numpy as np
import pytest
from cases import numpy, shake

import keras_svd_adapters as ksa

METHODS = {"a": ksa.LoRA(rank=2), "b": ksa.SVFT(), "c": ksa.DoRA(rank=2)}
X = np.random.default_rng(0).standard_normal((3, 5, 6)).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 6))
    hidden = keras.layers.Dense(6, activation="tanh")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(4, name="head")(hidden))
    for seed, (name, method) in enumerate(METHODS.items()):
        ksa.enable(model, method, targets="*", name=name)
        shake(model, seed=seed)
    return model, keras.Model(inputs, hidden)


def classifier(weights):
    """A classifier whose softmax is the same for each token."""
    layer = keras.layers.Dense(3)
    layer.build((None, 5, 6))
    logits = np.log(np.maximum(weights, 1e-30))
    layer.set_weights([np.zeros((6, 3)), logits])
    return layer


def alone(model, name):
    ksa.set_adapter(model, name)
    return model.predict(X, verbose=0)


@pytest.mark.parametrize("place", range(3))
def test_one_hot_is_that_adapter(place):
    model, features = network()
    mixed = ksa.XLoRA(model, METHODS, features, classifier(np.eye(3)[place]))
    wanted = alone(model, list(METHODS)[place])
    np.testing.assert_allclose(mixed.predict(X, verbose=0), wanted, atol=1e-6)


def test_each_token_has_its_weights():
    """A layer that sees the tokens adds the changes of each, as one call per token would."""
    model, features = network()
    mixed = ksa.XLoRA(model, METHODS, features, temperature=0.2)
    weights = numpy(mixed.token_weights(X))
    assert np.ptp(weights, axis=(0, 1)).min() > 0.05
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    found = mixed.predict(X, verbose=0)
    for sample, token in [(0, 0), (1, 3), (2, 4)]:
        ksa.set_adapter(model, dict(zip(METHODS, weights[sample, token].tolist(), strict=True)))
        one = model.predict(X, verbose=0)[sample, token]
        np.testing.assert_allclose(found[sample, token], one, atol=1e-5)


def test_the_classifier_alone_trains():
    model, features = network()
    target = alone(model, "b")
    mixed = ksa.XLoRA(model, METHODS, features)
    before = [numpy(v) for v in model.variables]
    mixed.compile(optimizer=keras.optimizers.Adam(0.1), loss="mse")
    losses = mixed.fit(X, target, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert numpy(mixed.token_weights(X))[..., 1].mean() > 0.5
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, numpy(variable))


def test_top_k():
    model, features = network()
    weights = numpy(ksa.XLoRA(model, METHODS, features, top_k=2).token_weights(X))
    assert (np.count_nonzero(weights, axis=-1) == 2).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)


REFUSED = {
    "an unknown name": ({"names": ["a", "d"]}, "no such adapter"),
    "one name": ({"names": ["a"]}, "two adapters or more"),
    "no features": ({"features": None}, "`features` is a model"),
    "a cold one": ({"temperature": 0}, "`temperature`"),
    "too many": ({"top_k": 4}, "`top_k`"),
}


@pytest.mark.parametrize(("changed", "match"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(changed, match):
    model, features = network()
    with pytest.raises(ValueError, match=rf"(?s){match}.*Received: "):
        ksa.XLoRA(**({"model": model, "names": list(METHODS), "features": features} | changed))


def test_layers_without_a_row_for_each_token():
    inputs = keras.Input((5, 6))
    hidden = keras.layers.Dense(6)(inputs)
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(4)(pooled)))
    for name in ("a", "b"):
        ksa.enable(model, ksa.LoRA(rank=2), name=name)
    with pytest.raises(ValueError, match="for weights of 5 tokens"):
        ksa.XLoRA(model, ["a", "b"], keras.Model(inputs, hidden))(X)
