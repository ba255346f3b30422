# ruff: noqa: INP001, ERA001 - a table of boxes reads best a line each
"""Draws docs/architecture.svg from the lists below: `python docs/picture.py`."""

from __future__ import annotations

from html import escape
from pathlib import Path

BOXES = {
    # name: (x, y, width, height, title, lines, colour)
    "client": (
        20,
        40,
        190,
        150,
        "Python client",
        ["batches, numbers, retries", "one I/O thread", "sync and asyncio"],
        "#e8f1fb",
    ),
    "raw": (20, 210, 190, 70, "any language", ["DEALER and msgpack"], "#e8f1fb"),
    "router": (
        310,
        40,
        150,
        240,
        "ROUTER",
        ["sockets drained", "in bursts", "", "byte credit", "per session"],
        "#f3f3f3",
    ),
    "core": (
        490,
        40,
        190,
        240,
        "core (pure)",
        [
            "sessions",
            "produce, fetch",
            "offsets, topics",
            "high watermark",
            "",
            "events in,",
            "effects out",
        ],
        "#fdf3dc",
    ),
    "log": (
        710,
        40,
        200,
        110,
        "log",
        ["whole batches, segments", "one pwritev per burst", "group-committed fsync"],
        "#e6f4e6",
    ),
    "meta": (
        710,
        170,
        200,
        110,
        "metadata",
        ["topics, leaders, ids", "SQLite"],
        "#e6f4e6",
    ),
}
ARROWS = [
    ("client", "router", 90, "PRODUCE FETCH"),
    ("raw", "router", 245, "the same"),
    ("router", "core", 150, ""),
    ("core", "log", 95, ""),
    ("core", "meta", 225, ""),
]


def draw() -> str:
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 930 310" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="#555"/>'
        "</marker></defs>",
        '<rect x="0" y="0" width="930" height="310" rx="10" fill="#ffffff"/>',
        '<rect x="290" y="14" width="630" height="284" rx="10" fill="none" stroke="#999" '
        'stroke-dasharray="6 4"/>',
        '<text x="300" y="32" fill="#666">broker: one process, one event loop</text>',
    ]
    for x, y, width, height, title, lines, colour in BOXES.values():
        parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="{colour}" '
            'stroke="#555"/>'
        )
        parts.append(
            f'<text x="{x + 12}" y="{y + 24}" font-weight="600" fill="#222">{escape(title)}</text>'
        )
        for number, line in enumerate(lines):
            parts.append(
                f'<text x="{x + 12}" y="{y + 48 + 20 * number}" fill="#333">{escape(line)}</text>'
            )
    for source, target, y, label in ARROWS:
        start = BOXES[source][0] + BOXES[source][2]
        end = BOXES[target][0]
        parts.append(
            f'<line x1="{start + 2}" y1="{y}" x2="{end - 3}" y2="{y}" stroke="#555" '
            'stroke-width="1.5" marker-end="url(#a)" marker-start="url(#a)"/>'
        )
        if label:
            parts.append(
                f'<text x="{(start + end) / 2}" y="{y - 8}" text-anchor="middle" font-size="10.5" '
                f'fill="#555">{escape(label)}</text>'
            )
    parts.append("</svg>\n")
    return "\n".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("architecture.svg").write_text(draw())
