"""Compiled models that a search for a learning rate must leave as they are, and their data."""

import random

import keras
import numpy as np

import keras_svd_adapters as ksa
from keras_svd_adapters.runtime.host_values import to_host_exact

SAMPLES, WIDTH, BATCH = 48, 6, 8


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, WIDTH)).astype("float32")
    return x, np.tanh(x[:, :2] - x[:, 2:4])


def network(statistics=True, dtype="float32"):
    layers = keras.layers
    parts = [
        layers.Dense(8, activation="tanh", name="first"),
        layers.BatchNormalization(momentum=0.8) if statistics else layers.Identity(),
        layers.Dropout(0.3) if statistics else layers.Identity(),
        layers.Dropout(0.3, seed=5) if statistics else layers.Identity(),
        layers.Dense(8, activation="tanh", name="second"),
        layers.Dense(2, name="head", dtype="float32"),
    ]
    with_policy = keras.dtype_policies.get(dtype)
    for part in parts[:-1]:
        part.dtype_policy = with_policy
    return keras.Sequential([keras.Input((WIDTH,)), *parts])


def adam(**settings):
    return keras.optimizers.Adam(1e-2, **settings)


MODELS = {
    "plain": ({"statistics": False}, adam, {}),
    "dropout and statistics": ({}, adam, {}),
    "float16": (
        {"dtype": "mixed_float16"},
        lambda: keras.optimizers.LossScaleOptimizer(adam()),
        {},
    ),
    # Not Adam: the nearest bfloat16 to its beta_2 is 1, and Keras's Adam then moves nothing.
    "bfloat16": ({"dtype": "bfloat16"}, lambda: keras.optimizers.SGD(1e-2, momentum=0.9), {}),
    "average": ({}, lambda: adam(use_ema=True, ema_overwrite_frequency=3), {}),
    "accumulation": ({}, lambda: adam(gradient_accumulation_steps=2), {}),
    "momentum": ({}, lambda: keras.optimizers.SGD(1e-2, momentum=0.9), {}),
    "nadam": ({}, lambda: keras.optimizers.Nadam(1e-2), {}),
    "compiled": ({}, adam, {"jit_compile": keras.backend.backend() != "torch"}),
    "several steps": (
        {},
        adam,
        {"steps_per_execution": 1 if keras.backend.backend() == "torch" else 3},
    ),
}


def compiled(name):
    keras.utils.clear_session(free_memory=False)  # names start at the same number
    keras.utils.set_random_seed(1)
    settings, optimizer, how = MODELS[name]
    model = network(**settings)
    model.compile(optimizer(), loss="mse", metrics=["mae"], **how)
    return model


def find(model, **how):
    """A short search."""
    how = {"steps": 12, "batch_size": BATCH, "high": 1.0} | how
    return ksa.find_learning_rate(model, *data(), **how)


def values(model):
    """The values of all variables, as bytes."""
    return everything(model)[0]


def everything(model):
    """All that training changes, as bytes."""
    metrics = [v for v in model.metrics_variables if np.any(to_host_exact(v))]
    return (
        [(v.path, v.trainable, to_host_exact(v).tobytes()) for v in model.variables]
        + [to_host_exact(v).tobytes() for v in model.optimizer.variables],
        [to_host_exact(v).tobytes() for v in metrics],
        (random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]),
        (model.stop_training, id(getattr(model, "history", None))),
    )


class Numbered(keras.utils.PyDataset):
    def __len__(self):
        return SAMPLES // BATCH

    def __getitem__(self, number):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        return data()[0][rows], data()[1][rows]


def batches():
    x, y = data()
    for start in range(0, SAMPLES, BATCH):
        yield x[start : start + BATCH], y[start : start + BATCH]


def forms_of_data():
    """Functions that return the same data, as positional arguments of the search."""

    def tensors():
        return tuple(keras.ops.convert_to_tensor(part) for part in data())

    def tf_data():
        import tensorflow as tf

        return (tf.data.Dataset.from_tensor_slices(data()).batch(BATCH),)

    def torch_loader():
        import torch

        parts = (torch.from_numpy(part) for part in data())
        dataset = torch.utils.data.TensorDataset(*parts)
        return (torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True),)

    return {
        "arrays": data,
        "weighted arrays": lambda: (*data(), np.linspace(0.5, 1.5, SAMPLES)),
        "tensors": tensors,
        "dataset by number": lambda: (Numbered(),),
        "list of batches": lambda: (iter([*batches()]),),
        "generator": lambda: (batches(),),
        "tf.data": tf_data,
        "torch loader": torch_loader,
    }
