"""The command in a terminal of its own (pty): what a person sees, and what can be typed."""

import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

WAIT = 120.0
"""Seconds after which a silent terminal is a failure: only for machines that hang."""


@dataclass
class Terminal:
    """A running command and its terminal."""

    process: subprocess.Popen[bytes]
    master: int
    seen: bytes = field(default=b"")

    def until(self, wanted: Callable[[bytes], bool]) -> str:
        """What the terminal has shown, once it fits."""
        while not wanted(self.seen):
            ready, _, _ = select.select([self.master], [], [], WAIT)
            assert ready, f"nothing new in {WAIT:.0f} s after: {self.seen[-300:]!r}"
            try:
                more = os.read(self.master, 4096)
            except OSError:  # the command has ended
                break
            if not more:
                break
            self.seen += more
        return self.seen.decode(errors="replace")

    def cpu(self) -> float:
        """Seconds of a processor that the command has used."""
        with open(f"/proc/{self.process.pid}/stat") as file:  # noqa: PTH123
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def type(self, text: str) -> None:
        """Send what a person types."""
        os.write(self.master, text.encode())

    def end(self) -> int:
        """The exit code, all output read."""
        self.until(lambda _: False)
        return self.process.wait()


def start(*arguments: object, **environment: str) -> Terminal:
    """The command in a new terminal."""
    master, slave = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "HF_HUB_OFFLINE": "1"} | environment
    process = subprocess.Popen(
        [sys.executable, "-m", "biasscope", *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=env,
        start_new_session=True,
        preexec_fn=_own_terminal,  # noqa: PLW1509  it only names the terminal
    )
    os.close(slave)
    return Terminal(process, master)


def _own_terminal() -> None:
    """Make the pty the terminal of the new session, so that Ctrl-C reaches it."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
