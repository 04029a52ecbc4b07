"""Gemma 3 270M learns to write as Shakespeare's First Folio of 1623 does, by SVFT.

Run it with `make demo-gemma`. The backend is that of `KERAS_BACKEND`. `--model smollm2` takes
SmolLM2-135M instead; `--preset gemma2_2b_en` any preset of KerasHub, where Kaggle can be reached.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import data
import keras
import keras_hub
import language_models

import keras_svd_adapters as ksa

OUT = Path("demo")
ADAPTER, EXPECTED = OUT / "folio.keras", OUT / "folio.txt"
PROMPT = "My dear friend, I must tell you that the King"
BATCH, TOKENS, EPOCHS = 4, 64, 3


def sampler() -> keras_hub.samplers.Sampler:
    """A fresh one draws the same numbers again."""
    return keras_hub.samplers.TopKSampler(k=5, seed=1)


def write(gemma: keras_hub.models.CausalLM) -> str:
    """What the model writes after the prompt; to its end, so that seconds compare."""
    return gemma.generate(PROMPT, max_length=TOKENS, stop_token_ids=None)


def seconds_per_token(gemma: keras_hub.models.CausalLM) -> float:
    """Of a model that has written before, so that nothing is compiled."""
    mask = gemma.preprocessor.generate_preprocess([PROMPT])["padding_mask"]
    written = TOKENS - int(keras.ops.convert_to_numpy(mask).sum())
    start = time.perf_counter()
    write(gemma)
    return (time.perf_counter() - start) / written


def train(gemma: keras_hub.models.CausalLM, steps: int, rate: float) -> None:
    """Trains on plays other than Hamlet; reports the loss on Hamlet."""
    plays, hamlet = data.folio_pieces(characters=200)
    each = max(steps // EPOCHS, 1)
    texts = language_models.training_texts(gemma, plays[: BATCH * each * EPOCHS])
    unseen = language_models.training_texts(gemma, hamlet[: 4 * BATCH])
    gemma.preprocessor.sequence_length = TOKENS
    gemma.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[],
        sampler=sampler(),
    )
    before = gemma.evaluate(unseen, batch_size=BATCH, verbose=0)
    print(f"Loss on Hamlet before: {before:.3f}; val_loss is that after each epoch:")
    gemma.fit(
        texts,
        validation_data=(unseen,),
        batch_size=BATCH,
        epochs=EPOCHS,
        steps_per_epoch=each,  # new pages each time
        shuffle=False,
        verbose=2,
    )


def load_and_merge(gemma: keras_hub.models.CausalLM) -> None:
    """In a fresh process: the adapter file, the same text, and an ordinary model of it."""
    expected = EXPECTED.read_text()
    gemma.backbone.load_adapter(ADAPTER)
    gemma.compile(sampler=sampler())
    text = write(gemma)
    print(f"\nThe text in a fresh process is {'the same' if text == expected else text}")
    assert text == expected
    unmerged = seconds_per_token(gemma)
    print(gemma.backbone.merge_adapter())
    gemma.compile(sampler=sampler())
    text = write(gemma)
    print(f"\nThe text after merge is {'the same' if text == expected else text}")
    merged = seconds_per_token(gemma)
    print(f"seconds per token: {unmerged:.3f} with the adapter, {merged:.3f} merged")


def tune(gemma: keras_hub.models.CausalLM, steps: int, rate: float) -> None:
    """Before, plan, training, after, and the file."""
    gemma.compile(sampler=sampler())
    print(f"\nBefore:\n{write(gemma)}")
    print(f"seconds per token: {seconds_per_token(gemma):.3f}")
    print(f"\nThe plan:\n{ksa.plan(gemma.backbone, ksa.SVFT(pattern='banded', d=2))}\n")
    start = time.perf_counter()
    gemma.backbone.enable_svft(pattern="banded", d=2)
    print(f"enabled in {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    train(gemma, steps, rate)
    print(f"trained and evaluated in {time.perf_counter() - start:.0f} s")
    text = write(gemma)
    print(f"\nAfter:\n{text}")
    EXPECTED.write_text(text)
    gemma.backbone.save_adapter(ADAPTER)
    print(f"\nSaved {ADAPTER}, {ADAPTER.stat().st_size / 1e3:,.0f} kB; loading it elsewhere:")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(language_models.PACKAGES), default="gemma3")
    parser.add_argument("--preset", help="a preset of KerasHub instead")
    parser.add_argument("--steps", type=int, default=60, help="steps of training in all")
    parser.add_argument("--rate", type=float, default=5e-3, help="learning rate of Adam")
    parser.add_argument("--load", action="store_true", help="only load the adapter, and merge it")
    arguments = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    start = time.perf_counter()
    print(f"Keras {keras.__version__} on {keras.backend.backend()}")
    gemma = language_models.load(arguments.model, arguments.preset)
    print(f"{type(gemma).__name__} loaded in {time.perf_counter() - start:.0f} s")
    if arguments.load:
        return load_and_merge(gemma)
    tune(gemma, arguments.steps, arguments.rate)
    sys.stdout.flush()
    subprocess.run([sys.executable, *sys.argv, "--load"], check=True)
    print(f"\n{time.perf_counter() - start:.0f} s in all")
    return None


if __name__ == "__main__":
    main()
