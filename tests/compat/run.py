"""The contract on each version of Keras and each backend, as a table: `make compat`.

Each version gets an environment in `.cache/compat`, with its Keras and the newest KerasHub that it
allows. The rest of its packages are those of `.venv`. Arguments select versions.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "compat"
KERAS_HUB = {
    "3.10.0": "0.25.1",
    "3.11.3": "0.25.1",
    "3.12.4": "0.25.1",
    "3.13.2": "0.29.1",
    "3.14.1": "0.29.1",
    "3.15.1": "0.32.0",
}
NIGHTLY = "nightly"  # may fail, and then says where
CONTRACT = sorted((ROOT / "tests" / "compat").glob("contract*.py"))
BACKENDS = ("jax", "tensorflow", "torch")


def environment(version):
    """Return the Python of a version of Keras; `None` if there is no such version."""
    home = FOLDER / version
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    wanted = [f"keras=={version}", f"keras-hub=={KERAS_HUB.get(version)}"]
    if version == NIGHTLY:
        wanted = ["keras-nightly", "keras-hub"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--pre", "--no-deps"]
    if subprocess.run([*install, "--target", str(packages), *wanted]).returncode:
        return None
    inherited = sysconfig.get_path("purelib")
    (packages / "inherited.pth").write_text(f"import site; site.addsitedir({inherited!r})\n")
    (home / "ready").touch()
    return python


def results(python, version, backend):
    """Run the contract; return the failures of each verb, how often it ran, and the seconds."""
    report = FOLDER / f"{version}-{backend}.xml"
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "--numprocesses", "2", "-q", "-p", "no:cacheprovider"]
    variables = {
        "KERAS_BACKEND": backend,
        "EVERY": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "COMPAT_FILES": str(FOLDER / "files"),
    }
    start = time.monotonic()
    with (FOLDER / f"{version}-{backend}.log").open("w") as log:
        subprocess.run(
            [*command, f"--junitxml={report}", *map(str, CONTRACT)],
            cwd=ROOT,
            env=os.environ | variables,
            stdout=log,
            stderr=log,
        )
    verbs = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        verb = case.get("name").partition("[")[0].removeprefix("test_").replace("_", " ")
        failed = [each for each in case if each.tag in ("failure", "error", "skipped")]
        verbs[verb].append(failed[0].get("message", "").splitlines()[0] if failed else None)
    return verbs, time.monotonic() - start


def main(versions):
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(FOLDER / "files", ignore_errors=True)
    found, failures = {}, []
    for version in versions:
        python = environment(version)
        if python is None:
            print(f"{version}: not in the registry")
            continue
        for backend in BACKENDS:
            verbs, seconds = results(python, version, backend)
            found[version, backend] = verbs, seconds
            bad = [(verb, why) for verb, each in verbs.items() for why in each if why]
            failures += [(version, backend, *each) for each in bad]
            failures += [] if verbs else [(version, backend, "everything", "see its log")]
            print(f"{version} {backend}: {seconds:.0f} s, {len(bad)} failures", flush=True)
    names = list(dict.fromkeys(verb for verbs, _ in found.values() for verb in verbs))
    table = Table("Keras", "backend", *names, "s")
    for (version, backend), (verbs, seconds) in found.items():
        table.add_row(version, backend, *(cell(verbs[name]) for name in names), f"{seconds:.0f}")
    Console(width=200).print(table)
    for failure in failures:
        print(*failure, sep=" · ")
    return any(version != NIGHTLY for version, *_ in failures)


def cell(each):
    failed = sum(why is not None for why in each)
    return f"{failed} of {len(each)} failed" if failed else f"ok ({len(each)})" if each else "-"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [*KERAS_HUB, NIGHTLY]))
