"""Write the commands of the environment: `labrun`, and one for each stage.

What pip would write imports `site` and `re` first and takes three times as long as a stage itself.
A starter's interpreter runs isolated (`-I`) and without `site` (`-S`); `-Xutf8` has the arguments
decoded so that any bytes come back as they were, whatever the locale.

Called by the launcher: `python -m labs.starters`.
"""

import compileall
import os
import re
import stat
import sys
import sysconfig
from importlib import import_module
from pathlib import Path

from labs import bundle
from labs.paths import CHECKOUT

SHEBANG_LIMIT = 127
"""Bytes of a `#!` line that every kernel reads whole (Linux before 5.1 stops there: execve(2))."""

BUNDLE = "stages.bundle"
"""In the environment: the runtimes' modules in one file (labs/bundle.py)."""
LATER = (
    "stages.stage4_overlayfs.overlay",
    "stages.stage5_container.more.helper",
    "stages.stage5_container.more.hosts",
    "stages.stage5_container.more.switchboard",
)
"""What a plain start loads beside what its command imports."""
LIBRARY = ("__future__", "ctypes", "ctypes._endian", "struct", "types")
"""What it loads of the standard library, and Python has not in itself."""

STAGE = """\
{shebang}
import gc
import sys
import _signal
import posix

sys.path[:] = [{checkout!r}, *sys.path, {packages!r}]
# Root must not leave files of its own in somebody's checkout.
sys.dont_write_bytecode = posix.geteuid() != posix.stat({checkout!r}).st_uid
# Until the program has a handler of its own, Ctrl-C ends it as it ends any program.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

# Nothing that is loaded becomes garbage, and to look for it takes a tenth of a start.
gc.disable()
from labs import bundle

bundle.use({bundle!r})
from {module} import main

gc.freeze()
gc.enable()
sys.exit(main())
"""

LABRUN = """\
{shebang}
import sys
import posix

sys.path[:] = [{checkout!r}, *sys.path, {packages!r}]
# Root must not leave files of its own in somebody's checkout.
sys.dont_write_bytecode = posix.geteuid() != posix.stat({checkout!r}).st_uid
try:
    from {module} import main

    main()
except KeyboardInterrupt:
    sys.exit(130)
"""


def commands(checkout: Path) -> dict[str, str]:
    """Return the commands that the checkout has, each with the module whose `main` it calls."""
    found = {"labrun": "labs.cli"}
    for cli in sorted(checkout.glob("stages/stage*/cli.py")):
        if name := re.match(r"stage\d+", cli.parent.name):
            found[name[0]] = f"stages.{cli.parent.name}.cli"
    return found


def shebang(python: Path) -> str:
    """Return the first line or lines of a script that starts `python -ISXutf8` on itself.

    A path that no `#!` line can hold (a space in it, or too long) is started by `sh`: for Python,
    what the shell reads is a string.
    """
    line = f"#!{python} -ISXutf8"
    if (
        " " not in str(python)
        and "\t" not in str(python)
        and len(os.fsencode(line)) < SHEBANG_LIMIT
    ):
        return line
    return f"#!/bin/sh\n'''exec' \"{python}\" -ISXutf8 \"$0\" \"$@\"\n' '''"


def write(environment: Path, checkout: Path = CHECKOUT) -> list[Path]:
    """Write the starters into the environment's `bin` and return them; old stages' ones go."""
    binaries = environment / "bin"
    found = commands(checkout)
    for old in binaries.glob("stage[0-9]*"):
        if old.name not in found:
            old.unlink()
    packages = sysconfig.get_path("purelib", vars={"base": str(environment)})
    written = []
    for name, module in found.items():
        starter, new = binaries / name, binaries / f".{name}.new"
        template = LABRUN if name == "labrun" else STAGE
        new.write_text(
            template.format(
                shebang=shebang(binaries / "python"),
                checkout=str(checkout),
                packages=packages,
                module=module,
                bundle=str(environment / BUNDLE),
            ),
            encoding="utf-8",
            errors="surrogateescape",
        )
        new.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        new.replace(starter)
        written.append(starter)
    return written


def main() -> None:
    """Write the starters of this interpreter's environment, and compile what they import."""
    write(Path(sys.prefix))
    for package in ("stages", "checks", "labs"):
        # A checkout that can't be written to works too, a little slower.
        if os.access(CHECKOUT / package, os.W_OK):
            compileall.compile_dir(CHECKOUT / package, quiet=2)
    for module in (*commands(CHECKOUT).values(), *LATER):
        if module.startswith("stages."):
            import_module(module)
    ours = [name for name in sys.modules if name.partition(".")[0] == "stages"]
    theirs = [name for name in LIBRARY if getattr(sys.modules.get(name), "__file__", None)]
    bundle.write(Path(sys.prefix) / BUNDLE, [*theirs, *ours])


if __name__ == "__main__":
    main()
