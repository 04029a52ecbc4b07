"""A hook of MkDocs: adds the pages outside of `docs/`, and makes links between all pages work.

A page links to the path that a file has in the repository, so that links work there as well. The
hook replaces each by the path of the file on the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "guides/*.md", "benchmarks/*.md")
REST = (
    "LICENSE",
    "*.cff",
    "SECURITY.md",
    "benchmarks/*.png",
    "guides/*.ipynb",
    "guides/*.png",
    "guides/*.svg",
)
EXAMPLES = ("examples/*.ipynb", "examples/*.py")

CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^)\s#]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the files at their own paths. The landing page is `index.md`, so README moves."""
    for pattern in PAGES + REST + EXAMPLES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            file = File.generated(config, name, abs_src_path=str(path))
            if name == "README.md":
                file.name = "overview"
            files.append(file)
    return files


def origin(file: Any) -> str:
    """The path in the repository of a file of the site."""
    at_home = f"docs/{file.src_uri}" if file.generated_by is None else file.src_uri
    return getattr(file, "origin", at_home)


@event_priority(50)
def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace paths in the repository by paths on the site, outside of code."""
    places = {origin(file): file.src_uri for file in files}
    folder, here = posixpath.dirname(origin(page.file)), posixpath.dirname(page.file.src_uri)

    def moved(found: re.Match[str]) -> str:
        place = places.get(posixpath.normpath(posixpath.join(folder, found[1])))
        return posixpath.relpath(place, here or ".") if place else found[1]

    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)
