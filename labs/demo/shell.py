"""A shell inside the container, with the terminal handed over to it."""

import os
import sys

from checks.runtimes import Request, Unsupported
from checks.trial import Trial
from labs.demo import foreground

PROMPT = "[inside] / # "


def run(trial: Trial) -> str:
    """Run an interactive shell to its end; return what kept it from starting, or "".

    When it has ended, the terminal's signals are ours again.
    """
    request = Request(["/bin/sh"], environment={"PS1": PROMPT})
    try:
        argv = trial.runtime.argv(request, trial.bench)
    except Unsupported as error:
        return str(error)
    words = [sys.executable, "-IS", foreground.__file__, *argv]
    process = trial.bench.popen(
        words, environment=trial.runtime.environment(request), stdin=0, stdout=1, stderr=2
    )
    try:
        process.wait()
    finally:
        process.kill()
        process.wait()
        foreground.take(os.getpgrp())
    return ""
