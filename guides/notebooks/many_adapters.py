# %% [markdown]
# # Many adapters on one base
#
# One encoder in memory, and for each task a file of some kilobytes. This notebook trains two adapters
# on one MiniLM, switches between them, keeps them in one preset, and merges one for serving.

# %%
import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.append("../examples")

import keras
import lesson
import numpy as np

import keras_svd_adapters as ksa

keras.utils.set_random_seed(0)
backbone = lesson.encoder()
texts, sets = lesson.sentences(train=2048, test=1000)

# %% [markdown]
# ## Two tasks
#
# Is a review favourable, and is it long? Each has its own head; the encoder is one and the same object.

# %%
lengths = np.array([len(text) for text in texts])
long = (lengths > np.median(lengths)).astype("int32")
count = len(sets["train"][1])
tasks = {
    "favourable": (sets["train"][1], sets["test"][1]),
    "long": (long[:count], long[count : count + len(sets["test"][1])]),
}
models = {name: lesson.with_head(backbone, name) for name in tasks}

# %% [markdown]
# ## An adapter for each
#
# `enable` gives the encoder an adapter of that name and makes it the active one; the others rest.

# %%
svf = ksa.SVF()
for name, (train, test) in tasks.items():
    ksa.enable(backbone, svf, name=name, verbose=0)
    models[name].compile(
        optimizer=keras.optimizers.Adam(svf.recommended_learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    models[name].fit(sets["train"][0], train, batch_size=32, verbose=0)
    print(name, models[name].evaluate(sets["test"][0], test, verbose=0, return_dict=True))

# %%
ksa.status(backbone)

# %% [markdown]
# ## Switching
#
# Going back gives the same figures, and `predict` of a compiled model is not traced again.

# %%
for name, (_, test) in tasks.items():
    ksa.set_adapter(backbone, name)
    print(name, models[name].evaluate(sets["test"][0], test, verbose=0, return_dict=True))

with ksa.disabled(backbone):  # the base model, for a moment
    print("base:", models["long"].evaluate(sets["test"][0], tasks["long"][1], verbose=0)[1])

# %% [markdown]
# ## Files
#
# One adapter a file; or the base and all adapters as one KerasHub preset, which KerasHub reads without
# this package, then without the adapters.

# %%
for name in tasks:
    ksa.save_adapter(backbone, f"{name}.keras", name=name)
    print(f"{name}.keras: {os.path.getsize(f'{name}.keras') / 1e3:,.0f} kB")

backbone.save_to_preset("two_tasks")
again = type(backbone).from_preset("two_tasks")
ksa.status(again)

# %% [markdown]
# ## Serving one
#
# Merging changes the kernels, so that the others must go first. What is left is an ordinary model: it
# saves, exports and runs without this package, and costs what the base costs.

# %%
ksa.set_adapter(again, "favourable")
ksa.delete_adapter(again, "long")
report = ksa.merge(again)
report
