"""A command on a pseudo-terminal, and what its terminal shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Thread

_CODES = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\a]*\a|[\r\n]|[^\x1b\r\n]+")


@dataclass(slots=True)
class Terminal:
    """A command with a new terminal as its standard input, output and error, as a shell starts it.

    `output` is all that it has written. With *piped*, standard output is no terminal.
    """

    process: subprocess.Popen[bytes]
    _controller: int
    _data: bytearray = field(default_factory=bytearray)
    _reader: Thread | None = None

    @classmethod
    def start(
        cls, command: Sequence[str], env: dict[str, str] | None = None, cwd: str | os.PathLike | None = None,
        columns: int = 100,
    ) -> Terminal:  # fmt: skip
        controller, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        process = subprocess.Popen(
            command, env={"TERM": "xterm-256color", **(env or os.environ)}, cwd=cwd,
            stdin=follower, stdout=follower, stderr=follower, start_new_session=True,
            preexec_fn=partial(_control_terminal, follower),
        )  # fmt: skip
        os.close(follower)
        terminal = cls(process, controller)
        terminal._reader = Thread(target=terminal._read, daemon=True)
        terminal._reader.start()
        return terminal

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._controller, 1 << 16)
            except OSError:  # the last process closed the terminal
                return
            if not data:
                return
            self._data += data

    @property
    def output(self) -> str:
        return bytes(self._data).decode(errors="replace")

    def press(self, keys: bytes) -> None:
        """Send *keys*, such as Ctrl-C."""
        os.write(self._controller, keys)

    def wait(self, seconds: float = 300) -> int:
        """Wait for the end of the command and return its exit code."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"timeout; the terminal shows {shown(self.output)}") from None
        assert self._reader is not None
        self._reader.join(30)
        os.close(self._controller)
        return code


def _control_terminal(follower: int) -> None:
    fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # background shells ignore it


def shown(output: str) -> list[str]:
    """Return the lines that a wide terminal shows after *output*."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for match in _CODES.finditer(output):
        text, (number, code) = match.group(), match.groups()
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            if row == len(lines):
                lines.append([])
        elif code == "A":
            row = max(0, row - int(number or 1))
        elif code == "K":
            lines[row] = lines[row][:column] if number in ("", "0") else []
        elif not text.startswith("\x1b"):
            line = lines[row]
            line += [" "] * (column - len(line))
            line[column : column + len(text)] = text
            column += len(text)
    return ["".join(line).rstrip() for line in lines]
