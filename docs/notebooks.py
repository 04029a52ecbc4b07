"""A hook of MkDocs: each notebook becomes a page, with the outputs that it holds.

Nothing is executed. Code, tables and plots look as on the other pages, in light and dark. With a
`repo_url` on GitHub in `mkdocs.yml`, each page links to its notebook in Colab and Kaggle.
"""

from __future__ import annotations

import base64
import re
import struct
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
FOLDER = "notebooks"
INDEX = f"{FOLDER}/index.md"
ORDER = ["quickstart", "language_model", "image_classifier", "choosing_a_method"]
ORDER += ["spectrum_and_patterns", "many_adapters", "resume_and_share", "serving"]
ORDER += ["transformer_squared", "kaggle_tpu"]
CARDS = "<!-- cards -->"
UPLOAD = """To open it in Colab, choose *File*, *Upload notebook*. In Kaggle, choose
*New Notebook*, *File*, *Import Notebook*."""
COLAB = "https://colab.research.google.com/github/{path}"
KAGGLE = "https://kaggle.com/kernels/welcome?src=https://github.com/{path}"
PROGRESS = re.compile(r"^\s*\d+/\d+ kernels, .*$\n?", re.MULTILINE)
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


class Notebook(NamedTuple):
    """A notebook as Markdown."""

    path: Path
    text: str
    images: dict[str, bytes]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def title(self) -> str:
        found = TITLE.search(self.text)
        return found[1] if found else self.name

    @property
    def card(self) -> str:
        """Its title, its first plot and the first words."""
        words = self.text.partition("\n\n")[2].partition("\n\n")[0].replace("\n", " ")
        start = re.match(r".{40,}?[.?!](?= |$)|.*", words)
        plots = [f"    ![]({image}){{ .plot loading=lazy }}\n\n" for image in self.images]
        return f"-   **[{self.title}]({self.name}.md)**\n\n{''.join(plots[:1])}    {start[0]}"


def paths() -> list[Path]:
    """All notebooks that there are: those of `ORDER` first."""
    found = [*ROOT.glob("guides/*.ipynb"), *ROOT.glob("examples/*.ipynb")]
    places = {name: number for number, name in enumerate(ORDER)}
    return sorted(found, key=lambda path: (places.get(path.stem, len(ORDER)), path.stem))


def read(path: Path) -> Notebook:
    """The cells and outputs of a notebook."""
    images: dict[str, bytes] = {}
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code" and cell.source:
            parts.append(f"```python\n{cell.source}\n```")
            parts.extend(shown(cell.outputs, path.stem, images))
    return Notebook(path, "\n\n".join(parts) + "\n", images)


def shown(outputs: list[Any], name: str, images: dict[str, bytes]) -> list[str]:
    """The outputs of a cell: consecutive texts as one."""
    parts, text = [], ""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data or "text/html" in data:
            parts.append(as_text(text))
            text = ""
        if "image/png" in data:
            image = f"{name}/{len(images) + 1}.png"
            images[image] = base64.b64decode(data["image/png"])
            wide = " .wide" * is_wide(images[image])
            parts.append(f"![Plot]({image}){{ .plot{wide} loading=lazy }}")
        elif "text/html" in data:
            parts.append(f'<div class="output">{data["text/html"]}</div>')
        else:
            text += output.get("text", "") or data.get("text/plain", "")
            text += "\n".join(output.get("traceback", ()))
    return [part for part in (*parts, as_text(text)) if part]


def is_wide(image: bytes) -> bool:
    """Whether a phone should scroll this plot, not shrink it. A PNG starts with its size."""
    width, height = struct.unpack(">II", image[16:24])
    return width > max(700, 1.6 * height)


def as_text(text: str) -> str:
    """A block of printed text, without bars of progress."""
    text = PROGRESS.sub("", text).strip("\n")
    return f'<div class="output"><pre>{escape(text)}</pre></div>' if text else ""


def on_config(config: Any) -> Any:
    """Put the notebooks into the navigation, where it names their folder."""
    pages = [INDEX, *(f"{FOLDER}/{path.stem}.md" for path in paths())]
    for section in config.nav or []:
        for title, value in section.items():
            if value == f"{FOLDER}/":
                section[title] = pages
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the page of each, and its plots."""
    for notebook in map(read, paths()):
        page = File.generated(config, f"{FOLDER}/{notebook.name}.md", content=notebook.text)
        page.origin = notebook.path.relative_to(ROOT).as_posix()
        files.get_file_from_path(page.origin).origin = ""  # links lead to the page
        files.append(page)
        for name, image in notebook.images.items():
            files.append(File.generated(config, f"{FOLDER}/{name}", content=image))
    return files


@event_priority(-50)
def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Below the title of a notebook, say how to get it. Show all on their index."""
    if page.file.src_uri == INDEX:
        return markdown.replace(CARDS, "\n\n".join(each.card for each in map(read, paths())))
    path = getattr(page.file, "origin", "")
    if not path:
        return markdown
    links = [f"[Download the notebook](../{path}){{ .md-button download }}"]
    repository = re.match(r"https://github\.com/([^/]+/[^/]+?)(?:\.git)?/?$", config.repo_url or "")
    if repository:
        at = f"{repository[1]}/blob/{config.extra.get('branch', 'main')}/{path}"
        links.append(f"[Open in Colab]({COLAB.format(path=at)}){{ .md-button }}")
        links.append(f"[Open in Kaggle]({KAGGLE.format(path=at)}){{ .md-button }}")
    note = "" if repository else f"\n\n{UPLOAD}\n{{ .note }}"
    title, _, rest = markdown.partition("\n")
    return f"{title}\n\n{' '.join(links)}{note}\n{rest}"
