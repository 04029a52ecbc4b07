"""Which tests reach a line, and how long each takes: read from a measured run of the suite."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from coverage import CoverageData
from draw import PACKAGE, Mutant

ROOT = PACKAGE.parent
PHASE = re.compile(r"\|(setup|run|teardown)$| \((setup|call|teardown)\)$")


class Reach:
    """The tests of one backend, by the lines of the package that they run.

    Args:
        folder: Holds `<backend>.coverage` and `<backend>.xml` (`make reach-jax` and so on).
        backend: `"jax"`, `"tensorflow"` or `"torch"`.
    """

    def __init__(self, folder: Path, backend: str) -> None:
        files = [folder / f"{backend}.coverage", *folder.glob(f"processes-{backend}.coverage.*")]
        self.data = [CoverageData(str(file)) for file in files]
        for data in self.data:
            data.read()
        self.seconds = _durations(folder / f"{backend}.xml")

    @cache  # noqa: B019 (one object a backend, for the length of the run)
    def _by_line(self, path: str) -> dict[int, set[str]]:
        found: dict[int, set[str]] = defaultdict(set)
        for data in self.data:
            for line, names in data.contexts_by_lineno(str(PACKAGE / path)).items():
                found[line] |= {PHASE.sub("", name) for name in names if name}
        return found

    def tests(self, mutant: Mutant, limit: float) -> list[str]:
        """The tests that reach a mutant, the quickest first, one of each function before others.

        Args:
            mutant: What changed.
            limit: Seconds that the tests may take together. At least one is given.
        """
        by_line = self._by_line(mutant.path)
        first, last = mutant.lines
        lines = [] if mutant.at_import else range(first, last + 1)
        reaching = set().union(*(by_line[line] for line in lines))
        if not reaching:  # it runs at import: every test of the file's code reads what that made
            reaching = set().union(*by_line.values())
        if not reaching:  # a file of tables: what reads them imports them
            importers = map(self._by_line, importers_of(mutant.path))
            reaching = set().union(*(tests for each in importers for tests in each.values()))
        quickest = sorted(reaching, key=lambda test: self.seconds.get(test, 1.0))
        seen: dict[str, int] = defaultdict(int)
        rounds = []
        for test in quickest:
            function = test.partition("[")[0]
            rounds.append((seen[function], self.seconds.get(test, 1.0), test))
            seen[function] += 1
        chosen, spent = [], 0.0
        for _, seconds, test in sorted(rounds):
            spent += seconds
            if chosen and spent > limit:
                break
            chosen.append(test)
        return chosen


def importers_of(path: str) -> list[str]:
    """The files of the package that import from a file of it."""
    module = ".".join([PACKAGE.name, *Path(path).with_suffix("").parts])
    files = (file for file in PACKAGE.rglob("*.py") if f"from {module} import" in file.read_text())
    return [file.relative_to(PACKAGE).as_posix() for file in files]


def _durations(report: Path) -> dict[str, float]:
    """Seconds by test, with the names that pytest takes."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("classname", "").replace(".", "/") + ".py"
        found[f"{file}::{case.get('name')}"] = float(case.get("time", 1.0))
    return found
