"""An ordinary user's container is as isolated as root's, wherever the kernel lets it be made."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from checks.model import axes
from tests.running import check, ordinary_user, results

RUNTIME = """\
#!/bin/sh
# {stage}, started by user {user}: in a user namespace, without which the kernel gives it nothing.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
stage="setpriv --reuid={user} --regid={user} --clear-groups {stage}"
[ "$1" = run ] || exec $stage "$@"
shift
new=pid,net,mnt,ipc,uts,user
if [ "$1" = --namespaces ]; then new=$2,user; shift 2; fi
net='--net none'
case " $* " in *" --net "*) net= ;; esac
exec $stage run --namespaces "$new" $net "$@"
"""
BRIDGE = {"net.own-address"}
"""A cable to the host's bridge is made in the host's network, which is root's."""
UNION = {"cow.copyup"}
"""In a user namespace overlay keeps no index of hard links, and follows no renamed directory."""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="cannot: needs root, to look from outside"
)


@pytest.fixture
def rootless(tmp_path: Path) -> Callable[[str], str]:
    """Return what makes of a stage a runtime that becomes an ordinary user first."""
    user = ordinary_user()

    def make(stage: str) -> str:
        runtime = tmp_path / "rootless"
        command = Path(sys.executable).with_name(stage)
        runtime.write_text(RUNTIME.format(user=user, stage=command))
        runtime.chmod(stat.S_IRWXU)
        return str(runtime)

    return make


@pytest.mark.xdist_group("machine")
def test_all_but_the_bridge_is_closed(rootless: Callable[[str], str]) -> None:
    status, report = check(rootless("stage2"), "stage2")
    assert results(report, "fail") == BRIDGE, report["checks"]
    assert results(report, "cannot") == set()
    assert status == 1


@pytest.mark.once
@pytest.mark.xdist_group("machine")
def test_an_ordinary_user_has_images_and_layers_too(rootless: Callable[[str], str]) -> None:
    # All on a ROOT of the probe's own. The bench's has /proc mounted in it, and what somebody else
    # has mounted can't be left out of an overlay in a user namespace (clone_private_mount, EINVAL).
    asked = [axis.id for axis in axes().values() if axis.stage == 4]
    status, report = check(rootless("stage4"), "--only", ",".join(asked))
    assert results(report, "fail") == UNION, report["checks"]
    assert results(report, "cannot") == set()
    assert status == 1
