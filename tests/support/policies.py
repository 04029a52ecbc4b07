"""Tiny language models whose completions can all be enumerated."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np

import keras_svd_adapters as ksa
from keras_svd_adapters.training.reinforcement.policy import Policy
from keras_svd_adapters.training.reinforcement.rollouts import Rollout, padded

WORDS, END, LENGTH = 5, 4, 4
SPREAD = 30.0
PROMPT = [1, 2]
ALL = [(END,)] + [(a, b) for a in range(WORDS) if a != END for b in range(WORDS)]


def task(optimizer=None, moved: float = 0.0):
    """A compiled task with an adapter of SVF, `moved` at random from its start."""
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=WORDS,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
    )
    model = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    for weight in model.weights:  # so that the probabilities differ
        if "kernel" in weight.path or "embeddings" in weight.path:
            weight.assign(SPREAD * weight)
    ksa.enable(model, ksa.SVF(), verbose=0)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + moved * rng.standard_normal(variable.shape))
    model.compile(optimizer=optimizer or keras.optimizers.SGD(1.0), loss=None, weighted_metrics=[])
    return model


def enumerated() -> Rollout:
    """The prompt with each possible completion."""
    rows = padded([[*PROMPT, *completion] for completion in ALL], LENGTH)
    is_sampled = rows["padding_mask"].copy()
    is_sampled[:, : len(PROMPT)] = False
    return Rollout(*rows.values(), is_sampled, [PROMPT] * len(ALL), [np.array(c) for c in ALL])


def probabilities(model, temperature: float = 1.0) -> np.ndarray:
    """The probability of each completion, from the model's own logits, in float64."""
    rollout = enumerated()
    inputs = {"token_ids": rollout.token_ids, "padding_mask": rollout.padding_mask}
    logits = model.predict_on_batch(inputs).astype("float64") / temperature
    logits -= logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits[:, :-1], rollout.token_ids[:, 1:, None], axis=-1)[..., 0]
    found = chosen - np.log(np.exp(logits[:, :-1]).sum(axis=-1))
    return np.exp((found * rollout.is_sampled[:, 1:]).sum(axis=1))


def gradient(goal, model, step: float = 4e-3) -> np.ndarray:
    """The gradient of a number for each trained variable, by central differences."""
    found = []
    for variable in model.trainable_variables:
        start = keras.ops.convert_to_numpy(variable)
        slopes = np.zeros(start.size)
        for place in range(start.size):
            values = []
            for sign in (1, -1):
                moved = start.copy()
                moved.flat[place] += sign * step
                variable.assign(moved)
                values.append(goal(model))
            slopes[place] = (values[0] - values[1]) / (2 * step)
        variable.assign(start)
        found.append(slopes)
    return np.concatenate(found)


def moves(model, rollout: Rollout, weights: np.ndarray, **settings) -> np.ndarray:
    """What one step of plain gradient ascent adds to the trained variables, for each of several
    weights `(samples, tokens)`; the variables stay as they were."""
    policy = Policy(model, **({"temperature": 1.0, "kl": 0.0, "baseline": "none"} | settings))
    before = [keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
    found = []
    for each in weights:
        policy.train(rollout, each)
        after = [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]
        found.append(np.concatenate([(a - b).ravel() for b, a in zip(before, after, strict=True)]))
        for variable, value in zip(model.trainable_variables, before, strict=True):
            variable.assign(value)
    return np.stack(found)
