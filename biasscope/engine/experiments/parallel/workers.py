"""Units measured by workers of a Ray cluster; this process alone writes what they return.

A worker is an actor that holds the model. It replays the command's steps up to the units that are asked for,
on the journal as this process has it, and computes the units that it is then given by name. A worker, a node
or the whole cluster may die: that costs the units in flight, and the next call goes on with what is stored.
"""

import atexit
import contextlib
import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from biasscope.engine.errors import PartialError, UsageError
from biasscope.engine.experiments.parallel.engines import Engine, Scan, Serial, Shard, Tables
from biasscope.engine.experiments.parallel.worker import Stage, Worker
from biasscope.engine.settings import Held, Measure
from biasscope.engine.store import cache, shards
from biasscope.engine.store.runs import EDITED
from biasscope.engine.types import Unit

TRIES = 3
"""Workers that a unit may take down with it before it is left out."""
DEADLINE = 3600.0
"""Seconds that a unit may take, the loading of the model included."""
STORE = 100 * 2**20
"""Bytes of Ray's object store; what is sent are kilobytes."""
PATIENCE = 90.0
"""Seconds without a worker after which it is said."""
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Ray's word for: this machine alone. A cluster of our own listens on no other address."""
CORES = 4
"""Cores of a worker, unless `--workers` says otherwise."""


def _stage(scan: Scan) -> Stage:
    """What workers need for the scan's next units."""
    options = scan.run.options
    own = {name: value for name, value in scan.run.own.items() if name != EDITED}
    if "from" in own:
        ranked, _ = cache.load(options.output_dir, own.pop("from"), options.cache_dir)
        own["run"] = str(ranked.folder.resolve())
    changed: dict[str, Any] = {name: getattr(options, name).absolute() for name in ("data_dir", "cache_dir")}
    changed |= {"engine": "serial", "workers": None, "ray_address": None, "no_cache": True, "fresh": False}
    changed |= {"edit": options.edit and options.edit.absolute()}
    changed |= {"dataset": [scan.run.names.get(scan.dataset.name, scan.dataset.name)], "held": Held()}
    plain = replace(options, **changed)
    held = scan.journal
    stored = {
        unit: {name: held.shard(unit, name).read_bytes() for name in tables}
        for unit, tables in held.units.items()
    }
    data = next(data for data in scan.run.datasets if data.digest == held.identity["content"])
    return Stage(scan.run.command, plain, own, data, held.identity, dict(held.facts), stored)


@dataclass
class Task:
    """A unit that a worker has."""

    actor: Any
    unit: str
    """Empty: it reaches the stage."""
    since: float


class Queue(Collection[tuple[str, Tables]]):
    """The units of a stage, each given to a worker that is free, and again where one died with it.

    Iterating gives names with tables, as they come in. What cannot be had is in `failed`.
    """

    def __init__(self, engine: "Ray", stage: Stage, units: Sequence[str], say: Callable[[str], None]) -> None:
        import ray

        self.engine, self.stage, self.size = engine, ray.put(stage), len(units)
        self.todo = deque(units)
        self.tries: Counter[str] = Counter()
        self.failed: dict[str, str] = {}
        """Unit → why it could not be measured."""
        self.busy: dict[Any, Task] = {}
        self.say, self.waits = say, time.monotonic() + PATIENCE

    def __len__(self) -> int:
        return self.size

    def __contains__(self, unit: object) -> bool:
        return unit in self.todo

    def __iter__(self) -> Iterator[tuple[str, Tables]]:
        import ray

        for actor in list(self.engine.hired(self.size)):
            self._give(actor, "")
        while self.todo or any(task.unit for task in self.busy.values()):
            ready, _ = ray.wait(list(self.busy), timeout=1.0)
            if ready or any(task.unit for task in self.busy.values()):
                self.waits = time.monotonic() + PATIENCE
            elif time.monotonic() > self.waits:
                self.waits = float("inf")
                kind = "GPU" if self.engine.gpus else "CPU"
                free = ray.available_resources().get(kind, 0)
                self.say(f"no worker has begun in {PATIENCE:.0f} s; the cluster has {free:.0f} {kind} free")
            for ref in ready:
                task = self.busy.pop(ref)
                if (tables := self._taken(ref, task)) is not None:
                    yield task.unit, tables
            self._end_overdue()

    def _give(self, actor: Any, unit: str) -> None:
        """Let the actor reach the stage (`unit` empty), or compute a unit."""
        ref = actor.compute.remote(unit) if unit else actor.begin.remote(self.stage)
        self.busy[ref] = Task(actor, unit, time.monotonic())

    def _taken(self, ref: Any, task: Task) -> Tables | None:
        """What a worker returned; None where that is no unit's tables. It gets the next unit, if it lives."""
        import ray
        from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

        try:
            returned = ray.get(ref)
        except RayTaskError as error:  # our own code raised: it would again
            if not task.unit:
                raise error.as_instanceof_cause() from None
            self.failed[task.unit] = str(error.cause).split("\n")[0]
            returned = None
        except ActorUnavailableError as error:
            time.sleep(1.0)
            self._lost(task, str(error))
            return None
        except RayError as error:
            self._lost(task, str(error))
            return None
        if not task.unit:
            self.engine.devices.add(returned)
        if self.todo:
            self._give(task.actor, self.todo.popleft())
        if not task.unit or returned is None:
            return None
        return {name: shards.decoded(content, shards.SCHEMAS[name]) for name, content in returned.items()}

    def _lost(self, task: Task, why: str) -> None:
        """Replace a worker that died; what it had is tried again, as often as may be."""
        self.tries[task.unit] += 1
        if task.unit and self.tries[task.unit] < TRIES:
            self.todo.append(task.unit)
        elif task.unit:
            self.failed[task.unit] = f"{TRIES} workers died with it"
        elif self.tries[""] > TRIES * max(1, len(self.engine.actors)):
            raise PartialError(f"workers die before they measure anything: {why.splitlines()[0]}")
        if self.todo or self.busy:
            self._give(self.engine.replaced(task.actor), "")

    def _end_overdue(self) -> None:
        """Kill workers whose unit takes longer than the deadline."""
        import ray

        now = time.monotonic()
        for ref, task in list(self.busy.items()):
            if now - task.since > self.engine.deadline:
                del self.busy[ref]
                ray.kill(task.actor)
                self._lost(task, f"a part took more than {self.engine.deadline:.0f} s")


