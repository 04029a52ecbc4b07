"""The pages name all that is public, their links lead somewhere, and their code runs."""

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import keras_svd_adapters as ksa
from keras_svd_adapters.methods.method import Method

pytestmark = pytest.mark.backend_free("pages are text about what each backend tests")

ROOT = Path(__file__).parents[2]
API = sorted((ROOT / "docs" / "api").glob("*.md"))
HOW_TO = [*sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "how_to").glob("*.md"))]
GUIDES = sorted((ROOT / "guides").glob("*.md"))
OTHERS = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES = [*API, *HOW_TO, *GUIDES, *OTHERS]

FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"(?:<!-- not run: (.+?) -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
BY_HAND = re.compile(r"^#+ .*\{ #(\S+) \}$", re.MULTILINE)
SIGNATURE = re.compile(r"^```text\n(\w+)(\(.*\))\n```$", re.MULTILINE)


def page_name(path):
    return path.relative_to(ROOT).as_posix()


def blocks(path):
    return [(reason, code) for reason, code in BLOCK.findall(path.read_text())]


def found(identifier):
    """What mkdocstrings finds."""
    owner, _, name = identifier.rpartition(".")
    return getattr(sys.modules[owner], name)


def test_every_public_name_is_on_an_api_page():
    text = "\n".join(page.read_text() for page in API)
    shown = [found(identifier) for identifier in DIRECTIVE.findall(text)]
    by_hand = {identifier.rpartition(".")[2] for identifier in BY_HAND.findall(text)}
    missing = [
        name
        for name in ksa.__all__
        if name not in by_hand and not any(thing is getattr(ksa, name) for thing in shown)
    ]
    methods = [getattr(ksa.methods, name) for name in ksa.methods.__all__]
    missing += [method.__name__ for method in methods if method not in shown]
    assert not missing


def test_the_layers_have_the_signatures_that_are_shown():
    shown = dict(SIGNATURE.findall((ROOT / "docs" / "api" / "layers.md").read_text()))
    assert set(shown) == {name for name in ksa.__all__ if name.endswith("Dense")}
    for name, signature in shown.items():
        assert plain(inspect.signature(getattr(ksa, name))) == signature


def plain(signature):
    """Without annotations."""
    empty = inspect.Parameter.empty
    parameters = [p.replace(annotation=empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=empty))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def anchors(page):
    headings = HEADING.findall(FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


WITH_CODE = [
    page for page in [*API, *HOW_TO, *GUIDES] if any(not reason for reason, _ in blocks(page))
]


@pytest.mark.parametrize("page", WITH_CODE, ids=page_name)
def test_code(page, monkeypatch, tmp_path):
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    monkeypatch.setattr(Method, "registry", dict(Method.registry))
    monkeypatch.chdir(tmp_path)
    for number, (reason, code) in enumerate(blocks(page)):
        if not reason:
            exec(compile(code, f"{page_name(page)}, block {number}", "exec"), vars(module))


def test_the_systems_are_there():
    """Each name on the page of published systems is a method, or public with `ksa.`."""
    page = (ROOT / "guides" / "systems.md").read_text().split("\n## ", 1)[1]
    for place, name in re.findall(r"`(ksa\.)?([A-Za-z_]\w+)[`(]", page):
        assert hasattr(ksa, name) if place else hasattr(ksa.methods, name), name
