"""One adapter per sample, for inputs that come in batches."""

from importlib.util import find_spec

import keras
import numpy as np
import pytest
from cases import shake

import keras_svd_adapters as ksa

X = np.random.default_rng(0).normal(size=(10, 6)).astype("float32")
IDS = ["a", None, "b", "a", "b", None, None, "a", "b", "b"]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, number):
        rows = slice(4 * number, 4 * number + 4)
        return X[rows], np.zeros((len(X[rows]), 2))


def tensorflow_dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(X).batch(4)


def torch_loader():
    import torch

    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.zeros(10))
    return torch.utils.data.DataLoader(data, batch_size=4)


DATASETS = {
    "keras": Batches,
    "generator": lambda: (X[start : start + 4] for start in range(0, 10, 4)),
    "tensorflow": tensorflow_dataset,
    "of unknown length": lambda: tensorflow_dataset().filter(lambda x: True),
    "torch": torch_loader,
}
if not find_spec("tensorflow"):  # a machine with a GPU may have one backend alone
    del DATASETS["tensorflow"], DATASETS["of unknown length"]


def adapted():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="up")])
    for seed, name in enumerate("ab"):
        ksa.enable(model, ksa.LoRA(rank=2), targets="up", name=name)
        shake(model, 0.3, seed=seed)
    return model


@pytest.mark.parametrize("kind", DATASETS)
def test_a_dataset_answers_as_its_array(kind):
    model = adapted()
    expected = ksa.predict(model, X, IDS)
    found = ksa.predict(model, DATASETS[kind](), IDS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ValueError, match="needs one adapter.*Received: 9 adapter_ids"):
        ksa.predict(model, DATASETS[kind](), IDS[:9])
    with pytest.raises(ValueError, match="there are 10 samples.*Received: 11 adapter_ids"):
        ksa.predict(model, DATASETS[kind](), [*IDS, "a"])


def test_steps_callbacks_and_progress_are_those_of_keras(capsys):
    model, seen = adapted(), []
    callback = keras.callbacks.Callback()
    callback.on_predict_batch_end = lambda step, logs=None: seen.append(
        (step, len(logs["outputs"]))
    )
    whole = ksa.predict(model, X, IDS, batch_size=4, callbacks=[callback])
    assert seen == [(0, 4), (1, 4), (2, 2)]
    assert not capsys.readouterr().out
    part = ksa.predict(model, X, IDS, batch_size=4, steps=2, verbose=1)
    np.testing.assert_array_equal(part, whole[:8])
    assert "2/2" in capsys.readouterr().out
