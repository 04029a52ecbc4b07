"""The release: built, read, installed into empty environments, used there: `make release-check`."""

import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "release"
BACKENDS = ("jax", "tensorflow", "torch")
TOP = {"keras_svd_adapters", "keras_svd_adapters_cli"}


def build():
    """Return the wheel, after checks of it and of the source distribution."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", FOLDER, ROOT)
    wheel, source = next(FOLDER.glob("*.whl")), next(FOLDER.glob("*.tar.gz"))
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, source)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == TOP, tops
    assert "keras_svd_adapters/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(source) as archive:
        assert any(name.endswith("/README.md") for name in archive.getnames())
    return wheel


def use(wheel, backend):
    """Install the wheel with one backend into an empty environment, and run the ten lines.

    First without KerasHub, which the package does not need; then as the README has them.
    """
    home = FOLDER / backend
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    run(*pip, f"{wheel}[{backend}]")
    run(python, ROOT / "tests" / "processes" / "ten_lines.py", KERAS_BACKEND=backend)
    run(home / "bin" / "keras-svd-adapters", "--help")
    start = time.perf_counter()
    run(*pip, f"{wheel}[{backend},hub]")
    print(f"{backend}: KerasHub installed in {time.perf_counter() - start:.0f} s")
    start, path = time.perf_counter(), ROOT / "tests" / "support"
    lines = ROOT / "tests" / "processes" / "readme_lines.py"
    run(python, lines, KERAS_BACKEND=backend, PYTHONPATH=str(path))
    print(f"{backend}: the ten lines ran in {time.perf_counter() - start:.0f} s", flush=True)


def run(*command, **environment):
    subprocess.run([*map(str, command)], check=True, cwd=FOLDER.parent, env=environment or None)


if __name__ == "__main__":
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    built = build()
    for each in sys.argv[1:] or BACKENDS:
        use(built, each)
