"""Who labrun works as: root where the kernel asks for it, the checkout's owner everywhere else.

And the student: whoever typed the command, also behind sudo.
"""

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from labs.errors import CANNOT, Refused
from labs.paths import CHECKOUT

KEPT = (
    *("LABRUN_PYTHON", "LABRUN_CACHE", "LABRUN_STORE", "LABRUN_TRACE", "XDG_STATE_HOME"),
    *("NO_COLOR", "FORCE_COLOR", "CI"),
)
"""What sudo would drop, and labrun needs. LABRUN_VENV is always said."""


class As(TypedDict, total=False):
    """Arguments of `subprocess.run` that decide as whom it runs."""

    user: int
    group: int
    extra_groups: list[int]
    env: dict[str, str]


@dataclass(frozen=True)
class Student:
    """Whoever typed the command; `home` is None where nobody knows it."""

    uid: int
    gid: int
    home: Path | None


def student() -> Student:
    """Return who typed the command: under sudo that isn't root. See ENVIRONMENT in sudo(8)."""
    if os.geteuid() != 0:
        return Student(os.geteuid(), os.getegid(), _home())
    typed_sudo = os.environ.get("SUDO_UID", "")
    if not typed_sudo.isascii() or not typed_sudo.isdigit() or int(typed_sudo) == 0:
        return Student(0, 0, _home())
    try:
        user = pwd.getpwuid(int(typed_sudo))
    except (KeyError, OverflowError):
        # Nobody of that number here: what is left behind is root's own.
        return Student(0, 0, None)
    return Student(user.pw_uid, user.pw_gid, Path(user.pw_dir))


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:  # neither HOME nor an entry in the password file
        return None


def environment() -> Path:
    """Return the virtual environment that this labrun runs in."""
    return Path(sys.executable).parent.parent


def owns_checkout() -> bool:
    """Tell whether files made in the checkout now would be its owner's."""
    return os.geteuid() == CHECKOUT.stat().st_uid


def as_owner() -> As:
    """Return how to run a command as the owner of the checkout, wherever that can be done.

    Root becomes the owner, with the owner's home and groups; an ordinary user stays who it is.
    """
    env = dict(os.environ)
    if os.geteuid() != 0 or owns_checkout():
        return {"env": env}
    status = CHECKOUT.stat()
    try:
        user = pwd.getpwuid(status.st_uid)
    except KeyError:
        name, home, groups = "", "/nonexistent", []
    else:
        name, home = user.pw_name, user.pw_dir
        groups = os.getgrouplist(name, status.st_gid)
    for root_s in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        env.pop(root_s, None)
    env |= {"HOME": home, "USER": name, "LOGNAME": name}
    return {"user": status.st_uid, "group": status.st_gid, "extra_groups": groups, "env": env}


def can_sudo() -> bool:
    """Tell whether sudo is here and would either not ask for a password or have whom to ask."""
    if not shutil.which("sudo"):
        return False
    if sys.stdin is not None and sys.stdin.isatty():
        return True
    return subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0


def sudo_command(argv: list[str]) -> list[str]:
    """Return the command line that starts labrun again with `argv`, as root, by sudo.

    sudo drops the environment, so what labrun needs of it is said on the command line.
    """
    kept = [f"{name}={os.environ[name]}" for name in KEPT if name in os.environ]
    venv = f"LABRUN_VENV={environment()}"
    return ["sudo", "--", "env", venv, *kept, str(CHECKOUT / "labrun"), *argv]


def become_root(argv: list[str]) -> None:
    """Go on as root: start labrun again with `argv` by sudo, unless it is root already.

    Raises Refused where sudo is missing, or would ask for a password and nobody is there.
    """
    if os.geteuid() == 0:
        return
    words = " ".join(["labrun", *argv])
    if not shutil.which("sudo"):
        raise Refused(
            words, "this needs root, and sudo is not installed", "run it as root", status=CANNOT
        )
    if not can_sudo():
        raise Refused(
            words,
            "this needs root, and sudo would ask for a password that nobody is there to type",
            f"sudo ./{words}",
            status=CANNOT,
        )
    command = sudo_command(argv)
    sys.stdout.flush()
    os.execvp(command[0], command)
