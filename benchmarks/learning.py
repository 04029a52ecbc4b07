"""Learning study: each method on each task, at rates that validation data choose.

`make learning` runs what is missing in `benchmarks/learning.json`, and writes the table of
`guides/learning.md` and its picture. `--quick` takes one task, three rates and one seed. One
process does the runs of one method on one task.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", ".cache/jax")

import learning_picture
import learning_results as results
from learning_methods import ALL, HEAD, PEERS, methods_of
from learning_runs import PARTS
from learning_tasks import TASKS

HERE = Path(__file__).resolve().parent
KEPT = HERE / "learning.json"
PAGE = HERE.parent / "guides" / "learning.md"


def records(part: str, task: str, name: str, kept: Path, quick: bool) -> Iterator[dict[str, Any]]:
    """Does one part of the study in a process of its own, and yields its records."""
    command = [sys.executable, __file__, "--one", part, task, name, "--file", str(kept)]
    command += ["--quick"] * quick
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                yield json.loads(line)
            else:  # such as a download
                print(line, end="", flush=True)
    if process.returncode:
        print(f"{part} of {task}, {name}: failed", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one task, three rates, one seed")
    parser.add_argument("--task", nargs="*", choices=list(TASKS), help="only these tasks")
    parser.add_argument("--method", nargs="*", choices=list(ALL), help="only these methods")
    parser.add_argument("--part", nargs="*", choices=list(PARTS), help="only these parts")
    parser.add_argument("--file", type=Path, help="where the results are stored")
    parser.add_argument(
        "--one", nargs=3, metavar=("PART", "TASK", "METHOD"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    kept = options.file or (KEPT.with_suffix(".quick.json") if options.quick else KEPT)
    found = results.load(kept)
    if options.one:
        part, task, name = options.one
        return PARTS[part](task, name, results.of(found[part], task, name), options.quick)
    first = next(iter(TASKS))
    for part in options.part or (["runs"] if options.quick else PARTS):
        for task in options.task or (list(TASKS)[:1] if options.quick else TASKS):
            for name in options.method or methods_of(task == first, TASKS[task].has_peer):
                if name == HEAD and TASKS[task].head_rate is None:
                    continue
                if name in PEERS and part != "runs":
                    continue
                for record in records(part, task, name, kept, options.quick):
                    found[part].append(record)
                    kept.write_text(json.dumps(found, indent=1) + "\n")
                    print(results.line(record), flush=True)
    print(results.table(found))
    if kept == KEPT:
        PAGE.write_text(results.with_table(PAGE.read_text(), results.table(found)))
        learning_picture.draw(found).savefig(PAGE.with_suffix(".png"), dpi=130)
    return None


if __name__ == "__main__":
    main()
