"""The structure of the package, measured from its imports, and drawn: docs/images/architecture.svg.

    python tools/architecture.py            # draws the picture
    python tools/architecture.py --check    # exit status 1 if the picture is not current, or a rule is broken

A room is a folder directly under src/sgpo; its size is its share of the lines of Python. An arrow says that a module of
one room imports one of the other, inside functions too. Drawn are only arrows that no way over other rooms replaces.
Modules that lie directly under src/sgpo are shared by all rooms and drawn as the ground.

Rules: no two rooms import each other, directly or in a circle; nor do two modules as they are loaded; and no room holds
more than 15 % of the lines.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "sgpo"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
LARGEST_SHARE = 0.15
ENTRIES = ("__init__", "__main__")  # the public names, and `python -m sgpo`: they name what all rooms hold

WIDTH, ROW, HEIGHT, GAP, MARGIN = 980, 92, 50, 18, 24
INK, MUTED, LINE, ROOM, GROUND = "#222222", "#6b6b6b", "#9a9a9a", "#e8f1f8", "#f3f3f3"

Edges = dict[str, set[str]]


# ---------------------------------------------------------------------- measured


def room_of(module: str) -> str | None:
    """The folder of ``sgpo.FOLDER.module``; None for a module that lies directly under the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else None


def imports_of(path: Path) -> Iterator[str]:
    """Full names of the modules of this package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sgpo":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "sgpo")


def sizes() -> dict[str, int]:
    """Lines of Python of each room; of the shared modules under the name ''."""
    found: dict[str, int] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).parts
        room = parts[0] if len(parts) > 1 else ""
        found[room] = found.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    return found


def arrows() -> Edges:
    """Which rooms each room imports."""
    found: Edges = {room: set() for room in sizes() if room}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        if len(parts) > 1:
            found[parts[0]] |= {room for name in imports_of(path) if (room := room_of(name))} - {parts[0]}
    return found


def upward() -> list[str]:
    """Shared modules that import a room which imports them back."""
    rooms = arrows()
    users: Edges = {}  # of each shared module
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).parts
        if len(parts) > 1:
            for name in imports_of(path):
                users.setdefault(name.split(".")[1], set()).add(parts[0])
    problems = []
    for path in sorted(PACKAGE.glob("*.py")):
        if path.stem not in ENTRIES:
            for room in sorted({room for name in imports_of(path) if (room := room_of(name))}):
                back = {user for user in users.get(path.stem, set()) if user == room or user in reachable(rooms, room)}
                if back:
                    problems.append(f"{path.name} imports {room}/, and is imported by {', '.join(sorted(back))}/")
    return problems


def loaded_by(path: Path) -> Iterator[str]:
    """Modules of this package that Python imports while it loads a file: not those in functions or for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    for node in nodes:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name if _is_module(name) else str(node.module) for name in names if name.startswith("sgpo."))


def _is_module(name: str) -> bool:
    place = PACKAGE.joinpath(*name.split(".")[1:])
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def circles() -> list[str]:
    """Modules that load each other: whichever is imported first finds the other one half made."""
    edges: Edges = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(("sgpo", *parts)).removesuffix(".__init__")
        edges[name] = set(loaded_by(path)) - {name}
    edges = {name: others & edges.keys() for name, others in edges.items()}
    needed = {name: reachable(edges, name) for name in edges}
    return [
        f"{name} and {other} load each other, directly or over other modules"
        for name in sorted(edges)
        for other in sorted(needed[name])
        if name < other and name in needed[other]
    ]


def reachable(edges: Mapping[str, set[str]], start: str) -> set[str]:
    """All rooms that a room needs, over others too."""
    found: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        room = waiting.pop()
        if room not in found:
            found.add(room)
            waiting += edges[room]
    return found


def broken_rules() -> list[str]:
    edges, lines = arrows(), sizes()
    needed = {room: reachable(edges, room) for room in edges}
    total = sum(lines.values())
    problems = [
        f"{room} and {other} import each other, directly or over other folders"
        for room in sorted(edges)
        for other in sorted(needed[room])
        if room < other and room in needed[other]
    ]
    problems += [*upward(), *circles()]
    problems += [
        f"{room} holds {size / total:.1%} of the lines, more than {LARGEST_SHARE:.0%}"
        for room, size in sorted(lines.items())
        if size > LARGEST_SHARE * total
    ]
    return problems


# ---------------------------------------------------------------------- drawn


