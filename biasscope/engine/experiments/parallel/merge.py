"""The steps of `runs merge`: the shards of a run joined into the run that one process would have written."""

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from biasscope.engine.errors import DataError, PartialError, UsageError
from biasscope.engine.settings import SILENT, Dtype, Measure, Voice
from biasscope.engine.store import journal, locks, runs
from biasscope.engine.store.cache import SHORTEST
from biasscope.engine.store.journal import Journal
from biasscope.engine.store.reproduce import PLACES
from biasscope.engine.store.runs import EDITED

LISTED = 5
"""Missing parts that are named."""
APART = ("shard", "threads", "finished")
"""Facts in which shards of one run may differ."""


def merge(names: Sequence[str], output_dir: Path, cache_dir: Path, voice: Voice = SILENT) -> runs.Result:
    """The run whose shards these are: folders, or first characters of its key (all that the cache has of it).

    UsageError: no shards, or of several runs. PartialError: parts are missing. DataError: measured in ways
    that give other last digits. DamagedError: a part is corrupted.
    """
    folders = list(dict.fromkeys(folder for name in names for folder in _folders(name, cache_dir / "runs")))
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_opened(folder)) for folder in folders]
        # nothing is in that of a shard to which no part fell, where another finished the run alone
        shards = [shard for shard in opened if shard.facts]
        identity = _same_run(shards)
        _same_facts(shards)
        where = stack.enter_context(journal.opened(cache_dir / "runs", identity, wait=True))
        where.check()
        _join(where, shards)
    voice.note(f"{len(where.facts['finished']['units'])} parts of {len(shards)} shards are joined")
    return _concluded(shards[0].facts["shard"], output_dir, cache_dir, voice)


def _folders(name: str, root: Path) -> list[Path]:
    """The folders of shards that a name means."""
    if (Path(name) / journal.KEY).is_file():
        return [Path(name)]
    found = [] if len(name) < SHORTEST else sorted(root.glob(f"{name}*-of-*"))
    if not found:
        raise UsageError(
            f"no shard is called '{name}'; give folders of shards, or at least {SHORTEST} characters of a "
            f"run's key: `biasscope cache ls` lists what {root} has"
        )
    return found


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Journal]:
    """A shard's journal, locked and checked. UsageError where the folder is no shard's."""
    with locks.held(folder):
        shard = Journal.read(folder)
        if "shard" not in shard.facts and (shard.facts or shard.units):
            raise UsageError(f"{folder} is no shard: it was not measured with --shard")
        shard.check()
        if shard.damaged:
            raise PartialError(
                f"{folder}: {len(shard.damaged)} parts are corrupted (checksum mismatch); run the shard again"
            )
        yield shard


def _same_run(shards: Sequence[Journal]) -> dict[str, Any]:
    """The identity that all have. UsageError where one has another."""
    first, *others = (shard.identity for shard in shards)
    for shard, other in zip(shards[1:], others, strict=True):
        if differing := journal.differences(first, other):
            raise UsageError(
                f"{shard.folder.name} is of another run than {shards[0].folder.name}: they differ in "
                f"{', '.join(differing)}"
            )
    return first


def _same_facts(shards: Sequence[Journal]) -> None:
    """Raise where shards are of another division, or decided something in another way."""
    of = {shard.facts["shard"]["of"] for shard in shards}
    if len(of) > 1:
        raise UsageError(f"shards of {' and of '.join(map(str, sorted(of)))}; merge those of one division")
    for shard in shards[1:]:
        facts = [{k: v for k, v in s.facts.items() if k not in APART} for s in (shards[0], shard)]
        if differing := journal.differences(*facts):
            raise DataError(
                f"{shard.folder.name} was measured with another {', '.join(differing)} than "
                f"{shards[0].folder.name}: last digits depend on it; give all shards the same --batch-size"
            )


def _join(where: Journal, shards: Sequence[Journal]) -> None:
    """Bring the shards' units into the run's own folder. PartialError where some are nowhere."""
    whole = next((shard.facts["finished"] for shard in shards if "finished" in shard.facts), None)
    of, given = shards[0].facts["shard"]["of"], {shard.facts["shard"]["index"] for shard in shards}
    left = [f"{i}/{of}" for i in range(1, of + 1) if i not in given]
    have = {unit: shard for shard in reversed(shards) for unit in shard.units}
    missing = [unit for unit in (whole or {"units": []})["units"] if unit not in have | where.units]
    if whole is None or missing:
        what = (
            f"{len(missing)} parts are missing: {', '.join(missing[:LISTED])}"
            if whole
            else "none has finished"
        )
        what += ", …" if len(missing) > LISTED else ""
        advice = f"there is no shard {', '.join(left)}" if left else "run the shards again"
        raise PartialError(f"{what}; {advice}")
    for unit, shard in have.items():  # those too that chose the sites (--top)
        if unit not in where.units:
            where.adopt(unit, shard)
    facts: dict[str, Any] = {}
    for shard in shards:
        facts |= {name: value for name, value in shard.facts.items() if name not in APART}
    facts["threads"] = sorted({n for shard in shards for n in shard.facts.get("threads", [])})
    warnings = list(
        dict.fromkeys(text for s in shards for text in s.facts.get("finished", whole)["warnings"])
    )
    if len(facts["threads"]) > 1:
        warnings.append(f"{whole['part']['name']}: {journal.in_turn(facts['threads'])}")
    part = whole["part"] | {"threads": facts["threads"]}
    for name, value in (facts | {"finished": whole | {"part": part, "warnings": warnings}}).items():
        if where.facts.get(name) != value:
            where.set(name, value)


def _concluded(asked: Mapping[str, Any], output_dir: Path, cache_dir: Path, voice: Voice) -> runs.Result:
    """The result of the command that the shards were measured for, all of whose units are stored."""
    settings, own = restored(asked["params"])
    settings = replace(settings, output_dir=output_dir, cache_dir=cache_dir)
    module = importlib.import_module(f"biasscope.engine.experiments.{asked['command']}")
    result: runs.Result = getattr(module, asked["command"])(settings, **own, voice=voice)
    return result


def restored(params: Mapping[str, Any]) -> tuple[Measure, dict[str, Any]]:
    """The settings, and the command's own options, that a run's parameters were recorded from."""
    names = {f.name for f in fields(Measure)}
    shared = {name: value for name, value in params.items() if name in names}
    shared |= {name: Path(shared[name]) for name in (*PLACES, "edit") if shared.get(name)}
    own = {name: value for name, value in params.items() if name not in names | {EDITED}}
    return Measure(**shared | {"dtype": Dtype(params["dtype"])}), own
