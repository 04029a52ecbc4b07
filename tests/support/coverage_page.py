"""What is adapted in every backbone of KerasHub without targets, as a table for the guides.

python tests/support/coverage_page.py writes `guides/coverage.md`.
"""

from __future__ import annotations

import warnings
from collections import Counter
from math import prod
from pathlib import Path

import keras
from backbones import BACKBONES

import keras_svd_adapters as ksa
from keras_svd_adapters.runtime.keras_private.layers import all_layers, direct_weights

PAGE = Path(__file__).parents[2] / "guides" / "coverage.md"
LOOKED_UP = ("Embedding", "Position", "Token", "CLS")
HEAD = """# Every backbone of KerasHub

What `enable` adapts without `targets`, on a tiny instance of each class that KerasHub {version}
exports: the number of kernels, the layers that they are of, the share of the values of all weights
but embeddings that lies in them, and which other layers hold matrices that no target reaches.
`make coverage` adapts each with LoRA, SVF and SVFT on the three backends, trains a step, saves,
loads and merges, and writes this page; `print(ksa.targets(backbone))` shows the same for your
model, and what else can be named.

| backbone | kernels | of | share | not reached |
|---|---|---|---|---|
"""


def row(name: str, backbone: keras.Model) -> str:
    """The line of one backbone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        choice = ksa.targets(backbone)
    known = {id(site.owner) for site in choice.known}
    kinds = Counter(site.kind for site in choice.sites)
    total, missed = 0, set()
    for layer in all_layers(backbone):
        for weight in direct_weights(layer):
            looked_up = any(word in type(layer).__name__ for word in LOOKED_UP)
            total += 0 if looked_up else prod(weight.shape)
            matrix = sum(size > 1 for size in weight.shape) > 1
            if matrix and not looked_up and id(layer) not in known:
                missed.add(type(layer).__name__)
    of = ", ".join(sorted(kinds))
    share = f"{choice.values / total:.0%}"
    return f"| {name} | {len(choice.sites)} | {of} | {share} | {', '.join(sorted(missed))} |"


def main() -> None:
    import keras_hub

    rows = [row(name, BACKBONES[name]()[0]) for name in sorted(BACKBONES)]
    PAGE.write_text(HEAD.format(version=keras_hub.__version__) + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
