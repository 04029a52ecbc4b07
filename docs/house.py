"""Measures of the package's structure and a picture of its rooms: `make house`.

Prints what `guides/architecture.md` promises and draws `guides/architecture.svg` from the imports.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

import grimp
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parent.parent
PACKAGE = "keras_svd_adapters"
FACES = {"layers", "keras_hub", "version", ""}
PRIVATE = ROOT / PACKAGE / "runtime" / "keras_private"

Arrows = dict[str, set[str]]


def main() -> None:
    files = imports_of_files()
    rooms = grouped(files, room_of)
    floors = floors_of(rooms)
    lengths = sorted((len(path.read_text().splitlines()), path) for path in python_files())
    folders = grouped(files, folder_of)
    longest, where = lengths[-1]
    largest = max(len(list(folder.glob("*.py"))) for folder in {path.parent for _, path in lengths})
    private = sum(len(path.read_text().splitlines()) for path in PRIVATE.glob("*.py"))
    for what, arrows in (("rooms", rooms), ("folders", folders), ("files", files)):
        text = f"{len(arrows)}, {count(arrows)} arrows, {circles(arrows)} in circles"
        print(f"{what:<9}{text}, {max(floors_of(arrows).values())} floors")
    print(f"lines    median {median(n for n, _ in lengths):.0f}, ", end="")
    print(f"longest {longest} ({where.relative_to(ROOT)})")
    print(f"folder   at most {largest} files")
    print(f"private  {private} lines of private Keras")
    if "--no-picture" not in sys.argv:
        draw(rooms, floors).savefig(ROOT / "guides" / "architecture.svg", metadata={"Date": None})


def python_files() -> list[Path]:
    """The files of the package with code; an `__init__.py` of a folder has a docstring alone."""
    found = (ROOT / PACKAGE).rglob("*.py")
    return [path for path in found if path.name != "__init__.py" or path.parent.name == PACKAGE]


def imports_of_files() -> Arrows:
    """Which file imports which, inside functions and for annotations included."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    names = {path: name_of(path) for path in python_files()}
    return {
        name: graph.find_modules_directly_imported_by(name) & set(names.values())
        for name in names.values()
    }


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of a file; the faces are one."""
    room = module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]
    return "faces" if room in FACES else room


def folder_of(module: str) -> str:
    return module.rpartition(".")[0] if room_of(module) != "faces" else "faces"


def grouped(files: Arrows, group: object) -> Arrows:
    """Arrows between groups of files."""
    found: Arrows = {}
    for name, others in files.items():
        found.setdefault(group(name), set()).update(group(other) for other in others)  # type: ignore[operator]
    return {name: others - {name} for name, others in found.items()}


def count(arrows: Arrows) -> int:
    return sum(map(len, arrows.values()))


def floors_of(arrows: Arrows) -> dict[str, int]:
    """One more than the highest floor that is imported; 1 for what imports nothing."""
    floors: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...] = ()) -> int:
        if name in above:
            raise SystemExit(f"A circle of imports: {' -> '.join([*above, name])}")
        if name not in floors:
            floors[name] = 1 + max((floor(o, (*above, name)) for o in arrows[name]), default=0)
        return floors[name]

    for name in arrows:
        floor(name)
    return floors


def circles(arrows: Arrows) -> int:
    """How many names import themselves by way of others."""
    reach = {name: set(others) for name, others in arrows.items()}
    for middle in arrows:
        for name in arrows:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    return sum(name in others for name, others in reach.items())


def draw(rooms: Arrows, floors: dict[str, int]) -> Figure:
    """The rooms on their floors, with an arrow to each room that they import directly below."""
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
        for other in needed(name, others, rooms):
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
