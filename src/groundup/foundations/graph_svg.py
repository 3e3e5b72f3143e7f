"""A computation graph of scalars as an SVG drawing: what was made from what, each number with its derivative.

It is about where boxes and lines stand, and nothing of it is needed to understand the derivatives.
"""

from __future__ import annotations

from html import escape

from groundup.core.errors import UsageError
from groundup.foundations.scalar import Value

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN, _LANE = 132, 44, 46, 14, 12, 10
#: More nodes than this are no drawing any more.
MAX_NODES = 400


def draw_graph(result: Value) -> str:
    """Draw all that a number was made from, left to right.

    A node stands one column to the right of the last of its parents. Call `backward` first, or all derivatives are 0.

    Args:
        result: the number on the right.

    Returns:
        an SVG document of its own, which needs no script and no font.

    Raises:
        UsageError: for a graph of more than `MAX_NODES` numbers.
    """
    order = result.ancestors()
    if len(order) > MAX_NODES:
        raise UsageError(f"the graph has {len(order)} numbers: a drawing shows up to {MAX_NODES}")
    column: dict[Value, int] = {}
    for value in order:
        column[value] = 1 + max((column[parent] for parent in value.parents), default=-1)
    # What was given stands beside what is first made from it.
    for value in order:
        for parent in value.parents:
            if not parent.parents:
                users = [column[user] for user in order if parent in user.parents]
                column[parent] = min(users) - 1
    columns: dict[int, list[Value]] = {}
    for value in order:
        columns.setdefault(column[value], []).append(value)
    tallest = max(len(values) for values in columns.values())
    place = {
        value: (
            _MARGIN + index * (_WIDTH + _GAP_X),
            _MARGIN + (row + (tallest - len(values)) / 2) * (_HEIGHT + _GAP_Y),
        )
        for index, values in columns.items()
        for row, value in enumerate(values)
    }
    width = 2 * _MARGIN + len(columns) * (_WIDTH + _GAP_X) - _GAP_X
    bottom = _MARGIN + tallest * (_HEIGHT + _GAP_Y) - _GAP_Y
    # Lines that pass over a column would run behind its boxes: each gets a lane below all of them.
    distant = [(value, parent) for value in order for parent in value.parents if column[value] - column[parent] > 1]
    lanes = {pair: bottom + _LANE * (place + 1) for place, pair in enumerate(dict.fromkeys(distant))}
    height = bottom + _LANE * len(lanes) + _MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>computation graph of {len(order)} numbers</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for value in order:
        x, y = place[value]
        for parent in value.parents:
            from_x, from_y = place[parent][0] + _WIDTH, place[parent][1] + _HEIGHT / 2
            to_y, bend = y + _HEIGHT / 2, (x - from_x) / 2
            if (value, parent) in lanes:
                lane, half = lanes[value, parent], _GAP_X / 2
                line = (
                    f"C{from_x + half:.1f} {from_y:.1f} {from_x:.1f} {lane:.1f} {from_x + half:.1f} {lane:.1f} "
                    f"L{x - half:.1f} {lane:.1f} C{x:.1f} {lane:.1f} {x - half:.1f} {to_y:.1f} {x:.1f} {to_y:.1f}"
                )
            else:
                line = f"C{from_x + bend:.1f} {from_y:.1f} {x - bend:.1f} {to_y:.1f} {x:.1f} {to_y:.1f}"
            lines.append(f'<path d="M{from_x:.1f} {from_y:.1f} {line}" fill="none" stroke="#888"/>')
    for value in order:
        x, y = place[value]
        fill = "#eef4ff" if value.parents else "#fff6e5"
        head = " ".join(part for part in (value.label, f"[{value.operation}]" if value.operation else "") if part)
        lines += [
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{fill}" stroke="#555"/>',
            f'<text x="{x + 8:.1f}" y="{y + 18:.1f}">{escape(head)} {value.data:.4g}</text>',
            f'<text x="{x + 8:.1f}" y="{y + 35:.1f}" fill="#b00">grad {value.grad:.4g}</text>',
        ]
    return "\n".join([*lines, "</svg>"])
