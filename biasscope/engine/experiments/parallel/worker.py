"""What runs in a worker: the model, a replay of the steps up to the units, and the units by name."""

import importlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biasscope.engine.errors import DataError
from biasscope.engine.experiments.parallel.engines import Scan, Serial, Tables
from biasscope.engine.settings import Held, Measure
from biasscope.engine.store import journal, shards
from biasscope.engine.types import Dataset, Unit


@dataclass(frozen=True)
class Stage:
    """What a worker needs to compute some units of a run: the command, and what is stored of it."""

    command: str
    options: Measure
    own: Mapping[str, Any]
    dataset: Dataset
    identity: Mapping[str, Any]
    """All that decides the run's numbers; the worker's must be equal."""
    facts: Mapping[str, Any]
    stored: Mapping[str, Mapping[str, bytes]]
    """Unit → table → its shard."""


class Reached(Exception):  # noqa: N818  it is no error: the steps stop where units are to be measured
    """The scan and the units that a replay of the steps came to."""

    def __init__(self, scan: Scan, units: Sequence[Unit]) -> None:
        super().__init__()
        self.scan, self.units = scan, {unit.name: unit for unit in units}


@dataclass
class Replay(Serial):
    """The engine of a worker: what is stored is given, and the first units that are not end the steps."""

    stage: Stage

    def begin(self, scan: Scan) -> None:
        """Take over what the coordinator has stored. DataError where this worker's run is another one."""
        if differing := journal.differences(self.stage.identity, scan.journal.identity):
            raise DataError(f"a worker has another {', '.join(differing)}: install and store the same on all")
        for name, value in self.stage.facts.items():
            scan.journal.set(name, value)
        for unit, tables in self.stage.stored.items():
            decoded = {
                name: shards.decoded(content, shards.SCHEMAS[name]) for name, content in tables.items()
            }
            scan.journal.put(unit, decoded)

    def measured(self, scan: Scan, units: Sequence[Unit], label: str) -> Iterator[tuple[str, Tables]]:
        """Stop at the first units that are to be measured."""
        if units:
            raise Reached(scan, units)
        return iter(())


class Worker:
    """One process with the model: computes units by name. An actor of Ray."""

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.lm: Any = None
        self.units: dict[str, Unit] = {}

    def begin(self, stage: Stage) -> str:
        """Reach the stage's units; the name of the device."""
        with tempfile.TemporaryDirectory(prefix="biasscope-") as folder:
            held = Held(self.lm, (stage.dataset,), Replay(stage))
            options = replace(stage.options, held=held, output_dir=Path(folder))
            module = importlib.import_module(f"biasscope.engine.experiments.{stage.command}")
            try:
                getattr(module, stage.command)(options, **stage.own)
            except Reached as reached:
                self.lm, self.units = reached.scan.run.lm, reached.units
        return _device(self.lm)

    def compute(self, unit: str) -> dict[str, bytes]:
        """The unit's tables, as their shards."""
        tables = self.units[unit].compute()
        return {name: shards.encoded(frame, shards.SCHEMAS[name], name) for name, frame in tables.items()}


def _device(lm: Any) -> str:
    """The kind of device that a worker computes on."""
    import torch

    return torch.cuda.get_device_name(lm.device) if str(lm.device).startswith("cuda") else str(lm.device)
