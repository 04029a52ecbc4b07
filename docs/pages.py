"""A hook of MkDocs: the pages that lie elsewhere in the repository, at their own paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "guides/*.md", "benchmarks/*.md")
REST = ("LICENSE", "benchmarks/*.png", "guides/*.ipynb", "guides/*.svg", "examples/*.ipynb")


def on_files(files: Any, config: Any) -> Any:
    """Adds them to what is in `docs/`."""
    for pattern in PAGES + REST:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files
