"""stdin, stdout and stderr of the command: the caller's own, or pipes, or a terminal of its own."""

from __future__ import annotations

import os

from stages import linux
from stages.light import later
from stages.linux import O_CLOEXEC, SIGCHLD, SIGINT, SIGKILL
from stages.stage1_chroot.process import INSIST
from stages.stage5_container.loop import IN, Source, Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stages.stage5_container import terminal
    from stages.stage5_container.monitor import Monitor
    from stages.stage5_container.options import Contained
    from stages.stage5_container.terminal import Pty
else:
    terminal = later("stages.stage5_container.terminal")


class Streams:
    """What the command reads and writes, from before it is forked until it has ended.

    `kept` are the descriptors that the child has until execve(2) closes them.
    """

    def __init__(self, container: Contained, monitor: Monitor) -> None:
        """Take the container, and who looks after it; nothing is made yet."""
        self.container, self.monitor, self.loop = container, monitor, monitor.loop
        self.pty: Pty | None = None
        self.inner: dict[int, int] = {}
        self.outer: dict[int, int] = {}
        self.sources: list[Source] = []
        self.feed: Writer | None = None

    def __enter__(self) -> Streams:
        """Make what is needed."""
        self.ready, told = linux.pipe2(O_CLOEXEC)
        self.kept = [told]
        if self.container.tty:
            self.pty = terminal.Pty()
        else:
            self.make_pipes()
        return self

    def make_pipes(self) -> None:
        """Make a pipe for each stream that isn't the caller's own."""
        if self.monitor.relays():
            for stream in (1, 2):
                self.outer[stream], self.inner[stream] = linux.pipe2(O_CLOEXEC)
        source = self.monitor.stdin()
        if source == "pipe":
            self.inner[0], self.outer[0] = linux.pipe2(O_CLOEXEC)
        elif source == "nothing":
            self.inner[0] = linux.open_file("/dev/null", linux.O_RDONLY | O_CLOEXEC)

    def __exit__(self, *_: object) -> None:
        """Close what is left."""
        for source in self.sources:
            source.close()
        if self.feed:
            self.feed.close()
        self.monitor.feed_from(None)
        self.monitor.sender = self.monitor.window = None
        for fd in (self.ready, *self.outer.values(), *self.inner.values()):
            self.loop.forget(fd)
            os.close(fd)
        if self.pty:
            self.loop.forget(self.pty.outer.fileno())
            self.pty.close()

    # ---- in the child

    def settle(self, *, first: bool = True) -> None:
        """In the child, inside its root: take the streams as 0, 1 and 2, in a session of its own.

        The terminal of the `first` command is the container's console.

        What a terminal may do to those who have it as theirs (type for them: TIOCSTI) it may do
        only in its session. See setsid(2), ioctl_tty(2).
        """
        linux.setsid()
        # Until the command has really begun, errors are for the caller.
        self.kept.append(linux.dup(2))
        if self.pty:
            slave = self.pty.take()
            self.inner = dict.fromkeys((0, 1, 2), slave)
            if first and "mnt" in self.container.namespaces:
                terminal.show_console(slave)
        for stream, fd in self.inner.items():
            linux.dup2(fd, stream)

    def fail(self) -> None:
        """In the child: the command can't be run; the caller is to hear why, and the monitor."""
        if self.kept[1:]:
            linux.dup2(self.kept[1], 2)
        linux.write(self.kept[0], b"!")

    # ---- in the parent

    def serve(self, child: int) -> int:
        """Carry streams and signals to and fro until the child ends; return its exit status."""
        self.child, self.status, self.last_interrupt = child, -1, -INSIST
        self.begun = self.heard = False
        os.close(self.kept[0])
        for fd in self.inner.values():
            os.close(fd)
        self.inner = {}
        self.monitor.sender = self.send
        self.loop.watch(self.ready, IN, self.hear)
        self.loop.watch(self.monitor.signals, IN, self.heed)
        if self.pty:
            self.loop.watch(self.pty.outer.fileno(), IN, self.connect)
        else:
            self.attach({stream: fd for stream, fd in self.outer.items() if stream})
            self.accept(self.outer.get(0, -1))
            self.outer = {}
        while self.status < 0:
            for source in self.sources:
                source.wait()
            self.monitor.look_around()
            self.loop.turn()
        self.loop.forget(self.monitor.signals)
        for source in self.sources:
            source.drain()
        self.monitor.flush()
        if not self.heard:
            self.hear()
        if not self.begun:
            self.monitor.failed(self.status)
        return self.status

    def attach(self, outer: dict[int, int]) -> None:
        """Read the command's outputs from now on."""
        sinks = self.monitor.sinks
        self.sources = [Source(self.loop, fd, stream, sinks) for stream, fd in outer.items()]

    def accept(self, fd: int) -> None:
        """Have the monitor feed the command through a descriptor."""
        if fd >= 0:
            self.feed = Writer(self.loop, fd)
        self.monitor.feed_from(self.feed)

    def connect(self) -> None:
        """Take the terminal that the child has opened."""
        assert self.pty
        self.loop.forget(self.pty.outer.fileno())
        if (master := self.pty.receive()) >= 0:
            self.attach({1: master})
            self.accept(os.dup(master))
            self.monitor.window = self.pty.resize
            self.pty.resize(*self.monitor.size)

    def hear(self) -> None:
        """Hear from the child: the pipe ends without a word when execve(2) closes it."""
        self.loop.forget(self.ready)
        self.begun, self.heard = not linux.read(self.ready, 1), True
        if self.begun:
            self.monitor.begun(self.child)

    def heed(self) -> None:
        """Do what a signal asks for."""
        signum = linux.read_signal(self.monitor.signals)
        if signum == linux.SIGWINCH and self.monitor.window_changed():
            return
        if signum != SIGCHLD:
            self.send(signum)
        elif ended := linux.waitid(self.child, linux.WEXITED | linux.WNOHANG):
            self.status = ended.si_status + (0 if ended.si_code == os.CLD_EXITED else 128)

    def send(self, signum: int) -> None:
        """Hand a signal on to the command, which is in a session of its own."""
        if self.status >= 0:
            return
        linux.kill(self.child, signum)
        if signum == SIGINT:
            now = self.monitor.now()
            if now - self.last_interrupt < INSIST:
                self.monitor.insist(self.child)
                linux.kill(self.child, SIGKILL)
            self.last_interrupt = now
