"""A plot of a series in characters: bars of eighths, the limit as a line through them."""

from collections.abc import Sequence

from rich.cells import cell_len

from labs.demo.measure import Series
from labs.demo.quantity import label, seconds, told
from labs.texts import say

EIGHTHS = " ▁▂▃▄▅▆▇█"
DASH = "╌"
LEAST_ROWS, MOST_ROWS = 4, 9
"""Rows of a plot, but for its last line, the time."""
FAR = 4.0
"""How much larger one series may be than another, to be drawn on the same scale."""
ROOM = 1.2
"""How much of an axis there is above what must be on it."""


def scales(series: Sequence[Series]) -> list[float]:
    """Return the value at the top of each series' axis: one for all, where that shows them all."""
    tops = [max(each.most, each.limit or 0.0) * ROOM or 1.0 for each in series]
    alike = max(tops) <= FAR * min(tops)
    # What is drawn alone has the scale that it needs; what is compared has one.
    return [max(tops)] * len(tops) if alike else tops


def draw(series: Series, top: float, span: float, width: int, rows: int) -> list[str]:
    """Return the lines of a plot: `rows` rows of bars up to `top`, and the time up to `span`."""
    rows = max(min(rows - 1, MOST_ROWS), LEAST_ROWS)
    limit_row = -1
    if series.limit is not None:
        # The row in whose middle the line is.
        limit_row = rows - 1 - min(int(series.limit / top * rows), rows - 1)
    labels = {0: label(series.name, top), rows - 1: "0"}
    if series.limit is not None:
        if abs(limit_row) <= 1 and limit_row != rows - 1:
            labels.pop(0)
        labels[limit_row] = label(series.name, series.limit)
    margin = max(map(cell_len, labels.values())) + 1
    columns = max(width - margin - 1, 8)
    heights = _heights(series, top, span, columns, rows)
    lines = []
    for row in range(rows):
        floor = (rows - 1 - row) * 8
        cells = [EIGHTHS[min(max(height - floor, 0), 8)] for height in heights]
        if row == limit_row:
            cells = [DASH if cell == " " else cell for cell in cells]
        axis = "┤" if row in labels else "│"
        lines.append(f"{labels.get(row, ''):>{margin}}{axis}{''.join(cells)}")
    end = seconds(span)
    lines.append(f"{'':>{margin}}└0{'─' * (columns - 2 - len(end))} {end}")
    return lines


def _heights(series: Series, top: float, span: float, columns: int, rows: int) -> list[int]:
    """Return the height of each column, in eighths of a row: the largest value in its time."""
    heights = [0] * columns
    last = max((at for at, _ in series.points), default=0.0)
    for column in range(columns):
        begin, end = column * span / columns, (column + 1) * span / columns
        inside = [value for at, value in series.points if begin <= at < end]
        if not inside and begin <= last:
            # Between two readings the one before still holds.
            inside = [value for at, value in series.points if at < end][-1:]
        if inside:
            heights[column] = round(max(inside) / top * rows * 8)
    return heights


def words(series: Series, average: float | None) -> str:
    """Return what a plot shows, in words: for a pipe, and whoever reads by ear."""
    limit = say("demo.plot_no_limit")
    if series.limit is not None:
        limit = say("demo.plot_limit", limit=told(series.name, series.limit))
    most = told(series.name, series.most)
    name = say(f"demo.series_{series.name}")
    if average is None:
        return say("demo.plot_words", series=name, most=most, limit=limit)
    mean = told(series.name, average)
    return say("demo.plot_words_rate", series=name, average=mean, limit=limit)
