"""`labrun vm`: the student's machine, where the student's own machine is no Linux that fits.

`provision.sh` says what is on it, `image.py` makes its disk of the distribution's packages, and
`machine.py` has QEMU run it.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from labs import paths, privilege
from labs.demo.stop import told
from labs.errors import CANNOT, USAGE, Refused
from labs.rootfs import progress
from labs.texts import say
from labs.vm import image
from labs.vm.machine import Machine


def command(action: str, words: Sequence[str], *, which: str | None) -> int:
    """Do what is asked for; return the exit status, of `run` that of the command in the machine.

    Raises Refused.
    """
    if words and action != "run":
        raise Refused(f"vm {action}", say("vm.no_words"), status=USAGE)
    if action == "run" and not words:
        raise Refused(
            "vm run", say("vm.no_command"), "labrun vm run -- labrun doctor", status=USAGE
        )
    if which and action not in ("up", "reset"):
        raise Refused("--kernel", say("vm.kernel_when"), status=USAGE)
    if missing := [package.name for package in image.wanted() if package.missing()]:
        what = say("vm.missing", names=" ".join(missing))
        raise Refused("vm", what, f"apt-get install {' '.join(missing)}", status=CANNOT)
    if action == "image":
        privilege.become_root(sys.argv[1:])
        with told("vm", say("vm.stopped")):
            print(image.make())
        return 0
    machine = Machine(home())
    if action in ("run", "ssh"):
        if not machine.running():
            raise Refused(f"vm {action}", say("vm.not_running"), "labrun vm up", status=CANNOT)
        terminal = sys.stdin.isatty() and sys.stdout.isatty()
        return machine.run(words, terminal=terminal)
    from labs import tools

    tools.install("vm")
    with told("vm", say("vm.stopped")), machine.alone():
        return {"up": _up, "reset": _reset, "down": _down}[action](machine, which)


def home() -> Path:
    """Return the folder of the student's machine."""
    return Path(os.environ.get("LABRUN_VM") or paths.cache() / "vm" / "machine").absolute()


def _up(machine: Machine, which: str | None) -> int:
    state = machine.state()
    if state and which and state.kernel != which:
        raise Refused("--kernel", say("vm.other_kernel", kernel=state.kernel), "labrun vm reset")
    if machine.running():
        machine.copy_checkout()
        progress.line(say("vm.up_already"))
        return 0
    if state and machine.has_disk():
        progress.line(say("vm.starting"))
        machine.start()
        machine.copy_checkout()
        if state.image != image.current().name:
            progress.line(say("vm.older"))
    else:
        _afresh(machine, which or "current")
    progress.line(say("vm.up"))
    return 0


def _reset(machine: Machine, which: str | None) -> int:
    """Go back to the first moment: at once where it was saved and fits, else by a new start."""
    state = machine.state()
    fits = (
        state
        and state.image == image.current().name
        and which in (None, state.kernel)
        and machine.saved_by_this_qemu()
    )
    if not fits:
        machine.unplug()
        _afresh(machine, which or (state.kernel if state else "current"))
    elif machine.running():
        machine.reset()
        machine.copy_checkout()
    else:
        machine.start(ready=True)
        machine.copy_checkout()
    progress.line(say("vm.up"))
    return 0


def _down(machine: Machine, which: str | None) -> int:
    if not machine.running():
        progress.line(say("vm.down_already"))
        return 0
    progress.line(say("vm.stopping"))
    machine.stop()
    progress.line(say("vm.down"))
    return 0


def _afresh(machine: Machine, which: str) -> None:
    """Start a machine that nobody has used yet, and save that moment."""
    machine.take(made(), which)
    progress.line(say("vm.starting"))
    machine.start()
    machine.copy_checkout()
    machine.save()


def made() -> Path:
    """Return the image; where it isn't there, have it made as root."""
    place = image.current()
    if place.exists():
        return place
    if os.geteuid() == 0:
        return image.make()
    words = ["vm", "image"]
    if not privilege.can_sudo():
        raise Refused("vm", say("vm.image_by_root"), "sudo labrun vm image", status=CANNOT)
    done = subprocess.run(privilege.sudo_command(words), stdout=subprocess.DEVNULL, check=False)
    if done.returncode != 0 or not place.exists():
        raise Refused("vm", say("vm.no_image"), "sudo labrun vm image", status=CANNOT)
    return place
