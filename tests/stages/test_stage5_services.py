"""Stage 5 runs what people run: Redis and nginx, as the distribution has them, under load."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import cannot, run
from tests.stages.lives import Engine, eventually
from tests.stages.networks import OUTSIDE, STAGE5, Internet, on_host

pytestmark = [
    pytest.mark.peers,
    pytest.mark.usefixtures("as_root", "nothing_is_left"),
    pytest.mark.xdist_group("machine"),
]

PROGRAMS = {"cache": ("redis-server", "redis-cli"), "web": ("nginx",)}
CLIENTS = ("redis-benchmark", "wrk")
DOCKERFILES = {
    "cache": """
FROM box
COPY files /
RUN echo redis:x:999:999::/data: >>/etc/passwd && mkdir /data && chown redis /data
USER redis
WORKDIR /data
VOLUME /data
EXPOSE 6379
ENTRYPOINT ["redis-server", "--protected-mode", "no", "--save", ""]
""",
    "web": """
FROM box
COPY files /
COPY nginx.conf /etc/nginx/nginx.conf
RUN echo www-data:x:33:33::/srv: >>/etc/passwd && echo www-data:x:33: >>/etc/group \\
    && mkdir -p /var/lib/nginx /var/log/nginx /run /srv
STOPSIGNAL SIGQUIT
EXPOSE 80
CMD ["nginx", "-g", "daemon off;"]
""",
}
"""As their makers' images have them, on a root of ours."""
NGINX = """
user www-data;
worker_processes 2;
pid /run/nginx.pid;
error_log stderr notice;
events {}
http {
    access_log /dev/stdout;
    server {
        listen 80;
        root /srv;
    }
}
"""
LIMIT = 48
"""MiB of memory that Redis may have."""


def files(programs: tuple[str, ...], root: Path) -> None:
    """Copy programs, each with its libraries, to where they are on this machine."""
    for program in programs:
        path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
        if not path:
            cannot(f"{program} is not installed")
        needed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for one in {path, *re.findall(r"(/\S+) \(0x", needed)}:
            target = root / one.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one, target)


