"""Tables: aligned text in a terminal, HTML in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple


class Table(NamedTuple):
    """A header, rows, and notes below them."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: str = ""


class TableReport:
    """Base class of reports that print as a table and display as HTML in a notebook."""

    def as_table(self) -> Table:
        """Return the table."""
        raise NotImplementedError

    def __str__(self) -> str:
        head, rows, notes = self.as_table()
        return "\n".join([table(head, rows)] * bool(rows) + [notes] * bool(notes))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, rows, notes = self.as_table()
        lines = [_html_row("th", head), *(_html_row("td", row) for row in rows)] if rows else []
        text = f"<pre>{escape(notes)}</pre>" if notes else ""
        return f"<table>{''.join(lines)}</table>" * bool(lines) + text


def _html_row(tag: str, cells: Sequence[str]) -> str:
    inside = (f'<{tag} style="text-align: left">{escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{''.join(inside)}</tr>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a header and rows in columns as wide as their widest cell."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])
