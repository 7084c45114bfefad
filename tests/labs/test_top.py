"""`labrun top`: what runs, what it uses, and what it may use."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from labs import gauge, texts, top
from labs.demo.screen import Screen
from labs.errors import FAILED
from labs.gauge import Limits, Reading, Running
from labs.stages import reference
from tests.running import LABRUN, run
from tests.terminal import Terminal

LIMITED = ["--cpus", "0.25", "--memory", "32m", "--pids-limit", "16"]
real = pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root")


@contextmanager
def container(rootfs: Path, *options: str) -> Iterator[str]:
    """Have a loop in a container; give the name of its group."""
    before = {each.name for each in gauge.running()}
    argv = [reference("stage3"), "run", *options, str(rootfs), "/bin/sh", "-c"]
    # By its arguments it is found among the containers of others.
    loop = f"while :; do :; done # {os.urandom(6).hex()}"
    process = subprocess.Popen([*argv, loop], stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 20
        while True:
            mine = [
                each.name
                for each in gauge.running()
                if each.name not in before
                and any(loop in Path(f"/proc/{p}/cmdline").read_text() for p in each.pids[:1])
            ]
            if mine:
                break
            assert time.monotonic() < until
            time.sleep(0.05)
        yield mine[0]
    finally:
        # Pid 1 has no handler for what can be handled: twice within two seconds kills.
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)


@real
@pytest.mark.xdist_group("machine")
class TestRunning:
    """With a container of ours."""

    def test_one_sample_as_json(self, rootfs: Path) -> None:
        with container(rootfs, *LIMITED) as name:
            ended = run([LABRUN, "top", "--json", "-"])
        assert (ended.returncode, ended.stderr) == (0, b"")
        report: dict[str, Any] = json.loads(ended.stdout)
        assert report["schema"] == 1
        (row,) = [row for row in report["containers"] if row["name"] == name]
        assert list(row) == ["name", "command", "cpu", "memory", "pids", "disk", "network"]
        assert row["command"].startswith("/bin/sh -c while :")
        assert row["cpu"]["limit"] == 0.25
        assert 0 < row["cpu"]["cpus"] < 0.4
        assert row["memory"]["limit"] == 32 << 20
        assert 0 < row["memory"]["bytes"] < 32 << 20
        assert row["pids"] == {"count": 1, "limit": 16}

    @pytest.mark.parametrize("language", ["en", "zh"])
    def test_one_sample_in_a_pipe(self, rootfs: Path, language: str) -> None:
        with container(rootfs, *LIMITED) as name:
            environment = {"COLUMNS": "80"}
            ended = run([LABRUN, "top", "--lang", language], environment=environment)
        text = ended.stdout.decode()
        assert ended.returncode == 0
        assert re.search(rf" {name[-8:]} .* / 0\.25 .*k / 32M .* 1 / 16 ", text)
        assert "\x1b" not in text
        assert max(map(cell_len, text.splitlines())) <= 80

    def test_at_a_terminal_it_is_live_until_q(self, rootfs: Path) -> None:
        with container(rootfs, *LIMITED) as name:
            shown = Terminal("top", "--lang", "en", columns=120)
            shown.see(rf"{name[-8:]} .*/bin/sh -c while .* / 0\.25(.|\n)*q quit")
            shown.child.send("x")
            shown.child.send("q")
            assert shown.end() == 0
            assert shown.deserted()


def test_nothing_running_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    for language, said in (("en", "No container of ours is running."), ("zh", "一个也没有运行")):
        texts.speak(language)
        screen = Screen()
        screen.show(top.page(screen, []))
        assert said in capsys.readouterr().out


def test_a_long_command_gives_way_to_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts.speak("en")
    monkeypatch.setenv("COLUMNS", "120")
    known = Running("labrun-run-0a1b2c3d", {"": tmp_path}, ())
    reading = Reading(at=1.0, cpu=3.0, memory=4 << 20)
    (row,) = top.sample({}, {known.name: (known, reading)})
    row = replace(row, command="/bin/sh -c while :\ndo\n  " + "echo and more; " * 20)
    screen = Screen()
    screen.show(top.page(screen, [row]))
    shown = capsys.readouterr().out.splitlines()
    (line,) = [line for line in shown if "0a1b2c3d" in line]
    assert "/bin/sh -c while : do echo and more;" in line
    assert "…" in line
    assert " 4M " in line
    assert max(map(cell_len, shown)) <= 120


def test_what_was_not_there_before_has_no_rate_yet(tmp_path: Path) -> None:
    new = Running("labrun-run-0a1b2c3d", {"": tmp_path}, (1 << 22,))
    (row,) = top.sample({}, {new.name: (new, Reading(at=1.0, cpu=3.0, memory=4096))})
    assert (row.cpu, row.now.memory, row.command, row.limits) == (None, 4096, "", Limits())


def test_a_report_that_cannot_be_written_is_refused() -> None:
    ended = run([LABRUN, "top", "--json", "/no/such/folder/x", "--lang", "en"])
    assert (ended.returncode, ended.stdout) == (FAILED, b"")
    assert "can't be written" in ended.stderr.decode()
