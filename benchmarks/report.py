"""The benchmark's figures as tables, with the targets and whether they were met."""

from __future__ import annotations

from typing import Any

from cases import CASES
from tables import (
    accelerators,
    decompositions,
    enabling,
    first_steps,
    memory,
    serving,
    sizes,
    table,
)

HEAD = """# Benchmark

`make bench` writes this page. One pass is the forward computation, the gradient for the inputs and
that of what trains. All variants run in one process, in turns; a figure is the median over the
rounds of the ratio to the frozen model (forward and input gradient) in the same round.
"Operations" is the same ratio of what XLA counts. A target near or below it leaves no room for
any other cost.
"""

MEMORY = """The most memory during a pass, above the model, to that of the frozen model: what
PyTorch takes from the system, its results included, and what XLA sets aside for temporary
values."""
FIRST = """A Llama of 12 blocks of width 64, 84 kernels, 4 x 32 tokens, with Adam: seconds of the
first step, which traces and compiles; then milliseconds of a later step. PyTorch runs eagerly. The
last column counts what XLA starts in a gradient pass of JAX beyond the forward pass, for each of
the 84 kernels. Python collects no garbage meanwhile."""
SERVING = """A Llama of 4 blocks of width 64 with LoRA of rank 8 on its 28 kernels, 16 prompts of 32
tokens in a batch, a pool with 64 slots: requests per second, and the median over the rounds of
their ratio to those of one active adapter with `model.predict`. Each request draws its adapter.
With 1000 names, nearly each request copies its adapter to the device."""
ACCELERATOR = """Four blocks of Gemma-2B, bfloat16, 4 x 1,024 tokens, Adam: the time of a step to
that of the model with one SVF adapter in its first block; seconds of the first step, and of
`enable` without cached decompositions; GB that the variant holds on the device, and, with PyTorch,
at most during a step."""
NO_ACCELERATOR = """This machine has none. `make bench-accelerator` measures the steps, first steps,
`enable` and memory of four blocks of Gemma-2B in about five minutes where there is one."""
ENABLING = """MiniLM, 36 kernels, JAX: seconds of `enable` without and with the decompositions in
the cache, and of `merge`; the adapter file."""

# case, numerator, denominator, limit, backends
TARGETS = [
    ("stack", "SVF factored", "frozen", 1.20, None),
    ("stack", "SVF", "frozen", 1.40, None),
    ("stack", "SVFT d=2 factored", "frozen", 1.20, None),
    ("stack", "SVFT d=2 factored", "Keras LoRA r=8", 0.80, None),
    ("stack", "SVFT d=2", "frozen", 1.35, None),
    ("stack", "SVFT d=2", "Keras LoRA r=8", 0.95, None),
    ("stack", "SVFT d=8 factored", "frozen", 1.35, None),
    ("minilm", "SVFT d=2 factored", "frozen", 1.60, None),
    ("minilm", "SVFT d=2", "frozen", 1.80, None),
    ("minilm", "SVFT d=2", "frozen", 1.50, "torch"),
    ("square", "SVF", "Keras LoRA r=8", 1.00, None),
    ("square", "SVFT d=2", "Keras LoRA r=8", 1.00, None),
    ("512x4096", "SVFT random d=2 factored", "frozen", 1.30, None),
    ("4096x512", "SVFT random d=2 factored", "frozen", 1.30, None),
    ("stack", "LoRA r=8", "Keras LoRA r=8", 0.75, None),
    ("stack", "DoRA r=8", "PEFT DoRA r=8", 0.80, "torch"),
    ("stack", "LoRA r=8", "PEFT LoRA r=8", 1.00, "torch"),
    ("stack", "PiSSA r=8", "PEFT PiSSA r=8", 1.00, "torch"),
    ("stack", "VeRA r=256", "PEFT VeRA r=256", 1.00, "torch"),
    ("one token", "SVF", "frozen", 2.00, None),
    ("one token", "SVFT d=2", "frozen", 2.00, None),
    ("one token", "SVFT d=2 merged", "frozen", 1.00, None),
]


def write(results: dict[str, Any]) -> str:
    """The page."""
    passes, svd = results["passes"], results["decompositions"]
    parts = [HEAD, results["machine"] + ".", "## Targets", targets(passes), "## Passes"]
    for key, case in CASES.items():
        if any(key in found for found in passes.values()):
            parts += [f"### {case.name}", ratios(passes, key)]
    parts += ["## First steps, and many small kernels", FIRST, first_steps(results["first steps"])]
    parts += ["## Serving a pool of 1000 adapters", SERVING, serving(results["serving"])]
    parts += [accelerator_section(results.get("accelerators", {}))]
    parts += ["## Memory of a pass", MEMORY, memory(results["memory"], passes.get("jax", {}))]
    parts += ["## Decompositions", decompositions(svd)]
    parts += ["## Enabling", ENABLING, enabling(results["enabling"]["minilm"])]
    parts += ["### Gemma-2B, 126 kernels", sizes(results["enabling"]["gemma"])]
    return "\n\n".join(parts) + "\n"


def accelerator_section(results: dict[str, Any]) -> str:
    """The steps on a GPU or TPU of the backends that see one."""
    found = {name: told for name, told in results.items() if told}
    shown = [ACCELERATOR, accelerators(found)] if found else [NO_ACCELERATOR]
    return "\n\n".join(["## On a GPU or TPU", *shown])


def targets(passes: dict[str, Any]) -> str:
    rows = []
    for key, name, other, limit, only in TARGETS:
        shown = []
        for backend, found in passes.items():
            case = found.get(key, {})
            if only not in (None, backend) or name not in case or other not in case:
                shown.append("")
                continue
            value = case[name]["ratio"] / case[other]["ratio"]
            shown.append(f"{value:.2f}{'' if value <= limit + 0.005 else ' (missed)'}")
        shown.append(operations(passes, key, name, other))
        rows.append([CASES[key].name, f"{name} / {other}", f"{limit:.2f}", *shown])
    return table(["model", "ratio", "target", *passes, "operations (XLA)"], rows)


def operations(passes: dict[str, Any], key: str, name: str, other: str) -> str:
    """The ratio of the operations of two variants, which no time can be far below."""
    counts = [
        passes.get("jax", {}).get(key, {}).get(each, {}).get("flops") for each in (name, other)
    ]
    return f"{counts[0] / counts[1]:.2f}" if all(counts) else ""


def ratios(passes: dict[str, Any], key: str) -> str:
    names = dict.fromkeys(name for found in passes.values() for name in found.get(key, {}))
    rows = []
    for name in names:
        row = [name]
        for found in passes.values():
            told = found.get(key, {}).get(name)
            row.append("" if told is None else f"{told['ratio']:.2f}")
        row.append(operations(passes, key, name, "frozen"))
        rows.append(row)
    seconds = [f"{found[key]['frozen']['seconds'] * 1e3:.1f} ms" for found in passes.values()]
    return table(["", *passes, "operations (XLA)"], rows) + "\n\nFrozen: " + ", ".join(seconds)
