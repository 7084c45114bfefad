"""A virtual machine: QEMU, a copy of an image's disk, a way in by ssh, and a saved first moment.

Everything of it is in one folder, which nobody else may enter:

    disk.qcow2, vmlinuz, initrd     copies, so an image that is made later changes nothing here
    key, ssh_config, known_hosts    the way in
    state.json                      what it was started with
    qmp.sock, qemu.log, console.log the running QEMU
    lock                            held while somebody changes any of it
"""

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from checks import kernel
from labs.errors import FAILED, Refused
from labs.paths import CHECKOUT, MADE
from labs.texts import say
from labs.vm import image

USER = "student"
READY = "ready"
"""The snapshot of the moment after the first start."""
MEMORY = "2G"
PROCESSORS = 2
PATIENCE = 600.0
"""Seconds for a start. Under emulation, on a busy machine, it takes minutes."""
FAREWELL = 120.0
"""Seconds for a shutdown, before the plug is pulled."""

SSH_CONFIG = """\
Host vm
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    HostKeyAlias vm
    StrictHostKeyChecking yes
    ControlMaster auto
    ControlPath {socket}
    ControlPersist 300
    ConnectTimeout 20
    ServerAliveInterval 20
    LogLevel ERROR
"""


@dataclass(frozen=True)
class State:
    """What a machine was started with."""

    image: str
    """The hash of the image that its disk is a copy of."""
    kernel: str
    accelerator: str = ""
    """`kvm` or `tcg`; "" before its first start."""
    qemu: str = ""
    """Its version."""
    port: int = 0
    """Where on 127.0.0.1 its ssh answers."""
    pid: int = 0
    saved: Sequence[str] = ()
    """Accelerator and version that saved its first moment."""


class KvmFails(Exception):
    """KVM is here and can't run this guest: so it is where virtualization is nested only half.

    The guest stops at an instruction, or QEMU itself gives up at a register that it can't set.
    """


