"""The options of the commands: one name, one meaning everywhere, each also as environment variable
BIASSCOPE_<NAME>.
"""

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from biasscope import usage
from biasscope.engine.settings import (
    Control,
    Direction,
    Dtype,
    EngineName,
    Form,
    Format,
    Holdout,
    Measure,
    Method,
    Negatives,
    Patched,
    Ranking,
    Read,
    Replaced,
    Stream,
    Task,
)

__all__ = (
    "Control",
    "Direction",
    "Form",
    "Format",
    "Holdout",
    "Measure",
    "Method",
    "Negatives",
    "Patched",
    "Ranking",
    "Replaced",
    "Task",
)
"""What a command takes from the nouns, so that it need import nothing else."""
MODEL, DATA, OUTPUT = "Model and compute", "Data", "Output"


def option(flag: str, help: str, *more: str, panel: str | None = None, **limits: Any) -> Any:  # noqa: A002  typer's own word
    """A typer option that also reads BIASSCOPE_<FLAG>; `more` are further spellings, `limits` typer's min,
    max, metavar.
    """
    name = flag.removeprefix("--").replace("-", "_").upper()
    return typer.Option(
        flag, *more, help=help, envvar=f"BIASSCOPE_{name}", show_envvar=False, rich_help_panel=panel, **limits
    )


Model = Annotated[
    str,
    option(
        "--model",
        "Short name, hub id, local folder or .gguf file",
        "-m",
        panel=MODEL,
        autocompletion=usage.models,
    ),
]
Device = Annotated[str, option("--device", "auto, cpu, cuda, …", panel=MODEL)]
DtypeOption = Annotated[Dtype, option("--dtype", "Numbers the model computes with", panel=MODEL)]
BatchSize = Annotated[
    str,
    option(
        "--batch-size",
        "Tokens of all copies in a pass; auto: by model size",
        panel=MODEL,
        callback=usage.batch_size,
        metavar="auto|N",
    ),
]
MaxMemory = Annotated[
    str | None,
    option(
        "--max-memory",
        "Keep the process below this (8GiB)",
        panel=MODEL,
        callback=usage.checked_memory,
        metavar="SIZE",
    ),
]
Revision = Annotated[str | None, option("--revision", "Branch, tag or commit of a hub model", panel=MODEL)]
CacheDir = Annotated[
    Path,
    option("--cache-dir", "Where measured parts and converted models are kept", panel=MODEL, file_okay=False),
]
NoCache = Annotated[bool, option("--no-cache", "Measure everything anew and keep no parts", panel=MODEL)]
Fresh = Annotated[bool, option("--fresh", "Forget what this run has measured and start over", panel=MODEL)]
Wait = Annotated[bool, option("--wait", "Wait where another process works on the same run", panel=MODEL)]
Shard = Annotated[
    str | None,
    option(
        "--shard",
        "Measure only this share of the parts, into the cache; `runs merge` joins the shares",
        panel=MODEL,
        metavar="i/n",
    ),
]
Engine = Annotated[
    EngineName, option("--engine", "ray: workers of a Ray cluster measure the parts", panel=MODEL)
]
Workers = Annotated[
    int | None,
    option(
        "--workers",
        "Workers of --engine ray (default: its GPUs, else a quarter of its cores)",
        panel=MODEL,
        min=1,
    ),
]
RayAddress = Annotated[
    str | None,
    option("--ray-address", "Cluster of --engine ray (default: one of its own, here)", panel=MODEL),
]
Offline = Annotated[bool, option("--offline", "Use no network at all", panel=MODEL)]
Datasets = Annotated[
    list[str] | None,
    option(
        "--dataset",
        "Name, or FILE.csv, .tsv, .jsonl, .json or .parquet of prompts of your own; repeatable (default: the "
        "study's three if present, else occupations)",
        "-d",
        panel=DATA,
        autocompletion=usage.datasets,
    ),
]
FailIf = Annotated[
    list[str] | None,
    option(
        "--fail-if",
        "Exit 6 where a number is beyond a value: 'winogender.slope > 0.5'; slope, mean, ss, icat, lms, "
        "difference, with .ci_low or .ci_high; repeatable",
        panel=OUTPUT,
        callback=usage.readable_gates,
        metavar="CONDITION",
    ),
]
FailIfUntestable = Annotated[
    bool, option("--fail-if-untestable", "Exit 6 also where such a number does not exist", panel=OUTPUT)
]
Name = Annotated[
    str | None,
    option("--name", 'What this model is called in tables and reports ("before fine-tuning")', panel=OUTPUT),
]
Limit = Annotated[
    int | None,
    option("--limit", "A seeded sample of N examples, spread evenly over groups", panel=DATA, min=1),
]
Seed = Annotated[int, option("--seed", "Seed of every random choice", panel=DATA, min=0)]
DataDir = Annotated[
    Path, option("--data-dir", "Where `biasscope download` puts data", panel=DATA, file_okay=False)
]
SkipInvalid = Annotated[
    bool,
    option(
        "--skip-invalid", "Leave out and count examples that cannot be read, instead of refusing", panel=DATA
    ),
]
NoSpace = Annotated[
    bool,
    option("--no-space", "Put no space between the prompts and continuations of a FILE", panel=DATA),
]
OutputDir = Annotated[Path, option("--output-dir", "Where runs are written", "-o", panel=OUTPUT)]
FormatOption = Annotated[
    Format | None,
    option("--format", "What to write to stdout (default: table on a terminal, else json)", panel=OUTPUT),
]
Json = Annotated[bool, option("--json", "Short for --format json", panel=OUTPUT)]
Rows = Annotated[
    bool, option("--rows", "Per-example rows too (json), or instead of the summary (jsonl)", panel=OUTPUT)
]
SiteOption = Annotated[
    Stream, option("--site", "resid: the stream into every layer and out of the last; z: heads")
]
PositionOption = Annotated[
    Read, option("--position", "Last token, last token of the term, or mean over the text")
]
Given = Annotated[
    str | None,
    option("--given", "Their means stand there all the while: LAYER.HEAD or LAYER.mlp", metavar="5.3,10.mlp"),
]
Steps = Annotated[
    int | None, option("--steps", "Mean gradient over N steps towards the twin (integrated)", min=1)
]
Calibrate = Annotated[
    int | None, option("--calibrate", "Also measure exactly the first N and N random ones a kind", min=1)
]
Conditional = Annotated[
    bool, option("--conditional", "Then all others with each strong site gone: what its absence shows")
]
Rounds = Annotated[int, option("--rounds", "Rounds of --conditional, while one adds sites", min=1)]
Mib = Annotated[
    Path | None,
    option("--mib", "Also write the edges as a graph that MIB and EAP-IG read", metavar="FILE.json"),
]
Plot = Annotated[
    bool,
    option("--plot", "Also draw the result in the terminal: a heat map of the heads, bars", panel=OUTPUT),
]
Quiet = Annotated[bool, option("--quiet", "No progress, no notes", "-q", panel=OUTPUT)]
Verbose = Annotated[bool, option("--verbose", "Also what the libraries have to say", "-v", panel=OUTPUT)]
Debug = Annotated[
    bool, option("--debug", "Show the traceback of every error", panel=OUTPUT, callback=usage.remember_debug)
]


