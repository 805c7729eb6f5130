"""Workers that fail in the ways that processes and machines do, each once for a unit, or always.

What is to fail stands in a folder that BIASSCOPE_FAULTS names: a file KIND/UNIT, removed where it fails once.
"""

import os
import time
from pathlib import Path

from biasscope.engine.experiments.parallel.workers import Worker


def folder() -> Path:
    """Where the faults that are left stand."""
    return Path(os.environ["BIASSCOPE_FAULTS"])


def plan(**units: str) -> None:
    """Let a unit fail: `dies` and `hangs` once, `raises` and `poison` (the worker dies) always."""
    for kind, unit in units.items():
        (folder() / kind).mkdir(parents=True, exist_ok=True)
        (folder() / kind / unit).touch()


class Faulty(Worker):
    """A worker that does as the plan says."""

    def compute(self, unit: str) -> dict[str, bytes]:
        """The unit's tables, where nothing is to fail."""
        if self._planned("raises", unit, once=False):
            raise RuntimeError(f"cannot compute {unit}")
        if self._planned("poison", unit, once=False) or self._planned("dies", unit, once=True):
            os._exit(1)
        if self._planned("hangs", unit, once=True):
            time.sleep(600)
        return super().compute(unit)

    def _planned(self, kind: str, unit: str, *, once: bool) -> bool:
        file = folder() / kind / unit
        there = file.exists()
        if there and once:
            file.unlink()
        return there
