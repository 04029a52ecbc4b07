"""Gradients of trained variables on whichever backend runs."""

import keras
import numpy as np


def gradients(layer, x, g, **call):
    """Gradient of `sum(layer(x) * g)` for each trainable weight, in their order."""
    weights = layer.trainable_weights
    x = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
    g = keras.ops.convert_to_tensor(g)
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def loss(trainable):
            y, _ = layer.stateless_call(trainable, layer.non_trainable_variables, x, **call)
            return keras.ops.sum(keras.ops.cast(y, "float32") * g)

        found = jax.jit(jax.grad(loss))([w.value for w in weights])
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.sum(keras.ops.cast(layer(x, **call), "float32") * g)
        found = tape.gradient(loss, [w.value for w in weights])
    else:
        for w in weights:
            w.value.grad = None
        keras.ops.sum(keras.ops.cast(layer(x, **call), "float32") * g).backward()
        found = [w.value.grad for w in weights]
    return [np.asarray(keras.ops.convert_to_numpy(gradient)) for gradient in found]


def loss_gradients(layer):
    """Gradient of the sum of `layer.losses` for each trainable weight, in their order."""
    weights = layer.trainable_weights
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def loss(trainable):
            with keras.StatelessScope(zip(weights, trainable, strict=True)):
                return sum(layer.losses)

        found = jax.jit(jax.grad(loss))([w.value for w in weights])
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = sum(layer.losses)
        found = tape.gradient(loss, [w.value for w in weights])
    else:
        for w in weights:
            w.value.grad = None
        sum(layer.losses).backward()
        found = [w.value.grad for w in weights]
    return [
        np.zeros(w.shape) if g is None else np.asarray(keras.ops.convert_to_numpy(g))
        for w, g in zip(weights, found, strict=True)
    ]
