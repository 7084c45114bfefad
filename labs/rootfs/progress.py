"""Where we are: a line on stderr, or a bar where stderr is a terminal."""

import sys
from collections.abc import Generator, Iterable


def line(sentence: str) -> None:
    """Say one thing."""
    print(sentence, file=sys.stderr, flush=True)


def bar(sentence: str, pieces: Iterable[bytes], total: int | None) -> Generator[bytes, None, None]:
    """Hand `pieces` on and show how much has passed, of `total` bytes if that is known.

    Close it when you leave early, or the terminal keeps the bar.
    """
    if not sys.stderr.isatty():
        line(sentence)
        yield from pieces
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    # Refreshed here, not by rich's thread: a process that has threads must not fork.
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, auto_refresh=False
    ) as shown:
        task = shown.add_task(sentence, total=total)
        for piece in pieces:
            yield piece
            shown.update(task, advance=len(piece), refresh=True)
