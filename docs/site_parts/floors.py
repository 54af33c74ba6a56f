"""The map of the house, a flowchart in Mermaid's words, drawn as a picture that needs no program.

Only what `tests/house.py` writes is understood: floors as subgraphs with the rooms on them, and
arrows from each room to those that it stands on. A room under the pointer shows its own arrows.
"""

import html
import re

WIDTH, ROOM_HEIGHT, STOREY = 900, 34, 92
MARGIN, LETTER = 16, 8.6


def read(text: str) -> tuple[list[list[str]], list[tuple[str, str]]]:
    """Floors from the top, each a list of rooms, and arrows.

    Raises:
      ValueError: a line is something else.
    """
    floors, arrows = [], []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("subgraph "):
            floors.append([])
        elif arrow := re.fullmatch(r"([\w.]+) --> ([\w.]+)", line):
            arrows.append(arrow.groups())
        elif floors and re.fullmatch(r"[\w.]+", line) and line != "end":
            floors[-1].append(line)
        elif line not in ("flowchart TD", "end"):
            raise ValueError(f"a map has no line such as {line!r}")
    rooms = {room for floor in floors for room in floor}
    if strange := {end for arrow in arrows for end in arrow} - rooms:
        raise ValueError(f"a map has no room {sorted(strange)[0]}")
    return floors, arrows


def places(
    floors: list[list[str]], arrows: list[tuple[str, str]]
) -> dict[str, tuple[float, float, float]]:
    """Middle x, top y and width of each room: near the middle of the rooms that it is bound to."""
    found: dict[str, tuple[float, float, float]] = {}
    order = [list(floor) for floor in floors]
    for turn in range(9):
        for level, floor in enumerate(order):
            if turn:
                floor.sort(key=lambda room: _pull(room, arrows, found))
            widths = [LETTER * len(room) + 24 for room in floor]
            gap = (WIDTH - 2 * MARGIN - sum(widths)) / len(floor)
            x = MARGIN
            for room, width in zip(floor, widths, strict=True):
                found[room] = (x + gap / 2 + width / 2, level * STOREY + MARGIN, width)
                x += gap + width
    return found


def _pull(room: str, arrows: list[tuple[str, str]], at: dict[str, tuple[float, ...]]) -> float:
    """Mean x of the rooms at the other ends of a room's arrows; its own without any."""
    others = [b if a == room else a for a, b in arrows if room in (a, b)]
    return sum(at[other][0] for other in others) / len(others) if others else at[room][0]


def draw(text: str) -> str:
    """The map as an SVG picture."""
    floors, arrows = read(text)
    at = places(floors, arrows)
    height = STOREY * (len(floors) - 1) + ROOM_HEIGHT + 2 * MARGIN
    lines = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="The rooms of the house by'
        ' floors, with an arrow from each to those that it stands on">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>',
    ]
    for a, b in arrows:
        (ax, ay, _), (bx, by, _) = at[a], at[b]
        ay, bend = ay + ROOM_HEIGHT, 0.45 * (by - ay - ROOM_HEIGHT)
        path = f"M{ax:.0f} {ay}C{ax:.0f} {ay + bend:.0f} {bx:.0f} {by - bend:.0f} {bx:.0f} {by}"
        lines.append(f'<path class="from-{_id(a)} to-{_id(b)}" d="{path}" marker-end="url(#tip)"/>')
    for room, (x, y, width) in at.items():
        name = html.escape(room)
        lines.append(
            f'<g id="room-{_id(room)}"><title>{name}</title><rect x="{x - width / 2:.0f}" y="{y}"'
            f' width="{width:.0f}" height="{ROOM_HEIGHT}" rx="6"/>'
            f'<text x="{x:.0f}" y="{y + 22}">{name}</text></g>'
        )
    # Of a room under the pointer all other rooms' arrows fade.
    hovers = ",".join(
        f"svg:has(#room-{_id(room)}:hover)>path:not(.from-{_id(room)}):not(.to-{_id(room)})"
        for room in at
    )
    return "\n".join([*lines, f"<style>{hovers}{{opacity:.08}}</style>", "</svg>"])


def _id(room: str) -> str:
    return re.sub(r"\W", "-", room)
