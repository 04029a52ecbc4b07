"""Runs tests against mutants on one backend, each in a fork of a process that has it imported.

Reads a list of `{"source", "path", "tests"}` from standard input, and writes for each the line
`[number, verdict]`. The changed package is a copy in a folder in front of `sys.path`, so that the
processes that a test starts see it as well.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from draw import PACKAGE

KILLED, SURVIVED, UNREACHED = "killed", "survived", "not reached"

SLACK = 240  # seconds that a mutant's tests may take: more is an endless loop, which was noticed


def main() -> None:
    workers, folder = int(sys.argv[1]), Path(sys.argv[2])
    asked = json.loads(sys.stdin.read())
    warm_up()
    waiting = [len(asked) - 1, *range(len(asked) - 1)]
    running: dict[int, tuple[int, float]] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            number = waiting.pop(0)
            one = asked[number]
            if not one["tests"]:
                tell(number, UNREACHED)
                continue
            running[start(one, folder / str(number))] = (number, time.monotonic())
        for process in list(running):
            number, began = running[process]
            done, status = os.waitpid(process, os.WNOHANG)
            if not done and time.monotonic() - began > SLACK:
                os.killpg(process, signal.SIGKILL)
                os.waitpid(process, 0)
                done, status = process, -1
            if done:
                del running[process]
                shutil.rmtree(folder / str(number), ignore_errors=True)
                tell(number, SURVIVED if status == 0 else KILLED)
        time.sleep(0.05)


def tell(number: int, verdict: str) -> None:
    print(json.dumps([number, verdict]), flush=True)


def warm_up() -> None:
    """Imports what every test needs and no mutant changes. Nothing is computed before a fork."""
    import keras
    import keras_hub  # noqa: F401
    import pytest  # noqa: F401
    import scipy.linalg  # noqa: F401

    if keras.backend.backend() == "torch":
        import peft  # noqa: F401
        import torch  # noqa: F401


def start(one: dict, folder: Path) -> int:
    """A fork that runs the tests of a mutant until one fails."""
    shutil.copytree(PACKAGE, folder / PACKAGE.name, copy_function=shutil.copy2)
    (folder / PACKAGE.name / one["path"]).write_text(one["source"])
    process = os.fork()
    if process:
        return process
    os.setpgid(0, 0)
    quiet = os.open(folder / "output.txt", os.O_CREAT | os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = str(folder)
    import pytest

    base = f"--basetemp={folder / 'tests'}"
    code = pytest.main([*one["tests"], "-x", "-q", "-p", "no:cacheprovider", base])
    sys.stdout.flush()
    os._exit(0 if code == 0 else 1)


if __name__ == "__main__":
    main()
