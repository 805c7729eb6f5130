"""The options of the commands: one name, one meaning everywhere, each also as environment variable BIASSCOPE_<NAME>."""

import inspect
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import platformdirs
import typer

MODEL, DATA, OUTPUT = "Model and compute", "Data", "Output"


class Format(StrEnum):
    """What stdout holds."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    MARKDOWN = "markdown"


class Dtype(StrEnum):
    """The numbers a model computes with."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Component(StrEnum):
    """What activations are read of."""

    RESID = "resid"
    Z = "z"
    MLP_OUT = "mlp_out"


class Position(StrEnum):
    """Where in the text activations are read."""

    LAST = "last"
    TERM = "term"
    MEAN = "mean"


def option(flag: str, help: str, *more: str, panel: str | None = None, **limits: Any) -> Any:  # noqa: A002  typer's own word
    """A typer option that also reads BIASSCOPE_<FLAG>; `more` are further spellings, `limits` typer's min, max, metavar."""
    name = flag.removeprefix("--").replace("-", "_").upper()
    return typer.Option(flag, *more, help=help, envvar=f"BIASSCOPE_{name}", show_envvar=False, rich_help_panel=panel, **limits)


def batch_size(value: str) -> str:
    """The value as given, "auto" or a whole number from 1 up; anything else is a usage error."""
    if value != "auto" and not (value.isdecimal() and int(value) > 0):
        raise typer.BadParameter(f"'{value}' is neither 'auto' nor a whole number from 1 up")
    return value


def memory(value: str | None) -> int | None:
    """The bytes that "8GiB", "500 MB" or a plain number mean; anything else is a usage error."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?)B?|B)?", value.strip(), re.ASCII | re.IGNORECASE)
    if not found or float(found[1]) <= 0:
        raise typer.BadParameter(f"'{value}' is no size; write it as 8GiB, 500MB or a number of bytes")
    power = " KMGT".index((found[2] or " ").upper())
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


def checked_memory(value: str | None) -> str | None:
    """The value as given, a size; anything else is a usage error."""
    memory(value)
    return value


def remember_debug(context: typer.Context, value: bool) -> bool:
    """The value, kept where `cli` finds it when an error passes."""
    if value:
        context.meta["biasscope.debug"] = True
    return value


Model = Annotated[str, option("--model", "Short name, hub id, local folder or .gguf file", "-m", panel=MODEL)]
Device = Annotated[str, option("--device", "auto, cpu, cuda, …", panel=MODEL)]
DtypeOption = Annotated[Dtype, option("--dtype", "Numbers the model computes with", panel=MODEL)]
BatchSize = Annotated[
    str, option("--batch-size", "Tokens of all copies in a pass; auto: by model size", panel=MODEL, callback=batch_size, metavar="auto|N")
]
MaxMemory = Annotated[
    str | None,
    option("--max-memory", "Keep the process below this (8GiB)", panel=MODEL, callback=checked_memory, metavar="SIZE"),
]
Revision = Annotated[str | None, option("--revision", "Branch, tag or commit of a hub model", panel=MODEL)]
CacheDir = Annotated[Path, option("--cache-dir", "Where measured parts and converted models are kept", panel=MODEL, file_okay=False)]
NoCache = Annotated[bool, option("--no-cache", "Measure everything anew and keep no parts", panel=MODEL)]
Fresh = Annotated[bool, option("--fresh", "Forget what this run has measured and start over", panel=MODEL)]
Wait = Annotated[bool, option("--wait", "Wait where another process works on the same run", panel=MODEL)]
Offline = Annotated[bool, option("--offline", "Use no network at all", panel=MODEL)]
Datasets = Annotated[
    list[str] | None,
    option(
        "--dataset",
        "Name, or FILE.json of sentences of StereoSet or WinoGender; repeatable (default: the study's three if present, else occupations)",
        "-d",
        panel=DATA,
    ),
]
Limit = Annotated[int | None, option("--limit", "A seeded sample of N examples, spread evenly over groups", panel=DATA, min=1)]
Seed = Annotated[int, option("--seed", "Seed of every random choice", panel=DATA, min=0)]
DataDir = Annotated[Path, option("--data-dir", "Where `biasscope download` puts data", panel=DATA, file_okay=False)]
SkipInvalid = Annotated[bool, option("--skip-invalid", "Leave out and count examples that cannot be read, instead of refusing", panel=DATA)]
OutputDir = Annotated[Path, option("--output-dir", "Where runs are written", "-o", panel=OUTPUT)]
FormatOption = Annotated[
    Format | None, option("--format", "What to write to stdout (default: table on a terminal, else json)", panel=OUTPUT)
]
Json = Annotated[bool, option("--json", "Short for --format json", panel=OUTPUT)]
Rows = Annotated[bool, option("--rows", "Per-example rows too (json), or instead of the summary (jsonl)", panel=OUTPUT)]
SiteOption = Annotated[Component, option("--site", "resid: the stream into every layer and out of the last; z: heads")]
PositionOption = Annotated[Position, option("--position", "Last token, last token of the term, or mean over the text")]
Plot = Annotated[bool, option("--plot", "Also draw the result in the terminal: a heat map of the heads, bars", panel=OUTPUT)]
Quiet = Annotated[bool, option("--quiet", "No progress, no notes", "-q", panel=OUTPUT)]
Verbose = Annotated[bool, option("--verbose", "Also what the libraries have to say", "-v", panel=OUTPUT)]
Debug = Annotated[bool, option("--debug", "Show the traceback of every error", panel=OUTPUT, callback=remember_debug)]


@dataclass(frozen=True)
class Measure:
    """The options that every measuring command takes."""

    model: Model = "smollm2-135m"
    dataset: Datasets = None
    limit: Limit = None
    seed: Seed = 0
    device: Device = "auto"
    dtype: DtypeOption = Dtype.FLOAT32
    batch_size: BatchSize = "auto"
    revision: Revision = None
    data_dir: DataDir = Path("data")
    skip_invalid: SkipInvalid = False
    max_memory: MaxMemory = None
    cache_dir: CacheDir = Path(platformdirs.user_cache_dir("biasscope", appauthor=False))
    no_cache: NoCache = False
    fresh: Fresh = False
    wait: Wait = False
    offline: Offline = False
    output_dir: OutputDir = Path("results")
    format: FormatOption = None
    json: Json = False
    rows: Rows = False
    quiet: Quiet = False
    verbose: Verbose = False
    debug: Debug = False

    def resolved(self) -> dict[str, Any]:
        """The options as the record shows them; how the result was printed is no part of it."""
        shown = ("format", "json", "rows", "quiet", "verbose", "debug", "no_cache", "fresh", "wait")
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items() if k not in shown}


def flatten(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with its `Measure` argument spread into single options, so that typer sees (and documents) each of them."""
    hints = get_type_hints(command, include_extras=True)
    bundle = next((name for name, hint in hints.items() if hint is Measure), None)
    if bundle is None:
        return command
    own = [p for name, p in inspect.signature(command).parameters.items() if name != bundle]
    types = get_type_hints(Measure, include_extras=True)
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=types[f.name]) for f in fields(Measure)
    ]

    def spread(**values: Any) -> None:
        measure = Measure(**{f.name: values.pop(f.name) for f in fields(Measure)})
        command(**{bundle: measure}, **values)

    spread.__name__, spread.__doc__ = command.__name__, command.__doc__
    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[p.name]) for p in own]
    spread.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    return spread
