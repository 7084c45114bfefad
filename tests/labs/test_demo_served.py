"""`labrun stage5`: containers that live on are looked at while they do, and found wanting."""

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from checks.model import Verdict
from checks.peers import dockerd
from labs.demo import engine
from labs.demo.script import load
from labs.docs.record import measured as recorded
from labs.docs.record.normal import Normal
from labs.errors import FAILED
from labs.stages import reference
from tests.labs.test_demo_layers import played, runtime
from tests.running import LABRUN, cannot

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root"),
    pytest.mark.xdist_group("served"),
]

ALONE = [step.id for step in load("stage5").steps if not step.peer]
"""The steps that need no other program."""


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    status, found = played("--no-input", *ALONE, stage="stage5")
    assert status == 0, [row["evidence"] for row in found.values()]
    return found


def out(row: dict[str, Any], side: str) -> str:
    text: str = row[side]["stdout"]
    return text


@pytest.mark.once
class TestPlayed:
    """By the stage's own runtime: a server lives as a person would have it live with Docker."""

    def test_every_step_is_as_it_must_be_and_says_why(self, rows: dict[str, Any]) -> None:
        assert list(rows) == ALONE
        for row in rows.values():
            assert row["verdict"] == row["expected"]
            assert row["evidence"]

    def test_the_server_answers_is_limited_and_is_looked_into(self, rows: dict[str, Any]) -> None:
        assert out(rows["web"], "host") == "<h1>Hello</h1>\n"
        address, listening, page = out(rows["web"], "container").splitlines()
        assert address.startswith("10.88.")
        assert ":80 " in listening
        assert page == "index.html"
        assert any("64.0 MiB" in fact for fact in rows["web"]["evidence"])
        assert "web 0.0.0.0:8080->80/tcp\n" in out(rows["look"], "host")
        assert "1 root     httpd" in out(rows["look"], "container")

    def test_root_is_less_than_root_and_what_worked_earlier_fails(
        self, rows: dict[str, Any]
    ) -> None:
        assert "a80425fb" in out(rows["root"], "container")
        assert "a80425fb" not in out(rows["root"], "host")
        first, fourth = (each["stdout"] for each in rows["escapes"]["beside"])
        assert first == out(rows["escapes"], "host") + "\ncore\nlog\n"
        assert fourth == "core\nlog\n"
        assert out(rows["escapes"], "container") == ""

    def test_it_comes_back_is_found_stops_and_is_kept(self, rows: dict[str, Any]) -> None:
        assert out(rows["crash"], "host") == "<h1>Hello</h1>\n1 restart\n"
        assert out(rows["crash"], "container").startswith("kept\n")
        assert out(rows["names"], "host") == "client lab\nweb lab\n"
        assert out(rows["names"], "container").endswith("<h1>Hello</h1>\n")
        assert [out(rows["stop"], side).split() for side in ("host", "container")] == [
            ["deaf", "137"],
            ["polite", "143"],
        ]
        assert out(rows["commit"], "container").startswith("kept\n")
        assert "news" not in out(rows["commit"], "container")


@pytest.mark.once
@pytest.mark.parametrize(
    ("changed", "step", "said"),
    [
        ({"64m": "32m"}, "web", "32.0 MiB"),
        ({"always": "no", "web2": "web2"}, "look", ""),
        ({"--network": "--hostname"}, "names", "knows web as"),
        ({"--init": "--interactive"}, "stop", "137 (killed) and 143"),
        ({"pages:/www": "pages:/other"}, "commit", "has not what was written"),
    ],
    ids=["limit", "nothing", "network", "init", "volume"],
)
def test_a_runtime_that_does_otherwise_is_failed(
    changed: dict[str, Any], step: str, said: str, tmp_path: Path
) -> None:
    words = ["--runtime", runtime(tmp_path, changed, "stage5")]
    status, found = played(step, *words, stage="stage5", LABRUN_LANG="en")
    # The control: a runtime by another name that changes nothing of the step's is none.
    assert status == (FAILED if said else 0)
    assert found[step]["verdict"] == ("broken" if said else "kept")
    assert said in " ".join(found[step]["evidence"])


