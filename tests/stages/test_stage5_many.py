"""Stage 5 with many containers at once: each is itself, and all of them go."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import run
from tests.stages.lives import Engine, eventually, start_all
from tests.stages.networks import STAGE5, Internet, on_host

pytestmark = [
    pytest.mark.once,
    pytest.mark.usefixtures("as_root", "nothing_is_left"),
    pytest.mark.xdist_group("machine"),
]

MANY = 100
ASK = """
import json, sys, urllib.request
for url in json.load(sys.stdin):
    with urllib.request.urlopen(url, timeout=30) as answer:
        print(answer.read().decode().strip())
"""


@pytest.fixture
def internet(rootfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    monkeypatch.setenv("LABRUN_STORE", str(tmp_path / "store"))
    ended = run([STAGE5, "image", "import", str(rootfs), "box"])
    assert ended.returncode == 0, ended
    with Internet(tmp_path) as internet:
        yield internet


@pytest.fixture
def engine(internet: Internet, tmp_path: Path) -> Iterator[Engine]:
    with on_host(internet.host, tmp_path) as engine:
        yield engine


def test_a_hundred_at_once_start_answer_are_entered_and_go(
    engine: Engine, internet: Internet
) -> None:
    names = [f"n{number:03}" for number in range(MANY)]
    web = ("--init", "-p", "80", "-m", "32m", "box", "httpd", "-f", "-p", "80", "-h", "/etc")
    ended = start_all(
        [
            [engine.command, "run", "-d", "--name", name, "--hostname", name, *way, *web]
            for name, way in zip(names, [("--rm",), ()] * (MANY // 2), strict=True)
        ]
    )
    assert {(one.returncode, one.stderr) for one in ended} == {(0, b"")}
    rows = [json.loads(row) for row in engine.says("ps", "--format", "json").splitlines()]
    assert sorted(row["Names"] for row in rows) == names
    assert {row["State"] for row in rows} == {"running"}

    # Each answers with its own name: at a port of the host's that it has for itself.
    ports = {row["Names"]: row["Ports"].partition("->")[0].rpartition(":")[2] for row in rows}
    assert len({*ports.values()}) == MANY
    urls = json.dumps([f"http://127.0.0.1:{ports[name]}/hostname" for name in names])
    said = eventually(
        lambda: internet.host.run(sys.executable, "-c", ASK, input=urls.encode(), stdin=None),
        lambda ended: ended.returncode == 0,
    )
    assert said.stdout.decode().split() == names

    ended = start_all([[engine.command, "exec", name, "cat", "/etc/hostname"] for name in names])
    assert [one.stdout.decode().strip() for one in ended] == names

    assert engine.says("stop", *names).split() == names
    kept = names[1::2]
    assert engine.names("-a") == {*kept}
    assert {*engine.says("ps", "-a", "--format", "{{.State}}").split()} == {"exited"}
    assert engine.says("rm", *kept).split() == kept
