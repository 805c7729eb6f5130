"""A process that has imported everything and forks one child per command, so that many short runs can be
started and killed.

Reads JSON lines: {"args", "err", "log", "pause", "fail", "threads"} starts `biasscope ARGS` and answers its
pid; {"wait": pid} answers its exit code, negative for a signal. The child writes a line to `log` per measured
unit before it is stored, sleeps `pause` seconds then, and its n-th fsync fails as on a full disk where `fail`
is n.
"""

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

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
    sys.argv = ["biasscope", *task["args"]]
    code: Any = 1
    try:
        cli.main()
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
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
