"""Model card of an adapter on a hub: a page made from the adapter's own file."""

from __future__ import annotations

import math

import keras

from keras_svd_adapters.adapters.class_mixing import class_without_mixins
from keras_svd_adapters.files.archive import Contents
from keras_svd_adapters.files.hubs.address import MARK
from keras_svd_adapters.files.summary import (
    HEAD,
    KernelSummary,
    format_shape,
    grouped_rows,
    method_of,
    other_weights,
    summarize,
)
from keras_svd_adapters.models.state.trained_weights import base_weights


def model_card(model: keras.layers.Layer, address: str, contents: Contents) -> str:
    """Return a model card in Markdown: method, rate, base, counts and how to load.

    Args:
        model: The adapted model.
        address: The address of the file on its hub.
        contents: The contents of the file.
    """
    kernels, others, base = summarize(contents), other_weights(contents), _base(model)
    methods = {str(method): method for method in map(method_of, contents.config["sites"].values())}
    count = sum(kernel.values for kernel in kernels) + sum(map(math.prod, others.values()))
    rates = "; ".join(f"{name}: {m.recommended_learning_rate:g}" for name, m in methods.items())
    tags = ["keras", "peft", *sorted({method.name for method in methods.values()})]
    trained = "".join(f"\n- `{key}` {format_shape(shape)}" for key, shape in others.items())
    return f"""---
library_name: keras
tags: [{", ".join(tags)}]
---
{MARK}

# {address.rstrip("/").rpartition("/")[2]}

An adapter for a Keras model: {", ".join(methods)}. It holds {count:,} trained values.
The library is `keras_svd_adapters`.

## How to load it

```bash
pip install keras-svd-adapters
```

```python
import keras_svd_adapters as ksa

model = ...  # the base model, {base}
ksa.load_adapter(model, "{address}")
```

The file has fingerprints of the kernels of its base. On another base, `load_adapter` raises an
error and leaves the model unchanged.

## What it holds

{_markdown_table(kernels)}
{"Other trained weights:" + trained if trained else ""}

## The base and the training

- Base: {base}
- Recommended learning rate: {rates}
- Saved under Keras {keras.__version__} with the {keras.backend.backend()} backend
"""


def _base(model: keras.layers.Layer) -> str:
    count = sum(math.prod(weight.shape) for _, _, weight in base_weights(model))
    return f"`{class_without_mixins(model).__name__}` with {count:,} values"


def _markdown_table(kernels: list[KernelSummary]) -> str:
    rows = [HEAD, ("---",) * len(HEAD), *grouped_rows(kernels)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
