# %% [markdown]
# # Choosing a method and its learning rate
#
# Two questions that belong together: each method has its own scale, so that a rate at which one learns
# best leaves another untouched or tears it apart. This notebook searches a rate for one method, and then
# shows what such a search found for every method on the same task.

# %%
import os
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.append("../examples")

import comparison
import keras
import lesson
import matplotlib.pyplot as plt
import numpy as np

import keras_svd_adapters as ksa

texts, sets = lesson.sentences(train=1024, test=1000)

# %% [markdown]
# ## A search for one method
#
# Start at the method's own recommendation, try a third of it and three times as much, and look at
# sentences that are neither for training nor for the final figure. One pass over 1,024 sentences each:
# rates that differ by less than a factor of two are seldom worth telling apart.

# %%
svft = ksa.SVFT(pattern="banded", d=2)
recommended = svft.recommended_learning_rate
losses, found = {}, {}
for rate in (recommended / 10, recommended / 3, recommended, recommended * 3):
    losses[rate] = []
    keras.utils.set_random_seed(0)
    model = lesson.with_head(lesson.encoder())
    ksa.enable(model, svft, train="head", verbose=0)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    each = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs, kept=losses[rate]: kept.append(logs["loss"])
    )
    model.fit(*sets["train"], batch_size=32, verbose=0, callbacks=[each])
    found[rate] = model.evaluate(*sets["test"], batch_size=100, verbose=0)[1]
    print(f"Adam({rate:.1g}): {found[rate]:.3f}")

# %%
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for rate, values in losses.items():
    axis.plot(values, label=f"{rate:.1g}: {found[rate]:.3f}")
axis.set_xlabel("step")
axis.set_ylabel("mean training loss so far")
axis.legend(title="rate: accuracy", frameon=False, fontsize=8)
None

# %% [markdown]
# Too small a rate is slow, too large a one jumps. `fit` warns where a rate is below a twentieth of the
# recommendation, and `AdapterHealth` where nothing moves.
#
# ## Every method
#
# `make comparison` does the same for all methods: MiniLM with a fresh head, 2,048 movie sentences, two
# epochs of batches of 32, rates by factors of three judged on 1,000 other sentences, and with the best
# rate three seeds, judged on 2,000 further ones. Sizes are chosen for about 70,000 trained values where a
# method has a size to choose; SVF and SVFT plain have one size, and VeRA's grows slowly with its rank.
# Keras's own LoRA, which KerasHub puts on queries and values, is there for comparison.

# %%
results = comparison.load()
results

# %% [markdown]
# Accuracy is the mean over three seeds ± their standard deviation. *File* is what `save_adapter` writes,
# the head included. *Step* is the time of a training step relative to that with Keras's LoRA of rank 8,
# the methods taking turns.
#
# Every adapter gains about four points on the head alone. Between adapters, differences are no larger than
# those between seeds: from 14,594 to 450,818 trained values, the method matters little to the accuracy of
# this task, and much to the size of the file and the time of a step.

# %%
names = sorted(comparison.ENTRIES, key=results.values, reverse=True)
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for place, name in enumerate(names):
    tests = results.accuracies(name)
    axis.errorbar(np.mean(tests), place, xerr=np.std(tests, ddof=1), fmt="o", capsize=3, color="C0")
    axis.plot(tests, [place] * len(tests), "|", color="0.4")
axis.set_yticks(range(len(names)), [f"{name}: {results.values(name):,}" for name in names])
axis.tick_params(axis="y", labelsize=8)
axis.set_xlabel("accuracy: mean, deviation and each of three seeds")
None

# %% [markdown]
# ## How much the rate matters
#
# Accuracy on the validation sentences by rate, with the first seed. Each method has a plateau of a factor
# of three or so, and the plateaus lie at very different places: at ten times its best rate, SVF guesses.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for name in comparison.ENTRIES:
    if name != "head only":
        spectral = "SV" in name or "XS" in name
        validated = results.validated(name)
        axes[int(spectral)].plot(validated.keys(), validated.values(), marker="o", label=name)
for axis in axes:
    axis.set_xscale("log")
    axis.set_xlabel("rate of Adam")
    axis.legend(frameon=False, fontsize=7)
axes[0].set_ylabel("accuracy, validation")
None