def direct(edges: Edges) -> Edges:
    """Without the arrows that a way over other rooms replaces."""
    return {
        room: {other for other in others if not any(other in reachable(edges, third) for third in others - {other})}
        for room, others in edges.items()
    }


def floors(edges: Edges) -> dict[str, int]:
    """0 for rooms that need no other, else one more than the highest that is needed."""
    found: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in found:
            found[room] = 1 + max((floor(other) for other in edges[room]), default=-1)
        return found[room]

    return {room: floor(room) for room in edges}


def places(edges: Edges) -> dict[str, tuple[float, float, float]]:
    """Left edge, top and width of each room. A room stands near the mean of those that it needs."""
    level = floors(edges)
    highest = max(level.values())
    found: dict[str, tuple[float, float, float]] = {}
    for height in range(highest + 1):
        rooms = sorted(room for room in level if level[room] == height)
        centre = {
            room: sum(found[o][0] + found[o][2] / 2 for o in edges[room]) / len(edges[room]) if edges[room] else 0.0
            for room in rooms
        }
        rooms.sort(key=lambda room: (centre[room], room))
        width = min(170.0, (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms))
        between = (WIDTH - 2 * MARGIN - width * len(rooms)) / (len(rooms) + 1)
        for number, room in enumerate(rooms):
            left = MARGIN + between * (number + 1) + width * number
            found[room] = (left, 58 + (highest - height) * ROW, width)
    return found


def draw() -> str:
    """The picture as SVG; the same imports give the same text."""
    edges, lines = arrows(), sizes()
    total = sum(lines.values())
    where = places(edges)
    bottom = max(top for _, top, _ in where.values()) + HEIGHT + 34
    shared = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem not in ENTRIES)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 76:.0f}" '
        f'font-family="system-ui, sans-serif" fill="{INK}">',
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{LINE}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{bottom + 76:.0f}" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="34" font-size="15" font-weight="600">src/sgpo: folders, their share of '
        f"{total:,} lines, and what imports what</text>",
    ]
    for room, others in sorted(direct(edges).items()):
        for other in sorted(others):
            parts.append(_arrow(where[room], where[other]))
    for room, (left, top, width) in sorted(where.items()):
        middle = left + width / 2
        parts.append(
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{HEIGHT}" rx="6" fill="{ROOM}" '
            f'stroke="#0072B2"/><text x="{middle:.1f}" y="{top + 22}" font-size="14" font-weight="600" '
            f'text-anchor="middle">{room}</text><text x="{middle:.1f}" y="{top + 40}" font-size="12" fill="{MUTED}" '
            f'text-anchor="middle">{lines[room] / total:.1%}</text>'
        )
    half = (len(shared) + 1) // 2
    parts.append(
        f'<rect x="{MARGIN}" y="{bottom}" width="{WIDTH - 2 * MARGIN}" height="54" rx="6" fill="{GROUND}" '
        f'stroke="{LINE}"/>'
        + "".join(
            f'<text x="{WIDTH / 2}" y="{bottom + 22 + 20 * row}" font-size="13" text-anchor="middle">{text}</text>'
            for row, text in enumerate((" · ".join(shared[:half]), " · ".join(shared[half:])))
        )
    )
    return "\n".join([*parts, "</svg>\n"])


def _arrow(start: tuple[float, float, float], end: tuple[float, float, float]) -> str:
    x, y = start[0] + start[2] / 2, start[1] + HEIGHT
    to_x, to_y = end[0] + end[2] / 2, end[1]
    bend = (to_y - y) * 0.45
    return (
        f'<path d="M{x:.1f} {y:.1f} C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y - 2:.1f}" '
        f'fill="none" stroke="{LINE}" stroke-width="1.3" marker-end="url(#tip)"/>'
    )


def without_sizes(picture: str) -> str:
    """Every change of a line of Python changes them; they are as of when the picture was drawn."""
    return re.sub(r"[\d,]+ lines|[\d.]+%", "", picture)


def main() -> int:
    problems = broken_rules()
    if "--check" in sys.argv[1:]:
        if not PICTURE.is_file() or without_sizes(PICTURE.read_text(encoding="utf-8")) != without_sizes(draw()):
            problems.append(f"{PICTURE.relative_to(ROOT)} is not current: python {Path(__file__).relative_to(ROOT)}")
    elif not any("each other" in problem for problem in problems):
        PICTURE.write_text(draw(), encoding="utf-8")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
