"""`labrun test`: the linters and the tests, in one command; with --all, every room of them.

One room runs beside all others, for it takes as long as they do together, and most of that on one
processor: the virtual machine.
"""

import contextlib
import functools
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from checks import kernel
from labs import packages, tools
from labs.errors import CANNOT, FAILED, USAGE, Refused
from labs.paths import CHECKOUT, cache, copy_checkout
from labs.privilege import as_owner, environment, owns_checkout
from labs.vm import image

PYTHONS = ("3.11", "3.12", "3.13")
"""The versions that the tests must pass on: those of pyproject.toml's `requires-python` on."""

LINTERS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check"),
    ("ruff", "format", "--check"),
    ("mypy", "--strict"),
    ("lint-imports",),
    ("shellcheck", "labrun", ".ci/run", "labs/vm/provision.sh", "labs/vm/customize.sh"),
)
"""What must have nothing to say; programs of the environment, started in the checkout."""

WORKERS = (os.cpu_count() or 1) + 1
"""One more than there are processors: a third of its time a test waits for what it has started."""
PARALLEL = ("-n", str(WORKERS), "--dist", "loadgroup")
"""Tests that can't run beside each other share a mark: `@pytest.mark.xdist_group("machine")`."""

CORE = ("-m", "not peers and not browser and not vm", *PARALLEL)
AGAIN = ("-m", "not peers and not browser and not vm and not once", *PARALLEL)
"""The core on a further Python: without what judges the kernel, which stays the same, for long."""

MANY = 12
"""More failed tests than this are no accident of a busy machine: they aren't tried again."""


def elements(report: Path, tag: str) -> list[ElementTree.Element]:
    """Return those of a JUnit report's elements; none where no report was written."""
    try:
        return list(ElementTree.parse(report).getroot().iter(tag))
    except (OSError, ElementTree.ParseError):
        return []


@dataclass
class Count:
    """How many tests passed, failed and were skipped."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, report: Path) -> None:
        """Add what a JUnit report says; a run that wrote none executed nothing."""
        for suite in elements(report, "testsuite"):
            total, bad, skipped = (
                sum(int(suite.get(key, 0)) for key in keys)
                for keys in (("tests",), ("failures", "errors"), ("skipped",))
            )
            self.passed += total - bad - skipped
            self.failed += bad
            self.skipped += skipped

    def replace(self, report: Path, second: Path) -> None:
        """Let what failed in a report that was added be what a second report says of it."""
        first = Count()
        first.add(report)
        self.failed -= first.failed
        self.add(second)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass
class Run:
    """One `labrun test`: what was done so far, and with what result."""

    folder: Path
    count: Count = field(default_factory=Count)
    failed: list[str] = field(default_factory=list)
    cannot: list[str] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    """The tests that passed by themselves only."""
    beside: list["Beside"] = field(default_factory=list)

    def report(self) -> Path:
        """Return a new name for a report."""
        return self.folder / f"{time.monotonic_ns()}.xml"

    def status(self) -> int:
        """Return the exit status: what could not be tried is never a pass."""
        return FAILED if self.failed else CANNOT if self.cannot else 0


@dataclass(frozen=True)
class Room:
    """A part of `labrun test --all`: what it is, what it installs, and what it runs."""

    title: str
    wants: Callable[[], list[packages.Package]]
    run: Callable[[Run], None]


def say(text: str) -> None:
    """Print a line of our own, before whatever a child prints next."""
    print(text, flush=True)


# ---- linters ------------------------------------------------------------------------------------


def lint(run: Run) -> None:
    """Run the linters as the checkout's owner, whose caches they write; show what they say."""
    owner = as_owner()
    binaries = environment() / "bin"
    path = f"{binaries}{os.pathsep}{owner['env'].get('PATH', os.defpath)}"
    owner["env"] = owner["env"] | {"PATH": path, "NO_COLOR": "1"}
    for program, *arguments in LINTERS:
        name = " ".join([program, *arguments])
        print(f"  {name} … ", end="", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [binaries / program, *arguments],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            **owner,
        )
        word = "ok" if done.returncode == 0 else "failed"
        say(f"{word} ({time.monotonic() - began:.1f} s)")
        if done.returncode != 0:
            say(done.stdout.rstrip())
            run.failed.append(name)


# ---- tests --------------------------------------------------------------------------------------


def call(command: Sequence[str | Path], **options: Any) -> int:
    """Run a command to its end and return its exit status.

    Ctrl-C reaches it too (one process group): it gets the time to undo what it did.
    """
    with subprocess.Popen(command, **options) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise


