"""Tables: aligned text in a terminal, HTML in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

CELL = "text-align: left; padding: 0 0.5em"


class Table(NamedTuple):
    """A header, rows, and notes below them."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: str = ""


class Bars(NamedTuple):
    """A number for each label, such as one for each layer, and their title."""

    title: str
    numbers: Mapping[str, float]


class TableReport:
    """Base class of reports that print as a table and display as HTML in a notebook."""

    def as_table(self) -> Table:
        """Return the table."""
        raise NotImplementedError

    def as_bars(self) -> Bars | None:
        """Return the numbers that a notebook shows as bars under the table, if there are any."""
        return None

    def __str__(self) -> str:
        head, rows, notes = self.as_table()
        return "\n".join([table(head, rows)] * bool(rows) + [notes] * bool(notes))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, rows, notes = self.as_table()
        lines = [_html_row("th", head), *(_html_row("td", row) for row in rows)] if rows else []
        text = f"<pre>{escape(notes)}</pre>" if notes else ""
        return f"<table>{''.join(lines)}</table>" * bool(lines) + text + _html_bars(self.as_bars())


def _html_row(tag: str, cells: Sequence[str]) -> str:
    inside = (f'<{tag} style="text-align: left">{escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{''.join(inside)}</tr>"


def _html_bars(bars: Bars | None) -> str:
    """Return a list of bars that scrolls if it is long, behind its title."""
    if bars is None or not bars.numbers:
        return ""
    largest = max(map(abs, bars.numbers.values())) or 1.0
    rows = (
        f'<tr><td style="{CELL}">{escape(label)}</td><td style="{CELL}; width: 40%">'
        f'<div style="background: #6a7fdb; height: 0.7em; width: {100 * abs(n) / largest:.3g}%">'
        f'</div></td><td style="{CELL}">{format_number(n)}</td></tr>'
        for label, n in bars.numbers.items()
    )
    return (
        f"<details open><summary>{escape(bars.title)}</summary>"
        f'<div style="max-height: 20em; overflow: auto"><table>{"".join(rows)}</table></div>'
        "</details>"
    )


def format_number(value: float) -> str:
    """Return a number with thousands separators, or with three digits if it is small."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a header and rows in columns as wide as their widest cell."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])
