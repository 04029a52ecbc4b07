"""Transformer² on SmolLM2-135M: experts of singular values, trained on rewards, one per prompt.

Two experts learn from rules: one to write digits, one to answer in five words. Their files hold a
number per singular value. The model itself then says which expert a prompt needs, and a search
blends both. Run it with `make demo-rewards`. A run that stopped goes on: each part leaves a file
in `demo/`. The backend is that of `KERAS_BACKEND`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
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
TOKENS, PROMPTS, SAMPLES = 40, 8, 2
METHOD = ksa.SVF()
TARGETS = "mlp"

THINGS = [
    "days in a leap year",
    "legs of a spider",
    "cards in a deck",
    "minutes in a day",
    "planets",
    "strings of a violin",
    "teeth of an adult",
    "hours in a week",
    "states of the USA",
    "letters in English",
    "keys of a piano",
    "sides of a cube",
    "players in football",
    "weeks in a year",
    "bones of a human",
    "squares on a chess board",
    "oceans",
    "eggs in a dozen",
    "seconds in an hour",
    "colours of a rainbow",
    "months of a year",
    "wheels of a car",
    "legs of a cat",
    "fingers of a hand",
]
TOPICS = [
    "rain",
    "gravity",
    "bread",
    "a violin",
    "the moon",
    "salt",
    "a library",
    "sleep",
    "iron",
    "a river",
    "tea",
    "a bridge",
    "wind",
    "a shadow",
    "glass",
    "a garden",
    "music",
    "a desert",
    "snow",
    "a clock",
    "paper",
    "a forest",
    "fire",
    "an island",
]
COUNTS = [f"How many {thing} are there? Answer:" for thing in THINGS]
FACTS = [f"What is {topic}? Answer briefly:" for topic in TOPICS]
UNSEEN = 8  # of each kind, for validation
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


EXPERTS = {"digits": (digits, COUNTS), "short": (short, FACTS)}


def compiled(task: Any, rate: float) -> None:
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=1.0)
    task.compile(optimizer=optimizer, loss=None, weighted_metrics=[])


def expert(task: Any, name: str, kl: float, steps: int, rate: float) -> dict[str, Any]:
    """Trains an expert, or loads it; returns its held-out rewards and its divergence."""
    reward, prompts = EXPERTS[name]
    full = name if kl else f"{name}_free"
    file, notes = OUT / f"{full}.keras", OUT / f"{full}.json"
    if notes.exists():
        ksa.load_adapter(task, file, name=full)
        return json.loads(notes.read_text())  # type: ignore[no-any-return]
    start = time.perf_counter()
    compiled(task, rate)
    ksa.enable(task, METHOD, targets=TARGETS, name=full, verbose=0)
    report = ksa.reinforce(
        task,
        prompts[:-UNSEEN],
        reward,
        steps,
        batch_size=PROMPTS,
        samples=SAMPLES,
        max_length=TOKENS,
        kl=kl,
        validation_prompts=prompts[-UNSEEN:] * 4,
        validate_every=steps // 2,
        stop_token_ids=None,
        verbose=1,
    )
    print(report)
    first, best = report.validations[0], report.best
    found = {
        "before": [first.reward, first.error],
        "after": [best.reward, best.error],
        "kl": best.kl,
        "seconds": time.perf_counter() - start,
    }
    ksa.save_adapter(task, file, name=full)
    notes.write_text(json.dumps(found))
    return found


def show(rows: dict[str, dict[str, Any]]) -> None:
    print(f"\n{'expert':12} {'base':>16} {'expert':>16} {'errors':>7} {'KL':>6} {'s':>5}")
    for name, found in rows.items():
        (before, wide), (after, narrow) = found["before"], found["after"]
        errors = (after - before) / max(math.hypot(wide, narrow), 1e-9)
        print(
            f"{name:12} {before:8.3f} +- {wide:.3f} {after:8.3f} +- {narrow:.3f} {errors:7.1f} "
            f"{found['kl']:6.2f} {found['seconds']:5.0f}"
        )


def rewards(prompts: list[str], texts: list[str]) -> list[float]:
    """The rewards of mixed prompts, each by the rule of its kind."""
    rules = [digits if prompt in COUNTS else short for prompt in prompts]
    pairs = zip(rules, prompts, texts, strict=True)
    return [rule([prompt], [text])[0] for rule, prompt, text in pairs]


def print_rewards(way: str, prompts: list[str], texts: list[str]) -> None:
    found = rewards(prompts, texts)
    error = float(np.std(found, ddof=1)) / len(found) ** 0.5
    print(f"{way:14} reward on mixed prompts {np.mean(found):.3f} +- {error:.3f}")


def dispatch(task: Any) -> None:
    """Lets the model choose the expert of each prompt."""
    prompts = (COUNTS[-UNSEEN:] + FACTS[-UNSEEN:]) * 2
    chosen = ksa.classify(
        task,
        prompts,
        {"digits": " number", "short": " word"},
        template=TEMPLATE,
    )
    right = [
        (name == "digits") == (prompt in COUNTS)
        for prompt, name in zip(prompts, chosen, strict=True)
    ]
    print(f"\nThe model finds the right expert for {np.mean(right):.0%} of the prompts.")
    ways: dict[str, list[str | None]] = {
        "base": [None] * len(prompts),
        "digits alone": ["digits"] * len(prompts),
        "short alone": ["short"] * len(prompts),
        "dispatched": list(chosen),
    }
    for way, names in ways.items():
        task.compile(sampler=keras_hub.samplers.RandomSampler(seed=3))
        print_rewards(way, prompts, ksa.generate(task, prompts, names, **HOW))


def blend(task: Any) -> None:
    """Searches the weights of both experts by twelve prompts of both kinds."""
    shots, unseen = COUNTS[:6] + FACTS[:6], COUNTS[-UNSEEN:] + FACTS[-UNSEEN:]
    task.compile(sampler="greedy")
    found = ksa.search_blend(
        task,
        ["digits", "short"],
        lambda model: float(np.mean(rewards(shots, model.generate(shots, **HOW)))),
        population=6,
        elite=0.34,
        iterations=4,
    )
    print(f"\n{found}")
    print_rewards("blend", unseen, task.generate(unseen, **HOW))
    for name in ("digits", "short"):
        ksa.set_adapter(task, name)
        print_rewards(f"{name} alone", unseen, task.generate(unseen, **HOW))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="steps of each expert")
    parser.add_argument("--rate", type=float, default=1e-2, help="learning rate of Adam")
    options = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    start = time.perf_counter()
    task = language_models.load("smollm2")
    print(ksa.plan(task, METHOD, targets=TARGETS))
    rows = {}
    for name, kl in (("digits", 0.02), ("short", 0.02), ("digits", 0.0)):
        rows[name if kl else f"{name}, no KL"] = expert(task, name, kl, options.steps, options.rate)
        show(rows)
    dispatch(task)
    blend(task)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
