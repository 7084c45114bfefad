"""The descriptions of the student's machine: each can be read by its tool, and says nothing twice.

None of the hypervisors is here: what boots is tested with the project's own virtual machine.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from labs.paths import CHECKOUT

SCRIPT = "labs/vm/provision.sh"
VAGRANTFILE = CHECKOUT / "Vagrantfile"
DESCRIPTIONS = (
    "Vagrantfile",
    "labs/vm/lima.yaml",
    "labs/vm/cloud-init.yaml",
    ".devcontainer/devcontainer.json",
)
PROVIDERS = ("virtualbox", "vmware_desktop", "parallels", "libvirt", "qemu")
COPIES = ("libvirt", "qemu")
"""Those that have no shared folder of their own."""
CPUS, MIB = 2, 2048


def text(name: str) -> str:
    return (CHECKOUT / name).read_text(encoding="utf-8")


def packages() -> set[str]:
    """Return the packages that the script installs."""
    lists = re.findall(r"^(?:BASE|DRIVERS|PEERS|HELPERS)='(.*)'$", text(SCRIPT), re.MULTILINE)
    assert len(lists) == 4
    return {package for line in lists for package in line.split()}


def arguments(script: str) -> list[str]:
    """Return the words of the one command in `script` that starts provision.sh."""
    (line,) = (line for line in script.splitlines() if re.search(rf"\bsh \S*{SCRIPT}\b", line))
    words = shlex.split(line)
    return words[next(i for i, word in enumerate(words) if word.endswith(SCRIPT)) + 1 :]


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_each_description_has_the_script_do_the_work(name: str) -> None:
    assert SCRIPT in text(name)


def installs(description: str) -> set[str]:
    """Return what a description would install by itself."""
    code = re.sub(r"^\s*#.*", "", description, flags=re.MULTILINE)
    words = set(re.findall(r"[\w.+-]+", code))
    # sudo is a package, and how the script is started.
    return words & ((packages() | {"apt", "apt-get"}) - {"sudo"})


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_no_description_has_a_list_of_packages_of_its_own(name: str) -> None:
    assert installs(text(name)) == set()


def test_a_list_of_packages_would_be_found() -> None:
    assert installs("# runc is not\npackages: [python3-venv, podman]") == {"python3-venv", "podman"}


def test_git_leaves_the_ends_of_lines_as_a_shell_reads_them() -> None:
    assert "* text=auto eol=lf" in text(".gitattributes").splitlines()


# ---- Lima, cloud-init, the development container ------------------------------------------------


def test_lima_mounts_the_checkout_and_provisions_it() -> None:
    lima = yaml.safe_load(text("labs/vm/lima.yaml"))
    assert lima["base"] == "template:_images/debian-13"
    assert (lima["cpus"], lima["memory"]) == (CPUS, "2GiB")
    (mount,) = lima["mounts"]
    (step,) = lima["provision"]
    assert mount["writable"] is True
    assert step["mode"] == "system"
    assert arguments(step["script"]) == ["--user", "{{.User}}", mount["mountPoint"]]
    # It would not say so if a mistake in the script kept a machine from coming up.
    checked = subprocess.run(["sh", "-n"], input=step["script"], text=True, check=False)
    assert checked.returncode == 0


def test_cloud_init_fetches_a_checkout_and_provisions_it() -> None:
    data = text("labs/vm/cloud-init.yaml")
    assert data.startswith("#cloud-config\n")
    config = yaml.safe_load(data)
    # What cloud-init doesn't know it leaves out in silence, at the first boot.
    assert set(config) == {"package_update", "packages", "runcmd"}
    assert config["packages"] == ["git"]
    clone, give, provision = config["runcmd"]
    assert clone[:2] == ["git", "clone"]
    assert give[0] == "chown"
    assert provision == ["sh", f"{clone[-1]}/{SCRIPT}", clone[-1]]
    assert give[-1] == clone[-1]


def test_the_development_container_may_do_what_the_stages_do() -> None:
    container = json.loads(text(".devcontainer/devcontainer.json"))
    assert container["privileged"] is True
    assert arguments(container["onCreateCommand"]) == ["--user", container["remoteUser"], "."]


# ---- Vagrant ------------------------------------------------------------------------------------


def test_boxes_and_their_versions_stand_in_one_place() -> None:
    versions = re.findall(r'^\w+ = \["([\w-]+/[\w.-]+)", "([^"]+)"\]', text("Vagrantfile"), re.M)
    assert {name.partition("/")[2] for name, _ in versions} == {"debian-13"}
    assert text("Vagrantfile").count("debian-13") == len(versions)
    for _, version in versions:
        assert text("Vagrantfile").count(version) == 1


def providers(**env: str) -> dict[str, Any]:
    """Return what the Vagrantfile asks of each provider."""
    assert shutil.which("ruby"), "ruby is not installed: it comes with the package vagrant"
    done = subprocess.run(
        ["ruby", Path(__file__).with_name("providers.rb"), VAGRANTFILE, *PROVIDERS],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.vm
class TestVagrant:
    """By the distribution's Vagrant, which has no hypervisor here."""

    def test_vagrant_finds_the_file_valid(self, tmp_path: Path) -> None:
        assert shutil.which("vagrant"), "vagrant is not installed"
        done = self.validate(VAGRANTFILE, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "validated successfully" in done.stdout

    def test_a_mistake_in_the_file_is_found(self, tmp_path: Path) -> None:
        wrong = tmp_path / "Vagrantfile"
        wrong.write_text(text("Vagrantfile").replace("vm.boot_timeout", "vm.boot_patience"))
        done = self.validate(wrong, tmp_path)
        assert done.returncode != 0
        assert "boot_patience" in done.stdout + done.stderr

    @staticmethod
    def validate(file: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["vagrant", "validate", "--ignore-provider"],
            cwd=file.parent,
            env={
                **os.environ,
                "VAGRANT_HOME": str(tmp_path / "home"),
                "VAGRANT_DOTFILE_PATH": str(tmp_path / "state"),
                "VAGRANT_CHECKPOINT_DISABLE": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def test_every_provider_gets_the_same_machine(self) -> None:
        for name, asked in providers().items():
            assert sorted(asked["providers"]) == sorted(PROVIDERS)
            settings = [str(value) for value in asked["settings"].values()]
            assert str(CPUS) in settings, name
            assert {str(MIB), f"{MIB}M"} & set(settings), name
            assert asked["machine"]["box"].endswith("/debian-13"), name
            assert asked["machine"]["box_version"], name

    def test_every_provider_brings_the_checkout_to_where_it_is_provisioned(self) -> None:
        for name, asked in providers().items():
            ((place, folder),) = asked["folders"].items()
            (step,) = asked["scripts"]
            assert folder["from"] == "."
            assert (folder.get("type") == "rsync") == (name in COPIES)
            assert step == {
                "kind": "shell",
                "path": SCRIPT,
                "args": ["--user", "vagrant", place],
            }

    def test_a_box_of_ones_own_takes_the_place_of_all(self) -> None:
        for asked in providers(LABRUN_BOX="mine").values():
            assert asked["machine"]["box"] == "mine"
