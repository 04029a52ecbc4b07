"""Tables of memory, decompositions, and enabling."""

from __future__ import annotations

from typing import Any

from cases import CASES


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def memory(torch: dict[str, Any], jax: dict[str, Any]) -> str:
    rows = []
    for key, found in torch.items():
        xla = jax.get(key, {})
        for name, most in found.items():
            temporary = xla.get(name, {}).get("temporary")
            rows.append(
                [
                    CASES[key].name,
                    name,
                    f"{most / 1e6:,.0f} MB, {most / found['frozen']:.2f}",
                    f"{temporary / xla['frozen']['temporary']:.2f}" if temporary else "",
                ]
            )
        share = found["DoRA r=8"] / found["PEFT DoRA r=8"]
        limit = 0.60 if key == "stack" else None
        rows.append([CASES[key].name, "DoRA / PEFT DoRA", _judged(share, limit), ""])
    return table(["model", "", "PyTorch", "XLA"], rows)


# variant, most seconds to its first step and most time of an eager step, to those of another
FIRST = {
    "LoRA r=8": (1.0, 1.5),
    "SVF": (1.0, 1.8),
    "SVFT d=2": (1.5, 2.5),
    "DoRA r=8": (1.3, 2.0),
}


def first_steps(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """First steps to those of full fine-tuning; later steps to those of the frozen model."""
    head = [f"{backend}{part}" for backend in found for part in (", first", ", step")]
    rows = []
    for name in next(iter(found.values())):
        row = [name]
        for backend, told in found.items():
            first, step = told[name]["first"], told[name]["step"]
            to_full, to_frozen = (
                first / told["full fine-tuning"]["first"],
                step / told["frozen"]["step"],
            )
            limits = FIRST.get(name, (None, None))
            compiled = backend != "torch"
            row.append(f"{first:.1f} s, {_judged(to_full, limits[0] if compiled else None)}")
            row.append(
                f"{1e3 * step:.0f} ms, {_judged(to_frozen, None if compiled else limits[1])}"
            )
        row.append(_operations_of_kernel(name, found))
        rows.append(row)
    return table(["", *head, "operations of a kernel"], rows)


def _operations_of_kernel(name: str, found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Operations that XLA starts for one of the 84 kernels more than in the frozen model."""
    told = found.get("jax", {})
    if "operations" not in told.get(name, {}):
        return ""
    return f"{(told[name]['operations'] - told['frozen']['operations']) / 84:.1f}"


# variant, most time of a step to that of the base: with JAX, with PyTorch
STEPS = {
    "LoRA r=8": (1.10, 1.25),
    "SVF factored": (1.15, None),
    "SVFT d=2": (1.40, 1.60),
    "SVFT d=2 factored": (1.20, 1.60),
}


def accelerators(found: dict[str, Any]) -> str:
    """Steps, first steps, `enable` and bytes on the device of each backend."""
    head = [""]
    for backend, told in found.items():
        device = f"{backend}, {told['device']}"
        head += [f"{device}: step", "first step", "enable", "holds", "at most"]
    rows = []
    for name in next(iter(found.values()))["variants"]:
        row = [name]
        for backend, told in found.items():
            one, limits = told["variants"][name], STEPS.get(name, (None, None))
            row += [_judged(one["ratio"], limits[backend == "torch"])]
            row += [f"{one['first']:.1f} s", f"{one['enable']:.1f} s"]
            row += [
                "" if size is None else f"{size / 1e9:.2f}" for size in (one["held"], one["peak"])
            ]
        rows.append(row)
    return table(head, rows)


def serving(found: dict[str, Any]) -> str:
    """Requests per second, and their ratio to those of one adapter."""
    names = next(iter(found.values()))["variants"]
    rows = [
        [name, *(f"{v['requests']:,.0f}, {v['ratio']:.2f}" for v in _of_each(found, name))]
        for name in names
    ]
    held = [
        f"{told['pool']['host'] / 1e6:,.0f} MB, {told['pool']['device'] / 1e6:,.1f} MB"
        for told in found.values()
    ]
    adding = [f"{told['pool']['adding']:.1f} s" for told in found.values()]
    rows += [["bytes of the pool on the host, on the device", *held], ["to fill the pool", *adding]]
    return table(["", *found], rows)


def _of_each(found: dict[str, Any], name: str) -> list[dict[str, float]]:
    return [told["variants"][name] for told in found.values()]


def enabling(found: dict[str, dict[str, float]]) -> str:
    rows = [
        [
            name,
            f"{told['cold']:.2f}",
            f"{told['warm']:.2f}",
            f"{told['merge']:.2f}",
            f"{told['file'] / 1e3:,.0f} kB",
        ]
        for name, told in found.items()
    ]
    return table(["", "cold", "warm", "merge", "file"], rows)


def sizes(found: dict[str, dict[str, float]]) -> str:
    limits = {"SVF": 1.20, "SVFT d=2": 1.27}
    rows = [
        [
            name,
            f"{told['values']:,}",
            f"{told['file'] / 1e6:,.1f} MB",
            _judged(told["bytes"], limits.get(name)),
            f"{told['on device']:.2f}",
        ]
        for name, told in found.items()
    ]
    ratio = "kernels and frozen factors / kernels"
    return table(["", "trained values", "file", ratio, "of them on a GPU or TPU"], rows)


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
