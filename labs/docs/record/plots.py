"""A plot as an inline SVG: it takes the page's colours, and its words can be read aloud."""

from collections.abc import Sequence
from html import escape

from labs.demo import plots
from labs.demo.measure import Measured
from labs.demo.played import Played, Side
from labs.demo.quantity import label, seconds

WIDTH, HEIGHT = 360, 150
LEFT, TOP, BOTTOM = 46, 10, 22
"""What surrounds the plot itself: the axis' labels, and the time's."""
MOST = 90
"""Points of a line, at most."""
CLOSE = 14
"""Pixels that two labels need between them."""


def drawn(done: Played, side: Side) -> str:
    """Return the plot of one side of a step, "" where nothing was plotted there."""
    if not side.measured:
        return ""
    loads = [each.measured for each in done.sides if each.measured]
    tops = plots.scales([load.series for load in loads])
    top = tops[loads.index(side.measured)]
    span = max(load.seconds for load in loads)
    return _svg(side.measured, top, span)


def _svg(measured: Measured, top: float, span: float) -> str:
    series = measured.series
    floor, right = HEIGHT - BOTTOM, WIDTH - 4

    def across(at: float) -> float:
        return LEFT + at / span * (right - LEFT)

    def up(value: float) -> float:
        return floor - value / top * (floor - TOP)

    points = _thinned(series.points)
    path = " ".join(f"{across(at):.0f},{up(value):.0f}" for at, value in points)
    ends = (points[0][0], points[-1][0]) if points else (0.0, 0.0)
    area = f"M{across(ends[0]):.0f},{floor} L{path} L{across(ends[1]):.0f},{floor} Z"
    about = escape(plots.words(series, measured.average), quote=True)
    lines = [
        f'<svg class="picture plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}">'
    ]
    if points:
        lines += [f'<path class="area" d="{area}"/>', f'<polyline class="line" points="{path}"/>']
    lines.append(f'<path class="axis" d="M{LEFT},{TOP} V{floor} H{right}"/>')
    labels = {floor: "0", up(top / plots.ROOM): label(series.name, top / plots.ROOM)}
    if series.limit is not None:
        at = up(series.limit)
        lines.append(f'<path class="limit" d="M{LEFT},{at:.0f} H{right}"/>')
        labels = {y: text for y, text in labels.items() if abs(y - at) >= CLOSE}
        labels[at] = label(series.name, series.limit)
    lines += [
        f'<text class="label end" x="{LEFT - 6}" y="{y + 4:.0f}">{text}</text>'
        for y, text in labels.items()
    ]
    lines.append(f'<text class="label start" x="{LEFT}" y="{HEIGHT - 6}">0</text>')
    lines.append(f'<text class="label end" x="{right}" y="{HEIGHT - 6}">{seconds(span)}</text>')
    return "\n".join([*lines, "</svg>"])


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most MOST points, of each few the highest: a peak is what a limit is about."""
    step = -(-len(points) // MOST)
    if step <= 1:
        return points
    return [max(points[n : n + step], key=lambda p: p[1]) for n in range(0, len(points), step)]
