"""A command in a terminal of its own, and what a user reads there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence

PART = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")


def run_in_terminal(arguments: Sequence[str], *, columns: int = 110) -> tuple[int, str]:
    """The exit status of `sgpo` with these arguments, and all that it wrote to its terminal."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "sgpo", *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    os.close(follower)
    written = bytearray()
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:  # how Linux says that nobody holds the other end any more
            break
        if not part:
            break
        written += part
    os.close(leader)
    return process.wait(), written.decode(errors="replace")


def lines_on_screen(written: str) -> list[str]:
    """What is left to read once everything was drawn: bars as they stood last, no colours."""
    lines, row, column = [""], 0, 0
    for part in PART.finditer(written):
        text, number, command = part[0], part[1], part[2]
        if text == "\r":
            column = 0
        elif text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif command == "A":
            row = max(0, row - int(number or 1))
        elif command == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        elif command is None:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
    return [line.rstrip() for line in lines]
