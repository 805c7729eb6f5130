"""Who measures a run's units: this process, a share of them (`--shard i/n`), or workers of a Ray cluster.

A unit is named, pure and computed from the same facts wherever it is; what it gives lies in the run's
journal, which one process alone writes. So every engine ends with the same bytes.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl

from biasscope.engine.errors import UsageError
from biasscope.engine.settings import Measure
from biasscope.engine.store import digests
from biasscope.engine.types import Unit

Scan = Any
"""A `scans.scan.Scan`; that file imports this one."""
Tables = Mapping[str, pl.DataFrame]
SHARDED = ("ablate", "baseline", "patch")
"""Commands whose units do not depend on what other units gave."""
DISTRIBUTED = (*SHARDED, "circuit", "encode")
"""Commands whose units workers measure, each stage once the one before is whole."""


class Engine(Protocol):
    """What measures the units of a scan."""

    def folder(self, key: str) -> str:
        """The name of the folder in the cache that holds what is measured of the run of that key."""

    def threads(self) -> int:
        """With how many threads a unit is measured; the last digits depend on it."""

    def begin(self, scan: Scan) -> None:
        """Prepare for a scan whose journal is open."""

    def share(self, units: Sequence[Unit]) -> list[Unit]:
        """Those of the units that this run measures."""

    def measured(self, scan: Scan, units: Sequence[Unit], label: str) -> Iterator[tuple[str, Tables]]:
        """The units' names with their tables, in any order, each as soon as it is there."""

    def end(self, scan: Scan) -> None:
        """Conclude a scan; not called where it failed."""

    def close(self) -> None:
        """Let go of what was started."""


class Serial:
    """Units one after the other in this process."""

    def folder(self, key: str) -> str:
        """The run's key."""
        return key

    def threads(self) -> int:
        """The threads of this process."""
        import torch

        return torch.get_num_threads()

    def begin(self, scan: Scan) -> None:
        """Prepare for a scan."""

    def share(self, units: Sequence[Unit]) -> list[Unit]:
        """All of the units."""
        return list(units)

    def measured(self, scan: Scan, units: Sequence[Unit], label: str) -> Iterator[tuple[str, Tables]]:
        """The units' names with their tables."""
        for unit in scan.run.voice.track(list(units), label) if label else units:
            yield unit.name, unit.compute()

    def end(self, scan: Scan) -> None:
        """Conclude a scan."""

    def close(self) -> None:
        """Let go of what was started."""


@dataclass(frozen=True)
class Shard(Serial):
    """The i-th of n shares of a run, each of which any process may measure on its own."""

    index: int
    """From 1 to `of`."""
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that "2/3" names. UsageError."""
        match = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
        if not match or int(match[1]) > int(match[2]):
            raise UsageError(f"--shard '{text}' is no share; write i/n with 1 ≤ i ≤ n, such as 2/8")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        """As the option has it."""
        return f"{self.index}/{self.of}"

    def folder(self, key: str) -> str:
        """The run's key, and which share of it."""
        return f"{key}-{self.index}-of-{self.of}"

    def begin(self, scan: Scan) -> None:
        """Keep what `runs merge` needs to know of the run."""
        params = scan.run.options.resolved() | scan.run.own
        params |= {"dataset": [scan.run.names[scan.dataset.name]]}
        asked = {"command": scan.run.command, "params": params}
        scan.journal.decide("shard", {"index": self.index, "of": self.of, **asked})

    def share(self, units: Sequence[Unit]) -> list[Unit]:
        """Those that the sha256 of their name deals to this shard."""
        return [u for u in units if int(digests.of_bytes(u.name.encode()), 16) % self.of == self.index - 1]

    def end(self, scan: Scan) -> None:
        """Say what is measured, and how the shares are joined."""
        units = scan.journal.facts["finished"]["units"]
        have = f"{len(units) - len(scan.journal.missing)} of {len(units)} parts"
        scan.run.voice.note(
            f"{scan.dataset.name}: shard {self} is measured, {have}; once all {self.of} are: "
            f"biasscope runs merge {scan.key[:8]}"
        )


def check(command: str, options: Measure, own: Mapping[str, Any]) -> None:
    """UsageError where the command's units cannot be measured in the way that the options say."""
    shard, engine = options.shard and Shard.parse(options.shard), options.engine
    if engine == "serial" and (options.workers or options.ray_address):
        raise UsageError("--workers and --ray-address are about a cluster: they need --engine ray")
    if shard and engine != "serial":
        raise UsageError(f"--shard is a share for one process; it does not go with --engine {engine}")
    which, may = ("--shard", SHARDED) if shard else (f"--engine {engine}", DISTRIBUTED)
    if (shard or engine != "serial") and command not in may:
        raise UsageError(f"{which} goes with {', '.join(may)}; `{command}` measures in one process")
    later = [f"--{name}" for name in ("adaptive", "calibrate", "conditional") if own.get(name)]
    later += ["--method edges"] if own.get("method") == "edges" else []
    later += ["--components neuron"] if own.get("components") == "neuron" else []
    if shard and later:
        raise UsageError(f"{later[0]} measures what all shards together found; leave it out with --shard")
    if shard and (options.no_cache or options.held.lm or options.held.datasets):
        what = "--no-cache" if options.no_cache else "a model or data set in memory"
        raise UsageError(f"a shard lies in the cache until it is merged: --shard does not go with {what}")
    if engine != "serial" and options.held.lm:
        raise UsageError("workers load the model by its name; save the one in memory, and name its folder")
