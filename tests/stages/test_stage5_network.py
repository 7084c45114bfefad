"""Stage 5's network, as containers, the host and others see it."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.stage5_container.more import publish
from tests.running import LABRUN
from tests.stages.faults import calls_before_the_command, faulty
from tests.stages.networks import BEYOND, OUTSIDE, STAGE5, Internet, words

pytestmark = [pytest.mark.usefixtures("as_root"), pytest.mark.xdist_group("stage5 network")]


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Internet]:
    with Internet(tmp_path) as made:
        yield made


# ---- out and in


def test_it_reaches_beyond_the_host_under_the_hosts_address(net: Internet, rootfs: Path) -> None:
    with net.beyond.serving(80, "far"), net.container(rootfs) as one:
        # The machine beyond has no way to the container's own network.
        assert one.asks(BEYOND, 80) == f"far {OUTSIDE} word"
        assert one.asks(BEYOND, 81).startswith("! ")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_published_port_answers_from_everywhere(net: Internet, rootfs: Path, kind: str) -> None:
    options = ("-p", f"8080:80/{kind}")
    with net.container(rootfs, *options) as one, one.serving(80, "web", kind):
        gateway = f"{one.address.rpartition('.')[0]}.1"
        seen = {
            "beyond": net.beyond.asks(OUTSIDE, 8080, kind=kind),
            "host": net.host.asks(OUTSIDE, 8080, kind=kind),
            "loopback": net.host.asks("127.0.0.1", 8080, kind=kind),
            "itself": one.asks(OUTSIDE, 8080, kind=kind),
        }
        assert seen == {
            # From another machine the address is kept: the server sees who asks.
            "beyond": f"web {BEYOND} word",
            "host": f"web {OUTSIDE} word",
            "loopback": f"web {gateway} word",
            "itself": f"web {gateway} word",
        }
        other = {"tcp": "udp", "udp": "tcp"}[kind]
        assert net.beyond.asks(OUTSIDE, 8080, kind=other, patience=1).startswith("! ")
    assert net.host.asks("127.0.0.1", 8080, kind=kind, patience=1).startswith("! ")


def test_what_is_not_published_is_not_reached_from_beyond(net: Internet, rootfs: Path) -> None:
    with net.container(rootfs, "-p", "8080:80") as one, one.serving(81, "private"):
        subnet = one.address.rpartition(".")[0]
        net.beyond.does("ip", "route", "add", f"{subnet}.0/24", "via", OUTSIDE)
        assert net.beyond.asks(one.address, 81, patience=1).startswith("! ")
        # From the host it is, as with Docker.
        assert net.host.asks(one.address, 81) == f"private {subnet}.1 word"


def test_a_port_for_one_address_is_open_there_only(net: Internet, rootfs: Path) -> None:
    options = ("-p", "127.0.0.1:8080:80", "-p", f"{OUTSIDE}:8081:80")
    with net.container(rootfs, *options) as one, one.serving(80, "web"):
        assert net.host.asks("127.0.0.1", 8080).startswith("web ")
        assert net.host.asks(OUTSIDE, 8080).startswith("! ")
        assert net.beyond.asks(OUTSIDE, 8080, patience=1).startswith("! ")
        assert net.beyond.asks(OUTSIDE, 8081) == f"web {BEYOND} word"
        assert net.host.asks("127.0.0.1", 8081).startswith("! ")


def test_a_port_that_is_taken_is_refused_and_named(net: Internet, rootfs: Path) -> None:
    line = ("run", "--rm", "-p", "8080:80", str(rootfs), "/bin/echo", "ran")
    with net.host.serving(8080, "other"):
        ended = net.stage5(*line)
        assert (ended.returncode, ended.stdout) == (125, b"")
        assert b"bind(0.0.0.0:8080/tcp): Address already in use: somebody has" in ended.stderr
    with net.container(rootfs, "-p", "8080:80"):
        assert net.stage5(*line).returncode == 125
    assert net.stage5(*line).stdout == b"ran\n"


def test_some_free_port_is_found_where_none_is_said(net: Internet, rootfs: Path) -> None:
    with net.container(rootfs, "-p", "80") as one, one.serving(80, "web"):
        note = json.loads(next(net.notes.glob("lab[0-9]*")).read_text(encoding="ascii"))
        [[_, _, outside, inside]] = note[7]
        assert (inside, outside > 1023) == (80, True)
        assert net.beyond.asks(OUTSIDE, outside).startswith("web ")
        # All who are asked say which one it is.
        name = one.folder.name
        assert net.stage5("port", name, "80").stdout == b"0.0.0.0:%d\n" % outside
        assert net.stage5("port", name).stdout == b"80/tcp -> 0.0.0.0:%d\n" % outside
        line = ("ps", "--filter", f"publish={outside}", "--format", "{{.Ports}}")
        assert net.stage5(*line).stdout == b"0.0.0.0:%d->80/tcp\n" % outside
        known = json.loads(net.stage5("inspect", name).stdout)[0]
        door = {"HostIp": "0.0.0.0", "HostPort": str(outside)}
        assert known["NetworkSettings"]["Ports"] == {"80/tcp": [door]}
        assert known["HostConfig"]["PortBindings"] == {"80/tcp": [{"HostIp": "", "HostPort": ""}]}


def test_one_that_does_not_run_has_no_ports_and_a_bad_one_is_refused_at_once(
    net: Internet, rootfs: Path
) -> None:
    line = ("create", "-p", "80", "--name", "later", str(rootfs), "/bin/true")
    assert net.stage5(*line).returncode == 0
    assert net.stage5("ps", "-a", "--format", "{{.Ports}}").stdout == b"\n"
    assert net.stage5("rm", "later").returncode == 0
    ended = net.stage5("create", "--network", "none", "-p", "x", str(rootfs), "/bin/true")
    assert (ended.returncode, b"--publish x: a port is a number" in ended.stderr) == (125, True)


def test_a_container_can_be_in_more_than_one_network(net: Internet, rootfs: Path) -> None:
    def said(*words: str) -> str:
        ended = net.stage5(*words)
        assert (ended.returncode, ended.stderr) == (0, b""), ended
        return ended.stdout.decode().strip()

    def refused(*words: str) -> str:
        ended = net.stage5(*words)
        assert (ended.returncode, len(ended.stderr.splitlines())) == (125, 1), ended
        return ended.stderr.decode()

    for name in ("front", "back"):
        said("network", "create", name)
    with (
        net.container(rootfs, "--network", "front", "-p", "8080:80", name="web") as web,
        net.container(rootfs, "--network", "back", name="data") as data,
        web.serving(80, "web"),
        data.serving(81, "data"),
    ):
        assert web.asks(data.address, 81, patience=1).startswith("! ")
        said("network", "connect", "--alias", "shop", "back", "web")
        where = json.loads(said("inspect", "web"))[0]["NetworkSettings"]["Networks"]
        inner = where["back"]["IPAddress"]
        assert where == {"front": {"IPAddress": web.address}, "back": {"IPAddress": inner}}
        # Both ways, by the network that they share; and each knows the other's names there.
        assert web.asks(data.address, 81) == f"data {inner} word"
        assert data.asks(inner, 80) == f"web {data.address} word"
        row = f"{inner} web {web.folder.name} shop"
        assert row in words(data.reads("/etc/hosts"))
        assert f"{data.address} data {data.folder.name}" in words(web.reads("/etc/hosts"))
        said("rename", "web", "site")
        assert row.replace("web", "site") in words(data.reads("/etc/hosts"))
        said("rename", "site", "web")
        assert row in words(data.reads("/etc/hosts"))
        # Its own network, its way out and its doors are what they were.
        assert f"{web.address} {web.folder.name}" in words(web.reads("/etc/hosts"))
        assert net.beyond.asks(OUTSIDE, 8080).startswith("web ")
        assert "already" in refused("network", "connect", "back", "web")
        assert "still in use by" in refused("network", "rm", "back")
        said("network", "disconnect", "back", "web")
        assert web.asks(data.address, 81, patience=1).startswith("! ")
        assert "web" not in data.reads("/etc/hosts")
        assert "it is not in" in refused("network", "disconnect", "back", "web")
        assert "it was made with" in refused("network", "disconnect", "front", "web")
        # Again, and then all of it goes with it, as with one that is killed.
        said("network", "connect", "back", "web")
        web.process.kill()
        web.process.wait()
    net.stage5("rm", "-f", "web")
    # One that doesn't run is put in when it is started.
    line = ("create", "--network", "front", "--name", "later", str(rootfs))
    said(*line, "/bin/sh", "-c", "ifconfig eth1; route -n; cat /etc/hosts")
    assert json.loads(said("inspect", "later"))[0]["State"]["Status"] == "created"
    said("network", "connect", "--ip", f"{data.address.rpartition('.')[0]}.77", "back", "later")
    shown = said("start", "-a", "later")
    assert f"inet addr:{data.address.rpartition('.')[0]}.77" in shown
    assert shown.count("0.0.0.0         ") >= 1
    said("rm", "later")
    said("create", "--network", "none", "--name", "alone", str(rootfs), "/bin/true")
    assert "it has no other network" in refused("network", "connect", "back", "alone")
    said("rm", "alone")
    said("network", "rm", "front", "back")


def test_networks_that_nobody_is_in_are_pruned(net: Internet, rootfs: Path) -> None:
    for name in ("busy", "idle"):
        assert net.stage5("network", "create", name).returncode == 0
    with net.container(rootfs, "--network", "busy"):
        assert net.stage5("network", "prune", "-f").stdout == b"Deleted Networks:\nidle\n\n"
    listed = ("network", "ls", "-q", "--filter", "type=custom")
    assert len(net.stage5(*listed).stdout.split()) == 1
    assert net.stage5("network", "rm", "-f", "busy", "nobodys").stdout == b"busy\n"
    assert net.stage5(*listed).stdout == b""


FLOOD = r"""
import socket, sys, threading
body = bytes(range(256)) * 8192
def one():
    with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as client:
        sent = threading.Thread(target=lambda: (client.sendall(body), client.shutdown(1)))
        sent.start()
        answer = b""
        while part := client.recv(65536):
            answer += part
        sent.join()
        print(end="same\n" if answer == b"web 10.88.0.1 " + body else f"other {len(answer)}\n")