class Machine:
    """One machine; its folder need not exist yet."""

    def __init__(self, folder: Path, *, ours: bool = False) -> None:
        """Know its folder. With `ours`, the machine dies with this process."""
        self.folder = folder
        self.ours = ours
        self._process: subprocess.Popen[bytes] | None = None

    # ---- what is there --------------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only one that changes the machine."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def state(self) -> State | None:
        """Return what it was started with last; None where it never was."""
        try:
            return State(**json.loads((self.folder / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def running(self) -> State | None:
        """Return what it was started with, where it runs."""
        state = self.state()
        return state if state and self._lives(state.pid) else None

    def has_disk(self) -> bool:
        """Tell whether it has been started before."""
        return (self.folder / "disk.qcow2").exists()

    def _lives(self, pid: int) -> bool:
        """Tell whether that process is this machine: pids are given out again."""
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(f"{self.folder}/disk.qcow2") in b"\0".join(arguments)

    # ---- its life -------------------------------------------------------------------------------

    def take(self, of: Path, which: str) -> None:
        """Take a copy of what the image `of` has: its disk, and the kernel that is asked for."""
        self.forget()
        for name in ("vmlinuz", "initrd"):
            shutil.copyfile(of / which / name, self.folder / name)
        (self.folder / "known_hosts").write_text(f"vm {(of / 'host.pub').read_text()}")
        if not (self.folder / "key").exists():
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "labrun"]
            subprocess.run([*make, "-f", self.folder / "key"], check=True)
        shutil.copyfile(of / "disk.qcow2", self.folder / "disk.qcow2")
        # The last of it: what was killed on the way is taken again.
        self._note(State(of.name, which))

    def start(self, *, ready: bool = False) -> None:
        """Start it, from its disk; or, with `ready`, from its saved first moment.

        Raises Refused where QEMU doesn't start, or the machine doesn't answer in time.
        """
        try:
            self._start(accelerator(self.state()), ready)
        except KvmFails:
            self._start("tcg", ready=False)

    def _start(self, how: str, ready: bool) -> None:
        taken = self.state()
        assert taken
        state = replace(taken, accelerator=how, qemu=version(), port=_free_port())
        with (self.folder / "qemu.log").open("w") as log:
            process = subprocess.Popen(
                self._qemu(state, ready),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=kernel.die_with_parent if self.ours else None,
            )
        self._note(replace(state, pid=process.pid))
        self._write_ssh(state.port)
        try:
            self._await(process, how)
        except BaseException:
            # Nobody would know how far it came.
            process.kill()
            process.wait()
            raise
        self._process = process
        self._set_clock()

    def saved_by_this_qemu(self) -> bool:
        """Tell whether it can go back to its first moment: only what saved it can read it."""
        state = self.state()
        return bool(state and state.saved and list(state.saved) == [accelerator(state), version()])

    def _note(self, state: State) -> None:
        new = self.folder / "state.new"
        new.write_text(json.dumps(asdict(state), indent=1))
        new.rename(self.folder / "state.json")

    def _qemu(self, state: State, ready: bool) -> list[str]:
        """Return the command that starts it. See qemu(1)."""
        ours = image.arch()
        public = (self.folder / "key.pub").read_bytes()
        # systemd-tmpfiles writes the key at each start: see CREDENTIALS in systemd-tmpfiles(8).
        ssh = f"/home/{USER}/.ssh"
        lines = f"d {ssh} 0700 {USER} {USER}\nf+~ {ssh}/authorized_keys 0600 {USER} {USER} - "
        credential = base64.b64encode(lines.encode() + base64.b64encode(public) + b"\n").decode()
        append = (
            f"root=/dev/vda rw quiet console={ours.console} {_KERNEL[state.accelerator]}"
            f"systemd.set_credential_binary=tmpfiles.extra:{credential}"
        )
        return [
            *(ours.qemu, "-name", "labrun", "-no-user-config", "-nodefaults", "-display", "none"),
            *("-machine", ours.machine, "-accel", _ACCELERATORS[state.accelerator]),
            *("-cpu", "host" if state.accelerator == "kvm" else "max"),
            *("-smp", str(PROCESSORS), "-m", MEMORY),
            *("-kernel", "vmlinuz", "-initrd", "initrd", "-append", append),
            *("-drive", f"file={self.folder}/disk.qcow2,if=none,id=disk,format=qcow2"),
            *("-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{state.port}-:22"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
            *("-serial", "file:console.log", "-qmp", "unix:qmp.sock,server=on,wait=off"),
            *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny"),
            *(("-loadvm", READY) if ready else ()),
        ]

    def _write_ssh(self, port: int) -> None:
        # A socket's path has 107 bytes (unix(7)), so this one is relative: ssh is started in here.
        config = SSH_CONFIG.format(port=port, user=USER, folder=self.folder, socket="ssh.sock")
        (self.folder / "ssh_config").write_text(config)

    def _await(self, process: "subprocess.Popen[bytes]", accelerator: str) -> None:
        """Wait until it answers; raise KvmFails where it is KVM that keeps it from that."""
        until = time.monotonic() + PATIENCE
        while True:
            # sshd takes seconds to come; each try costs the machine time that it needs for that.
            time.sleep(1)
            if process.poll() is not None:
                if accelerator == "kvm":
                    raise KvmFails
                said = (self.folder / "qemu.log").read_text(errors="replace").strip()
                why = said.splitlines()[-1] if said else say("vm.ended_silently")
                raise Refused("vm", why, say("vm.see", file=self.folder / "qemu.log"))
            if self._status() == "internal-error":
                raise KvmFails
            if self.run(["true"], quiet=True) == 0:
                return
            if time.monotonic() > until:
                see = say("vm.see", file=self.folder / "console.log")
                raise Refused("vm", say("vm.no_answer"), see)

    def _status(self) -> str:
        """Return what QEMU says of the machine: see RunState in its QMP reference."""
        with contextlib.suppress(OSError):
            told = self._execute("query-status")
            if isinstance(told, dict):
                return str(told["status"])
        return ""

    def _set_clock(self) -> None:
        """Tell it the time: one that comes from a saved moment believes that it is still then."""
        self.run(["sudo", "date", "--set", f"@{time.time():.0f}"], quiet=True)

    def save(self) -> None:
        """Save this moment as the first one."""
        self.run(["sync"], quiet=True)
        self._hang_up()
        self._monitor(f"savevm {READY}")
        state = self.state()
        assert state
        self._note(replace(state, saved=[state.accelerator, state.qemu]))

    def reset(self) -> None:
        """Go back to the saved moment, while it runs."""
        self._hang_up()
        self._monitor(f"loadvm {READY}")
        self._set_clock()

    def stop(self) -> None:
        """Shut it down; pull the plug where that takes too long."""
        state = self.running()
        if not state:
            return
        self._hang_up()
        # It may end by itself just now, and then nobody answers.
        with contextlib.suppress(OSError):
            self._execute("system_powerdown")
            until = time.monotonic() + FAREWELL
            while self._lives(state.pid) and time.monotonic() < until:
                time.sleep(0.1)  # it need not be our child: nobody tells us of its end
        self.unplug()

    def unplug(self) -> None:
        """End it at once, as if the power failed."""
        if state := self.running():
            self._hang_up()
            self._kill(state.pid)

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGTERM)
            while self._lives(pid):
                time.sleep(0.05)  # as in stop()
        if self._process:
            self._process.wait()
            self._process = None

    def forget(self) -> None:
        """Remove the machine's disk, and what else was made for it; it must not run."""
        for name in ("state.json", "disk.qcow2", "vmlinuz", "initrd", "qmp.sock"):
            (self.folder / name).unlink(missing_ok=True)

    # ---- the way in -----------------------------------------------------------------------------

    def ssh(self, words: Sequence[str] = (), *, terminal: bool = False) -> list[str]:
        """Return the command that runs a command in it, or a login shell; start it in `folder`."""
        command = ["ssh", "-F", "ssh_config", *(["-t"] if terminal else [])]
        if not words:
            # sshd shows the message of the day once a connection: a login has one of its own.
            return [*command, "-o", "ControlPath=none", "vm"]
        # A shell says 128+N of what signal N ended; ssh alone would say 255.
        return [*command, "vm", f"{shlex.join(words)}; exit $?"]

    def run(self, words: Sequence[str], *, quiet: bool = False, terminal: bool = False) -> int:
        """Run a command in it as the student; return its exit status, 255 where ssh failed."""
        nothing = subprocess.DEVNULL if quiet else None
        done = subprocess.run(
            self.ssh(words, terminal=terminal),
            cwd=self.folder,
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            check=False,
        )
        return done.returncode

    def copy_checkout(self) -> None:
        """Make the checkout in it like ours; what was made in there stays. Raises Refused."""
        excluded = [f"--exclude={name}" for name in MADE]
        done = subprocess.run(
            [
                *("rsync", "--archive", "--delete", "--no-owner", "--no-group", *excluded),
                *("-e", "ssh -F ssh_config", f"{CHECKOUT}/", "vm:labrun/"),
            ],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            why = done.stderr.strip().splitlines() or [f"rsync: {done.returncode}"]
            raise Refused("vm", why[-1], say("vm.not_copied"), status=FAILED)

    def _hang_up(self) -> None:
        """Close the connection that ssh keeps open: after a leap in time it would hang."""
        words = ["ssh", "-F", "ssh_config", "-O", "exit", "vm"]
        subprocess.run(words, cwd=self.folder, capture_output=True, check=False)

    # ---- QEMU's monitor -------------------------------------------------------------------------

    def _monitor(self, line: str) -> None:
        """Have the monitor do something. Raises Refused with what it says against it."""
        said = self._execute("human-monitor-command", {"command-line": line})
        if said:
            raise Refused("vm", f"{line}: {str(said).strip()}", status=FAILED)

    def _execute(self, command: str, arguments: dict[str, object] | None = None) -> object:
        """Execute a QMP command and return its answer. Raises OSError where nobody answers."""
        from qemu.qmp import QMPClient
        from qemu.qmp.protocol import ConnectError

        async def ask() -> object:
            client = QMPClient("labrun")
            # By a path that is short enough, whatever the folder's (unix(7)).
            here = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
            try:
                await client.connect(f"/proc/self/fd/{here}/qmp.sock")
                try:
                    return await client.execute(command, arguments)
                finally:
                    await client.disconnect()
            finally:
                os.close(here)

        try:
            return asyncio.run(ask())
        except ConnectError as error:
            raise OSError(str(error)) from None


_ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,thread=multi"}
_KERNEL = {"kvm": "", "tcg": "mitigations=off init_on_alloc=0 "}
"""What the kernel is told. An emulated processor doesn't speculate: guards against that would cost
a tenth of its time, and pages that are wiped twice some more."""


def accelerator(before: State | None) -> str:
    """Return `kvm` where this machine's kernel can run guests and we may ask it to, else `tcg`.

    What the machine ran with before decides, where that is known.
    """
    if before and before.accelerator:
        return before.accelerator
    return "kvm" if os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


def version() -> str:
    """Return QEMU's version, as it prints it."""
    told = subprocess.run(
        [image.arch().qemu, "--version"], capture_output=True, text=True, check=True
    )
    return told.stdout.splitlines()[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
