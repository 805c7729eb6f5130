"""A process that has imported everything and forks one child per command, so that many short runs can be
started and killed, and a line of a shell can call `biasscope` often: see `serving`.

Reads JSON lines: {"args", "err", "log", "pause", "fail", "threads"} starts `biasscope ARGS` and answers its
pid; {"wait": pid} answers its exit code, negative for a signal. The child writes a line to `log` per measured
unit before it is stored, sleeps `pause` seconds then, and its n-th fsync fails as on a full disk where `fail`
is n.
"""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformer_lens.model_bridge  # noqa: F401  with transformers' GPT-2 what takes longest
import transformers.models.gpt2.modeling_gpt2  # noqa: F401

from biasscope import cli
from biasscope.commands import ablate, baseline, patch
from biasscope.engine.experiments.scans import session
from biasscope.engine.measure import attribution
from biasscope.engine.measure import baseline as clean
from biasscope.engine.model import forward, loading, tokens
from biasscope.engine.statistics import summary
from biasscope.engine.store.journal import Journal
from tests.support import draws

WARM = (session, ablate, baseline, patch, attribution, forward, loading, clean, summary, tokens)


CALL = """import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    asked = dict(arguments=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    code = server.recv(1)
sys.exit(code[0] if code else 1)
"""
"""What the program on the PATH does: hand over its streams, and end as the command ended."""


def child(task: dict[str, Any]) -> None:
    """Run one command as a process of its own would; never returns."""
    null, err = os.open(os.devnull, os.O_RDWR), os.open(task["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, target in ((0, null), (1, null), (2, err)):
        os.dup2(target, stream)
    put, sync, left = Journal.put, os.fsync, task.get("fail", 0)

    def logged(journal: Journal, unit: str, tables: dict[str, Any]) -> None:
        if "effects" in tables:
            with Path(task["log"]).open("a", encoding="utf-8") as log:
                log.write(f"{os.getpid()}\n")
            time.sleep(task.get("pause", 0))
        put(journal, unit, tables)

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    Journal.put, os.fsync = logged, full
    torch.set_num_threads(task.get("threads", 1))
    os._exit(code_of(task["args"]))


def code_of(arguments: list[str]) -> int:
    """The exit code of a command run in this process."""
    sys.argv = ["biasscope", *arguments]
    try:
        cli.main()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except BaseException:  # noqa: BLE001  a child goes no further than its command
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()
    return 0


@contextmanager
def serving(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """While it lasts, a `biasscope` in that folder answers."""
    with tempfile.TemporaryDirectory() as short:  # the name of a socket may not be long
        where = str(Path(short) / "socket")
        program = folder / "biasscope"
        program.write_text(f"#!{sys.executable} -S\n{CALL.format(socket=where)}")
        program.chmod(0o755)
        command = [sys.executable, "-m", "tests.support.warm", where]
        process = subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE)
        try:
            assert process.stdout and process.stdout.readline() == b"ready\n"
            yield
        finally:
            process.kill()
            process.wait()


def serve(where: str) -> NoReturn:
    """Run each call that comes with its own streams, folder and environment, several at once."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(where)
        server.listen()
        server.settimeout(600)  # whoever asked may have been killed
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            call, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                message, streams, *_ = socket.recv_fds(call, 1 << 20, 3)
                task = json.loads(message)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
                os.chdir(task["folder"])
                os.environ.clear()
                os.environ.update(task["environment"])
                call.sendall(bytes([code_of(task["arguments"])]))
                os._exit(0)
            call.close()


def main() -> None:
    """Answer calls at the socket that is named, or until the input ends."""
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        serve(sys.argv[1])
    # what is killed and resumed is not about how certain its numbers are
    with draws.few():
        answer_all()


def answer_all() -> None:
    """Start and wait for runs as asked."""
    for line in sys.stdin:
        task = json.loads(line)
        if "wait" in task:
            answer = os.waitstatus_to_exitcode(os.waitpid(task["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                child(task)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
