"""Bar charts as SVG, nothing else: horizontal bars, a value at the end of each."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

_ATTRIBUTES = 'xmlns="http://www.w3.org/2000/svg" font-family="system-ui, sans-serif" font-size="13"'
_WIDTH, _LABELS, _VALUES, _ROW, _TOP = 760, 210, 110, 24, 44


class Bar(NamedTuple):
    """One bar: what it stands for, how long it is, what is written at its end, whether it is ours."""

    label: str
    value: float
    text: str
    ours: bool = False


def bars(title: str, rows: Sequence[Bar]) -> str:
    """A chart of these bars, the longest as wide as there is room."""
    longest = max(row.value for row in rows)
    room = _WIDTH - _LABELS - _VALUES
    height = _TOP + _ROW * len(rows) + 12
    drawn = [
        _bar(_TOP + _ROW * position, row, max(1.0, room * row.value / longest))
        for position, row in enumerate(rows)
    ]
    return "\n".join(
        [
            f'<svg {_ATTRIBUTES} width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}">',
            f"<title>{escape(title)}</title>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            f'<text x="16" y="26" font-size="15" font-weight="600" fill="#1f2328">{escape(title)}</text>',
            *drawn,
            "</svg>\n",
        ]
    )


def _bar(top: int, row: Bar, width: float) -> str:
    fill, weight = ("#0969da", 600) if row.ours else ("#afb8c1", 400)
    middle = top + 15
    return (
        f'<text x="{_LABELS - 8}" y="{middle}" text-anchor="end" font-weight="{weight}" fill="#1f2328">'
        f"{escape(row.label)}</text>"
        f'<rect x="{_LABELS}" y="{top + 3}" width="{width:.1f}" height="{_ROW - 7}" rx="2" fill="{fill}"/>'
        f'<text x="{_LABELS + width + 6:.1f}" y="{middle}" fill="#59636e">{escape(row.text)}</text>'
    )
