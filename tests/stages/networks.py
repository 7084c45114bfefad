"""A small internet for tests: a host, a machine beyond it, and containers on the host."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.running import BIN, run
from tests.stages.lives import Engine

STAGE5 = str(BIN / "stage5")
BEYOND, OUTSIDE = "203.0.113.2", "203.0.113.1"
"""TEST-NET-3 (RFC 5737): the machine beyond, and the host's own address towards it."""
SERVER = """
import socket, sys
kind, port = sys.argv[1], int(sys.argv[2])
if kind == "tcp":
    with socket.create_server(("", port)) as server:
        print("up", flush=True)
        while True:
            client, address = server.accept()
            with client:
                word = b""
                while part := client.recv(65536):
                    word += part
                client.sendall(sys.argv[3].encode() + b" " + address[0].encode() + b" " + word)
else:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", port))
        print("up", flush=True)
        while True:
            word, address = server.recvfrom(65536)
            server.sendto(sys.argv[3].encode() + b" " + address[0].encode() + b" " + word, address)
"""
CLIENT = """
import socket, sys
kind, address, port, word = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].encode()
with socket.socket(type=socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as client:
    client.settimeout(float(sys.argv[5]))
    try:
        client.connect((address, port))
        client.sendall(word)
        if kind == "tcp":
            client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(65536):
            answer += part
            if kind == "udp":
                break
        print(answer.decode())
    except OSError as error:
        print(f"! {error}")
"""
"""Says what is answered, or `!` and why nothing is."""
SOON = 10.0


class Place:
    """A network namespace, as long as the block lasts."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def argv(self, *line: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *line]

    def run(self, *line: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
        return run(self.argv(*line), **more)

    def does(self, *line: str) -> str:
        ended = self.run(*line)
        assert ended.returncode == 0, ended
        return ended.stdout.decode()

    def asks(self, address: str, port: int, *, kind: str = "tcp", patience: float = 3) -> str:
        """Return what a server answers, which says its name, who asked it, and `word`."""
        line = ("python3", "-c", CLIENT, kind, address, str(port), "word", str(patience))
        return self.does(sys.executable, *line[1:]).strip()

    @contextlib.contextmanager
    def serving(self, port: int, name: str, kind: str = "tcp") -> Iterator[None]:
        """Have a server at a port, that says `name`."""
        line = self.argv(sys.executable, "-c", SERVER, kind, str(port), name)
        with subprocess.Popen(line, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout
                assert server.stdout.readline() == b"up\n"
                yield
            finally:
                server.kill()


class Internet:
    """The host, with a store of its own, and a machine beyond it that knows no way back."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self.open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.host, self.beyond = (Place(self.namespace()) for _ in range(2))
        where = "from stages.stage5_container.more import members; print(members.folder())"
        self.notes = Path(self.host.does(sys.executable, "-c", where).strip())
        ends = f"ip link add up0 type veth peer name up1 netns {self.beyond.pid}"
        self.host.does("sh", "-ec", f"{ends}; ip addr add {OUTSIDE}/24 dev up0; ip link set up0 up")
        far = f"ip addr add {BEYOND}/24 dev up1; ip link set up1 up"
        self.beyond.does("sh", "-ec", far)
        return self

    def namespace(self) -> int:
        """Make one; return the pid of who keeps it."""
        keeper = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "ip link set lo up; echo up; read wait"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.open.callback(keeper.communicate)
        assert keeper.stdout
        assert keeper.stdout.readline() == b"up\n"
        return keeper.pid

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if not kind:
                self.is_clean()
        finally:
            self.open.close()

    def stage5(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        store = {"LABRUN_STORE": str(self.store)}
        return self.host.run(STAGE5, *arguments, environment=store, timeout=60)

    def rules(self) -> str:
        return self.host.does("nft", "list", "ruleset")

    def links(self) -> set[str]:
        return {row["ifname"] for row in json.loads(self.host.does("ip", "-j", "link"))}

    def is_clean(self) -> None:
        """Assert that nothing is left but the shared bridge, which does not forward."""
        assert self.rules() == ""
        assert self.links() - {"labrun0"} == {"lo", "up0"}
        assert not self.notes.exists()
        switches = self.host.does("sh", "-c", "cat /proc/sys/net/ipv4/conf/*/forwarding")
        assert set(switches.split()) == {"0"}

    def clean_soon(self) -> None:
        """Assert the same, before long."""
        until = time.monotonic() + SOON
        while True:
            try:
                self.is_clean()
            except AssertionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
            else:
                return

    @contextlib.contextmanager
    def container(
        self, rootfs: Path, *options: str, name: str = "", before: Sequence[str] = ()
    ) -> Iterator["Running"]:
        """Start a container that waits; what stands before its command line is `before`."""
        line = self.host.argv(*before, STAGE5, "run", "--rm", *options)
        line += ["--name", name] if name else []
        cidfile = self.store.parent / f"cid-{os.urandom(4).hex()}"
        line += ["--cidfile", str(cidfile)]
        with subprocess.Popen(
            [*line, "-i", str(rootfs), "/bin/sh", "-c", "echo up; read wait"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "LABRUN_STORE": str(self.store)},
        ) as process:
            try:
                assert process.stdout
                assert process.stdout.readline() == b"up\n"
                identity = cidfile.read_text(encoding="ascii")
                yield Running(self.store / "containers" / identity, process)
            finally:
                if process.poll() is None:
                    process.communicate(b"\n", timeout=30)


class Running(Place):
    """A container that runs, and its network."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder, self.process = folder, process
        facts: dict[str, Any] = {}
        # The command may speak before it is written down that it runs.
        until = time.monotonic() + SOON
        while not facts.get("pid"):
            assert time.monotonic() < until, facts
            facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            time.sleep(0.01)
        super().__init__(int(facts["pid"]))
        self.address = str(facts["address"])

    def reads(self, file: str) -> str:
        return Path(f"/proc/{self.pid}/root{file}").read_text(encoding="utf-8")


@contextlib.contextmanager
def on_host(host: Place, folder: Path) -> Iterator[Engine]:
    """Have `stage5` on a host, with the store in a folder; in the end no container is left."""
    command = folder / f"stage5-{host.pid}"
    command.write_text(f'#!/bin/sh\nexec {" ".join(host.argv(STAGE5))} "$@"\n', "ascii")
    command.chmod(0o755)
    engine = Engine(str(command), folder / "store")
    try:
        yield engine
    finally:
        if left := [one.name for one in (engine.store / "containers").iterdir()]:
            run([str(command), "rm", "-f", *left])
        command.unlink()
    assert engine.residue() == []


def words(rows: str) -> Sequence[str]:
    """Return a file's lines, with one space between their words."""
    return [" ".join(row.split()) for row in rows.splitlines()]