@pytest.mark.parametrize(("command", "verdict"), [("stage4", "broken"), ("@chroot", "unknown")])
def test_a_runtime_without_a_life_cycle_is_failed(command: str, verdict: str) -> None:
    words = command if command.startswith("@") else reference(command)
    status, found = played("web", "--runtime", words, stage="stage5")
    assert status == FAILED
    assert found["web"]["verdict"] == verdict


@pytest.mark.peers
def test_docker_runs_the_same_image_and_the_kernel_says_the_same() -> None:
    if lacking := dockerd.missing():
        cannot(f"{', '.join(lacking)} is not installed")
    status, found = played("docker", stage="stage5", LABRUN_LANG="en")
    assert status == 0, found["docker"]["evidence"]
    ours, theirs = (out(found["docker"], side).splitlines() for side in ("host", "container"))
    assert ours[:3] == theirs[:3]
    assert ours[0] == "<h1>Hello</h1>"
    assert "CapBnd a80425fb" in found["docker"]["evidence"][0]


def test_without_docker_nothing_is_told_and_that_is_no_failure(
    rootfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dockerd, "PROGRAMS", ("dockerd", "no-such-program"))
    demo = load("stage5")
    (step,) = demo.choose(["docker"])
    with engine.bench_of(demo, rootfs) as bench:
        done = engine.Engine(engine.choose("stage5", None), bench, demo).play(step)
    assert done.finding.verdict is Verdict.UNKNOWN
    assert "no-such-program" in " ".join(done.finding.evidence)
    assert done.host.ended.stdout.startswith(b"<h1>Hello</h1>\n")
    assert (done.container.ended.status, done.container.ended.stdout) == (127, b"")
    assert done.as_expected
    # Where nothing is compared with, not to know is no pass.
    assert not replace(done, step=replace(step, peer="")).as_expected


@pytest.mark.parametrize("seconds", [0.6, 1.2, 2.0])
def test_ctrl_c_at_any_time_leaves_nothing(seconds: float, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [LABRUN, "stage5", "web", "crash", "--no-input"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (0, 128 + signal.SIGINT)
    assert not list(Path("/run/labrun").glob(f"{process.pid}-*"))
    assert list(tmp_path.iterdir()) == []
    mounted = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert str(tmp_path) not in mounted


# ---- recorded for the pages -------------------------------------------------------------------


def test_what_differs_by_machine_is_recorded_alike() -> None:
    texts = []
    for port, folder, whole, length, more in (
        ("41293", "3_nb0ef8", "000001fffeffffff", "1252", " /proc/kcore"),
        ("52708", "0aj1ahtg", "000001ffffffffff", "1391", ""),
    ):
        texts.append(
            Normal("stage5")(
                f"[::ffff:10.88.0.1]:{port}: response:200\n203.0.113.1:{port}/udp\n"
                f"/tmp/bench-{folder}/canary\nCapEff:\t{whole}\n{length} instructions\n"
                f"or not there: /proc/acpi{more} /sys/firmware\n{port} {length} httpd\n"
            )
        )
    assert texts[0] == texts[1]
    # What a verdict is about is never touched.
    kept = "CapEff:\t00000000a80425fb\nSeccomp:\t2\n137"
    assert Normal("stage5")(kept) == kept


def test_dockers_are_compared_on_machines_that_have_the_same(tmp_path: Path) -> None:
    name = "generated/en/stage5/docker.html"
    for folder, version in (("fresh", "none"), ("docs", "Docker version 26.1.5")):
        (tmp_path / folder / "generated/stage5").mkdir(parents=True)
        (tmp_path / folder / "generated/stage5/docker.txt").write_text(version)
    places = tmp_path / "fresh", tmp_path / "docs"
    assert not recorded.comparable(name, *places)
    assert not recorded.comparable("generated/stage5/docker.txt", *places)
    assert recorded.comparable(name.replace("docker", "web"), *places)