@dataclass
class Ray(Serial):
    """The engine of the coordinator: it deals units to workers, and takes back what a dead one had."""

    workers: int | None = None
    """How many; None: one a GPU, else one for every few cores."""
    address: str | None = None
    """Of the cluster; None: one of its own on this machine."""
    worker: type = Worker
    """What becomes the actor."""
    deadline: float = DEADLINE
    actors: list[Any] = field(default_factory=list)
    stdout: int | None = None
    """A copy of this process's stdout; Ray writes to what is called so."""
    gpus: bool = False
    each: int = 1
    """Threads of a worker."""
    devices: set[str] = field(default_factory=set)
    joined: bool = False
    """Whether this process was in a cluster before, and stays there."""

    def threads(self) -> int:
        """The threads of a worker."""
        self._start()
        return self.each

    def _start(self) -> None:
        """Join the cluster, or start one here; once."""
        if self.stdout is not None:
            return
        try:
            os.environ |= {"RAY_USAGE_STATS_ENABLED": "0"} | ({} if self.address else LOOPBACK)
            import ray
        except ImportError as error:
            raise UsageError(f"--engine ray needs Ray ({error}): pip install 'biasscope[ray]'") from error
        sys.stdout.flush()
        self.stdout = os.dup(1)
        os.dup2(2, 1)
        atexit.register(self.close)
        here = {"object_store_memory": STORE, "include_dashboard": False}
        own: dict[str, Any] = {} if self.address else here
        self.joined = ray.is_initialized()
        try:
            if not self.joined:
                ray.init(self.address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"no Ray cluster at {self.address or 'this machine'}: {error}") from error
        have = ray.cluster_resources()
        cores, gpus = int(have.get("CPU", 1)), int(have.get("GPU", 0))
        self.gpus = gpus > 0
        self.workers = self.workers or gpus or max(1, cores // CORES)
        self.each = max(1, cores // self.workers)

    def hired(self, units: int) -> list[Any]:
        """The workers, with new ones until there are as many as wanted, or as there are units."""
        self.actors += [self._actor() for _ in range(min(self.workers or 1, units) - len(self.actors))]
        return self.actors

    def replaced(self, actor: Any) -> Any:
        """A new worker in the place of one that died."""
        self.actors = [other for other in self.actors if other is not actor]
        self.actors.append(new := self._actor())
        return new

    def _actor(self) -> Any:
        import ray

        needs = {"num_cpus": self.each, "num_gpus": 1 if self.gpus else 0, "scheduling_strategy": "SPREAD"}
        return ray.remote(self.worker).options(max_restarts=0, max_task_retries=0, **needs).remote(self.each)

    def measured(self, scan: Scan, units: Sequence[Unit], label: str) -> Iterator[tuple[str, Tables]]:
        """The units' names with their tables, as workers return them. PartialError: some could not be had."""
        try:
            yield from self._measured(scan, units, label) if units else ()
        except BaseException:  # whoever called goes on without us, and with its stdout
            self.close()
            raise

    def _measured(self, scan: Scan, units: Sequence[Unit], label: str) -> Iterator[tuple[str, Tables]]:
        self._start()
        assert self.workers is not None  # noqa: S101 - decided at the start
        if len(units) < self.workers:
            scan.run.voice.note(f"{len(units)} parts: more than {len(units)} workers cannot help here")
        queue = Queue(self, _stage(scan), [unit.name for unit in units], scan.run.voice.note)
        yield from scan.run.voice.track(queue, label)
        if len(self.devices) > 1:
            kinds = ", ".join(sorted(self.devices))
            scan.warn(f"measured on {kinds} in turn: last digits depend on it")
        if queue.failed:
            named = "; ".join(f"{name}: {why}" for name, why in list(queue.failed.items())[:3])
            raise PartialError(
                f"{scan.dataset.name}: {len(queue.failed)} of {len(units)} parts could not be measured "
                f"({named}); what is measured is kept: the same command tries them again"
            )

    def close(self) -> None:
        """Leave the cluster, and give stdout back."""
        if self.stdout is None:
            return
        import ray

        with contextlib.suppress(Exception):
            for actor in self.actors:
                ray.kill(actor)
            self.actors = []
            if not self.joined:
                ray.shutdown()
        sys.stdout.flush()
        os.dup2(self.stdout, 1)
        os.close(self.stdout)
        self.stdout = None
        atexit.unregister(self.close)


def chosen(options: Measure) -> Engine:
    """The engine that the options say."""
    if options.shard:
        return Shard.parse(options.shard)
    if options.engine == "ray":
        return Ray(options.workers, options.ray_address)
    return Serial()
