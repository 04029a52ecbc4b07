"""Measures of the package's structure and a picture of its rooms: `make house`.

Prints what `guides/architecture.md` promises and draws `guides/architecture.svg` from the imports.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

import grimp
import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parent.parent
PACKAGE = "keras_svd_adapters"
FACES = {"layers", "keras_hub", "version", ""}
PRIVATE = ROOT / PACKAGE / "runtime" / "keras_private"

Arrows = dict[str, set[str]]


def main() -> None:
    files = imports_of_files()
    rooms, folders = grouped(files, room_of), grouped(files, folder_of)
    for what, arrows in (("rooms", rooms), ("folders", folders), ("files", files)):
        print(f"{what:<9}{len(arrows)}, {sum(map(len, arrows.values()))} arrows", end="")
        # The files of a folder and its subfolders may import each other; the files alone may not.
        print("" if what == "folders" else f", {max(floors_of(arrows).values())} floors")
    lengths = {path: lines(path) for path in python_files()}
    longest = max(lengths, key=lambda path: lengths[path])
    print(f"lines    median {median(lengths.values()):.0f}, ", end="")
    print(f"longest {lengths[longest]} ({longest.relative_to(ROOT)})")
    largest = max(len(list(folder.glob("*.py"))) for folder in {path.parent for path in lengths})
    print(f"folder   at most {largest} files")
    print(f"private  {sum(map(lines, PRIVATE.glob('*.py')))} lines of private Keras")
    if "--no-picture" not in sys.argv:
        matplotlib.rcParams["svg.hashsalt"] = PACKAGE  # the same file for the same imports
        draw(rooms).savefig(ROOT / "guides" / "architecture.svg", metadata={"Date": None})


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def python_files() -> list[Path]:
    """The files of the package with code; an `__init__.py` of a folder has a docstring alone."""
    found = (ROOT / PACKAGE).rglob("*.py")
    return [path for path in found if path.name != "__init__.py" or path.parent.name == PACKAGE]


def imports_of_files() -> Arrows:
    """Which file imports which, inside functions and for annotations included."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    names = set(map(name_of, python_files()))
    return {name: graph.find_modules_directly_imported_by(name) & names for name in sorted(names)}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of a file; the faces are one."""
    room = module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]
    return "faces" if room in FACES else room


def folder_of(module: str) -> str:
    return module.rpartition(".")[0] if room_of(module) != "faces" else "faces"


def grouped(files: Arrows, group: Callable[[str], str]) -> Arrows:
    """Arrows between groups of files."""
    found: Arrows = {}
    for name, others in files.items():
        found.setdefault(group(name), set()).update(map(group, others))
    return {name: others - {name} for name, others in found.items()}


def floors_of(arrows: Arrows) -> dict[str, int]:
    """One more than the highest floor that is imported; 1 for what imports nothing.

    Raises:
        graphlib.CycleError: If imports run in a circle, which has no floor.
    """
    floors: dict[str, int] = {}
    for name in TopologicalSorter(arrows).static_order():
        floors[name] = 1 + max((floors[other] for other in arrows[name]), default=0)
    return floors


def draw(rooms: Arrows) -> Figure:
    """The rooms on their floors, with the arrows that no other arrows imply."""
    floors = floors_of(rooms)
    height, figure = max(floors.values()), Figure(figsize=(8, 7), layout="constrained")
    axis = figure.add_subplot()
    axis.set(xlim=(0, 3), ylim=(0.4, height + 0.6))
    axis.set_axis_off()
    places = {}
    for level in range(1, height + 1):
        row = sorted(name for name, floor in floors.items() if floor == level)
        for index, name in enumerate(row):
            places[name] = (3 * (index + 0.5) / len(row), level)
    for name, others in rooms.items():
        for other in sorted(needed(name, others, rooms)):
            (x, y), (to_x, to_y) = places[name], places[other]
            arrow = {"arrowstyle": "->", "color": "0.55", "shrinkA": 2, "shrinkB": 2}
            axis.annotate("", (to_x, to_y + 0.2), (x, y - 0.2), arrowprops=arrow)
    for name, (x, y) in places.items():
        box = FancyBboxPatch(
            (x - 0.34, y - 0.16), 0.68, 0.32, "round,pad=0.03", fc="0.95", ec="0.3"
        )
        axis.add_patch(box)
        axis.text(x, y, name, ha="center", va="center", fontsize=11)
    return figure


def needed(name: str, others: set[str], rooms: Arrows) -> set[str]:
    """The imports that no other import implies, so that the picture stays readable."""
    return {o for o in others if not any(o in below(other, rooms) for other in others - {o})}


def below(name: str, rooms: Arrows) -> set[str]:
    return set().union(*({other} | below(other, rooms) for other in rooms[name]), set())


if __name__ == "__main__":
    main()
