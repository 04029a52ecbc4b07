"""A script of `tests/processes` in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def fresh_process(script, folder, backend):
    path = os.pathsep.join([str(TESTS / "support"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": path}
    command = [sys.executable, str(TESTS / "processes" / script), str(folder)]
    return subprocess.Popen(command, env=environment)
