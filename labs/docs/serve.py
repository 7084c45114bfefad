"""Serve the site on this machine, and build it again when a page changes.

The server is MkDocs's own, which has the browser load a page again; it serves whatever folder it
is given, so one server shows both languages.
"""

import errno
import logging
import sys
import tempfile
from pathlib import Path

from labs.docs.build import CONFIGS, build
from labs.errors import FAILED, Refused
from labs.paths import CHECKOUT
from labs.texts import say

HOST = "127.0.0.1"
WATCHED = ("docs", *CONFIGS.values())


def serve(port: int) -> int:
    """Serve until Ctrl-C; return 0. Raises Refused where the port is taken, or nothing builds."""
    with tempfile.TemporaryDirectory(prefix="labrun-docs-") as folder:
        site = Path(folder)
        build(site)
        # Importable only now: build() has seen to it that Material keeps its peace.
        from mkdocs.livereload import LiveReloadServer

        def again() -> None:
            try:
                build(site)
            except Refused as no:
                # Whoever is writing mends it and saves again.
                print(f"labrun: {no}", file=sys.stderr)

        class Server(LiveReloadServer):  # type: ignore[misc]  # mkdocs may be missing, and is Any to mypy
            def server_activate(self) -> None:
                """Say where, once the port is known."""
                super().server_activate()
                print(say("docs.serving", url=f"http://{HOST}:{self.server_port}/"), flush=True)

        server = Server(again, HOST, port, str(site), mount_path="/")
        logging.getLogger("mkdocs").setLevel(logging.WARNING)
        for name in WATCHED:
            server.watch(str(CHECKOUT / name))
        try:
            server.serve()
        except KeyboardInterrupt:
            print()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = say("docs.port_taken") if taken else str(error.strerror)
            what = f"{HOST}:{port}"
            raise Refused(what, why, say("docs.other_port"), status=FAILED) from None
        finally:
            server.shutdown()
    return 0