@pytest.fixture(scope="module")
def stock(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a store with the images of both services."""
    folder = tmp_path_factory.mktemp("services")
    for client in CLIENTS:
        if not shutil.which(client):
            cannot(f"{client} is not installed")
    store = {"LABRUN_STORE": str(folder / "store")}
    ended = run([STAGE5, "image", "import", str(rootfs), "box"], environment=store)
    assert ended.returncode == 0, ended
    for name, programs in PROGRAMS.items():
        context = folder / name
        files(programs, context / "files")
        (context / "Dockerfile").write_text(DOCKERFILES[name], encoding="ascii")
        (context / "nginx.conf").write_text(NGINX, encoding="ascii")
        ended = run([STAGE5, "build", "-t", name, str(context)], environment=store)
        assert ended.returncode == 0, ended
    return folder


@pytest.fixture
def internet(stock: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    """Have a host of one's own with those images: in the end nothing is left on it."""
    monkeypatch.setenv("LABRUN_STORE", str(stock / "store"))
    with Internet(stock) as internet:
        yield internet


@pytest.fixture
def engine(internet: Internet, stock: Path) -> Iterator[Engine]:
    """Have `stage5` on that host, and see that nothing is left in the store but the images."""
    with on_host(internet.host, stock) as engine:
        yield engine
        assert engine.says("volume", "ls", "-q") == ""


def speeds(said: str) -> dict[str, float]:
    """Return the requests a second of each command, as redis-benchmark --csv has them."""
    rows = [row.replace('"', "").split(",") for row in said.splitlines()[1:]]
    return {row[0]: float(row[1]) for row in rows}


def test_redis_serves_under_load_within_its_limit_and_keeps_its_data(
    engine: Engine, internet: Internet
) -> None:
    limit = ("-m", f"{LIMIT}m", "--memory-swap", f"{LIMIT}m")
    line = ("run", "-d", "-p", "6379:6379", "-v", "data:/data", *limit, "--network", "shop")
    engine.says("network", "create", "shop")
    engine.says(*line, "--name", "redis", "cache")
    engine.until_it_says("redis", "Ready to accept connections")
    assert engine.known("redis")["Config"]["User"] == "redis"

    # From this host by 127.0.0.1, which is the relay's way; and from another machine, by rules.
    load = ("redis-benchmark", "-t", "set,get", "-n", "5000", "-c", "20", "--csv")
    for place, address in ((internet.host, "127.0.0.1"), (internet.beyond, OUTSIDE)):
        found = speeds(place.does(*load, "-h", address))
        assert {*found} == {"SET", "GET"}
        assert min(found.values()) > 0
    assert "calls=10000," in engine.says("exec", "redis", "redis-cli", "info", "commandstats")
    # From a neighbour, by its name.
    client = ("run", "--rm", "--network", "shop", "--entrypoint", "redis-cli", "cache")
    assert engine.says(*client, "-h", "redis", "set", "colour", "blue") == "OK"
    assert engine.says("exec", "redis", "redis-cli", "save") == "OK"
    stats = engine.says("stats", "--no-stream", "--format", "{{.MemUsage}}", "redis")
    assert stats.endswith(f" / {LIMIT}MiB")

    # More than it may have: the kernel ends it, and nobody else.
    flood = ("redis-benchmark", "-t", "set", "-d", "200000", "-r", "100000", "-n", "1000")
    internet.host.run(*flood, "-c", "4", "-q", timeout=60)
    assert engine.says("wait", "redis") == "137"
    assert engine.known("redis")["State"]["OOMKilled"]
    assert engine.known("redis")["HostConfig"]["Memory"] == LIMIT << 20

    # It comes back with what it had saved, and goes as it should.
    engine.says("start", "redis")
    assert "blue" in eventually(
        lambda: run(
            [engine.command, "exec", "redis", "redis-cli", "get", "colour"]
        ).stdout.decode(),
        lambda said: "blue" in said,
    )
    engine.says("stop", "redis")
    assert "Redis is now ready to exit, bye bye" in engine.says("logs", "redis")
    assert engine.known("redis")["State"]["ExitCode"] == 0
    engine.says("rm", "-v", "redis")
    engine.says(*line, "--name", "other", "cache", "--port", "6379")
    engine.until_it_says("other", "Ready to accept connections")
    assert engine.says("exec", "other", "redis-cli", "get", "colour") == "blue"
    engine.says("rm", "-f", "other")
    engine.says("volume", "rm", "data")
    engine.says("network", "rm", "shop")


def test_nginx_serves_under_load_logs_each_request_and_ends_gracefully(
    engine: Engine, internet: Internet, tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text("hello from outside\n", encoding="ascii")
    tmp_path.chmod(0o755)
    line = ("run", "-d", "--name", "web", "-p", "8080:80", "-m", "64m", "--pids-limit", "16")
    engine.says(*line, "--log-opt", "max-size=100m", "-v", f"{tmp_path}:/srv:ro", "web")
    eventually(lambda: internet.host.asks("127.0.0.1", 8080), lambda said: not said.startswith("!"))
    count = 0
    for place, address in ((internet.host, "127.0.0.1"), (internet.beyond, OUTSIDE)):
        said = place.does("wrk", "-t", "1", "-c", "16", "-d", "1s", f"http://{address}:8080/")
        assert "Non-2xx" not in said, said
        found = re.search(r"(\d+) requests in", said)
        assert found, said
        count += int(found[1])
    assert count > 10
    # Connections that wrk cut off at its end may have been served, too.
    asked = [engine.command, "logs", "web"]
    eventually(lambda: run(asked).stdout.count(b'"GET / HTTP/1.1" 200'), lambda rows: rows >= count)
    # A new configuration, without an end: new workers, and the same master.
    master = engine.pid("web")
    before = {row.split()[1] for row in engine.says("top", "web").splitlines()[1:]}
    ended = run([engine.command, "exec", "web", "nginx", "-s", "reload"])
    assert ended.returncode == 0, ended
    after = eventually(
        lambda: {row.split()[1] for row in engine.says("top", "web").splitlines()[1:]},
        lambda now: now & before == {str(master)} and len(now) == 3,
    )
    assert str(master) in after
    engine.says("stop", "web")
    assert run(asked).stderr.count(b"gracefully shutting down") >= 2
    assert engine.known("web")["State"]["ExitCode"] == 0
    engine.says("rm", "web")
