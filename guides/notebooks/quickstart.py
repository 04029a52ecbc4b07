# %% [markdown]
# # Quickstart
#
# A pretrained encoder learns to tell favourable movie reviews from others. Instead of its 22.7
# million weights, some 70,000 new values train; they go into a file of 300 kB, and the base model
# stays what it was.
#
# It runs in the folder `guides` of a clone of this project, after `make docs` there; the package alone
# is `pip install keras-svd-adapters`.

# %%
import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"
sys.path.append("../examples")  # where this notebook gets its model and its sentences

import keras
import lesson

import keras_svd_adapters as ksa

# %% [markdown]
# ## The model
#
# MiniLM with a fresh head. Any Keras 3 model will do; of KerasHub, any backbone or task, such as
# `keras_hub.models.GemmaCausalLM.from_preset("gemma2_2b_en")`.

# %%
keras.utils.set_random_seed(0)
backbone = lesson.encoder()
model = lesson.with_head(backbone)
texts, sets = lesson.sentences(train=2048, test=1000)
print(texts[0])

# %% [markdown]
# ## The plan
#
# What would be adapted, how many values would train, how large the file would be. It touches
# nothing, and it knows a model by its configuration alone, before there are weights.

# %%
svft = ksa.SVFT(pattern="banded", d=2)
plan = ksa.plan(model, svft)
plan

# %%
plan.plot()

# %% [markdown]
# ## Adapt and fit
#
# `enable` decomposes the kernels once (the next time they come from a cache), freezes the model and
# adds the new values. `train="head"` names what trains besides. At this point the model computes
# exactly what it did before.

# %%
ksa.enable(model, svft, train="head", verbose=0)

# %%
model.compile(
    optimizer=keras.optimizers.Adam(svft.recommended_learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
health = ksa.AdapterHealth()  # warns if an adapter does not move
history = model.fit(
    *sets["train"], batch_size=32, validation_data=sets["test"], verbose=2,
    callbacks=[health],
)  # fmt: skip

# %% [markdown]
# Did every adapter move? A line per kernel; a look after ten steps and after the epoch.

# %%
health.plot()

# %% [markdown]
# ## Save and reload
#
# The file holds what trained, and marks of the base model: on another base it is refused.

# %%
ksa.save_adapter(model, "favourable.keras")
print(f"{os.path.getsize('favourable.keras') / 1e3:,.0f} kB")

fresh = lesson.with_head(lesson.encoder())
ksa.load_adapter(fresh, "favourable.keras", verbose=0)
difference = abs(
    model.predict(sets["test"][0], verbose=0) - fresh.predict(sets["test"][0], verbose=0)
)
print(f"largest difference of the predictions: {difference.max():.1e}")

# %% [markdown]
# ## Merge
#
# For serving: the adapter goes into the kernels and costs nothing from then on. The report says what
# rounding changed; `ksa.unmerge(model)` gives every bit back.

# %%
ksa.merge(fresh)

# %% [markdown]
# Next: [which method, at which rate](choosing_a_method.ipynb), [singular values and SVFT's
# patterns](spectrum_and_patterns.ipynb), [many adapters on one base](many_adapters.ipynb).
