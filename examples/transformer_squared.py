"""Transformer² on SmolLM2-135M: experts of singular values, trained on rewards, one per prompt.

Two experts learn from rules: one to write digits, one to answer in five words. A third run shows
what the penalty on the divergence is for. The model itself then says which expert a prompt needs,
and a search blends both. Run it with `make demo-rewards`, in 19 minutes on one core. Each part
leaves a file in `demo/`, so a run that stopped goes on. The backend is that of `KERAS_BACKEND`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
import language_models
import numpy as np

import keras_svd_adapters as ksa

OUT = Path("demo")
TOKENS, PROMPTS, SAMPLES = 28, 4, 4
METHOD = ksa.SVF()
TARGETS = "mlp"
PENALTY = 0.03  # rewards per nat
DRAWS, SHOTS = 8, 2  # completions of each new prompt, and of each shot

THINGS = """days in a leap year; legs of a spider; cards in a deck; minutes in a day; planets;
strings of a violin; teeth of an adult; hours in a week; states of the USA; letters in English;
keys of a piano; sides of a cube; players in football; weeks in a year; bones of a human;
squares on a chess board; oceans; eggs in a dozen; seconds in an hour; colours of a rainbow;
months of a year; wheels of a car; legs of a cat; fingers of a hand; days in June;
corners of a square; arms of an octopus; years in a century; cents in a dollar; moons of Mars;
continents; rings of the Olympics""".replace("\n", " ").split("; ")
TOPICS = """rain; gravity; bread; a violin; the moon; salt; a library; sleep; iron; a river; tea;
a bridge; wind; a shadow; glass; a garden; music; a desert; snow; a clock; paper; a forest; fire;
an island; honey; a mirror; a train; winter; wood; a dream; a volcano; silk""".replace(
    "\n", " "
).split("; ")
COUNTS = [f"How many {thing} are there? Answer:" for thing in THINGS]
FACTS = [f"What is {topic}? Answer briefly:" for topic in TOPICS]
# Of each kind: prompts that train, prompts that choose among values and blends, and new ones.
TRAIN, CHOOSE, NEW = slice(0, 16), slice(16, 24), slice(24, 32)
TEMPLATE = """Q: What is a chair? Answer briefly:
Topic: word
Q: How many ears does a dog have? Answer:
Topic: number
Q: {prompt}
Topic:"""
HOW: dict[str, Any] = {"max_length": TOKENS, "strip_prompt": True, "stop_token_ids": None}


def digits(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """The share of the characters of a text that are digits."""
    return [sum(c.isdigit() for c in text) / max(len(text.strip()), 1) for text in texts]


def short(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """1 for five words in the first sentence, less the further from that."""
    counts = [len(text.split(".")[0].split()) for text in texts]
    return [math.exp(-abs(count - 5) / 3) for count in counts]


def mixed(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """The rewards of mixed prompts, each by the rule of its kind."""
    rules = [digits if prompt in COUNTS else short for prompt in prompts]
    triples = zip(rules, prompts, texts, strict=True)
    return [rule([prompt], [text])[0] for rule, prompt, text in triples]


EXPERTS = {"digits": (digits, COUNTS), "short": (short, FACTS)}


def noted(name: str, part: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """The notes of a part: from its file, or made now."""
    file = OUT / f"{name}.json"
    if not file.exists():
        start = time.perf_counter()
        notes = part(*args)
        file.write_text(json.dumps(notes | {"seconds": time.perf_counter() - start}))
    return json.loads(file.read_text())  # type: ignore[no-any-return]


def train(task: Any, name: str, kl: float, steps: int, rate: float) -> dict[str, Any]:
    """Trains an expert by the rule of its name; returns its curves."""
    reward, prompts = EXPERTS[name]
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=1.0)
    task.compile(optimizer=optimizer, loss=None, weighted_metrics=[])
    ksa.enable(task, METHOD, targets=TARGETS, name=name if kl else "free", verbose=0)
    report = ksa.reinforce(
        task,
        prompts[TRAIN],
        reward,
        steps,
        batch_size=PROMPTS,
        samples=SAMPLES,
        max_length=TOKENS,
        kl=kl,
        validation_prompts=prompts[CHOOSE] * 2,
        validate_every=max(steps // 4, 1),
        stop_token_ids=None,
        verbose=1,
    )
    print(report)
    if kl:
        ksa.save_adapter(task, OUT / f"{name}.keras", name=name)
    return {
        "reward": [each.reward for each in report.steps],
        "validations": [[v.step, v.reward, v.error, v.kl] for v in report.validations],
        "penalty": kl,
    }


def experts(task: Any, steps: int, rate: float) -> None:
    """Trains both experts, and one of them again without a penalty; shows their divergence."""
    rows = {}
    for name, kl in (("digits", PENALTY), ("short", PENALTY), ("digits", 0.0)):
        row = name if kl else f"{name}_free"
        if kl and (OUT / f"{row}.json").exists():
            ksa.load_adapter(task, OUT / f"{name}.keras", name=name, verbose=0)
        rows[row] = noted(
            row, train, task, name, kl, steps if name == "short" else steps // 2, rate
        )
    print("\nDivergence from the base in nats, at the start and after each quarter of the steps:")
    for row, found in rows.items():
        kls = [f"{kl:6.2f}" for *_, kl in found["validations"]]
        print(f"{row:12} penalty {found['penalty']:4} {' '.join(kls)} {found['seconds']:8.0f} s")


def measured(task: Any, **which: Any) -> dict[str, Any]:
    """The mean reward of several completions of the new prompts, with standard errors."""
    prompts = (COUNTS[NEW] + FACTS[NEW]) * DRAWS
    texts = ksa.generate(task, prompts, **which, **HOW)
    found = np.array(mixed(prompts, texts)).reshape(DRAWS, 2, -1).swapaxes(0, 1).reshape(2, -1)
    means, errors = found.mean(axis=1), found.std(axis=1, ddof=1) / found.shape[1] ** 0.5
    return {
        "rewards": [*means.tolist(), float(means.mean())],
        "errors": [*errors.tolist(), float(np.linalg.norm(errors)) / 2],
        "texts": dict(zip(prompts[6:10], texts[6:10], strict=True)),
    }


def dispatch(task: Any) -> dict[str, Any]:
    """Lets the model choose the expert of each new prompt; compares that to one for all."""
    prompts = COUNTS[NEW] + FACTS[NEW]
    labels = {"digits": " number", "short": " word"}
    chosen = ksa.classify(task, prompts, labels, template=TEMPLATE)
    right = [(n == "digits") == (p in COUNTS) for n, p in zip(chosen, prompts, strict=True)]
    task.compile(sampler=keras_hub.samplers.RandomSampler(seed=3))
    ways: dict[str, list[str | None]] = {
        "base": [None] * len(prompts),
        "digits alone": ["digits"] * len(prompts),
        "short alone": ["short"] * len(prompts),
        "dispatched": chosen,
    }
    rows = {way: measured(task, adapter_ids=names * DRAWS) for way, names in ways.items()}
    return {"right": sum(right), "of": len(right), "rows": rows}


def blend(task: Any) -> dict[str, Any]:
    """Searches weights of both experts by few shots; no blend is worse there than an expert."""
    shots = (COUNTS[CHOOSE] + FACTS[CHOOSE]) * SHOTS
    task.compile(sampler=keras_hub.samplers.RandomSampler(seed=3))
    scores: list[float] = []

    def score(model: Any) -> float:
        model.sampler.seed_generator.state.assign([0, 7])  # the same numbers for each blend
        scores.append(float(np.mean(mixed(shots, model.generate(shots, **HOW)))))
        return scores[-1]

    singles = [{name: 1.0} for name in EXPERTS]
    found = ksa.search_blend(
        task, list(EXPERTS), score, population=8, elite=0.25, iterations=3, candidates=singles
    )
    print(f"\n{found}")
    return {
        "weights": found.weights,
        "shots": {"blend": found.score, "mean": scores[0], **dict(zip(EXPERTS, scores[1:]))},
        "rows": {"blend": measured(task, adapter_weights=found.weights)},
    }


def show(rows: dict[str, dict[str, Any]]) -> None:
    """The rewards of new prompts, for each way to answer them."""
    print(f"\n{'new prompts':14} {'how many':>16} {'what is':>16} {'both':>16}")
    for way, row in rows.items():
        pairs = zip(row["rewards"], row["errors"], strict=True)
        print(f"{way:14} " + " ".join(f"{mean:7.3f} +- {error:.3f}" for mean, error in pairs))
    for column, name in enumerate(EXPERTS):
        before, after = rows["base"], rows[f"{name} alone"]
        gain = after["rewards"][column] - before["rewards"][column]
        error = math.hypot(before["errors"][column], after["errors"][column])
        print(f"The expert {name} gains {gain:.3f}, which is {gain / error:.1f} standard errors.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=32, help="steps of `short`; half for `digits`")
    parser.add_argument("--rate", type=float, default=5e-3, help="learning rate of Adam")
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    start = time.perf_counter()
    task = language_models.load("smollm2")
    print(ksa.plan(task, METHOD, targets=TARGETS))
    experts(task, options.steps, options.rate)
    chosen = noted("dispatch", dispatch, task)
    print(f"\nThe base finds the expert of {chosen['right']} of {chosen['of']} new prompts.")
    blended = noted("blend", blend, task)
    print("Score on the shots:", {name: round(at, 3) for name, at in blended["shots"].items()})
    rows = chosen["rows"] | blended["rows"]
    for prompt, text in rows["base"]["texts"].items():
        print(f"{prompt}\n  base:   {text!r}\n  expert: {rows['dispatched']['texts'][prompt]!r}")
    show(rows)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