Edit = Annotated[
    Path | None,
    option(
        "--edit",
        "Measure the model in which this edit stands (edit.safetensors of `mitigate --export`)",
        panel=MODEL,
        exists=True,
        dir_okay=False,
    ),
]


class Unedited(Measure):
    """The settings of a command that takes no --edit."""


OMITTED = {Measure: (), Unedited: ("edit",)}
"""Bundle of settings → its fields that the command does not take."""
SHARED: dict[str, Any] = {
    "model": Model,
    "dataset": Datasets,
    "name": Name,
    "limit": Limit,
    "seed": Seed,
    "device": Device,
    "dtype": DtypeOption,
    "batch_size": BatchSize,
    "revision": Revision,
    "data_dir": DataDir,
    "skip_invalid": SkipInvalid,
    "no_space": NoSpace,
    "max_memory": MaxMemory,
    "edit": Edit,
    "cache_dir": CacheDir,
    "no_cache": NoCache,
    "fresh": Fresh,
    "wait": Wait,
    "shard": Shard,
    "engine": Engine,
    "workers": Workers,
    "ray_address": RayAddress,
    "offline": Offline,
    "output_dir": OutputDir,
    "format": FormatOption,
    "json": Json,
    "rows": Rows,
    "quiet": Quiet,
    "verbose": Verbose,
    "debug": Debug,
}
"""Field of `Measure` → its option."""


def flatten(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with its `Measure` argument spread into single options, so that typer sees (and documents)
    each of them.
    """
    hints = get_type_hints(command, include_extras=True)
    bundle = next((name for name, hint in hints.items() if hint in OMITTED), None)
    if bundle is None:
        return command
    taken = [name for name in SHARED if name not in OMITTED[hints[bundle]]]
    own = [p for name, p in inspect.signature(command).parameters.items() if name != bundle]
    shared = [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=SHARED[f.name]
        )
        for f in fields(Measure)
        if f.name in taken
    ]

    def spread(**values: Any) -> None:
        measure = Measure(**{name: values.pop(name) for name in taken})
        command(**{bundle: measure}, **values)

    spread.__name__, spread.__doc__ = command.__name__, command.__doc__
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]
    spread.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    return spread
