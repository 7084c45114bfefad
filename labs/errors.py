"""How labrun says no: one line with the cause and the remedy, and a documented exit status."""

FAILED = 1
USAGE = 2
CANNOT = 3
"""The machine, not the student, is why something could not be done (CONTRACT: never a pass)."""
SIGNALLED = 128
"""An exit status from here on is 128 and a signal's number."""


class Refused(Exception):
    """Something that labrun will not or cannot do.

    `what` failed, `why`, and the `remedy` that the reader can type; `status` is the exit status.
    """

    def __init__(self, what: str, why: str, remedy: str = "", *, status: int = FAILED) -> None:
        super().__init__(what, why, remedy)
        self.what, self.why, self.remedy, self.status = what, why, remedy, status

    def __str__(self) -> str:
        return ": ".join(part for part in (self.what, self.why, self.remedy) if part)
