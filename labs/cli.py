"""`labrun`: the command line. Each command lives in a room of its own, loaded when it is called.

What `--help` says of each command and option stands in labs/texts/cli.toml, in both languages.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn

import typer

from labs import stages, texts, usage
from labs.errors import FAILED, SIGNALLED, USAGE, Refused

app = usage.App(
    name="labrun",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Language = Annotated[Literal["en", "zh"] | None, typer.Option("--lang", metavar="en|zh")]
NoInput = Annotated[bool, typer.Option("--no-input")]
JsonFile = Annotated[str | None, typer.Option("--json", metavar="FILE")]
Root = Annotated[Path | None, typer.Option(metavar="DIR")]


@app.callback()
def home(context: typer.Context, no_input: NoInput = False, lang: Language = None) -> None:
    """Show the road map, and go on from there; further commands are below."""
    if context.invoked_subcommand:
        if no_input or lang:
            raise typer.BadParameter("name the command first, and its options after it")
        return
    from labs import home

    texts.speak(lang)
    group: Any = context.command
    sys.exit(home.command(group.list_commands(context), no_input=no_input))


def stage(number: int) -> None:
    """Add the command `stageN`, which plays that stage's demo."""

    @app.command(f"stage{number}")
    def play(
        steps: Annotated[list[str] | None, typer.Argument(metavar="STEP")] = None,
        start: Annotated[str | None, typer.Option("--from", metavar="STEP")] = None,
        no_input: NoInput = False,
        json: JsonFile = None,
        runtime: Annotated[str | None, typer.Option(metavar="CMD")] = None,
        root: Root = None,
        lang: Language = None,
    ) -> None:
        from labs import demo

        texts.speak(lang)
        sys.exit(
            demo.play(
                f"stage{number}",
                steps or [],
                start=start,
                no_input=no_input,
                json_file=json,
                runtime=runtime,
                root=root,
            )
        )


for _stage in stages.DEMOS:
    stage(int(_stage.removeprefix("stage")))


@app.command()
def rootfs(
    directory: Annotated[Path, typer.Argument(metavar="DIR")] = Path("rootfs"),
    source: Annotated[str, typer.Option("--from", metavar="SOURCE")] = "busybox",
    lang: Language = None,
) -> None:
    """Make a root file system."""
    from labs import rootfs

    texts.speak(lang)
    sys.exit(rootfs.command(directory, source))


@app.command()
def doctor(json: JsonFile = None, lang: Language = None) -> None:
    """Say what this machine can do, and the remedy for what it can't."""
    from labs import doctor

    texts.speak(lang)
    sys.exit(doctor.command(json))


@app.command()
def check(
    stages: Annotated[list[str] | None, typer.Argument(metavar="STAGE")] = None,
    runtime: Annotated[str | None, typer.Option(metavar='"CMD"|@PEER')] = None,
    root: Root = None,
    only: Annotated[str | None, typer.Option(metavar="ID,...")] = None,
    json: JsonFile = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    no_input: NoInput = False,
    lang: Language = None,
) -> None:
    """Judge how well a runtime isolates: ours, yours, Docker's."""
    from labs import check

    texts.speak(lang)
    sys.exit(
        check.command(
            stages or [],
            runtime=runtime,
            root=root,
            only=only.split(",") if only else [],
            json_file=json,
            junit=junit,
            no_input=no_input,
        )
    )


@app.command()
def matrix(
    runtime: Annotated[list[str] | None, typer.Option(metavar='NAME="CMD"')] = None,
    only: Annotated[str | None, typer.Option(metavar="AXIS,...")] = None,
    json: JsonFile = None,
    lang: Language = None,
) -> None:
    """Measure every axis against the host, each stage, and each real runtime installed."""
    from labs import matrix

    texts.speak(lang)
    sys.exit(
        matrix.command(runtimes=runtime or [], only=only.split(",") if only else [], json_file=json)
    )


@app.command()
def top(json: JsonFile = None, lang: Language = None) -> None:
    """Show the containers that run, what they use, and what they may use."""
    from labs import top

    texts.speak(lang)
    sys.exit(top.command(json))


@app.command()
def diff(
    older: Annotated[str, typer.Argument(metavar="N")],
    newer: Annotated[str, typer.Argument(metavar="M")],
    lang: Language = None,
) -> None:
    """Show what a stage adds to an earlier one, and which axes each piece closes."""
    from labs import diff

    texts.speak(lang)
    sys.exit(diff.command(older, newer))


@app.command(
    options_metavar="[OPTIONS] [PYTEST-ARG]...",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def test(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all")] = False,
    yes: Annotated[bool, typer.Option("--yes")] = False,
) -> None:
    """Run the project's own tests and linters; further arguments go to pytest."""
    from labs import selftest

    sys.exit(selftest.command(context.args, everything=everything, yes=yes))


@app.command()
def docs(
    build: Annotated[Path | None, typer.Option(metavar="DIR")] = None,
    refresh: Annotated[bool, typer.Option("--refresh")] = False,
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535)] = 8000,
    lang: Language = None,
) -> None:
    """Serve the site on this machine, or write it to a folder."""
    from labs import docs

    texts.speak(lang)
    sys.exit(docs.command(build=build, refresh=refresh, port=port))


@app.command()
def vm(
    action: Annotated[
        Literal["up", "ssh", "run", "down", "reset", "image"],
        typer.Argument(metavar="up|ssh|run|down|reset|image"),
    ],
    words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND")] = None,
    kernel: Annotated[
        Literal["current", "oldest"] | None, typer.Option(metavar="current|oldest")
    ] = None,
    lang: Language = None,
) -> None:
    """Start a virtual machine that has everything, and use it."""
    from labs import vm

    texts.speak(lang)
    sys.exit(vm.command(action, words or [], which=kernel))


@app.command()
def clean(
    yes: Annotated[bool, typer.Option("--yes")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
    lang: Language = None,
) -> None:
    """Remove what a killed run left behind: only what labrun tagged as its own."""
    from labs import clean

    texts.speak(lang)
    sys.exit(clean.command(yes=yes, dry_run=dry_run))


def main() -> NoReturn:
    """Run the command line; a refusal is one line on stderr, Ctrl-C is status 130."""
    arrived = signal.SIGINT

    def end(number: int, frame: FrameType | None) -> NoReturn:
        # Whoever asks us to end wants what Ctrl-C wants: everything undone, and then the end.
        nonlocal arrived
        arrived = signal.Signals(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
    try:
        # Typer turns Ctrl-C into an exit status, which it returns here.
        status = app(standalone_mode=False) or 0
    except Refused as no:
        print(f"labrun: {no}", file=sys.stderr)
        status = no.status
    except typer.Abort:
        status = SIGNALLED + signal.SIGINT
    except KeyboardInterrupt:
        print(file=sys.stderr)
        status = SIGNALLED + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has gone: say nothing more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
    except OSError as error:
        # A full disk behind `> file`, or a stream that somebody closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        print(f"labrun: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        status = FAILED
    except Exception as error:
        if not hasattr(error, "show"):
            raise
        usage.complain(error)
        status = getattr(error, "exit_code", USAGE)
    sys.exit(SIGNALLED + arrived if status == SIGNALLED + signal.SIGINT else status)
