"""Loads whole adapted models in a fresh process: same outputs, and they keep learning."""

import pickle
import sys
from pathlib import Path

import keras
import numpy as np

import keras_svd_adapters as ksa

folder = Path(sys.argv[1])
cases = pickle.loads((folder / "cases.pickle").read_bytes())
for name, (x, y, expected, slots) in cases.items():
    model = keras.saving.load_model(folder / f"{name}.keras")
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-6, err_msg=name)
    found = [v.numpy() for v in model.optimizer.variables]
    assert len(found) == len(slots), name
    for ours, theirs in zip(found, slots, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    start = {w.path: w.numpy().copy() for w in model.trainable_weights}
    model.fit(x, y, verbose=0)
    for weight in model.trainable_weights:
        assert not np.array_equal(weight.numpy(), start[weight.path]), (name, weight.path)
    assert "active" in str(ksa.status(model)) or name.startswith("layer"), name
