"""`--security-opt`: what is asked for beside capabilities."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NOTHING = ("apparmor=unconfined", "label=disable")
"""What Docker has an option for, and this runtime does anyway: it sets no AppArmor profile and no
SELinux label."""
YES, NO = ("", "true"), ("false",)


class Security:
    """What the options say, each NAME=VALUE or, as older ones, NAME:VALUE.

    `no_new_privileges` is off without a word, as for Docker; `filtered` says whether there is a
    filter for system calls, and `profile` names a file for another than Docker's; `masked`,
    whether parts of /proc and /sys are hidden and read-only.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """Take the options' values; raise ValueError for what nobody knows."""
        self.no_new_privileges, self.filtered, self.masked, self.profile = False, True, True, ""
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals:
                name, _, value = text.partition(":")
            if name == "no-new-privileges" and value in (*YES, *NO):
                self.no_new_privileges = value in YES
            elif name == "seccomp" and value in ("unconfined", "builtin"):
                self.filtered, self.profile = value == "builtin", ""
            elif name == "seccomp" and value:
                self.filtered, self.profile = True, os.path.abspath(value)
            elif (name, value) == ("systempaths", "unconfined"):
                self.masked = False
            elif f"{name}={value}" not in NOTHING:
                raise ValueError(
                    f"--security-opt {text}: say no-new-privileges, seccomp=unconfined, "
                    "seccomp=FILE or systempaths=unconfined"
                )
