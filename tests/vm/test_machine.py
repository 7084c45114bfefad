"""The student's machine is what its description says, and what the lessons need."""

import hashlib

import pytest

from labs.paths import CHECKOUT
from tests.vm.guest import Guest

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1800)]

MODULES = "dm_snapshot dm_thin_pool overlay bridge sch_tbf sch_netem fuse"


def test_systemd_runs_it_and_nothing_in_it_has_failed(guest: Guest) -> None:
    guest.says("systemctl", "is-system-running", "--wait")
    assert guest.shell("cat /proc/1/comm; systemctl --failed --quiet") == "systemd\n"


def test_its_cgroups_are_version_2_alone(guest: Guest) -> None:
    assert guest.shell("stat -fc %T /sys/fs/cgroup") == "cgroup2fs\n"
    kinds = {line.split()[2] for line in guest.shell("cat /proc/mounts").splitlines()}
    assert "cgroup2" in kinds
    assert "cgroup" not in kinds
    controllers = guest.shell("cat /sys/fs/cgroup/cgroup.controllers").split()
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set(controllers)


def test_what_later_stages_need_of_the_kernel_loads(guest: Guest) -> None:
    guest.shell(f"sudo modprobe -a {MODULES}")
    loaded = guest.shell("cut -d' ' -f1 /proc/modules; ls /sys/module").split()
    assert set(MODULES.split()) <= set(loaded)


def test_a_module_that_is_not_there_is_noticed(guest: Guest) -> None:
    assert guest.says("sudo", "modprobe", "dm_no_such_target")[0] != 0


def test_a_second_provision_changes_nothing(guest: Guest) -> None:
    said = guest.shell(
        r"""
        # The checkout was copied in when the machine was made already: this run is its first.
        sudo labrun/labs/vm/provision.sh --peers --user student labrun >/dev/null
        sudo touch /run/before
        sleep 1
        sudo labrun/labs/vm/provision.sh --peers --user student labrun
        # What runs by itself writes, too: logs, and who is logged in.
        sudo find / -xdev -newer /run/before -type f \
            ! -path '/var/log/*' ! -path '/var/lib/systemd/*'
        """
    )
    assert said.splitlines()[-1] == "labrun: nothing had to be changed", said


@pytest.mark.parametrize("how", [["{}"], ["sudo", "{}"], ["bash", "-lc", "{} --help"]])
@pytest.mark.parametrize("name", ["labrun", "stage1", "stage2"])
def test_the_commands_are_on_everybody_s_path(guest: Guest, name: str, how: list[str]) -> None:
    words = [word.format(name) for word in how]
    status, said, _ = guest.says(*words, *([] if "-lc" in words else ["--help"]))
    assert (status, said[:6].lower()) == (0, "usage:")


def test_the_checkout_in_it_is_this_one(guest: Guest) -> None:
    names = ["labrun", "pyproject.toml", "labs/vm/machine.py"]
    sums = guest.shell(f"cd labrun && sha256sum {' '.join(names)}")
    assert [line.split()[0] for line in sums.splitlines()] == [
        hashlib.sha256((CHECKOUT / name).read_bytes()).hexdigest() for name in names
    ]
