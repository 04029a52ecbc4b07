"""What keeps the house in order: private Keras at home, files and folders small."""

import ast
import inspect
from pathlib import Path

import pytest

import keras_svd_adapters as ksa
from keras_svd_adapters.methods.method import Method

PACKAGE = Path(__file__).parents[2] / "keras_svd_adapters"
PRIVATE = PACKAGE / "runtime" / "keras_private"
TESTS = Path(__file__).parents[1]
TABLE = TESTS / "support" / "backbones.py"  # a row for every backbone of KerasHub
BUDGET = 302  # lines of this folder: it only ever falls; 92 are for attention, 10 for memory
OURS = {"_replace", "_getframe"}  # public names of Python, whatever their first letter
pytestmark = pytest.mark.backend_free("reads source files")
OPEN = sorted(path for path in PACKAGE.rglob("*.py") if PRIVATE not in path.parents)


def is_private(name: str) -> bool:
    """Whether a name is private to an object; those of Python itself, as `__name__`, are not."""
    return name.startswith("_") and not name.endswith("__")


def violations(source: str) -> list[str]:
    """The lines of a file that use what is private to another."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.expr | ast.stmt) and is_violation(node)
    ]


def is_violation(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(f"{alias.name}.".startswith("keras.src.") for alias in names)
        case ast.ImportFrom(module=module, names=names):
            paths = [f"{module}.", *(f"{module}.{alias.name}." for alias in names)]
            return any(path.startswith("keras.src.") for path in paths)
        case ast.Attribute(value=owner, attr=name):
            if isinstance(owner, ast.Name) and owner.id == "keras" and name == "src":
                return True
            return is_private(name) and name not in OURS and not is_own(owner)
        case ast.Call(func=ast.Name(id="getattr" | "hasattr" | "setattr"), args=args):
            return len(args) > 1 and is_private_string(args[1])
    return False


def is_own(owner: ast.expr) -> bool:
    match owner:
        case ast.Name(id="self" | "cls") | ast.Call(func=ast.Name(id="super")):
            return True
    return False


def is_private_string(argument: ast.expr) -> bool:
    match argument:
        case ast.Constant(value=value):
            return isinstance(value, str) and is_private(value)
        case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):
            return start.startswith("_")
    return False


@pytest.mark.parametrize("path", OPEN, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_stay_at_home(path):
    assert not violations(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "import keras.src",
        "import keras.src.ops as ops",
        "from keras.src.saving import saving_lib",
        "from keras import src",
        "keras.src.backend",
        "layer._tracker",
        "self.layer._tracker",
        "layer._trainable = True",
        "getattr(layer, '_layers', None)",
        "hasattr(layer, '__module')",
        "setattr(layer, f'_{name}', 1)",
    ],
)
def test_a_private_name_is_found(source):
    assert violations(source)


@pytest.mark.parametrize(
    "source",
    [
        "import keras",
        "self._value",
        "cls._value",
        "super()._value",
        "array._replace(shape=())",
        "sys._getframe(1)",
        "type(layer).__name__",
        "getattr(module, '__file__', None)",
        "getattr(layer, 'kernel', None)",
        "getattr(layer, name)",
    ],
)
def test_a_public_name_is_let_through(source):
    assert not violations(source)


def test_private_keras_keeps_to_its_budget():
    sizes = {path.name: len(path.read_text().splitlines()) for path in PRIVATE.glob("*.py")}
    assert sum(sizes.values()) <= BUDGET, sizes


def test_no_file_holds_two_ideas():
    files = {*PACKAGE.rglob("*.py"), *TESTS.rglob("*.py")} - {TABLE}
    sizes = {path: len(path.read_text().splitlines()) for path in files}
    assert {str(path): size for path, size in sizes.items() if size > 250} == {}


def test_each_method_has_a_file_that_fits_a_screen_or_two():
    sizes = {}
    for method in Method.registry.values():
        path = inspect.getsourcefile(method)
        sizes[path] = len(Path(path).read_text().splitlines())
    assert len(sizes) > 70
    assert {path: size for path, size in sizes.items() if size > 120} == {}


def test_no_folder_is_crowded():
    folders = [PACKAGE, *(path for path in PACKAGE.rglob("*") if path.is_dir())]
    sizes = {str(folder): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: size for folder, size in sizes.items() if size > 20} == {}


def test_a_room_says_what_it_is_and_does_nothing():
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent == PACKAGE:
            continue
        body = ast.parse(path.read_text()).body
        assert isinstance(body[0], ast.Expr), path
        lists = [ast.ImportFrom, ast.Assign] if path.parent.name == "methods" else []
        assert all(type(each) in lists for each in body[1:]), path


def test_no_room_is_named_like_what_is_public():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    assert not rooms & set(ksa.__all__)
