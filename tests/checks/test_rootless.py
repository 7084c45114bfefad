"""An ordinary user's container is as isolated as root's, wherever the kernel lets it be made."""

import os
import stat
import sys
from pathlib import Path

import pytest

from tests.running import check, ordinary_user, results

RUNTIME = """\
#!/bin/sh
# stage2, started by user {user}: in a user namespace, without which the kernel gives it nothing.
shift
new=pid,net,mnt,ipc,uts,user
if [ "$1" = --namespaces ]; then new=$2,user; shift 2; fi
net='--net none'
case " $* " in *" --net "*) net= ;; esac
PATH=/usr/sbin:/usr/bin:/sbin:/bin exec setpriv --reuid={user} --regid={user} --clear-groups \\
    {stage2} run --namespaces "$new" $net "$@"
"""
BRIDGE = {"net.own-address"}
"""A cable to the host's bridge is made in the host's network, which is root's."""


@pytest.fixture
def rootless(tmp_path: Path) -> str:
    """Return a runtime that becomes an ordinary user first."""
    user = ordinary_user()
    runtime = tmp_path / "rootless"
    stage2 = Path(sys.executable).with_name("stage2")
    runtime.write_text(RUNTIME.format(user=user, stage2=stage2))
    runtime.chmod(stat.S_IRWXU)
    return str(runtime)


@pytest.mark.skipif(os.geteuid() != 0, reason="cannot: needs root, to look from outside")
@pytest.mark.xdist_group("machine")
def test_all_but_the_bridge_is_closed(rootless: str) -> None:
    status, report = check(rootless, "stage2")
    assert results(report, "fail") == BRIDGE, report["checks"]
    assert results(report, "cannot") == set()
    assert status == 1