def pytest_call(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what to call for pytest in this environment, as who we are.

    Root in somebody's checkout leaves nothing of its own there: no cache, no bytecode.
    """
    words = [str(environment() / "bin" / "python"), "-m", "pytest"]
    env = dict(os.environ)
    if not owns_checkout():
        words += ["-p", "no:cacheprovider"]
        env["PYTHONDONTWRITEBYTECODE"] = "1"
    return {"args": [*words, *arguments], "cwd": CHECKOUT, "env": env}


def run_pytest(arguments: Sequence[str]) -> int:
    """Run pytest and return its exit status."""
    asked = pytest_call(arguments)
    return call(asked.pop("args"), **asked)


def pytest(run: Run, title: str, arguments: Sequence[str]) -> None:
    """Run pytest, and count from its report."""
    report = run.report()
    status = run_pytest([*arguments, f"--junitxml={report}"])
    settle(run, title, status, report, lambda more: run_pytest([*arguments, *more]))


def tests(report: Path, *tags: str) -> set[str]:
    """Return the node ids of the tests that a JUnit report has with one of `tags`; "" for no test.

    Without tags, of those that passed.
    """
    names = set()
    for case in elements(report, "testcase"):
        told = {child.tag for child in case} & {"failure", "error", "skipped"}
        if told.isdisjoint(tags) if tags else told:
            continue
        parts = case.get("classname", "").split(".")
        files = (Path(f"{'/'.join(parts[:end])}.py") for end in range(len(parts), 0, -1))
        file = next((path for path in files if (CHECKOUT / path).is_file()), None)
        # pytest-xdist appends `@GROUP` to what isn't to run beside others.
        name, at, group = case.get("name", "").rpartition("@")
        name = name if at and "]" not in group else name + at + group
        names.add("::".join([str(file), *parts[len(file.parts) :], name]) if file else "")
    return names


def settle(
    run: Run, title: str, status: int, report: Path, again: Callable[[list[str]], int]
) -> None:
    """Count what pytest reported; what failed beside other tests is run once more, by itself.

    A test that starved on a busy machine, or that met what another test did, passes then, and the
    summary names it. What fails again has failed. `again` runs pytest with further arguments.
    """
    run.count.add(report)
    names = sorted(tests(report, "failure", "error"))
    if status == FAILED and 0 < len(names) <= MANY and "" not in names:
        say(f"labrun: {title}: what failed is run once more, by itself")
        second = report.with_name(f"again-{report.name}")
        status = again(["-n", "0", *names, f"--junitxml={second}"])
        run.count.replace(report, second)
        passed = tests(second) - tests(second, "failure", "error")
        run.alone += [f"{title}: {name}" for name in names if name in passed]
        # What was skipped then has not passed.
        status = status or FAILED * (not passed.issuperset(names))
    if status != 0:
        run.failed.append(title)


class Beside:
    """A pytest that runs beside what we do meanwhile: what it says is shown in the end."""

    def __init__(self, run: Run, title: str, arguments: Sequence[str]) -> None:
        """Start it. From now on it ends with us, however we end."""
        self.title, self.arguments, self.report = title, arguments, run.report()
        self.said = self.report.with_suffix(".txt")
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                **pytest_call([*arguments, f"--junitxml={self.report}"]),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                # In a session of its own it hears no Ctrl-C but ours: a second one would cut
                # short what it does after the first.
                start_new_session=True,
                preexec_fn=lambda: kernel.die_with_parent(signal.SIGINT),
            )
        run.beside.append(self)

    def finish(self, run: Run) -> None:
        """Show what it said, and what it still says until it ends; count from its report."""
        say(f"labrun: {self.title}")
        with self.said.open("rb") as said:
            ended = False
            while not ended:
                # Asked first: what is said before the end is read after it.
                ended = self.process.poll() is not None
                shutil.copyfileobj(said, sys.stdout.buffer)
                sys.stdout.flush()
                if not ended:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.process.wait(timeout=1)
        settle(
            run,
            self.title,
            self.process.returncode,
            self.report,
            lambda more: run_pytest([*self.arguments, *more]),
        )

    def stop(self) -> None:
        """Interrupt it as Ctrl-C would, with all that it started, and wait for its end."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait()


@contextlib.contextmanager
def finishing(run: Run) -> Iterator[None]:
    """Wait for what runs beside the block; where the block ends by Ctrl-C, so does that."""
    try:
        yield
        for beside in run.beside:
            beside.finish(run)
    finally:
        # A second Ctrl-C must not cut this short.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for beside in run.beside:
            beside.stop()
        signal.signal(signal.SIGINT, before)


def core(run: Run) -> None:
    """Run the linters, and the tests that need nothing but what a student has."""
    say("labrun: linters")
    lint(run)
    say(f"labrun: tests, Python {sys.version_info.major}.{sys.version_info.minor}")
    pytest(run, "tests", CORE)


def peers(run: Run) -> None:
    """Run the tests that need the real runtimes, one after the other: they share the machine."""
    say("labrun: tests with peers")
    pytest(run, "tests with peers", ["-m", "peers", "-n", "0"])


def site(run: Run) -> None:
    """Build the site with both of its tools, and look at every page in a real browser."""
    say("labrun: the site, in a browser")
    tools.install("docs")
    tools.install("browser")
    pytest(run, "the site", ["-m", "browser", *PARALLEL])


def machine(run: Run) -> None:
    """Boot the student's machine, and do in it what students do; and read what describes it."""
    say("labrun: the virtual machine, beside all that follows")
    # Those of the site, too: what a running test imports from must not change.
    for group in ("vm", "docs", "browser"):
        tools.install(group)
    Beside(run, "the virtual machine", ["-m", "vm", "-n", "0"])


def machine_packages() -> list[packages.Package]:
    """Return what makes and runs the machine, and what reads the other descriptions of it."""
    return [
        *image.wanted(),
        packages.Package("vagrant", "vagrant", "that the Vagrantfile is valid"),
    ]


# ---- other Pythons ------------------------------------------------------------------------------


def other_pythons() -> list[str]:
    """Return the versions that must pass and are not the one that runs us."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [version for version in PYTHONS if version != ours]


def find_python(version: str) -> Path | None:
    """Return a real interpreter of that version: on PATH, or among pyenv's; never a shim."""
    name = f"python{version}"
    folders = [Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    owner = as_owner()["env"]
    homes = {owner.get("HOME"), os.environ.get("HOME")}
    roots = {os.environ.get("PYENV_ROOT"), *(f"{home}/.pyenv" for home in homes if home)}
    for root in sorted(root for root in roots if root):
        # 3.12.9 before 3.12.10: the newest last, so it is tried first.
        versions = Path(root).glob(f"versions/{version}.*/bin")
        folders += sorted(versions, key=lambda p: len(p.parent.name), reverse=True)
    ask = "import os, sys; print(os.path.realpath(sys.executable)); print(sys.version)"
    for candidate in (folder / name for folder in folders):
        try:
            if not os.access(candidate, os.X_OK):
                continue
            # By the owner, who sets its environment up: root's folders may be closed to it.
            done = subprocess.run(
                [candidate, "-I", "-c", ask],
                capture_output=True,
                text=True,
                check=False,
                **as_owner(),
            )
        except OSError:
            continue
        lines = done.stdout.splitlines()
        if done.returncode == 0 and lines[1].startswith(f"{version}."):
            return Path(lines[0])
    return None


def python_packages() -> list[packages.Package]:
    """Return the packages of the Pythons that are missing here and that the distribution has."""
    return [
        packages.Package(f"python{version}{suffix}", f"python{version}", "the tests on that Python")
        for version in other_pythons()
        if find_python(version) is None and packages.available(f"python{version}-venv")
        for suffix in ("", "-venv")
    ]


def pythons(run: Run) -> None:
    """Run the core tests on each other Python, in an environment that the launcher makes.

    Those that are marked `once` have run on this Python.
    """
    for version in other_pythons():
        title = f"tests, Python {version}"
        python = find_python(version)
        if python is None:
            in_ci = os.environ.get("CI") == "true"
            (run.failed if in_ci else run.cannot).append(
                f"{title}: no python{version} here: install it (apt-get install "
                f"python{version}-venv, uv python install {version}, pyenv install {version})"
            )
            continue
        say(f"labrun: {title} (those marked `once` have been run, and are not run again)")
        report = run.report()
        env = os.environ | {
            "LABRUN_VENV": str(cache() / f"python{version}"),
            "LABRUN_PYTHON": str(python),
        }
        attempt = functools.partial(_further, env)
        settle(run, title, attempt([f"--junitxml={report}"]), report, attempt)


def _further(env: dict[str, str], more: list[str]) -> int:
    """Run the core on the Python that `env` names, with further arguments for pytest."""
    return call(
        [CHECKOUT / "labrun", "test", "--", *AGAIN, *more],
        cwd=CHECKOUT,
        env=env,
        stdin=subprocess.DEVNULL,
    )


# ---- an ordinary user ---------------------------------------------------------------------------

STRANGER = 65533
"""A user id that no distribution gives to anybody: below `nobody`, above what adduser hands out."""


def ordinary(run: Run) -> None:
    """Run the core as an ordinary user, from a clone of that user's: set-up, tests and all.

    What an ordinary user can't do is skipped there with its reason: it was done as root above.
    """
    title = "tests, as an ordinary user"
    if os.geteuid() != 0:
        return
    say(f"labrun: {title}")
    with tempfile.TemporaryDirectory(prefix="labrun-user-") as name:
        home = Path(name)
        copy_checkout(home / "labrun")
        for path in (home, *home.rglob("*")):
            os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
        report = home / "report.xml"
        env = {
            "HOME": str(home),
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "TMPDIR": str(home / "tmp"),
        }
        kept = ("CI", "NO_COLOR", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "PIP_FIND_LINKS", "TERM")
        env |= {key: os.environ[key] for key in kept if key in os.environ}
        (home / "tmp").mkdir()
        os.chown(home / "tmp", STRANGER, STRANGER)

        def attempt(more: list[str]) -> int:
            return call(
                [home / "labrun" / "labrun", "test", "--", *CORE, *more],
                cwd=home / "labrun",
                env=env,
                user=STRANGER,
                group=STRANGER,
                extra_groups=[],
                stdin=subprocess.DEVNULL,
            )

        settle(run, title, attempt([f"--junitxml={report}"]), report, attempt)


# ---- the command --------------------------------------------------------------------------------

CORE_ROOM = Room("the linters and the core tests", lambda: packages.CORE, core)
ROOMS = (
    Room("the virtual machine, made and booted, beside all others", machine_packages, machine),
    CORE_ROOM,
    Room("the tests with peers", lambda: packages.PEERS, peers),
    Room("the site, built by both of its tools, in a browser", lambda: packages.BROWSER, site),
    Room(f"the core tests on Python {', '.join(PYTHONS)}", python_packages, pythons),
    Room("the core tests as an ordinary user", list, ordinary),
)
"""What --all does, in order."""


def prepare(*, yes: bool) -> None:
    """Name what --all will do and install; ask, unless told not to; install it."""
    say("labrun test --all runs")
    for room in ROOMS:
        say(f"  {room.title}")
    wanted = [package for room in ROOMS for package in room.wants() if package.missing()]
    names = list(dict.fromkeys(package.name for package in wanted))
    if not names:
        say("Nothing is to be installed.")
        return
    say("It installs, from your distribution, without starting any service:")
    for package in wanted:
        say(f"  {package.name:<16} {package.why}")
    if not yes and os.environ.get("CI") != "true":
        if not sys.stdin.isatty():
            raise Refused(
                "labrun test --all",
                "it would install packages, and nobody is there to be asked",
                "say --yes",
                status=USAGE,
            )
        if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
            raise Refused("labrun test --all", "you said no", "nothing was done")
    packages.install(names)


def summary(run: Run) -> None:
    """Say what failed and what could not be tried; the last line is one that CI can read."""
    for what in run.alone:
        say(f"labrun: passed by itself only: {what}")
    for what in run.failed:
        say(f"labrun: failed: {what}")
    for what in run.cannot:
        say(f"labrun: not run: {what}")
    say(str(run.count))


def command(args: list[str], *, everything: bool, yes: bool) -> int:
    """Run the project's own tests; with `args`, pytest alone, with those arguments.

    Returns 0 when everything passed, 1 when anything failed, 3 when something could not be tried.
    """
    os.umask(stat.S_IWGRP | stat.S_IWOTH)
    # A shell that starts us in the background has us ignore these, and with us all that the tests
    # start and then interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    if args and everything:
        raise Refused("labrun test", "--all takes no arguments for pytest", status=USAGE)
    if args:
        tools.install("dev")
        return run_pytest(args)
    if everything:
        prepare(yes=yes)
    tools.install("dev")
    with tempfile.TemporaryDirectory(prefix="labrun-test-") as folder:
        run = Run(Path(folder))
        with finishing(run):
            for room in ROOMS if everything else (CORE_ROOM,):
                room.run(run)
        summary(run)
    return run.status()
