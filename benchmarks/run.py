"""Runs the benchmark on every backend and writes RESULTS.md and ratios.png beside this file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from picture import picture
from report import accelerator_section, write

HERE = Path(__file__).resolve().parent
BACKENDS = ("jax", "tensorflow", "torch")
PACKAGES = ("keras", "keras-hub", "jax", "tensorflow", "torch", "peft", "numpy", "scipy")


def measure(script: str, backend: str) -> Any:
    """What a script prints as JSON in its last line, run in a process of its own."""
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if script == "memory.py":  # what is free goes back to the system at once
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"
    command = [sys.executable, str(HERE / script)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    """The processor, the packages and the date."""
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return f"{cores} cores of {model}, {', '.join(found)}, {date.today().isoformat()}"


def on_accelerators(backends: Sequence[str]) -> dict[str, Any]:
    """Steps on a GPU or TPU with JAX and PyTorch, `None` for a backend that sees none."""
    return {name: measure("accelerator.py", name) for name in backends if name != "tensorflow"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="*", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--accelerator", action="store_true", help="only the steps on a GPU or TPU")
    parser.add_argument("--again", action="store_true", help="write the report of the last run")
    options = parser.parse_args()
    kept = HERE.parent / ".cache" / "benchmark.json"
    if options.accelerator:
        return print(accelerator_section(on_accelerators(options.backends)))
    if not options.again:
        results: dict[str, Any] = {"machine": machine()}
        results["decompositions"] = measure("decompositions.py", options.backends[0])
        results["enabling"] = measure("enabling.py", "jax")
        results["memory"] = measure("memory.py", "torch")
        results["passes"], results["first steps"], results["serving"] = {}, {}, {}
        kept.parent.mkdir(exist_ok=True)
        for name in options.backends:
            results["passes"][name] = measure("passes.py", name)
            results["first steps"][name] = measure("first_steps.py", name)
            results["serving"][name] = measure("serving.py", name)
            kept.write_text(json.dumps(results, indent=1))
        results["accelerators"] = on_accelerators(options.backends)
        kept.write_text(json.dumps(results, indent=1))
    results = json.loads(kept.read_text())
    (HERE / "RESULTS.md").write_text(write(results))
    picture(results, HERE / "ratios.png")
    return print((HERE / "RESULTS.md").read_text())


if __name__ == "__main__":
    main()