threads = [threading.Thread(target=one) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_much_goes_through_the_relay_whole_for_many_at_once(net: Internet, rootfs: Path) -> None:
    with net.container(rootfs, "-p", "8080:80") as one, one.serving(80, "web"):
        said = net.host.does(sys.executable, "-c", FLOOD, "127.0.0.1", "8080")
        assert said.split() == ["same"] * 8


def test_the_relay_goes_on_when_nobody_listens_inside(net: Internet, rootfs: Path) -> None:
    with net.container(rootfs, "-p", "8080:80", "-p", "5353:53/udp") as one:
        for kind, port in (("tcp", 8080), ("udp", 5353)):
            answer = net.host.asks("127.0.0.1", port, kind=kind, patience=0.5)
            assert answer.startswith("! ") or answer == ""
            with one.serving({"tcp": 80, "udp": 53}[kind], "late", kind):
                assert net.host.asks("127.0.0.1", port, kind=kind).startswith("late ")


GONE = """
import socket, struct, sys, time
clients = [socket.create_connection(("127.0.0.1", 8080)) for _ in range(5)]
for client in clients:
    client.shutdown(socket.SHUT_WR)
time.sleep(0.3)
for client in clients:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
"""
"""Ends what it says, and then resets the connection."""
SILENT = """
import socket, time
with socket.create_server(("", 80)) as server:
    print("up", flush=True)
    kept = [server.accept() for _ in range(5)]
    time.sleep(60)
"""


def test_the_relay_rests_when_a_client_has_gone_and_the_server_says_nothing(
    net: Internet, rootfs: Path
) -> None:
    with net.container(rootfs, "-p", "8080:80") as one:
        line = one.argv(sys.executable, "-c", SILENT)
        with subprocess.Popen(line, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout
                assert server.stdout.readline() == b"up\n"
                net.host.does(sys.executable, "-c", GONE)
                before = spent(one.process.pid)
                time.sleep(2)
                assert spent(one.process.pid) - before < 0.2
            finally:
                server.kill()
        assert one.process.poll() is None


def test_who_comes_when_there_are_no_descriptors_left_waits(net: Internet, rootfs: Path) -> None:
    few = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh"]
    with net.container(rootfs, "-p", "8080:80", before=few) as one, one.serving(80, "web"):
        assert net.host.does(sys.executable, "-c", CROWD) == "60 of 60\n"


CROWD = """
import socket
crowd = [socket.create_connection(("127.0.0.1", 8080)) for _ in range(60)]
served = 0
for one in crowd:
    one.settimeout(10)
    try:
        one.sendall(b"word")
        one.shutdown(socket.SHUT_WR)
        served += one.recv(100).startswith(b"web")
    except OSError:
        pass
    one.close()
print(served, "of 60")
"""


def spent(pid: int) -> float:
    """Return the seconds of CPU time that a process's children have used."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    ticks = 0
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# ---- the host is left as it was


def test_others_are_not_forwarded_for(net: Internet, rootfs: Path) -> None:
    """A host that forwards for nobody does so for nobody but its containers."""
    third = net.namespace()
    net.host.does(
        "sh",
        "-ec",
        f"ip link add side0 type veth peer name side1 netns {third};"
        "ip addr add 198.51.100.1/24 dev side0; ip link set side0 up",
    )
    net.beyond.does("ip", "route", "add", "default", "via", OUTSIDE)
    script = "ip addr add 198.51.100.2/24 dev side1; ip link set side1 up;"
    script += "ip route add default via 198.51.100.1"
    net.host.does("nsenter", f"--net=/proc/{third}/ns/net", "sh", "-ec", script)
    asking = ["nsenter", f"--net=/proc/{third}/ns/net", str(rootfs / "bin/busybox"), "ping"]
    try:
        with net.container(rootfs):
            assert net.host.run(*asking, "-c1", "-W1", BEYOND).returncode == 1
            # It isn't the way that is missing: a host that forwards for all goes on doing so.
            net.host.does("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
            with net.container(rootfs):
                assert net.host.run(*asking, "-c1", "-W1", BEYOND).returncode == 0
        assert net.host.does("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"
    finally:
        net.host.does("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward; ip link del side0")


def test_nobody_elses_rules_are_touched(net: Internet, rootfs: Path) -> None:
    theirs = "add table ip theirs; add chain ip theirs c { type filter hook input priority 0; }"
    net.host.does("nft", theirs)
    before = net.rules()
    with net.container(rootfs, "-p", "8080:80"):
        assert net.rules().startswith(before.rstrip())
        assert "table ip labrun" in net.rules()
    assert net.rules() == before
    net.host.does("nft", "delete table ip theirs")


def test_a_killed_runtime_leaves_nothing(net: Internet, rootfs: Path) -> None:
    assert net.stage5("network", "create", "mine").returncode == 0
    for options in (("-p", "8080:80"), ("--network", "mine")):
        with net.container(rootfs, *options) as one:
            assert "labrun" in net.rules()
            one.process.kill()
            one.process.wait()
            net.clean_soon()


def test_what_a_killed_helper_leaves_the_next_or_labrun_clean_takes_away(
    net: Internet, rootfs: Path
) -> None:
    def kill_both() -> None:
        with net.container(rootfs, "-p", "8080:80") as one:
            children = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children")
            for child in children.read_text(encoding="ascii").split():
                os.kill(int(child), 9)
            one.process.kill()
            one.process.wait()
        assert "labrun" in net.rules()

    kill_both()
    assert net.stage5("run", "--rm", str(rootfs), "/bin/true").returncode == 0
    net.is_clean()
    kill_both()
    assert b"table ip labrun" in net.host.run(LABRUN, "clean", "--dry-run").stdout
    assert net.host.run(LABRUN, "clean", "--yes").returncode == 0
    net.clean_soon()


def test_without_nft_it_says_what_to_install(net: Internet, rootfs: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "empty"
    hidden.mkdir()
    script = 'mount --bind "$1" /usr/sbin; shift; exec "$@"'
    line = ["unshare", "-m", "/bin/sh", "-c", script, "sh", str(hidden)]
    ended = net.host.run(
        *line,
        *(str(Path(sys.executable).with_name("stage5")), "run", "--rm", str(rootfs)),
        *("/bin/echo", "ran"),
        environment={"LABRUN_STORE": str(net.store), "PATH": "/usr/bin:/bin"},
    )
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert b"install the package nftables" in ended.stderr


# ---- names


def test_containers_of_a_network_know_each_others_names(net: Internet, rootfs: Path) -> None:
    assert net.stage5("network", "create", "mine").returncode == 0
    quiet = ("--network", "mine")
    with net.container(rootfs, *quiet, name="first") as first, first.serving(80, "web"):
        with net.container(rootfs, *quiet, name="second") as second:
            row = f"{first.address} first {first.folder.name[:12]}"
            assert row in words(second.reads("/etc/hosts"))
            row = f"{second.address} second {second.folder.name[:12]}"
            assert row in words(first.reads("/etc/hosts"))
            assert second.asks(first.address, 80) == f"web {second.address} word"
        # Who has gone is forgotten, in the same file.
        assert "second" not in first.reads("/etc/hosts")
        assert f"{first.address} {first.folder.name}" in words(first.reads("/etc/hosts"))


def test_networks_are_apart_and_the_shared_one_has_no_names(net: Internet, rootfs: Path) -> None:
    assert net.stage5("network", "create", "mine").returncode == 0
    with (
        net.container(rootfs, "--network", "mine", name="mine") as mine,
        net.container(rootfs, name="other") as other,
        net.container(rootfs, name="third") as third,
        mine.serving(80, "mine"),
        other.serving(80, "other"),
    ):
        assert mine.address.rpartition(".")[0] != other.address.rpartition(".")[0]
        assert mine.asks(other.address, 80, patience=1).startswith("! ")
        assert other.asks(mine.address, 80, patience=1).startswith("! ")
        assert third.asks(other.address, 80) == f"other {third.address} word"
        assert "other" not in third.reads("/etc/hosts")
        assert "mine" not in third.reads("/etc/hosts")


def test_the_files_of_etc_say_what_is_asked_for(net: Internet, rootfs: Path) -> None:
    options = ("--add-host", "db:192.0.2.7", "--add-host", "up:host-gateway", "--dns", "192.0.2.53")
    with net.container(rootfs, *options, "--hostname", "me") as one:
        hosts = words(one.reads("/etc/hosts"))
        gateway = f"{one.address.rpartition('.')[0]}.1"
        assert hosts[0] == "127.0.0.1 localhost"
        assert {"192.0.2.7 db", f"{gateway} up", f"{one.address} me"} <= set(hosts)
        assert one.reads("/etc/resolv.conf") == "nameserver 192.0.2.53\n"
        assert one.reads("/etc/hostname") == "me\n"
    # ROOT has no such files, and none was made there.
    assert not (rootfs / "etc" / "hosts").exists() or (rootfs / "etc" / "hosts").read_bytes()


def test_a_loopback_nameserver_is_left_out_and_a_real_one_kept(
    net: Internet, rootfs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.53\nnameserver 192.0.2.9\nnameserver ::1\nsearch x.test\n")
    script = 'mount --bind "$1" "$(readlink -f /etc/resolv.conf)"; shift; exec "$@"'
    line = ["unshare", "-m", "/bin/sh", "-c", script, "sh", str(file)]
    shown = {}
    for network in ("bridge", "host"):
        ended = net.host.run(
            *line,
            *(str(Path(sys.executable).with_name("stage5")), "run", "--rm"),
            *("--network", network, str(rootfs), "/bin/cat", "/etc/resolv.conf"),
            environment={"LABRUN_STORE": str(net.store)},
        )
        shown[network] = ended.stdout.decode().splitlines()
    assert shown["bridge"] == ["nameserver 192.0.2.9", "search x.test"]
    assert shown["host"][0] == "nameserver 127.0.0.53"


@pytest.mark.parametrize("network", ["none", "host"])
def test_without_a_bridge_nothing_is_made(net: Internet, rootfs: Path, network: str) -> None:
    with net.container(rootfs, "--network", network) as one:
        assert net.rules() == ""
        shared = os.readlink(f"/proc/{one.pid}/ns/net") == os.readlink(
            f"/proc/{net.host.pid}/ns/net"
        )
        assert shared == (network == "host")
        if network == "none":
            assert one.does("ip", "-br", "link").split()[0] == "lo"


def test_ports_below_1024_and_pings_need_no_capability(net: Internet, rootfs: Path) -> None:
    with net.container(rootfs) as one:
        files = "cd /proc/sys/net/ipv4; cat ip_unprivileged_port_start ping_group_range"
        assert one.does("sh", "-c", files).split() == ["0", "0", "2147483647"]


# ---- networks


def test_networks_are_made_listed_inspected_and_removed(net: Internet, rootfs: Path) -> None:
    made = net.stage5("network", "create", "--subnet", "10.9.8.0/24", "mine")
    identity = made.stdout.decode().strip()
    assert (made.returncode, len(identity)) == (0, 64)
    rows = words(net.stage5("network", "ls").stdout.decode())
    assert rows[0] == "NETWORK ID NAME DRIVER SCOPE"
    assert f"{identity[:12]} mine bridge local" in rows
    assert [row.split()[1] for row in rows[1:]] == ["bridge", "host", "mine", "none"]
    assert net.stage5("network", "ls", "-q").stdout.decode().split()[2] == identity[:12]
    with net.container(rootfs, "--network", "mine", "--ip", "10.9.8.77", name="one") as one:
        assert one.address == "10.9.8.77"
        [shown] = json.loads(net.stage5("network", "inspect", "mine").stdout)
        assert shown["IPAM"]["Config"] == [{"Subnet": "10.9.8.0/24", "Gateway": "10.9.8.1"}]
        assert shown["Containers"][one.folder.name]["IPv4Address"] == "10.9.8.77/24"
        assert shown["Options"]["com.docker.network.bridge.name"] in net.links()
        ended = net.stage5("network", "rm", "mine")
        assert (ended.returncode, b"still in use by one" in ended.stderr) == (125, True)
    drivers = json.loads(net.stage5("network", "inspect", "bridge", "host", "none").stdout)
    assert [one["Driver"] for one in drivers] == ["bridge", "host", "null"]
    removed = net.stage5("network", "rm", identity[:8])
    assert removed.returncode == 0, removed.stderr
    assert b"mine" not in net.stage5("network", "ls").stdout
    ended = net.stage5("run", "--rm", "--network", "mine", str(rootfs), "/bin/echo", "ran")
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert b"no network has this name: there is bridge, host, none" in ended.stderr


@pytest.mark.parametrize(
    ("words_", "why"),
    [
        (("bridge",), b"it is always there"),
        (("a/b",), b"say letters"),
        (("--subnet", "10.0.0.0/8", "x"), b"say a network of 256 addresses"),
        (("--subnet", "203.0.113.0/24", "x"), b"the host has a route there"),
        (("twice",), b"`network rm twice` removes it"),
    ],
)
def test_a_network_that_cannot_be_is_refused(
    net: Internet, words_: tuple[str, ...], why: bytes
) -> None:
    assert net.stage5("network", "create", "twice").returncode == 0
    ended = net.stage5("network", "create", *words_)
    assert (ended.returncode, ended.stdout, why in ended.stderr) == (125, b"", True), ended.stderr


def test_many_come_and_go_at_once_and_nothing_is_left(net: Internet, rootfs: Path) -> None:
    assert net.stage5("network", "create", "mine").returncode == 0
    statuses: list[int] = []

    def one(number: int) -> None:
        network = "mine" if number % 2 else "bridge"
        ended = net.stage5(
            *("run", "--rm", "--network", network, "-p", f"{9000 + number}:80"),
            *(str(rootfs), "/bin/sh", "-c", "ip route | grep -q default"),
        )
        statuses.append(ended.returncode)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 8
    net.is_clean()


# ---- what -p may say


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("8080:80", ["0.0.0.0:8080:80/tcp"]),
        ("80", ["0.0.0.0:0:80/tcp"]),
        ("192.0.2.1:53:53/udp", ["192.0.2.1:53:53/udp"]),
        ("127.0.0.1::80", ["127.0.0.1:0:80/tcp"]),
        ("8000-8001:80-81", ["0.0.0.0:8000:80/tcp", "0.0.0.0:8001:81/tcp"]),
    ],
)
def test_what_publish_understands(text: str, found: list[str]) -> None:
    assert list(map(str, publish.ports([text, text]))) == found


@pytest.mark.parametrize(
    "text",
    ["", "x", "0:80", "80:0", "65536:1", "1:2:3:4", "[::1]:80:80", "80/sctp", "80-81:80", "9-8"],
)
def test_what_publish_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="--publish"):
        publish.ports([text])


# ---- another's network, and what fails


def test_one_may_have_the_network_of_another_and_its_names(net: Internet, rootfs: Path) -> None:
    with net.container(rootfs, "-p", "8080:80", name="first") as first:
        shared = ("--network", "container:first")
        with net.container(rootfs, *shared) as second, second.serving(80, "second"):
            assert os.readlink(f"/proc/{second.pid}/ns/net") == os.readlink(
                f"/proc/{first.pid}/ns/net"
            )
            assert second.reads("/etc/hosts") == first.reads("/etc/hosts")
            assert net.beyond.asks(OUTSIDE, 8080) == f"second {BEYOND} word"
        assert first.does("ip", "-br", "link", "show", "eth0").split()[0] == "eth0@if" + str(
            json.loads(net.host.does("ip", "-j", "link", "show", first_cable(net)))[0]["ifindex"]
        )
    ended = net.stage5("run", "--rm", *shared, str(rootfs), "/bin/echo", "ran")
    assert (ended.returncode, ended.stdout) == (125, b"")


def first_cable(net: Internet) -> str:
    return next(net.notes.glob("lab[0-9]*")).name


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-p", "x"), b"a port is a number"),
        (("-p", "[::1]:80:80"), b"containers have IPv4 alone"),
        (("--dns", "name.test"), b"not an IPv4 address"),
        (("--dns", "::1"), b"containers have IPv4 alone"),
        (("--add-host", "name"), b"say NAME:ADDRESS"),
        (("--add-host", "a:1.2.3"), b"not an IPv4 address"),
        (("--ip", "192.0.2.9"), b"it is not on the containers' network"),
        (("--network", "container:none", "-p", "80"), b"no container has this name"),
    ],
)
def test_what_makes_no_sense_is_refused(
    net: Internet, rootfs: Path, options: tuple[str, ...], why: bytes
) -> None:
    ended = net.stage5("run", "--rm", *options, str(rootfs), "/bin/echo", "ran")
    assert (ended.returncode, ended.stdout) == (125, b""), ended
    assert why in ended.stderr
    assert ended.stderr.count(b"\n") == 1


def test_ports_of_one_without_a_bridge_are_said_to_lead_nowhere(
    net: Internet, rootfs: Path
) -> None:
    line = ("-p", "80:80", str(rootfs), "/bin/echo", "ran")
    for network in ("none", "host"):
        ended = net.stage5("run", "--rm", "--network", network, *line)
        assert (ended.returncode, ended.stdout) == (0, b"ran\n")
        assert b"no port of the host's leads anywhere" in ended.stderr
    with net.container(rootfs, name="first"):
        ended = net.stage5("run", "--rm", "--network", "container:first", *line)
        assert (ended.returncode, ended.stdout) == (125, b"")
        assert b"publish it with that container" in ended.stderr


OURS = ("RTM_", "nft ", "bind(0", 'rename("/run/labrun', 'open("/proc/sys/net', "flock(", "socket(")
"""How the words of the network's own calls begin."""


@pytest.mark.once
def test_whatever_call_of_the_network_fails_nothing_runs_and_nothing_is_left(
    net: Internet, rootfs: Path
) -> None:
    line = ("-p", "8080:80", "--rm", str(rootfs), "/bin/echo", "ran")
    # The first one makes the bridge, which stays.
    assert net.stage5("run", *line).returncode == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABRUN_STORE", str(net.store))
        calls = calls_before_the_command(STAGE5, *line, before=net.host.argv())
        # From the ports on, up to the last word to the child: it is told its address.
        told = [call for call, words_ in calls.items() if '"10.88.0.2\\n"' in words_][-1]
        begun = next(call for call, words_ in calls.items() if words_.startswith("bind(0"))
        order = list(calls)
        between = order[order.index(begun) : order.index(told)]
        inside = [call for call in order if call.startswith("child:")]
        wanted: dict[str, str] = {}
        for call in (*between, *inside):
            if calls[call].startswith(OURS):
                # One of each kind: the later ones of a kind are like the first.
                wanted.setdefault(f"{call.partition(':')[0]} {calls[call].partition(')')[0]}", call)
        assert len(wanted) > 10
        for call in wanted.values():
            ended = net.host.run(*faulty("stage5", call, "run", *line))
            assert (ended.returncode, ended.stdout) == (125, b""), (call, calls[call], ended)
            net.clean_soon()
