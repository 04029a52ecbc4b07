"""What adapters per sample leave in the model, in its files and in its training: nothing."""

import keras
import numpy as np
from mixed_batch import IDS, adapted, alone, batch, small
from traces import watched

import keras_svd_adapters as ksa


def test_nothing_of_it_stays():
    model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    x = batch()
    names = [w.path for w in model.weights]
    before = model.predict(x, verbose=0)
    ksa.predict(model, x, IDS)
    assert [w.path for w in model.weights] == names
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
    ksa.predict(model, x, IDS)


def test_other_ids_need_no_other_trace():
    model, traced = watched()
    adapted(model, ksa.LoRA(rank=2), targets="up")
    x = batch()[:2]
    model.compile(run_eagerly=False)
    expected = {ids: alone(model, x, ids) for ids in (("a", "b"), ("b", "a"))}
    ksa.predict(model, x, ["a", "b"])
    traced.clear()
    for ids in (("b", "a"), ("a", "b"), ("b", "a")):
        np.testing.assert_allclose(ksa.predict(model, x, ids), expected[ids], rtol=0, atol=2e-5)
    if keras.backend.backend() != "torch":
        assert not traced


def test_what_was_saved_before_fits_after(tmp_path):
    model = adapted(small(), ksa.LoRA(rank=2), targets="*")
    model.save_weights(tmp_path / "before.weights.h5")
    ksa.predict(model, batch(), IDS)
    ksa.predict(model, batch(), IDS, batch_size=2)
    model.load_weights(tmp_path / "before.weights.h5")
    model.save_weights(tmp_path / "after.weights.h5")
    fresh = adapted(small(), ksa.LoRA(rank=2), targets="*")
    fresh.load_weights(tmp_path / "after.weights.h5")


def test_models_that_share_a_layer_know_nothing_of_it():
    inner = keras.Sequential([keras.Input((6, 10)), keras.layers.Dense(10, name="up")])
    outer = keras.Sequential([keras.Input((6, 10)), inner, keras.layers.Dense(2)])
    adapted(inner, ksa.LoRA(rank=2), targets="up")
    paths = [[w.path for w in model.weights] for model in (inner, outer)]
    named = [sorted(m.state_dict()) for m in (inner, outer) if hasattr(m, "state_dict")]
    ksa.predict(inner, batch(), IDS)
    assert [[w.path for w in model.weights] for model in (inner, outer)] == paths
    assert [sorted(m.state_dict()) for m in (inner, outer) if hasattr(m, "state_dict")] == named


def test_training_goes_on_as_without():
    def trained(mixes):
        keras.utils.set_random_seed(3)
        model = adapted(small(), ksa.LoRA(rank=2, dropout=0.3), targets="*")
        model.compile(keras.optimizers.Adam(0.01), "mse")
        y = np.zeros((len(IDS), 6, 7), "float32")
        for _ in range(2):
            model.fit(batch(), y, batch_size=2, epochs=1, shuffle=False, verbose=0)
            if mixes:
                ksa.predict(model, batch(), IDS)
        return [keras.ops.convert_to_numpy(w) for w in model.trainable_weights]

    for found, expected in zip(trained(True), trained(False), strict=True):
        np.testing.assert_array_equal(found, expected)
