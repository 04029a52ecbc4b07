"""Small faults that a test should notice: every place for one in the package, and a random draw.

A mutant changes one thing: an operator, a comparison, a constant, a statement that is dropped, or
two arguments that are swapped. Docstrings, messages and annotations stay as they are.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "keras_svd_adapters"
KINDS = ("operator", "comparison", "constant", "dropped statement", "swapped arguments")

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
COMPARISONS = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SPEAKING = {"warn", "print", "format", "write_text"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Args:
        path: The file, relative to the package.
        lines: Line numbers of the statement that changes, first and last.
        span: Where the changed text begins and ends: line, column, line, column.
        kind: One of `KINDS`.
        before: The text that is replaced.
        after: The text that replaces it.
        at_import: Whether the statement runs when the module is imported.
    """

    path: str
    lines: tuple[int, int]
    span: tuple[int, int, int, int]
    kind: str
    before: str
    after: str
    at_import: bool

    @property
    def key(self) -> str:
        """What names the mutant while lines above it come and go."""
        return f"{self.path}: {one_line(self.before)} -> {one_line(self.after)}"

    def __str__(self) -> str:
        text = f"{one_line(self.before)}  ->  {one_line(self.after)}"
        return f"{self.path}:{self.span[0]} {self.kind}: {text}"

    def source(self) -> str:
        """The whole file with the change."""
        rows = (PACKAGE / self.path).read_bytes().splitlines(keepends=True)
        top, left, bottom, right = self.span
        head = b"".join(rows[: top - 1]) + rows[top - 1][:left]
        tail = rows[bottom - 1][right:] + b"".join(rows[bottom:])
        return (head + self.after.encode() + tail).decode()


def one_line(text: str) -> str:
    return " ".join(text.split())


def draw(count: int, seed: int) -> list[Mutant]:
    """As many mutants of each kind, at random places of all files."""
    rng = random.Random(seed)
    places: dict[str, list[Mutant]] = {kind: [] for kind in KINDS}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "version.py":
            for mutant in mutants_of(path):
                places[mutant.kind].append(mutant)
    shares = [count // len(KINDS) + (i < count % len(KINDS)) for i in range(len(KINDS))]
    return [m for kind, n in zip(KINDS, shares) for m in rng.sample(places[kind], n)]


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of its text."""
    text = path.read_text()
    parents = {
        child: node for node in ast.walk(ast.parse(text)) for child in ast.iter_child_nodes(node)
    }
    for node in parents:
        for kind, span, new in changes(node):
            if not is_spared(node, parents):
                statement = enclosing_statement(node, parents)
                before = ast.get_source_segment(text, span) or ""
                after = "pass" if isinstance(new, ast.Pass) else f"({ast.unparse(new)})"
                yield Mutant(
                    path.relative_to(PACKAGE).as_posix(),
                    lines_of(statement),
                    (span.lineno, span.col_offset, span.end_lineno, span.end_col_offset),
                    kind,
                    before,
                    after,
                    not any(isinstance(above, FUNCTIONS) for above in ancestors(node, parents)),
                )


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST, ast.AST]]:
    """The kinds of change that a node allows, with the node that is replaced and by what."""
    match node:
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS:
            yield "operator", node, ast.BinOp(left, OPERATORS[type(operator)](), right)
        case ast.BoolOp(operator, values):
            yield "operator", node, ast.BoolOp(OPERATORS[type(operator)](), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield "operator", node, operand
        case ast.Compare(left, [operator], right):
            yield "comparison", node, ast.Compare(left, [COMPARISONS[type(operator)]()], right)
        case ast.Constant(bool() as value):
            yield "constant", node, ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield "constant", node, ast.Constant(value + 1)
        case ast.Constant(str() as value) if " " not in value:
            yield "constant", node, ast.Constant(value + "_")
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Delete() | ast.Raise():
            yield "dropped statement", node, ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript(), *_]):
            yield "dropped statement", node, ast.Pass()
        case ast.Call(function, [first, second, *rest], keywords):
            if not any(isinstance(a, ast.Starred) for a in (first, second)):
                swapped = ast.Call(function, [second, first, *rest], keywords)
                yield "swapped arguments", node, swapped


def is_spared(node: ast.AST, parents: dict) -> bool:
    """Whether a node is part of a message, a docstring, an annotation or what only types need."""
    child = node
    for above in ancestors(node, parents):
        match above:
            case ast.JoinedStr() | ast.ImportFrom() | ast.Import():
                return True
            case ast.Raise() if child is not node or not isinstance(node, ast.Raise):
                return True
            case ast.Expr(ast.Constant()):
                return True
            case ast.Call(ast.Name(name) | ast.Attribute(attr=name)) if name in SPEAKING:
                return True
            case ast.AnnAssign(annotation=note) | ast.arg(annotation=note) if child is note:
                return True
            case ast.FunctionDef(returns=note) if child is note:
                return True
            case ast.If(ast.Name("TYPE_CHECKING")):
                return True
            case ast.Assign([ast.Name("__all__" | "__slots__")]):
                return True
            case ast.AnnAssign(annotation=ast.Name("TypeAlias")):
                return True
        child = above
    return False


def ancestors(node: ast.AST, parents: dict) -> Iterator[ast.AST]:
    while (node := parents.get(node)) is not None:
        yield node


def enclosing_statement(node: ast.AST, parents: dict) -> ast.stmt:
    while not isinstance(node, ast.stmt):
        node = parents[node]
    return node


def lines_of(statement: ast.stmt) -> tuple[int, int]:
    """First and last line; of a statement with a body, those of its head."""
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if body else statement.end_lineno
    return statement.lineno, max(statement.lineno, last)
