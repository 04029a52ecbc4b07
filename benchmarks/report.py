"""The benchmark's figures as tables, with the targets and whether they were met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cases import CASES

HEAD = """# Benchmark

`make bench` writes this page. One pass is the forward computation, the gradient for the inputs and
that of what trains. All variants run in one process, in turns; a figure is the median over the
rounds of the ratio to the frozen model (forward and input gradient) in the same round.
"""

# case, numerator, denominator, limit, backends
TARGETS = [
    ("stack", "SVF factored", "frozen", 1.20, None),
    ("stack", "SVF", "frozen", 1.40, None),
    ("stack", "SVFT d=2 factored", "frozen", 1.25, None),
    ("stack", "SVFT d=2 factored", "Keras LoRA r=8", 0.80, None),
    ("stack", "SVFT d=2", "frozen", 1.50, None),
    ("stack", "SVFT d=2", "Keras LoRA r=8", 0.95, None),
    ("stack", "SVFT d=8 factored", "frozen", 1.35, None),
    ("minilm", "SVFT d=2 factored", "frozen", 1.60, None),
    ("minilm", "SVFT d=2", "frozen", 1.80, None),
    ("512x4096", "SVFT random d=2 factored", "frozen", 1.30, None),
    ("4096x512", "SVFT random d=2 factored", "frozen", 1.30, None),
    ("stack", "LoRA r=8", "Keras LoRA r=8", 0.75, None),
    ("stack", "DoRA r=8", "PEFT DoRA r=8", 0.80, "torch"),
    ("stack", "LoRA r=8", "PEFT LoRA r=8", 1.00, "torch"),
    ("stack", "PiSSA r=8", "PEFT PiSSA r=8", 1.00, "torch"),
    ("stack", "VeRA r=256", "PEFT VeRA r=256", 1.00, "torch"),
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
    return "\n\n".join([*parts, "## Decompositions", decompositions(svd)]) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
        rows.append([CASES[key].name, f"{name} / {other}", f"{limit:.2f}", *shown])
    return table(["model", "ratio", "target", *passes], rows)


def ratios(passes: dict[str, Any], key: str) -> str:
    names = dict.fromkeys(name for found in passes.values() for name in found.get(key, {}))
    rows = []
    for name in names:
        row = [name]
        for found in passes.values():
            told = found.get(key, {}).get(name)
            row.append("" if told is None else f"{told['ratio']:.2f}")
        flops = passes.get("jax", {}).get(key, {})
        count = flops.get(name, {}).get("flops")
        row.append(f"{count / flops['frozen']['flops']:.2f}" if count else "")
        rows.append(row)
    seconds = [f"{found[key]['frozen']['seconds'] * 1e3:.1f} ms" for found in passes.values()]
    return table(["", *passes, "operations (XLA)"], rows) + "\n\nFrozen: " + ", ".join(seconds)


def decompositions(svd: dict[str, Any]) -> str:
    wide, square, gemma = svd["2048x16384"], svd["2048x2048"], svd["Gemma-2B"]
    figures = [
        ("2048 x 16384, smaller factor and s / numpy", wide["smaller"] / wide["numpy"], 0.25),
        ("2048 x 16384, all factors / numpy", wide["all"] / wide["numpy"], 0.35),
        ("2048 x 2048, smaller factor and s / gesdd", square["smaller"] / square["gesdd"], None),
        ("2048 x 2048, largest 16 / gesdd", square["top16"] / square["gesdd"], 0.06),
        ("Gemma-2B's 126 kernels cold / gesdd, CPU", gemma["cold CPU"] / gemma["gesdd"], 0.60),
        ("Gemma-2B's 126 kernels cold / gesdd, wall", gemma["cold"] / gemma["gesdd"], None),
        ("Gemma-2B's 126 kernels warm / gesdd, CPU", gemma["warm CPU"] / gemma["gesdd"], 0.05),
        ("peak memory, 2048 x 16384 / kernel", wide["memory"], 2.5),
        ("peak memory, 2048 x 2048 / kernel", square["memory"], 9.0),
    ]
    rows = [
        [name, "" if limit is None else f"{limit:.2f}", _judged(value, limit)]
        for name, value, limit in figures
    ]
    rows.append(["energy of the largest 16", "0.999", f"{square['energy']:.4f}"])
    for name in ("2048x16384", "2048x2048", "ill-conditioned square"):
        told = svd[name]
        rows.append(
            [
                f"{name}, condition {told['condition']:.1e}: orthogonality, reconstruction",
                "1e-6",
                f"{told['orthogonality']:.1e}, {told['reconstruction']:.1e}",
            ]
        )
    return table(["", "target", "measured"], rows)


def _judged(value: float, limit: float | None) -> str:
    return f"{value:.2f}{' (missed)' if limit is not None and value > limit + 0.005 else ''}"


def picture(results: dict[str, Any], path: Path) -> None:
    """Bars of the ratios on the stack and on MiniLM."""
    from matplotlib.figure import Figure

    passes = results["passes"]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axis, key in zip(figure.subplots(1, 2), ("stack", "minilm"), strict=True):
        names = list(dict.fromkeys(n for found in passes.values() for n in found.get(key, {})))
        names = [name for name in names if name not in ("frozen", "PyTorch frozen")]
        height = 0.8 / len(passes)
        for i, (backend, found) in enumerate(passes.items()):
            values = [found.get(key, {}).get(name, {}).get("ratio", 0) for name in names]
            places = [j + i * height for j in range(len(names))]
            axis.barh(places, values, height, label=backend)
        axis.set_yticks([j + 0.4 - height / 2 for j in range(len(names))], names)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.invert_yaxis()
        axis.set_xlabel("time of a pass / frozen model")
        axis.set_title(CASES[key].name)
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)
