"""The work of each command: returns text for people, and data for programs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import keras
import numpy as np

import keras_svd_adapters as ksa
from keras_svd_adapters.files.archive import open_archive, read_archive
from keras_svd_adapters.files.summary import (
    FINGERPRINTS,
    HEAD,
    format_shape,
    grouped_rows,
    method_of,
    other_weights,
    summarize,
)
from keras_svd_adapters.methods.method import Method
from keras_svd_adapters.models.without_weights import require_keras_hub
from keras_svd_adapters.runtime.machine import seconds_of
from keras_svd_adapters.runtime.path_groups import group_paths
from keras_svd_adapters.runtime.tables import table

Found = tuple[str, Any]


def named_method(name: str, options: dict[str, Any]) -> Method:
    """Return a method by its name, with these hyperparameters."""
    if name not in Method.registry:
        raise ValueError(
            f"There is no such method; there are {', '.join(sorted(Method.registry))}. "
            f"Received: --method {name}"
        )
    try:
        return Method.registry[name](**options)
    except TypeError:
        known = ", ".join(f"--{field.name}" for field in fields(Method.registry[name]))
        raise ValueError(
            f"The options of {name} are {known}. Received: --method {name} with {options}"
        ) from None


def inspect(file: str) -> Found:
    contents, versions, size = open_archive(file)
    kernels, others = summarize(contents), other_weights(contents)
    sites = contents.config["sites"]
    data: dict[str, Any] = {
        "file": file,
        "format_version": versions["format_version"],
        "keras_version": versions["keras_version"],
        "bytes": size,
        "methods": sorted({kernel.method for kernel in kernels}),
        "values": sum(kernel.values for kernel in kernels),
        "kernels": {
            kernel.path: {"method": kernel.method, **sites[kernel.path]["kernel"]}
            for kernel in kernels
        },
        "other_weights": {key: list(shape) for key, shape in others.items()},
        "factors": any("form" in site for site in sites.values()),
    }
    notes = [
        f"{file}: {data['bytes']:,} bytes, {data['values']:,} values, "
        f"saved under Keras {data['keras_version']}"
    ]
    notes += [f"also trained: {key} {format_shape(shape)}" for key, shape in others.items()]
    notes += ["with the frozen factors"] if data["factors"] else []
    return "\n".join([table(HEAD, grouped_rows(kernels)), *notes]), data


def plan(preset: str, method: str, options: dict[str, Any], targets: list[str] | None) -> Found:
    found = ksa.plan(preset, named_method(method, options), targets or None)
    names = ("trainable_parameters", "trainable_bytes", "frozen_bytes", "file_bytes", "seconds")
    return str(found), {name: getattr(found, name) for name in names}


def merge(preset: str, cls: str, file: str, out: str) -> Found:
    model = _loaded(preset, cls, {"default": file})
    report = ksa.merge(model)
    model.save_to_preset(out)
    return f"{report}\n{out}: a preset of the merged model", {"relative": report.relative}


def convert(preset: str, cls: str, file: str, out: str, to: str, rank: int | None) -> Found:
    if to not in ("lora", "peft"):
        raise ValueError(f"`--to` is lora or peft. Received: --to {to}")
    model = _loaded(preset, cls, {"default": file})
    if to == "peft":
        report = ksa.export_peft(model, out, rank=rank)
    else:
        report = ksa.to_lora(model, "default", into="lora", rank=rank)
        ksa.save_adapter(model, out, "lora")
    return f"{report}\n{out}", {"error": report.error}


def combine(
    preset: str,
    cls: str,
    files: list[str],
    out: str,
    weights: list[float] | None,
    how: str,
    rank: int | None,
) -> Found:
    weights = weights or [1.0] * len(files)
    if len(files) < 2 or len(files) != len(weights):
        raise ValueError(
            "`combine` takes two files or more, and a weight for each. "
            f"Received: {len(files)} files, {len(weights)} weights"
        )
    names = [f"adapter_{number}" for number in range(len(files))]
    model = _loaded(preset, cls, dict(zip(names, files, strict=True)))
    pairs = dict(zip(names, weights, strict=True))
    report = ksa.combine(model, pairs, "combined", how, rank=rank)
    ksa.save_adapter(model, out, "combined")
    return f"{report}\n{out}", {"error": report.error}


def diff(file: str, other: str) -> Found:
    ours, our_values = read_archive(file)
    theirs, their_values = read_archive(other)
    rows: list[tuple[str, str]] = []
    for path in sorted({*ours["sites"], *theirs["sites"]}):
        pair = [config["sites"].get(path) for config in (ours, theirs)]
        if None in pair:
            rows.append((path, f"only in {file if pair[1] is None else other}"))
        elif (ours_is := method_of(pair[0])) != (theirs_is := method_of(pair[1])):
            rows.append((path, f"{ours_is} and {theirs_is}"))
        elif pair[0]["kernel"]["sha256"] != pair[1]["kernel"]["sha256"]:
            rows.append((path, "other base kernels"))
    for key in sorted(our_values.keys() & their_values.keys()):
        if key.rpartition("/")[2] in FINGERPRINTS or any(_is_of(key, path) for path, _ in rows):
            continue
        a: np.ndarray = our_values[key].astype("float64")
        b: np.ndarray = their_values[key].astype("float64")
        if a.shape != b.shape:
            rows.append((key, f"{format_shape(a.shape)} and {format_shape(b.shape)}"))
        elif (distance := float(np.linalg.norm(a - b))) > 0:
            rows.append((key, f"{distance / (float(np.linalg.norm(a)) or 1.0):.3g} apart"))
    if not rows:
        return "The adapters are equal.", {"equal": True, "differences": {}}
    lines = [(path, what) for path, (what,), _ in group_paths([(p, (w,)) for p, w in rows])]
    return table(("where", "difference"), lines), {"equal": False, "differences": dict(rows)}


def bench(preset: str, method: str, options: dict[str, Any], tokens: int) -> Found:
    chosen = named_method(method, options)
    hub = require_keras_hub(preset)
    model = hub.models.Backbone.from_preset(preset)
    rng = np.random.default_rng(0)
    inputs = keras.tree.map_structure(
        lambda x: rng.integers(0, 2, (2, *(n or tokens for n in x.shape[1:]))).astype(x.dtype),
        model.input,
    )
    times = {"frozen": _seconds(model, inputs)}
    ksa.enable(model, chosen, verbose=0)
    times[str(chosen)] = _seconds(model, inputs)
    first = times["frozen"]
    rows = [(name, f"{1000 * t:.1f}", f"{t / first:.2f}") for name, t in times.items()]
    return table(("model", "ms", "/ frozen"), rows), times


def _seconds(model: keras.Model, inputs: Any, repeats: int = 5) -> float:
    """Return the shortest time of a prediction, which needs no labels."""
    model.predict_on_batch(inputs)
    return min(seconds_of(lambda: model.predict_on_batch(inputs)) for _ in range(repeats))


def _loaded(preset: str, cls: str, files: dict[str, str]) -> Any:
    models = require_keras_hub(preset).models
    if not hasattr(models, cls):
        raise ValueError(f"`keras_hub.models` has no such class. Received: --class {cls}")
    for file in files.values():
        read_archive(file)  # before a large model is loaded
    model = getattr(models, cls).from_preset(preset)
    for name, file in files.items():
        ksa.load_adapter(model, file, name)
    return model


def _is_of(key: str, path: str) -> bool:
    return key.startswith(f"sites/{path}/") and "/" not in key.removeprefix(f"sites/{path}/")
