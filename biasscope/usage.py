"""What a command line may hold: names to complete, options that would do nothing, variables that none
reads.
"""

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import typer

from biasscope import console
from biasscope.engine.errors import UsageError
from biasscope.engine.gates import Gate
from biasscope.engine.settings import Measure, memory

GPTS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "gpt-neo-125M", "gpt-neo-1.3B", "gpt-neo-2.7B")
MODELS = (Measure.model, *GPTS)
PLANTED = ("single", "redundant", "backup", "cancelling", "masked", "graded")
"""Short names that `--model` takes; a test holds them against the engine's own."""


def models(incomplete: str) -> list[str]:
    """The short names of models that begin so."""
    return _begin([*MODELS, *(f"planted:{kind}" for kind in PLANTED)], incomplete)


def datasets(incomplete: str) -> list[str]:
    """The names of data sets that begin so; files are completed where none does."""
    from biasscope.engine.data import datasets as known

    files = (str(file) for end in ("csv", "tsv", "jsonl", "parquet") for file in Path().glob(f"*.{end}"))
    return _begin([*known.names(), *sorted(files)], incomplete)


def downloadable(incomplete: str) -> list[str]:
    """The names that `download` takes and that begin so."""
    from biasscope.engine.data import download

    return _begin(download.names(), incomplete)


def runs(ctx: Any, incomplete: str) -> list[tuple[str, str]]:
    """The keys of finished runs that begin so, each with what it is of, the newest first."""
    output = Path(ctx.params.get("output_dir") or Measure.output_dir)
    files = sorted(output.glob("*/*/*/*/run.json"), key=lambda file: -file.stat().st_mtime)
    named = [(file.parent.name, " ".join(reversed(file.parts[-5:-2]))) for file in files]
    return [(key, about) for key, about in named if key.startswith(incomplete)]


def _begin(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.lower().startswith(incomplete.lower())]


IDLE: tuple[tuple[str, str, Callable[[Mapping[str, Any]], bool], str], ...] = (
    ("ablate", "miss", lambda o: not o["adaptive"], "--miss is about --adaptive: add it"),
    ("ablate", "by", lambda o: o["top"] is None, "--by is about --top N: add it"),
    ("circuit", "target", lambda o: not o["minimal"], "--target is about --minimal: add it"),
    (
        "baseline",
        "model",
        lambda o: o["predictions"] is not None,
        "--predictions are scored without a --model",
    ),
    ("cache", "repair", lambda o: o["action"] != "verify", "--repair is about `cache verify`"),
    ("cache", "older_than", lambda o: o["action"] != "prune", "--older-than is about `cache prune`"),
    ("cache", "everything", lambda o: o["action"] != "rm", "--all is about `cache rm`"),
    ("cache", "dry_run", lambda o: o["action"] not in ("rm", "prune"), "--dry-run is about `rm` and `prune`"),
    (
        "",
        "rows",
        lambda o: _form(o) in ("table", "csv", "markdown"),
        "--rows goes with --format json or jsonl",
    ),
    (
        "",
        "json",
        lambda o: o["format"] not in (None, "json"),
        "--json is --format json, which contradicts --format",
    ),
    ("", "quiet", lambda o: o.get("verbose", False), "-q and -v contradict each other"),
    ("", "revision", lambda o: _not_of_hub(o["model"]), "--revision is of models on the hub"),
    ("", "fail_if_untestable", lambda o: not o["fail_if"], "--fail-if-untestable is about --fail-if: add it"),
)
"""Command (empty: any), option, when it does nothing, and why."""


def _form(values: Mapping[str, Any]) -> str | None:
    return "json" if values.get("json") else values.get("format")


def _not_of_hub(model: str | None) -> bool:
    """Whether a model is a file, a folder or one that comes with the package."""
    name = model or ""
    local = name.startswith(("planted:", ".", "/", "~")) or name.endswith(".gguf") or Path(name).is_dir()
    return local or name == Measure.model


def refuse_idle(command: str, values: Mapping[str, Any], typed: Collection[str]) -> None:
    """Raise UsageError for a typed option that would do nothing beside the others."""
    for name, option, idle, why in IDLE:
        if name in ("", command) and option in typed and idle(values):
            raise UsageError(
                f"{why}; else leave --{option.replace('_', '-').replace('everything', 'all')} out"
            )


WRITTEN = re.compile(r"""option\(\s*"--([a-z-]+)\"""")
"""How the options of a file are written."""
OURS = ("BIASSCOPE_TEST_DATA", "BIASSCOPE_BROWSER")
"""Variables that are no options."""


def warn_of_unknown(environment: Iterable[str]) -> None:
    """Warn of variables BIASSCOPE_… that no option reads."""
    found = sorted(name for name in environment if name.startswith("BIASSCOPE_") and name not in OURS)
    if not found:
        return
    here = Path(__file__).parent
    texts = (file.read_text(encoding="utf-8") for file in (*here.glob("commands/*.py"), here / "options.py"))
    flags = {flag for text in texts for flag in WRITTEN.findall(text)}
    known = {f"BIASSCOPE_{flag.replace('-', '_').upper()}" for flag in flags}
    for name in (name for name in found if name not in known):
        near = difflib.get_close_matches(name, known, n=1)
        console.error(f"{name} is read by no option" + (f"; is {near[0]} meant?" if near else ""), "warning")


def batch_size(value: str) -> str:
    """The value as given, "auto" or a whole number from 1 up; anything else is a usage error."""
    if value != "auto" and not (value.isdecimal() and int(value) > 0):
        raise typer.BadParameter(f"'{value}' is neither 'auto' nor a whole number from 1 up")
    return value


def checked_memory(value: str | None) -> str | None:
    """The value as given, a size; anything else is a usage error."""
    try:
        memory(value)
    except UsageError as problem:
        raise typer.BadParameter(str(problem)) from None
    return value


def readable_gates(values: list[str] | None) -> list[str] | None:
    """The conditions as given; a usage error where one cannot be read."""
    for value in values or []:
        try:
            Gate.parse(value)
        except UsageError as problem:
            raise typer.BadParameter(str(problem)) from None
    return values


def remember_debug(context: typer.Context, value: bool) -> bool:
    """The value, kept where `cli` finds it when an error passes."""
    if value:
        context.meta["biasscope.debug"] = True
    return value
