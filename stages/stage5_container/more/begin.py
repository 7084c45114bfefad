"""A monitor of its own for a container, and the caller's part in it."""

from __future__ import annotations

import os

from stages import linux
from stages.command_line import FAILED, failed, note
from stages.stage4_overlayfs.more.interrupts import Stopped
from stages.stage5_container.background import Background
from stages.stage5_container.door import PACKET, new_pair
from stages.stage5_container.more.attach import own
from stages.stage5_container.runtime import live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import NoReturn

    from stages.stage5_container.options import Contained


def begin(container: Contained, called: str = "") -> int:
    """Have a process of its own look after a container; return when it runs, or has ended."""
    ours, theirs = new_pair()
    child = linux.fork()
    if child == 0:
        ours.close()
        look_after(container, theirs)
    theirs.close()
    if container.detach:
        return until_begun(ours, child, called)
    return own(ours, child, tty=container.tty, interactive=container.interactive)


def look_after(container: Contained, caller: socket) -> NoReturn:
    """Be the monitor; whatever happens, this process must never go on as its caller."""
    status = FAILED
    try:
        status = live(container, Background(container, caller))
    except OSError as error:
        failed(error, container)
    except ValueError as error:
        note(str(error))
    except Stopped as stopped:
        stopped.end()
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        os._exit(status)


def until_begun(ours: socket, child: int, called: str) -> int:
    """Wait until the command runs; say its ID, and return 0; or how its monitor has failed."""
    if (message := ours.recv(PACKET))[:1] == b"r":
        os.write(1, (os.fsencode(called) or message[1:]) + b"\n")
        return 0
    ended = linux.waitid(child, linux.WEXITED)
    assert ended
    return ended.si_status + (0 if ended.si_code == os.CLD_EXITED else 128)
