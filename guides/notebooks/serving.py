# %% [markdown]
# # From a trained adapter to a served model
#
# While it trains, an adapter is something beside the kernels. For serving it can go into them: what is
# left is an ordinary Keras model, of the base model's size and speed, that needs nothing of this package.
# This notebook tunes an encoder, merges it, saves and exports it, and asks it in processes that know
# nothing of all that.

# %%
import os
import subprocess
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
sys.path.append("../examples")

import keras
import lesson
import numpy as np

import keras_svd_adapters as ksa

keras.utils.set_random_seed(0)
model = lesson.with_head(lesson.encoder())
texts, sets = lesson.sentences(train=2048, test=1000)
inputs, labels = sets["test"]

svft = ksa.SVFT(pattern="banded", d=2)
ksa.enable(model, svft, train="head", verbose=0)
model.compile(
    optimizer=keras.optimizers.Adam(svft.recommended_learning_rate),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
history = model.fit(*sets["train"], batch_size=32, validation_data=sets["test"], verbose=2)

# %% [markdown]
# ## What the adapter costs
#
# A pass over the test sentences with the adapter, and without it for a moment.


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
# The change is computed in float32, added to each kernel and rounded once. `probe` measures what that
# rounding does to the model's own outputs; above `tolerance`, nothing is changed and an error says so.

# %%
expected = model.predict(inputs, batch_size=100, verbose=0)
probe = {name: value[:100] for name, value in inputs.items()}
report = ksa.merge(model, probe=probe, tolerance=1e-3)
report

# %%
print(f"merged {seconds(model) / base:.2f} times as long as the base model")
merged = model.predict(inputs, batch_size=100, verbose=0)
print(f"largest difference of the predictions: {abs(merged - expected).max():.1e}")

# %% [markdown]
# ## A file for Keras
#
# The merged model saves as any other. A process that never imports this package loads it.

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
# On JAX and TensorFlow, Keras exports a SavedModel, which TensorFlow Serving takes, with an open batch
# size. (On PyTorch, `torch.export.export` of the merged model.)

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
# Where one server has many tasks, the base stays in memory once, and adapters are switched between
# requests: this takes a fraction of a second, and what was traced for an adapter stays. `unmerge` gives every bit
# of the base back; from there, training goes on as well. ([Many adapters on one
# base](many_adapters.ipynb) has the rest.)

# %%
ksa.unmerge(model)
for name in (None, "default", None, "default"):  # `None` is the base model
    start = time.perf_counter()
    ksa.set_adapter(model, name)
    print(f"{name}: {1e3 * (time.perf_counter() - start):.0f} ms")
back = model.predict(inputs, batch_size=100, verbose=0)
print(f"largest difference of the predictions: {abs(back - expected).max():.1e}")
