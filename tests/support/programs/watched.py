"""Commands in one process whose network is watched and led nowhere.

    python watched.py REPORT COMMANDS

COMMANDS: JSON, a list of command lines, each a list that begins with the program's name. REPORT: a
file that gets JSON: the exit code of each, what was asked of the network (event and address), and
what the variables of telemetry were when a library that reports was imported.

Python's own calls are seen, whoever makes them; what a library does in C is not, and finds no way
out of the network namespace that the caller may have put this process in. The loopback interface
works in both. Imports nothing of ours before the commands do.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

REPORTING = ("onnxruntime", "insightface", "huggingface_hub", "ray")
VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")

asked: list[str] = []
imported: dict[str, list[str | None]] = {}


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "import" and arguments[0] in REPORTING and arguments[0] not in imported:
        imported[arguments[0]] = [os.environ.get(name) for name in VARIABLES]
    if event not in (
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.connect",
        "socket.sendto",
    ):
        return
    where = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
    host = where[0] if isinstance(where, tuple) else where
    if host in ("127.0.0.1", "localhost", "::1", None):
        return
    asked.append(f"{event} {where}")
    raise OSError(101, "Network is unreachable")


def raise_loopback() -> None:
    """In a namespace of its own it is down at first; elsewhere there is nothing to do."""
    import fcntl

    with socket.socket() as one, contextlib.suppress(OSError):
        # SIOCSIFFLAGS with IFF_UP and IFF_RUNNING
        fcntl.ioctl(one, 0x8914, struct.pack("16sh", b"lo", 0x41))


def end_when_serving() -> None:
    """SIGTERM once the server listens, as its socket shows, and takes the signal."""
    while not any(line.split()[3] == "0A" for line in _sockets()):
        time.sleep(0.05)
    # the command has imported it
    from pulid_extract.shared.cli.interrupts import end

    while signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, end):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def _sockets() -> list[str]:
    """This process's, of /proc/net/tcp."""
    own = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            own.add(os.readlink(f"/proc/self/fd/{name}"))
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [line for line in lines if f"socket:[{line.split()[9]}]" in own]


def run(program: str, *arguments: str) -> int:
    from importlib import import_module

    sys.argv = [program, *arguments]
    if arguments and arguments[0] == "serve":
        threading.Thread(target=end_when_serving, daemon=True).start()
    try:
        import_module(program.replace("-", "_") + ".cli").main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


if __name__ == "__main__":
    report, commands = Path(sys.argv[1]), json.loads(sys.argv[2])
    raise_loopback()
    sys.addaudithook(watch)
    codes = [run(*command) for command in commands]
    report.write_text(json.dumps({"codes": codes, "asked": asked, "imported": imported}))
