"""Draws mutants of the package and counts those that the suite notices.

`make mutants` measures which tests reach which lines on each backend, then runs for each mutant
the tests that reach it: on PyTorch first, and what survives there on the other two. A mutant that
all of them let pass has survived. Those that compute the same as the package are listed in
`equivalent.txt`, with the reason; the others want a test.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from draw import PACKAGE, Mutant, draw
from reach import ROOT, Reach
from serve import KILLED, SURVIVED, UNREACHED

BACKENDS = ("torch", "jax", "tensorflow")
KNOWN = Path(__file__).with_name("equivalent.txt")


def main() -> None:
    arguments = read_arguments()
    mutants = draw(arguments.count, arguments.seed)
    verdicts: dict[Mutant, str] = dict.fromkeys(mutants, UNREACHED)
    for backend in arguments.backends:
        left = [m for m in mutants if verdicts[m] != KILLED]
        reach = Reach(arguments.reach, backend)
        work = [(m, reach.tests(m, arguments.seconds)) for m in left]
        for mutant, verdict in judged(backend, work, arguments):
            if verdict != UNREACHED:
                verdicts[mutant] = verdict
            print(f"{backend:10} {verdict:11} {mutant}", flush=True)
    report(verdicts, arguments)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=20, help="of the draw")
    parser.add_argument("--seconds", type=float, default=60, help="of tests a mutant and backend")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    parser.add_argument("--reach", type=Path, default=ROOT / ".cache" / "reach")
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    return parser.parse_args()


def judged(backend, work, arguments):
    """Each mutant with its verdict on a backend, from a process of that backend.

    The first to be judged is the package as it is, which must survive the tests of some mutants.
    """
    asked = [{"source": m.source(), "path": m.path, "tests": tests} for m, tests in work]
    some = sorted({test for _, tests in work[:: max(1, len(work) // 10)] for test in tests[:5]})
    version = (PACKAGE / "version.py").read_text()
    asked.append({"source": version, "path": "version.py", "tests": some})
    environment = os.environ | {"KERAS_BACKEND": backend, "EVERY": "1"}
    command = [sys.executable, __file__.replace("run.py", "serve.py"), str(arguments.workers)]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*command, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        for line in process.stdout:
            number, verdict = json.loads(line)
            if number < len(work):
                yield work[number][0], verdict
            elif some and verdict != SURVIVED:
                raise SystemExit(f"On {backend} the tests fail without a mutant: {some}")
        if process.wait():
            raise SystemExit(f"The process of {backend} ended with {process.returncode}.")


def report(verdicts: dict[Mutant, str], arguments: argparse.Namespace) -> None:
    """Prints the score and the survivors, and fails below 90 %."""
    known = {
        line.partition("  # ")[0].strip()
        for line in KNOWN.read_text().splitlines()
        if line and not line.startswith("#")
    }
    survivors = [mutant for mutant, verdict in verdicts.items() if verdict != KILLED]
    equivalent = [mutant for mutant in survivors if mutant.key in known]
    open_ = [mutant for mutant in survivors if mutant.key not in known]
    killed, real = len(verdicts) - len(survivors), len(verdicts) - len(equivalent)
    print(f"\n{len(verdicts)} mutants, seed {arguments.seed}: {killed} killed, ", end="")
    print(
        f"{len(equivalent)} equivalent, {len(open_)} survived: {killed / real:.1%} of those ",
        end="",
    )
    print("that can be noticed")
    for mutant in open_:
        print(f"  {verdicts[mutant]:11} {mutant}")
    if killed < 0.9 * len(verdicts):
        raise SystemExit("Fewer than 90 % were killed.")


if __name__ == "__main__":
    main()
