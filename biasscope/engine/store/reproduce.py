"""The command that gives a run again, built anew from its parameters: a record's text may be edited."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from biasscope.engine.settings import IN_MEMORY, Measure
from biasscope.engine.store.runs import RunRecord

PLACES = ("data_dir", "cache_dir", "output_dir")
"""Options that are about this machine and decide no number."""
PATH = r"(?<![\w./])[~/][\w.-]*/\S+"
"""An absolute path within a sentence."""
DEFAULTS = {f.name: f.default for f in fields(Measure)}


def command(name: str, params: Mapping[str, Any], *, document: bool = False) -> str:
    """The command line with these parameters: model, data sets and whatever differs from the defaults.

    For a `document`, which others read, it names no folder of this machine.
    """
    shared = [
        key
        for key in DEFAULTS
        if key in params and (key == "model" or str(params[key]) != str(DEFAULTS[key]))
    ]
    shared = [key for key in shared if key != "model" or "predictions" not in params]  # no model ran
    words = ["biasscope", name]
    for key in [*shared, *(key for key in params if key not in DEFAULTS)]:
        value = params[key]
        if not key.isidentifier() or (document and key in PLACES):
            continue
        for single in value if isinstance(value, list) else [value]:
            flag = f"--{key.replace('_', '-')}"
            words += (
                []
                if single is None or single is False
                else [flag]
                if single is True
                else [flag, _shown(key, single, document)]
            )
    return shlex.join(words)


def dataset(record: RunRecord) -> str:
    """What --dataset was in the record of a run of one data set: its name, or the path of its file."""
    (part,) = record.datasets
    named = record.params.get("dataset") or []
    return next((name for name in named if Path(name).name == part.source.get("file")), part.name)


def in_memory(record: RunRecord) -> bool:
    """Whether the run's model was given in memory, so that no option names it."""
    return record.model is not None and record.model.note == IN_MEMORY


def of(record: RunRecord, *, document: bool = False) -> str:
    """The command that gives the run of that record again."""
    if in_memory(record):
        return f"biasscope.{record.command}(...)  # {IN_MEMORY}: no command line names it"
    if any(not part.source for part in record.datasets):  # all that is loaded by name has an origin
        return f"biasscope.{record.command}(...)  # prompts in memory: no command line names them"
    # of an older version it says the batch size as decided, not as asked: "auto" gives that again
    older = {"batch_size": DEFAULTS["batch_size"]} if record.batch_size is None else {}
    return command(record.command, record.params | older, document=document)


def following(record: RunRecord) -> str:
    """The command that comes next, of a run of one data set or several: of the first."""
    key = record.datasets[0].run_key[:8]
    if record.command in ("ablate", "patch") and _ranks(record.params):
        return _beside(f"biasscope circuit --from {key}", record)
    if record.command == "baseline" and record.model is not None and not record.params.get("given"):
        kept = {name: value for name, value in record.params.items() if name in DEFAULTS and name != "name"}
        return command("ablate", kept | {"top": 20})
    return _beside("biasscope report", record)


def _ranks(params: Mapping[str, Any]) -> bool:
    """Whether `circuit` takes the run: over edges, or over heads or MLPs, at all positions."""
    sites = {"z", "mlp_out"} & set(str(params.get("components", "z")).split(","))
    whole = "all" in str(params.get("positions", "all")).split(",")
    return bool(sites) and whole and not params.get("given") and params.get("direction") != "denoising"


def _beside(text: str, record: RunRecord) -> str:
    """A command on finished runs, with the folders that are not where they are by default."""
    places = {name: record.params.get(name) for name in PLACES if name != "data_dir" or "circuit" in text}
    changed = [n for n, value in places.items() if value is not None and str(value) != str(DEFAULTS[n])]
    return " ".join([text, *(f"--{n.replace('_', '-')} {shlex.quote(str(places[n]))}" for n in changed)])


def quicker(name: str, params: Mapping[str, Any]) -> str | None:
    """A command that gives the strongest sites, or all on a sample, much sooner; None where none does."""
    if name == "ablate" and not params.get("top") and not params.get("adaptive"):
        return command(name, {**params, "top": 20})
    if name == "patch" and params.get("method") == "exact":
        return command(name, {key: value for key, value in params.items() if key != "method"})
    return None if params.get("limit") else command(name, {**params, "limit": 120})


def renewed(record: RunRecord, *, document: bool = False) -> RunRecord:
    """The record with its command built anew; for a `document`, warnings without this machine's folders."""
    warnings = [
        re.sub(PATH, lambda match: relative(match[0]), text) if document else text for text in record.warnings
    ]
    return record.model_copy(update={"reproduce": of(record, document=document), "warnings": warnings})


def relative(value: str) -> str:
    """A path as a document shows it: from the working folder on, else its last part; other values as is."""
    if not re.match(r"[/~\\]|[A-Za-z]:[/\\]", value):
        return value
    path = Path(value).expanduser()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else f"./{path.name}"


def _shown(key: str, value: Any, document: bool) -> str:
    if not document:
        return str(value)
    return Path(value).name if key == "from" else relative(str(value))
