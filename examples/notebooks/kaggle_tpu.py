# %% [markdown]
# # Gemma on the eight chips of a TPU v5e-8
#
# On Kaggle, choose the accelerator *TPU v5e-8* and add the model *keras/gemma2*. Where there is no TPU, the
# same cells run on eight simulated devices with a tiny Gemma, to see what they do.

# %%
# %pip install -q "keras-svd-adapters[jax,hub]"

# %%
import importlib.util
import os

ON_TPU = importlib.util.find_spec("libtpu") is not None
os.environ["KERAS_BACKEND"] = "jax"
if not ON_TPU:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"

import codecs
import contextlib
import io

import keras
import keras_hub
import numpy as np

import keras_svd_adapters as ksa

print(keras.distribution.list_devices())

# %% [markdown]
# ## The distribution first
#
# Two replicas of the batch, each of four chips. KerasHub knows how Gemma is cut; adapters are cut as the kernels
# beside them are, and need no line here.

# %%
mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
layout_map = keras_hub.models.GemmaBackbone.get_layout_map(mesh)
spread = keras.distribution.ModelParallel(layout_map=layout_map, batch_dim_name="batch")

# %% [markdown]
# ## Will it fit?
#
# Before a weight is loaded: what each chip would hold. A v5e has 16 GB.

# %%
TINY = {
    "class_name": "GemmaBackbone",
    "config": {
        "vocabulary_size": 256,
        "num_layers": 2,
        "num_query_heads": 8,
        "num_key_value_heads": 4,
        "hidden_dim": 64,
        "intermediate_dim": 256,
        "head_dim": 16,
    },
}
svft = ksa.SVFT(pattern="banded", d=2)
ksa.plan("gemma2_2b_en" if ON_TPU else TINY, svft, distribution=spread, device_memory=16e9)

# %% [markdown]
# ## Load, adapt, look
#
# The distribution is set before the model is made. Kernels come to the host one at a time, to be decomposed.

# %%
keras.distribution.set_distribution(spread)
keras.utils.set_random_seed(0)
if ON_TPU:
    gemma = keras_hub.models.GemmaCausalLM.from_preset("gemma2_2b_en", dtype="bfloat16")
    gemma.preprocessor.sequence_length = 64
else:
    backbone = keras_hub.models.GemmaBackbone(**TINY["config"])
    gemma = keras_hub.models.GemmaCausalLM(backbone=backbone, preprocessor=None)
gemma.backbone.enable_svft(pattern="banded", d=2)

# %%
print(ksa.status(gemma, layouts=True))

# %% [markdown]
# ## Train
#
# It learns the Zen of Python by heart. Gradients and the slots of the optimizer exist for what trains alone.

# %%
with contextlib.redirect_stdout(io.StringIO()):
    import this
lines = [line for line in codecs.decode(this.s, "rot13").splitlines() if line] * 8


def batches(texts):
    """Texts for the preprocessor; the tiny Gemma reads bytes."""
    if gemma.preprocessor is not None:
        return {"x": texts}
    ids = np.zeros((len(texts), 33), "int32")
    for row, text in zip(ids, texts):
        data = text.encode()[:33]
        row[: len(data)] = list(data)
    x = {"token_ids": ids[:, :-1], "padding_mask": (ids[:, :-1] > 0).astype("int32")}
    return {"x": x, "y": ids[:, 1:], "sample_weight": (ids[:, 1:] > 0).astype("float32")}


gemma.compile(
    optimizer=keras.optimizers.Adam(svft.recommended_learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
)
history = gemma.fit(**batches(lines), batch_size=8, epochs=3, verbose=2)

# %% [markdown]
# ## Keep what trained
#
# One plain file, which knows nothing of the mesh: it loads onto this model, onto another mesh, or onto one GPU.

# %%
gemma.backbone.save_adapter("zen.keras")
print(f"{os.path.getsize('zen.keras') / 1e3:,.0f} kB")
gemma.backbone.load_adapter("zen.keras", name="again")
print(ksa.status(gemma))
