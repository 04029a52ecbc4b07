"""A script of `tests/processes` in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]


def fresh_process(script, *arguments, pipes=None, **environment):
    """Starts a script with this environment, and else that of the test: backend, package, cache."""
    path = os.pathsep.join([str(TESTS / "support"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(TESTS / "processes" / script), *map(str, arguments)]
    environment = os.environ | environment | {"PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, **pipes or {})
