"""The two programs for a shell, without their start: a process that has imported the libraries
forks once for each command. `python command_server.py SOCKET` listens and says "ready"; `PROGRAM`
in the folder that `write_programs` fills asks it, with its own descriptors, folder and environment.

What a command does is its own main(), as always; flags of the small world are added where it has
them and they are not given: the networks there are of one size, know short prompts only, and draw
in eight steps what takes Flux dev twenty.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

PROGRAMS = {"pulid-extract": "pulid_extract.cli", "pulid-generate": "pulid_generate.cli"}
# what takes seconds to import
LIBRARIES = (
    *("torch", "cv2", "onnxruntime", "insightface.model_zoo", "tokenizers"),
    *("pulid_extract.extraction.extractor", "pulid_generate.pipeline.engine"),
)
# flags that mean the same -> what is added if the command has the first and none is given, and, if
# a third is named, this one is
SMALL = (
    (("--aligner",), "antelopev2", ""),
    (("--parser",), "none", ""),
    (("--width", "-W"), "96", ""),
    (("--height", "-H"), "96", ""),
    (("--t5-max-length",), "32", ""),
    (("--skip-layers",), "2,3,4", "--slg-scale"),
    (("--steps",), "8", ""),
)
# commands of programs that have them too, but only look or only answer
PLAIN = ("doctor", "worker", "serve", "pull", "inspect", "cache", "faces", "score", "demo")

CLIENT = """#!{python} -SE
import json, os, socket, sys
ask = socket.socket(socket.AF_UNIX)
ask.connect({address!r})
words = json.dumps([{program!r}, sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(ask, [len(words).to_bytes(4, "big")], [0, 1, 2])
ask.sendall(words)
code = ask.recv(1)
sys.exit(code[0] if code else 70)
"""


def write_programs(folder: Path, address: Path) -> None:
    for program in PROGRAMS:
        path = folder / program
        path.write_text(CLIENT.format(python=sys.executable, address=str(address), program=program))
        path.chmod(0o755)


def smaller(program: str, words: list[str], flags: dict[str, set[str]]) -> list[str]:
    """The words with the small world's flags. flags: command line -> those it takes."""
    path = f"{program} {words[0]}" if words else program
    known = flags.get(path) or flags[program]
    if words and words[0] in PLAIN:
        return words
    added = []
    typed = {word.split("=")[0] for word in words}
    # what a sweep is over is given as well
    typed |= {f"--{word.split('=')[0]}" for word in words if "=" in word}
    for names, value, beside in SMALL:
        if names[0] in known and not typed & {*names} and (not beside or beside in typed):
            added += [names[0], value]
    # behind everything: pulid-extract takes all words after --portrait for portraits
    return words + added


def serve(address: str) -> None:
    from docs import cli_reference

    flags: dict[str, set[str]] = {}
    for program in PROGRAMS:
        flags |= cli_reference.flags(program)
    for name in LIBRARIES:
        importlib.import_module(name)

    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        connection, _ = listening.accept()
        start, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
        length = int.from_bytes(start, "big")
        with connection.makefile("rb") as lines:
            asked = json.loads(lines.read(length))
        if os.fork() == 0:
            listening.close()
            code = 70
            try:
                code = run(asked, descriptors, flags)
            finally:
                connection.send(bytes([code]))
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.close()


def run(asked: list[Any], descriptors: list[int], flags: dict[str, set[str]]) -> int:
    from pulid_generate.pictures import scorer

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    program, words, folder, environment = asked
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # the one that its PATH has, which is this process's again
    scorer.program = lambda: ["pulid-extract"]
    sys.argv = [program, *smaller(program, words, flags)]
    # of this process to its end
    sys.stdin = os.fdopen(0, encoding="utf-8")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    try:
        importlib.import_module(PROGRAMS[program]).main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
