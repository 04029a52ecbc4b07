"""The ways in which `fit` may run: compiled or not, several batches a step or a step of several."""

import keras

import keras_svd_adapters as ksa

MODES = {
    "default": {},
    "jit": {"jit_compile": True},
    "no jit": {"jit_compile": False},
    "eager": {"run_eagerly": True},
    "steps": {"steps_per_execution": 4},
    "accumulation": {"gradient_accumulation_steps": 2},
    "loss scale": {"loss_scale": True},
    "mixed precision": {"dtype": "mixed_bfloat16"},
    "rules": {"rules": [ksa.Rates({"*/lora_b": 2.0}), ksa.Sensitivity("*/lora_a")]},
}
if keras.backend.backend() == "torch":
    del MODES["jit"], MODES["steps"]  # PyTorch compiles no such model, and takes single steps


def compiled(
    model, gradient_accumulation_steps=None, loss_scale=False, dtype=None, rules=(), **how
):
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=gradient_accumulation_steps)
    if rules:
        optimizer = ksa.rules(optimizer, rules)
    if loss_scale:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    model.compile(optimizer, "mse", **how)
