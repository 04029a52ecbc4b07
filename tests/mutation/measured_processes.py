"""A plugin of pytest: the processes that a test starts are measured too, under the test's name.

Their data goes to files of its own: pytest-cov keeps only what its workers measured.
"""

import os
from pathlib import Path


def pytest_runtest_setup(item):
    file = Path(os.environ["COVERAGE_FILE"])
    if not file.name.startswith("processes-"):
        os.environ["COVERAGE_FILE"] = str(file.with_name(f"processes-{file.name}").absolute())
    os.environ["COVERAGE_PROCESS_START"] = str(Path(__file__).with_name("coverage.ini"))
