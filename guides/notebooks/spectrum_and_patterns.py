# %% [markdown]
# # The spectrum of a model, and the patterns of SVFT
#
# A kernel is `K = U diag(s) Vt`. SVF and SVFT train between the singular vectors: what they can do
# depends on `s`, which differs from kernel to kernel. This notebook looks at the singular values of
# MiniLM, at the four patterns, and at what training makes of them.

# %%
import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.append("../examples")

import keras
import lesson
import matplotlib.pyplot as plt
import numpy as np

import keras_svd_adapters as ksa

backbone = lesson.encoder()

# %% [markdown]
# ## Singular values
#
# Solid: a line per layer, dark to light with the depth. Dashed: a random kernel of the same norm.
# Queries and keys have learned few strong directions; the feed-forward kernels are much flatter.

# %%
spectrum = ksa.spectrum(backbone, verbose=0)
spectrum.plot()

# %% [markdown]
# The same as a table: the rank that holds 90 % of the energy, and that of a random kernel.

# %%
spectrum

# %% [markdown]
# ## The patterns
#
# SVFT trains some entries of the square matrix `M` in `U (diag(s) + M) Vt`. Plain trains its diagonal;
# banded also `d` diagonals on each side, so that neighbouring directions mix; random and top-k train as
# many entries elsewhere (top-k, for square kernels only, where left and right vectors are most alike).

# %%
k, d = 24, 2
rng = np.random.default_rng(0)
near = abs(np.subtract.outer(np.arange(k), np.arange(k)))
patterns = {
    "plain": near == 0,
    "banded, d=2": near <= d,
    "random, d=2": rng.permutation((near <= d).ravel()).reshape(k, k),
}
figure, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
for axis, (name, entries) in zip(axes, patterns.items(), strict=True):
    axis.imshow(entries, cmap="Greys", vmax=1.4)
    axis.set_title(f"{name}: {entries.sum()} of {entries.size}")
    axis.set_xticks([])
    axis.set_yticks([])

# %% [markdown]
# What each costs on this model, before anything is touched:

# %%
for method in (
    ksa.SVF(),
    ksa.SVFT(pattern="plain"),
    ksa.SVFT(pattern="banded", d=2),
    ksa.SVFT(pattern="banded", d=8),
    ksa.SVFT(pattern="random", d=2),
    ksa.LoRA(rank=8),
):
    plan = ksa.plan(backbone, method)
    print(
        f"{method!s:32} {plan.trainable_parameters:9,} values, file {plan.file_bytes / 1e3:7,.0f} kB"
    )

# %% [markdown]
# ## What training makes of them
#
# One pass over movie sentences with SVFT plain. A line per layer, dark to light with the depth: how far
# each singular value moved, from the largest (left) to the smallest. All move alike, large and small:
# what the model learns is spread over its directions.

# %%
keras.utils.set_random_seed(0)
model = lesson.with_head(backbone)
texts, sets = lesson.sentences(train=2048, test=1000)
plain = ksa.SVFT(pattern="plain")
ksa.enable(model, plain, train="head", verbose=0)
model.compile(
    optimizer=keras.optimizers.Adam(plain.recommended_learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(*sets["train"], batch_size=32, validation_data=sets["test"], verbose=2)

# %%
moved = {}
for weight in model.trainable_weights:
    if weight.path.endswith("/m"):
        kind = weight.path.split("/")[-3]
        moved.setdefault(kind, []).append(keras.ops.convert_to_numpy(weight))
figure, axes = plt.subplots(2, 3, figsize=(10, 5.5), layout="constrained")
for axis, (kind, layers) in zip(np.ravel(axes), moved.items(), strict=True):
    for depth, values in enumerate(layers):
        axis.plot(values, linewidth=0.7, color=str(0.7 * depth / max(len(layers) - 1, 1)))
    axis.set_title(kind, fontsize=9)
figure.supxlabel("singular value, from large to small")
_ = figure.supylabel("its change")

# %% [markdown]
# ## What LoRA makes of them
#
# `coefficients` looks at any adapter in these terms: it writes the change of a kernel as `M` between the
# singular vectors. SVFT plain has a diagonal M, by its nature; a low-rank change has entries everywhere.

# %%
lora = ksa.LoRA(rank=8)
other = lesson.with_head(lesson.encoder())
ksa.enable(other, lora, train="head", verbose=0)
other.compile(
    optimizer=keras.optimizers.Adam(lora.recommended_learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = other.fit(*sets["train"], batch_size=32, validation_data=sets["test"], verbose=2)
ksa.coefficients(model, verbose=0)

# %%
changed = ksa.coefficients(other, verbose=0)
changed

# %% [markdown]
# A row for each layer name, the layers from left to right; large singular values are at the top and at the
# left of each square, and dark is a large coefficient.

# %%
changed.plot()
