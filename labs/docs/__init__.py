"""`labrun docs`: the site, served, built, or its recordings made afresh.

`build.py` has the site built, `serve.py` shows it, and `record/` runs the real thing and writes
what the pages show of it.
"""

from pathlib import Path

from labs.errors import USAGE, Refused
from labs.texts import say


def command(*, build: Path | None, refresh: bool, port: int) -> int:
    """Serve the site on 127.0.0.1 until Ctrl-C; or write it to `build`; or refresh what it shows.

    Returns the exit status. Raises Refused.
    """
    if build and refresh:
        raise Refused("labrun docs", say("docs.one_of"), status=USAGE)
    if refresh:
        from labs.docs import record

        return record.command()
    from labs import tools

    tools.install("docs")
    if build:
        from labs.docs.build import publish

        publish(build)
        print(say("docs.built", page=build / "index.html"))
        return 0
    from labs.docs.serve import serve

    return serve(port)
